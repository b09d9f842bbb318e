"""A trained translator for use: encode, sample styles, translate, with or without guidance. Weights are frozen.

It implements `retrieval.protocol.Encoders`, so the same object serves retrieval, index, queries and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from retrieval.loading import resolve_device
from retrieval.tensors import fingerprint
from translation.config import Config, parse_config
from translation.guidance import Guidance, Guided, build_guidance
from translation.methods.gmm_unit import build_networks
from translation.networks.gmm_unit import STYLE_PER_ATTRIBUTE
from translation.objectives import blend
from translation.objectives import style as styles
from translation.training.checkpoints import load_networks

GUIDED, TRANSLATION = "guided", "translation"
ARMS = ("retrieved", "random", "none")  # what stage 3 was guided by


@dataclass(frozen=True)
class Translation:
    """image [B, 3, H, W] in [−1, 1] as shown (blended), raw x̃ unblended, mask [B, 1, H, W] in [0, 1]."""

    image: Tensor
    raw: Tensor
    mask: Tensor


class Translator:
    """Frozen E_c, E_s and G (their moving averages) of a run of stage 1 or 3, with the fusion if it was guided."""

    def __init__(
        self,
        networks: dict[str, nn.Module],
        *,
        config: Config,
        schema: AttributeSchema,
        device: torch.device,
        run: RunRecord | None = None,
    ) -> None:
        self.networks = {name: net.to(device).eval().requires_grad_(False) for name, net in networks.items()}
        if config.training.channels_last:
            for network in self.networks.values():
                network.to(memory_format=torch.channels_last)
        self.config, self.schema, self.device, self.run = config, schema, device, run
        self.size = config.data.size
        self.style_dim = STYLE_PER_ATTRIBUTE * len(schema.names)
        self.content_channels: int = self.networks["content_encoder"].channels  # type: ignore[assignment]
        # Stage 3 keeps stage 1's encoders, so its vectors stay valid: only what makes vectors counts.
        self.fingerprint = fingerprint({k: self.networks[k] for k in ("content_encoder", "style_encoder")})

    @staticmethod
    def load(workspace: Workspace, run_id: str | None = None, device: str = "cpu") -> Translator:
        """The translator of a run; by default the newest guided one, else the newest of stage 1.

        Raises RgunitError where there is none, or where its attributes or size do not fit the workspace.
        """
        run = workspace.run(run_id) if run_id else default_run(workspace)
        if run.stage not in (GUIDED, TRANSLATION):
            raise RgunitError(f"run {run.id} is of stage {run.stage}: name a run of stage translation or guided")
        config = parse_config(run.config["config"])
        names = tuple(run.config["attributes_used"])
        missing = [name for name in names if name not in workspace.schema.names]
        if missing:
            raise RgunitError(
                f"run {run.id} was trained on the attributes {', '.join(names)}; the workspace has no "
                f"{', '.join(missing)}: use the workspace it was trained in, or train again"
            )
        schema = workspace.schema.subset(names)
        networks = build_networks(config, len(names), discriminator=False)
        if run.config.get("neighbours") in ("retrieved", "random"):
            channels = networks["content_encoder"].channels
            assert isinstance(channels, int)
            fusion = build_guidance(config.guided, channels)
            if fusion is not None:
                networks["fusion"] = fusion
        load_networks(run.path / CHECKPOINT, networks)
        return Translator(networks, config=config, schema=schema, device=resolve_device(device), run=run)

    @property
    def guided(self) -> bool:
        """Whether neighbours were shown to it in training."""
        return self.run is not None and self.run.config.get("neighbours") in ("retrieved", "random")

    @property
    def neighbours(self) -> int:
        """k: how many neighbours it was trained to be guided by; 0 for an unguided one."""
        used = "fusion" in self.networks or self.config.guided.neighbour_style > 0
        return self.config.guided.neighbours if self.guided and used else 0

    @property
    def takes(self) -> int | None:
        """The only number of neighbours that its guidance can be given; None: any, or it has no guidance."""
        fusion = self.networks.get("fusion")
        return fusion.takes if isinstance(fusion, Guidance) else None

    @property
    def pixels(self) -> bool:
        """Whether its guidance wants the pixels of neighbours behind their content."""
        fusion = self.networks.get("fusion")
        return isinstance(fusion, Guidance) and fusion.pixels

    def precision(self) -> AbstractContextManager[object]:
        """Half precision on a GPU where the run was trained in it; on a CPU always full."""
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.config.training.precision)
        if self.device.type == "cuda" and half is not None:
            return torch.autocast("cuda", half)
        return nullcontext()

    @torch.no_grad()
    def content(self, images: Tensor) -> Tensor:
        """E_c: images [B, 3, H, W] → content [B, C, H/4, W/4]."""
        return self.networks["content_encoder"](images)  # type: ignore[no-any-return]

    @torch.no_grad()
    def style(self, images: Tensor) -> Tensor:
        """μ of E_s: images → style [B, 8·A]."""
        return self.networks["style_encoder"](images)[0]  # type: ignore[no-any-return]

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Styles [B, 8·A] drawn from the components of labels [B, A]."""
        return styles.sample_style(labels, generator)

    def style_mean(self, labels: Tensor) -> Tensor:
        """The components' means [B, 8·A]."""
        return styles.style_mean(labels)

    def style_labels(self, style: Tensor) -> Tensor:
        """int8 [B, A] by the sign of each attribute's mean coordinate."""
        return styles.style_labels(style)

    @torch.no_grad()
    def translate(
        self,
        images: Tensor,
        content: Tensor,
        style: Tensor,
        *,
        neighbour_content: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Translation:
        """Images [B, 3, H, W] with content [B, C, h, w] in style [B, 8·A].

        With neighbour_content [B, k, C, h, w] (C + 48 channels where `pixels`) the generator's input is
        (1 − g)·E_c(x) + g·c_total, and g of what guidance paints on the prediction is taken, g = `guidance` in [0, 1].
        """
        if neighbour_content is not None and guidance > 0:
            if "fusion" not in self.networks:
                raise RgunitError(
                    f"run {self.run.id if self.run else '?'} was not trained with neighbours: no --guidance"
                )
            fusion = self.networks["fusion"]
            assert isinstance(fusion, Guidance)
            guided: Guided = fusion(content, neighbour_content)
            raw, mask = self.networks["generator"](torch.lerp(content.float(), guided.content.float(), guidance), style)
            raw = torch.lerp(raw.float(), fusion.paint(raw, mask, guided, images).float(), guidance)
        else:
            raw, mask = self.networks["generator"](content, style)
        return Translation(blend(raw, mask, images), raw, mask)


def default_run(workspace: Workspace, arm: str | None = None) -> RunRecord:
    """The newest guided run (of an arm), else the newest of stage 1, that has a checkpoint."""
    for stage in (GUIDED, TRANSLATION):
        runs = [
            run
            for run in workspace.runs(stage)
            if (run.path / CHECKPOINT).exists()
            and (stage == TRANSLATION or run.config.get("neighbours") == (arm or "retrieved"))
        ]
        if runs:
            return runs[-1]
    raise RgunitError("the workspace has no trained translator: run `rgunit train translation` or `rgunit run` first")


Autocast = Callable[[], AbstractContextManager[object]]
