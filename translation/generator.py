"""A trained generator in use: images from noise, the same for the same seed, and into the workspace.

The n-th image of a run and a seed is the same however many are made, and in whatever batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.attributes import Edit
from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from index_store.runcare import next_number
from index_store.runs import CHECKPOINT
from index_store.workspace import GeneratedImage, RunRecord, Workspace
from retrieval.indexing import build_index
from retrieval.loading import resolve_device
from retrieval.tensors import first_weights, to_pixels
from translation.config import Config, parse_config
from translation.indexing import open_retriever
from translation.methods import Generates, find_method
from translation.progress import Progress
from translation.runs import GENERATOR, RETRIEVAL, drawing_run, target_of, trained
from translation.training.checkpoints import load_networks
from translation.training.loop import seed_of
from translation.transfer import stored_weights

BATCH = 64  # images made at a time
KEPT = 512  # images written at a time


def open_method(workspace: Workspace, run: RunRecord, *, complete: bool = False) -> Any:
    """The method of a run of stage generator, with its averaged weights; `complete`: with its critic too.

    RgunitError where the run's attributes are not the workspace's.
    """
    config = parse_config(run.config["config"])
    if missing := [name for name in run.config["attributes_used"] if name not in workspace.schema.names]:
        raise RgunitError(f"run {run.id} was trained on {', '.join(missing)}, which the workspace has not: train again")
    schema = workspace.schema.subset(tuple(run.config["attributes_used"]))
    method = find_method(config.method).build(config, schema, GENERATOR, inference=not complete)
    averaged = {name: network for name, network in method.networks.items() if name in method.averaged}
    load_networks(run.path / CHECKPOINT, averaged)
    for name, network in method.networks.items():
        if name not in averaged:
            network.load_state_dict(stored_weights(run, name))
    return method


class ImageGenerator:
    """A generator, mined or not, with frozen weights: `images` are of the run's size, `names` what it is told."""

    def __init__(self, method: Generates, config: Config, device: torch.device, run: RunRecord | None = None) -> None:
        self.method, self.config, self.device, self.run = method, config, device, run
        self.size, self.names = config.data.size, method.schema.names
        for network in method.networks.values():
            network.to(device).eval().requires_grad_(False)
        method.settle()

    @staticmethod
    def load(workspace: Workspace, run_id: str | None = None, device: str = "auto") -> ImageGenerator:
        """That of a run of stage generator or miner, by default the newest. RgunitError where there is none."""
        run, place = drawing_run(workspace, run_id), resolve_device(device)
        config = parse_config(run.config["config"])
        if run.stage == GENERATOR:
            return ImageGenerator(open_method(workspace, run), config, place, run)
        sources = [open_method(workspace, workspace.run(name)) for name in run.config["from"]]
        method = find_method(config.method).mine(config, sources, workspace.schema.subset(()), inference=True)
        load_networks(run.path / CHECKPOINT, method.networks)
        return ImageGenerator(method, config, place, run)

    @property
    def probabilities(self) -> list[float] | None:
        """How often each of the generators is drawn from, of a mined one of several."""
        found: Tensor | None = getattr(self.method, "probabilities", None)
        return None if found is None or len(found) < 2 else [round(float(share), 4) for share in found]

    def untrained(self, seed: int = 0) -> ImageGenerator:
        """One of the same settings with fresh weights: what training has to beat."""
        settings, schema = self.config, self.method.schema
        if self.names:  # it has seen no class yet
            schema = schema.subset(())
            own = settings.generator.model_copy(update={"conditional": False})  # type: ignore[attr-defined]
            settings = settings.model_copy(update={"generator": own})
        fresh = first_weights(
            seed, lambda: find_method(settings.method).build(settings, schema, GENERATOR, inference=True)
        )
        return ImageGenerator(fresh, settings, self.device)

    @torch.no_grad()
    def images(
        self, count: int, *, seed: int = 0, first: int = 0, wanted: NDArray[np.int8] | None = None
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
        """`count` images from number `first` on, in batches: uint8 [n, S, S, 3], and the labels int8 [n, A] they show.

        `wanted` int8 [A]: the labels that they are to have, −1 any. RgunitError where it was trained with none such.
        """
        anything = np.full(len(self.names), -1, np.int8) if wanted is None else wanted
        for start in range(first, first + count, BATCH):
            noise, labels = [], []
            for number in range(start, min(start + BATCH, first + count)):
                rng = torch.Generator().manual_seed(seed_of(seed, 12, number))
                labels.append(self.method.draw_labels(torch.from_numpy(anything), rng))
                noise.append(torch.randn(self.method.noise_length, generator=rng))
            shown = torch.stack(labels)
            made = self.method.generate(torch.stack(noise).to(self.device), shown.to(self.device))
            yield to_pixels(made.float()), shown.numpy()


@dataclass(frozen=True)
class Generated:
    """ids int64 [n] of the images that were made; `vectors`: how many of them were embedded."""

    ids: NDArray[np.int64]
    vectors: int


def generate_images(
    workspace: Workspace,
    run: str,
    count: int,
    *,
    domain: str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Generated:
    """Make `count` images with a run of stage generator or miner: origin `generated`, split train.

    Their labels are what the generator was told (`domain`: an edit that chooses), and what the filter of the images
    that it learned from says. Embedded by the newest retrieval run, where there is one. The images of a run are
    numbered: a second call makes the next ones.
    """
    progress = progress or Progress()
    edit = None if domain is None else workspace.schema.edit(domain)
    generator = ImageGenerator.load(workspace, run, device)
    assert generator.run is not None
    made_in = generator.run.id
    labels = _domain_labels(workspace, generator.run)
    wanted = _wanted(workspace, generator, labels, edit)
    columns = workspace.schema.indices(generator.names)
    ids: list[NDArray[np.int64]] = []
    for start in range(0, count, KEPT):
        items: list[GeneratedImage] = []
        with workspace.catalog.held():  # the number decides which images come next: nobody adds meanwhile
            first = next_number(workspace.catalog, made_in)
            for pixels, shown in generator.images(min(KEPT, count - start), seed=seed, first=first, wanted=wanted):
                for picture, told in zip(pixels, shown, strict=True):
                    target = labels.copy()
                    target[columns] = told
                    _clear_groups(workspace, target)
                    items.append(GeneratedImage(pixels=picture, parent=-1, target=target, run=made_in))
                progress.step(start + len(items), count)
            ids.append(workspace.add_generated(items))
    retrieval = trained(workspace, RETRIEVAL)
    vectors = 0
    if retrieval:
        retriever = open_retriever(workspace, retrieval[-1].id, device)
        build_index(workspace, retriever, where="origin=generated", progress=progress.step)
        missing = workspace.missing_vectors(retriever.encoder_name, retriever.fingerprint, "origin=generated")
        vectors = int((~np.isin(np.concatenate(ids), missing)).sum())
    return Generated(np.concatenate(ids), vectors)


def _domain_labels(workspace: Workspace, run: RunRecord) -> NDArray[np.int8]:
    """int8 [A] over the workspace's schema: what the filter of a run's training images says of every one of them."""
    labels = np.full(len(workspace.schema.names), -1, np.int8)
    for column, bit in workspace.schema.filter(target_of(run)).bits.items():
        labels[column] = bit
    _clear_groups(workspace, labels)
    return labels


def _clear_groups(workspace: Workspace, labels: NDArray[np.int8]) -> None:
    """Of a group at most one is true: where one is, the others are known to be false. `labels` int8 [A] is changed."""
    for group in workspace.schema.groups:
        members = workspace.schema.indices(group)
        if (labels[members] == 1).any():
            labels[members] = np.where(labels[members] == 1, 1, 0)


def _wanted(
    workspace: Workspace, generator: ImageGenerator, labels: NDArray[np.int8], edit: Edit | None
) -> NDArray[np.int8]:
    """What the generator is to be told, int8 [its attributes]. UsageError for an edit that it cannot follow."""
    asked = np.full(len(workspace.schema.names), -1, np.int8)
    columns = workspace.schema.indices(generator.names)
    if edit is not None:
        asked = edit.apply(asked)
        strange = [i for i in edit.bits if i not in columns and labels[i] != asked[i]]
        if strange:
            assert generator.run is not None
            takes = (
                f"a choice of {', '.join(generator.names)}" if generator.names else "no choice: it learned one domain"
            )
            raise UsageError(
                f"--domain {edit.text!r}: run {generator.run.id} takes {takes}; leave "
                f"{quoted(workspace.schema.names[strange[0]])} out, or train a generator for it (--target FILTER, or "
                "--set generator.conditional=true)"
            )
    return np.asarray(asked[columns])
