"""A trained translator for use: encode, sample styles, translate, with or without guidance. Weights are frozen.

It implements `retrieval.protocol.Encoders`, so the same object serves retrieval, index, queries and evaluation.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from retrieval.loading import resolve_device
from retrieval.protocol import Encoders
from retrieval.tensors import fingerprint
from translation.config import Config, parse_config
from translation.guidance import Guidance, Guide, build_guidance
from translation.methods import Encodes, Joins, Method, Stage, Translation, find_method
from translation.runs import GUIDED, TRANSLATION, default_run
from translation.training.checkpoints import load_networks
from translation.training.memory import within_memory


def method_of_run(settings: Mapping[str, Any], stage: str, schema: AttributeSchema) -> Method:
    """The method of a run of stage 1 or 3 as it is used, with its guidance if it was guided, and fresh weights."""
    config = parse_config(settings["config"])
    of: Stage = "guided" if stage == GUIDED else "translation"
    method: Method = find_method(config.method).build(config, schema, of, inference=True)
    if shown_neighbours(settings) and isinstance(method, Encodes):
        fusion = build_guidance(config.guided, method.content_channels)
        if fusion is not None:
            method.networks["fusion"] = fusion
    return method


def shown_neighbours(settings: Mapping[str, Any]) -> bool:
    """Whether neighbours were shown to a run in training."""
    return settings.get("neighbours") in ("retrieved", "random")


class Translator:
    """A method's frozen networks (their moving averages) of a run of stage 1 or 3, with its guidance if it was guided.

    It encodes where the method does (`Encodes`), and so implements `retrieval.protocol.Encoders`.
    """

    def __init__(
        self,
        method: Method,
        *,
        config: Config,
        schema: AttributeSchema,
        device: torch.device,
        run: RunRecord | None = None,
    ) -> None:
        if not isinstance(method, Encodes):
            raise RgunitError(
                f"the method {config.method} does not translate images: name a run of another one (--run)"
            )
        self.method: Encodes = method
        self.networks = method.networks
        for network in self.networks.values():
            network.to(device).eval().requires_grad_(False)
            if config.training.channels_last:
                network.to(memory_format=torch.channels_last)
        self.config, self.schema, self.device, self.run = config, schema, device, run
        self.size = config.data.size
        self.style_dim, self.content_channels = method.style_dim, method.content_channels
        self.style_tells = self.style_dim > 0 and bool(getattr(method, "style_tells", True))
        # Stage 3 keeps stage 1's encoders, so its vectors stay valid: only what makes vectors counts.
        self.fingerprint = fingerprint({name: self.networks[name] for name in method.encoders})

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
        with within_memory(f"run {run.id}", device, "use it on a larger machine"):
            method = method_of_run(run.config, run.stage, schema)
            load_networks(run.path / CHECKPOINT, method.networks)
        return Translator(method, config=config, schema=schema, device=resolve_device(device), run=run)

    @property
    def guided(self) -> bool:
        """Whether neighbours were shown to it in training."""
        return self.run is not None and shown_neighbours(self.run.config)

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

    @property
    def searched(self) -> Encoders:
        """What retrieval learns from: itself, or its content alone where its style does not tell the domain."""
        return self if self.style_tells or not self.style_dim else ContentAlone(self)

    def precision(self) -> AbstractContextManager[object]:
        """Half precision on a GPU where the run was trained in it; on a CPU always full."""
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.config.training.precision)
        if self.device.type == "cuda" and half is not None:
            return torch.autocast("cuda", half)
        return nullcontext()

    def told(self, source: Tensor) -> Translator:
        """The translator for images of labels [B, A], where its method has an encoder a domain; else itself.

        RgunitError where the domain of one is not known.
        """
        if not isinstance(self.method, Joins):
            return self
        other = copy.copy(self)
        other.method = cast(Encodes, self.method.from_domains(source.to(self.device)))
        return other

    @torch.no_grad()
    def content(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] → content [B, C, h, w]."""
        return self.method.content(images)

    @torch.no_grad()
    def style(self, images: Tensor) -> Tensor:
        """Images → style [B, S]."""
        return self.method.style(images)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Styles [B, S] drawn for labels [B, A]."""
        return self.method.sample_style(labels, generator)

    def style_mean(self, labels: Tensor) -> Tensor:
        """The middle of what `sample_style` draws, [B, S]."""
        return self.method.style_mean(labels)

    def style_labels(self, style: Tensor) -> Tensor:
        """int8 [B, A] read off styles; −1 where the style does not tell."""
        return self.method.style_labels(style)

    @torch.no_grad()
    def translate(self, images: Tensor, content: Tensor, style: Tensor, *, guide: Guide | None = None) -> Translation:
        """Images [B, 3, H, W] with content [B, C, h, w] in style [B, S], guided by neighbours or not.

        RgunitError for a guide where the run was trained without neighbours' content.
        """
        if guide is not None and guide.strength == 0:
            guide = None
        if guide is not None and "fusion" not in self.networks:
            raise RgunitError(f"run {self.run.id if self.run else '?'} was not trained with neighbours: no --guidance")
        return self.method.decode(content, style, images, guide)


class ContentAlone:
    """A translator whose style says nothing of the domain, as stage 2 is shown it: without a style.

    What it is asked to translate it translates to labels and styles drawn at random, the same ones in every call.
    """

    style_dim = 0

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self.schema, self.size, self.device = translator.schema, translator.size, translator.device
        self.content_channels, self.fingerprint = translator.content_channels, translator.fingerprint

    def content(self, images: Tensor) -> Tensor:
        return self._translator.content(images)

    def style(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 0)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros(len(labels), 0)

    def style_mean(self, labels: Tensor) -> Tensor:
        return self.sample_style(labels)

    def style_labels(self, style: Tensor) -> Tensor:
        return torch.full((len(style), len(self.schema)), -1, dtype=torch.int8, device=style.device)

    def translate(self, images: Tensor, content: Tensor, style: Tensor) -> Translation:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 2, (len(images), len(self.schema)), generator=generator)
        for group in map(self.schema.indices, self.schema.groups):  # at most one member
            chosen = torch.randint(0, len(group), (len(images), 1), generator=generator)
            labels[:, group] = torch.zeros(len(images), len(group), dtype=torch.int64).scatter_(1, chosen, 1)
        drawn = self._translator.sample_style(labels, generator).to(images.device)
        return self._translator.translate(images, content, drawn.to(content.dtype))
