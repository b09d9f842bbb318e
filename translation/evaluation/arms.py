"""The trained arms of a workspace, ready to be compared: all from one stage-1 checkpoint, on the same pairs.

`unguided`, `random` and `guided` are stage 3 without neighbours, with random and with retrieved ones; `swapped` is the
guided model shown random neighbours; `stage1` is where all of them started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.errors import RgunitError, UsageError
from index_store.workspace import RunRecord, Workspace
from retrieval.retriever import Retriever
from retrieval.tensors import to_pixels, to_tensor
from translation.agreement import agreement_of
from translation.config import Config, parse_config
from translation.evaluation.joining import by_way_of_anchor
from translation.guides import Pool
from translation.indexing import open_retriever, require_index
from translation.methods import Joins, Translation, find_method
from translation.neighbours import Neighbours
from translation.runs import GUIDED, RETRIEVAL, TRANSLATION, default_start, target_of, trained
from translation.translator import Translator

ARM_OF = {"none": "unguided", "random": "random", "retrieved": "guided"}
CHOSEN_IN_USE = ("neighbour_style", "neighbours", "neighbour_pool")  # of `guided`: what needs no other training

Ids = NDArray[np.int64]
Labels = NDArray[np.int8]


@dataclass(frozen=True)
class Arm:
    """One translator with its source of neighbours (None: unguided)."""

    workspace: Workspace
    translator: Translator
    neighbours: Neighbours | None

    def styles(self, images: Tensor, target: Labels, seeds: Ids) -> Tensor:
        """A style [n, 8·A] for each target, drawn by its own seed, so that a batch's make-up changes nothing."""
        wanted = torch.from_numpy(target).to(images.device)
        if (target < 0).any():  # an unknown bit stays as the source's style has it
            own = self.translator.style_labels(self.translator.style(images))
            wanted = torch.where(wanted < 0, own, wanted)
        rows = [
            self.translator.sample_style(wanted[i : i + 1], torch.Generator().manual_seed(int(seed)))
            for i, seed in enumerate(seeds)
        ]
        return torch.cat(rows)

    def translate(self, source: Ids, target: Labels, seeds: Ids) -> tuple[Translation, Ids]:
        """Translations of images `source` [n] and the ids [n, k] of the neighbours that guided them (k = 0: none)."""
        translator = self.translator.told(self.labels(source))
        images = self.images(source)
        content, style = translator.content(images), self.styles(images, target, seeds)
        if self.neighbours is None:
            return translator.translate(images, content, style), np.empty((len(source), 0), np.int64)
        ids = self.find(images, content, style, source, seeds)
        guide, style = self.neighbours.guide(translator, ids, style)
        return translator.translate(images, content, style, guide=guide), ids

    def images(self, source: Ids) -> Tensor:
        """Images [n, 3, S, S] as the translator sees them."""
        return to_tensor(self.workspace.load(source, self.translator.size), self.translator.device)

    def labels(self, source: Ids) -> Tensor:
        """int8 [n, A] of images, as the workspace knows them."""
        table = self.workspace.images(ids=np.unique(source))
        columns = self.workspace.schema.indices(self.translator.schema.names)
        return torch.from_numpy(table.labels[table.places(source)][:, columns])

    def find(self, images: Tensor, content: Tensor, style: Tensor, source: Ids, seeds: Ids) -> Ids:
        """Neighbours [n, k]; what is drawn is drawn by each pair's own seed."""
        assert self.neighbours is not None
        rngs = (np.random.default_rng([int(seed), 7]) for seed in seeds)
        return self.neighbours.find(content, style, source, rngs, images)

    def looked_up(self, source: Ids, target: Labels, seeds: Ids) -> Ids:
        """The neighbours [n, k] of images `source` [n] in the styles of their targets, without translating them."""
        images = self.images(source)
        content, style = self.translator.content(images), self.styles(images, target, seeds)
        return self.find(images, content, style, source, seeds)

    def guided(self, source: Ids, target: Labels, seeds: Ids) -> tuple[NDArray[np.uint8], Ids]:
        """Images uint8 [n, S, S, 3] and the ids [n, k] of the neighbours that guided them."""
        made, ids = self.translate(source, target, seeds)
        return to_pixels(made.image), ids

    def __call__(self, source: Ids, target: Labels, seeds: Ids) -> NDArray[np.uint8]:
        return self.guided(source, target, seeds)[0]


@dataclass(frozen=True)
class Cascade(Arm):
    """The same networks by way of the anchor."""

    def translate(self, source: Ids, target: Labels, seeds: Ids) -> tuple[Translation, Ids]:
        images = self.images(source)
        made = by_way_of_anchor(self.translator, images, self.labels(source), torch.from_numpy(target))
        return made, np.empty((len(source), 0), np.int64)


@dataclass(frozen=True)
class Arms:
    """The arms of one stage-1 run by name, and the retrieval that guides (None where there is none)."""

    translation_run: RunRecord
    arms: Mapping[str, Arm]
    retriever: Retriever | None

    @property
    def pool(self) -> Pool:
        """Which images the arm that `top_hit` goes by looks up."""
        return self.arms["guided"].translator.config.guided.pool if "guided" in self.arms else "real"

    def top_hit(self, source: Ids, target: Labels, seeds: Ids) -> Ids:
        """int64 [n]: the first of the images that guide, else the nearest that might."""
        return (self.arms.get("guided") or self.arms["probe"]).looked_up(source, target, seeds)[:, 0]


def open_arms(workspace: Workspace, run: str | None = None, device: str = "auto") -> Arms:
    """All arms that go back to one stage-1 run: that of `run`, by default the newest guided run's."""
    guided = trained(workspace, GUIDED)
    if run is not None:
        chosen = workspace.run(run)
        if chosen.stage not in (GUIDED, TRANSLATION):
            raise RgunitError(f"run {run} is of stage {chosen.stage}: name a run of stage translation or guided")
        base = workspace.run(str(chosen.config["translation_run"])) if chosen.stage == GUIDED else chosen
    else:
        base = default_start(workspace)
    first = Translator.load(workspace, base.id, device)
    if find_method(first.config.method).draws == "crops":
        raise RgunitError(
            f"run {base.id} ({first.config.method}) learned from two pictures: nothing is held out to evaluate it on; "
            "look at what `rgunit translate` makes, or name another --run"
        )
    retriever = retriever_of(workspace, first, base, device)
    if retriever is None and not first.style_tells:
        retriever = _named_retriever(workspace, guided, base, device)
    arms = {"stage1": Arm(workspace, first, None)}
    if isinstance(first.method, Joins):
        arms["cascade"] = Cascade(workspace, first, None)
    where = target_of(base)
    k, cache = first.config.guided.neighbours, first.config.guided.feature_cache
    if retriever is not None:
        arms["probe"] = Arm(
            workspace, first, Neighbours(workspace, first, retriever, k=k, cache_mib=cache, where=where)
        )
    for record in guided:
        neighbours = str(record.config["neighbours"])
        if record.config["translation_run"] != base.id or (
            run is not None and record.id != run and neighbours == _neighbours(workspace, run)
        ):
            continue
        arms |= arms_of_run(workspace, first, record, retriever, device)
    return Arms(base, arms, retriever)


def arms_of_run(
    workspace: Workspace,
    first: Translator,
    record: RunRecord,
    retriever: Retriever | None,
    device: str = "auto",
    use: Mapping[str, Any] | None = None,
) -> dict[str, Arm]:
    """A stage-3 run as the arm that it is, if guided also `swapped`; none where it was guided and no retriever is.

    `use`: settings of `guided` to use it with instead of those of its training (`used_with`).
    """
    neighbours = str(record.config["neighbours"])
    translator = Translator.load(workspace, record.id, device)
    if use:
        translator.config = used_with(translator.config, use)
    k = max(1, translator.neighbours)  # its own k, which stage 1's configuration need not have
    cache = first.config.guided.feature_cache
    if not translator.neighbours:
        return {ARM_OF[neighbours]: Arm(workspace, translator, None)}
    where = target_of(record)
    looked_up = partial(
        Neighbours,
        workspace,
        first,
        k=k,
        cache_mib=cache,
        pixels=translator.pixels,
        where=where,
        origins=translator.config.guided.pool,
        agreement=agreement_of(workspace, translator),
    )
    at_random = Arm(workspace, translator, looked_up(None))
    if neighbours == "random":
        return {"random": at_random}
    if retriever is None:
        return {}
    retrieved = looked_up(retriever, pool=translator.config.guided.neighbour_pool)
    return {"guided": Arm(workspace, translator, retrieved), "swapped": at_random}


def used_with(config: Config, use: Mapping[str, Any]) -> Config:
    """A configuration with other settings of `guided`, of those that need no other training (CHOSEN_IN_USE).

    UsageError for any other setting and for bad values.
    """
    if fixed := sorted(set(use) - set(CHOSEN_IN_USE)):
        raise UsageError(f"guided.{fixed[0]} is fixed by training: in use there are {', '.join(CHOSEN_IN_USE)}")
    settings = config.model_dump(mode="json")
    return parse_config({**settings, "guided": {**settings["guided"], **use}})


def retriever_of(workspace: Workspace, first: Translator, base: RunRecord, device: str) -> Retriever | None:
    """The newest retrieval run on this stage-1 run whose index is filled."""
    for record in reversed(trained(workspace, RETRIEVAL)):
        if record.config.get("translation_run") != base.id:
            continue
        try:
            retriever = open_retriever(workspace, record.id, device)
            require_index(workspace, retriever)
        except RgunitError:
            continue
        if retriever.encoders.fingerprint == first.fingerprint:
            return retriever
    return None


def _named_retriever(
    workspace: Workspace, guided: Sequence[RunRecord], base: RunRecord, device: str
) -> Retriever | None:
    """Another translator's retrieval that the newest guided run of this stage 1 was guided by."""
    for record in reversed(guided):
        if record.config["translation_run"] == base.id and "retrieval_run" in record.config:
            retriever = open_retriever(workspace, str(record.config["retrieval_run"]), device)
            require_index(workspace, retriever)
            return retriever
    return None


def _neighbours(workspace: Workspace, run: str) -> str | None:
    return workspace.run(run).config.get("neighbours")
