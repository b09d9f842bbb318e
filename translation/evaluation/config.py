"""The settings of an evaluation: the section `evaluation` of every preset."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class EvaluationConfig(BaseModel):
    """What `evaluate translation` may cost and how sure it has to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifier: Literal["resnet18", "resnet50"] = "resnet18"
    classifier_epochs: float = Field(10.0, gt=0, description="passes over the labelled training images")
    classifier_minutes: float = Field(3.0, gt=0, description="at most; the schedule then ends early")
    classifier_batch: int = Field(64, ge=2)
    classifier_mirror: bool = Field(True, description="off where a label tells left from right")
    classifier_lr: float = Field(2e-3, gt=0, description="peak of the one-cycle schedule, AdamW")
    pairs: int = Field(1000, ge=2, description="translations an arm, at most one for each image of half A")
    batch: int = Field(32, ge=1, description="images that an arm translates at a time")
    diversity_inputs: int = Field(50, ge=0, description="pairs translated several times, 0 = not measured")
    diversity_samples: int = Field(5, ge=2, description="style samples for each of them")
    bootstrap: int = Field(1000, ge=100, description="resamples of people for intervals of shares and means")
    relevance: str = Field("", description="text field that translations must keep, read by a classifier; empty: none")
    reverse: bool = Field(False, description="also judge translations by what a classifier learns from them")
    reverse_steps: int = Field(300, ge=1, description="of that classifier, the same for every arm")
    reverse_minutes: float = Field(1.0, gt=0, description="at most for the first one; the others take as many steps")
    inception_weights: str = Field(
        "", description="file of the Inception of FID, KID and IS, or cache: torch's; empty: not measured"
    )
    lpips_weights: str = Field("", description="file of LPIPS's AlexNet or VGG-16, or cache; empty: not measured")

    def of_classifier(self) -> dict[str, Any]:
        """The settings that decide how a classifier is trained."""
        return {key: value for key, value in self.model_dump().items() if key.startswith("classifier")}
