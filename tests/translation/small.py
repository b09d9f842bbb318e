"""What the tests of translation share: a configuration for networks that train in milliseconds."""

from __future__ import annotations

from pathlib import Path

from index_store.workspace import Workspace
from translation.config import Config, load_config
from translation.progress import Progress

GROUP = "Black_Hair|Blond_Hair|Brown_Hair"
USED = ("Black_Hair", "Blond_Hair", "Glasses")
TINY = (
    "networks.width=0.0625",
    "networks.discriminator_width=0.0625",
    "networks.content_blocks=1",
    "networks.generator_blocks=1",
    "translation.batch=3",
    "translation.warmup=0",
    "translation.steps=4",
    "translation.mask_from=0",
    "translation.discriminator_learning_rate=5e-4",
    "translation.weights.domain=3",
    "translation.weights.mask=0",
    "translation.weights.gradient_penalty=0",
    "networks.skips=false",
    "networks.discriminator_labels=false",
    "translation.weights.isometry=0.1",
    "retrieval.batch=4",
    "retrieval.steps=3",
    "guided.batch=3",
    "guided.steps=3",
    "guided.guidance=convolution",
    "guided.neighbour_start=0",
    "guided.neighbour_style=false",
    "guided.fusion_learning_rate=2e-4",
    "guided.discriminator_learning_rate=2e-4",
    "guided.weights.gradient_penalty=0",
    "guided.weights.domain=3",
    "guided.weights.mask=0",
    "guided.weights.isometry=0.1",
    "index.generated=5",
    "training.tensorboard=false",
    "training.log_every=2",
    "training.sample_every=1000",
    "training.checkpoint_every=1000",
)


def tiny(*overrides: str) -> Config:
    """The demo's preset with networks and batches for tests."""
    return load_config("demo", overrides=[*TINY, *overrides])


def filled(path: Path, drawn: Path) -> None:
    with Workspace.ensure(path) as workspace:
        workspace.add_images(drawn / "labelled", attributes=drawn / "labelled" / "labels.csv", groups=[GROUP])
        workspace.add_images(drawn / "unlabelled", origin="unlabelled")


class Notes(Progress):
    """Keeps what is noted, in `told`."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)
