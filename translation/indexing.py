"""Filling the store: the collection's vectors of a retrieval run, and some translations beside them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index_store.errors import RgunitError, UsageError
from index_store.runcare import made_by, next_number
from index_store.workspace import GeneratedImage, Workspace
from retrieval.content_models import ContentModel, forget_model, keep_model, kept_model
from retrieval.graphs import keep_graphs
from retrieval.indexing import Part, build_content, build_index, build_words, part_of
from retrieval.retriever import Retriever
from retrieval.runs import words_alone
from retrieval.tensors import to_pixels, to_tensor
from retrieval.text_models import TextModel, forget_text_model, keep_text_model, kept_text_model
from translation.config import Config
from translation.progress import Progress
from translation.runs import direction_of
from translation.sampling import DomainSampler, LabelSampler, Sampler
from translation.sections import IndexConfig
from translation.training.loop import seed_of
from translation.translator import Translator


@dataclass(frozen=True)
class IndexResult:
    """vectors: all of the retrieval run in the store now (none: 0); added, generated and, by the text model, words: by
    this call."""

    vectors: int
    added: int
    generated: int
    seconds: float
    words: int = 0


def fill_index(
    workspace: Workspace,
    config: Config | None = None,
    *,
    run: str | None = None,
    generated: int | None = None,
    content_model: Path | None = None,
    content_crop: str | None = None,
    text_model: Path | None = None,
    part: str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> IndexResult:
    """Embed every real, unlabelled and generated image that lacks a vector of the retrieval run.

    First makes translations until the workspace has `generated` of that run's translator (by default the
    configuration's number): training images in the style of other images' labels, kept as files and rows. With
    `content_model`, an ONNX file, weighted queries take content from it (`none`: from the run again); it is kept, and
    later calls embed new images by it too. So with `text_model`, a folder (see `retrieval/text_models.py`), by which
    words are asked; a workspace without a retrieval run is embedded by that alone.

    `part` I/N embeds one of N parts, which many processes may do beside each other, and makes no translations: on
    SQLite one after the other (Locked before any work), on PostgreSQL at once.
    """
    progress, started = progress or Progress(), time.monotonic()
    share = part_of(part)
    if part is not None and generated:
        raise UsageError("--generated cannot be made in parts: run `index build --generated N` once, without --part")
    workspace.catalog.begin()
    model = _content_model(workspace, content_model, content_crop)  # refused before any work
    speaks = _text_model(workspace, text_model)
    workspace.leave_out_missing("origin=real|unlabelled", progress.note)
    if (speaks or text_model) and not generated and content_model is None and words_alone(workspace, run):
        progress.note("no retrieval run yet: nothing is embedded but for words (`query --text`)")
        batch = (IndexConfig() if config is None else config.index).batch
        words = 0 if speaks is None else _words(workspace, speaks, share, batch, progress)
        return IndexResult(0, 0, 0, time.monotonic() - started, words)
    retriever = open_retriever(workspace, run, device)
    translator = retriever.encoders
    assert isinstance(translator, Translator)
    config = config or translator.config
    wanted = 0 if part is not None else config.index.generated if generated is None else generated
    made = _generate(workspace, translator, wanted, config.index.batch, seed, progress)
    added = build_index(workspace, retriever, part=share, batch=config.index.batch, progress=progress.step)
    if model is not None:
        build_content(workspace, model, part=share, batch=config.index.batch, progress=progress.step)
    words = 0 if speaks is None else _words(workspace, speaks, share, config.index.batch, progress)
    if (why := keep_graphs(retriever)) is not None:
        progress.note(f"asking run {retriever.run.id} will need torch: {why}")
    if part is not None and (lacking := len(_unembedded(workspace, retriever))):
        progress.note(f"images without a vector of run {retriever.run.id} yet: {lacking}; build the other parts, too")
    vectors = count_vectors(workspace, retriever)
    return IndexResult(vectors, added, made, time.monotonic() - started, words)


def _content_model(workspace: Workspace, path: Path | None, crop: str | None) -> ContentModel | None:
    """The model that a call names, else the one that the workspace keeps."""
    if path is None:
        return kept_model(workspace)
    if str(path) == "none":
        forget_model(workspace)
        return None
    return keep_model(workspace, path, crop)


def _text_model(workspace: Workspace, path: Path | None) -> TextModel | None:
    """See `_content_model`."""
    if path is None:
        return kept_text_model(workspace)
    if str(path) == "none":
        forget_text_model(workspace)
        return None
    return keep_text_model(workspace, path)


def _words(workspace: Workspace, model: TextModel, part: Part, batch: int, progress: Progress) -> int:
    """Embed by the text model; returns how many images."""
    progress.stage("index: words")
    return build_words(workspace, model, part=part, batch=batch, progress=progress.step)


def open_retriever(workspace: Workspace, run: str | None, device: str = "auto") -> Retriever:
    """A retrieval run (by default the newest) with the translator it was trained on."""
    bare = Retriever.open(workspace, run, device="cpu")
    translator = Translator.load(workspace, str(bare.run.config["translation_run"]), device)
    return Retriever.open(workspace, bare.run.id, encoders=translator)


def count_vectors(workspace: Workspace, retriever: Retriever) -> int:
    """How many images have a vector of the retriever."""
    missing = workspace.missing_vectors(retriever.encoder_name, retriever.fingerprint)
    return len(workspace.images()) - len(missing)


def require_index(workspace: Workspace, retriever: Retriever) -> None:
    """Raises RgunitError unless every image has a vector of the retriever."""
    if lacking := len(_unembedded(workspace, retriever)):
        raise RgunitError(
            f"{lacking} images have no vector of retrieval run {retriever.run.id} yet: "
            f"run `rgunit index build --run {retriever.run.id}`"
        )


def _unembedded(workspace: Workspace, retriever: Retriever) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The images that lack a vector of the retriever and could have one."""
    missing = workspace.missing_vectors(retriever.encoder_name, retriever.fingerprint)
    return np.setdiff1d(missing, workspace.left_out)


def _generate(
    workspace: Workspace, translator: Translator, wanted: int, batch: int, seed: int, progress: Progress
) -> int:
    """Translate training images to other images' labels until `wanted` are there; returns how many it made."""
    assert translator.run is not None
    run = translator.run.id
    if wanted == 0:
        return 0
    names = translator.schema.names
    columns = workspace.schema.indices(names)
    known = workspace.images("split=train origin=real")
    labels_of = {int(i): row for i, row in zip(known.ids, known.labels, strict=True)}
    # One image a draw: the n-th translation is the same whatever the batch, so a second call never repeats one.
    groups = [translator.schema.indices(group) for group in translator.schema.groups]
    domains = direction_of(translator.run)
    sampler: Sampler = (
        LabelSampler(workspace, names, batch=1, seed=seed + 1, mirror=False, groups=groups, noise=(0, 0))
        if domains is None
        else DomainSampler(workspace, names, *domains, batch=1, seed=seed + 1, mirror=False)
    )

    def make(first: int, stop: int) -> None:
        draws = [sampler.draw(i) for i in range(first, stop)]
        ids, bits = np.concatenate([d.ids for d in draws]), np.concatenate([d.target for d in draws])
        images = to_tensor(workspace.load(ids, translator.size), translator.device)
        style = torch.cat(
            [
                translator.sample_style(
                    torch.from_numpy(draw.target), torch.Generator().manual_seed(seed_of(seed, 9, first + place))
                )
                for place, draw in enumerate(draws)
            ]
        )
        pixels = to_pixels(translator.translate(images, translator.content(images), style.to(translator.device)).image)
        items = []
        for image, target, picture in zip(ids, bits, pixels, strict=True):
            labels = labels_of[int(image)].copy()
            labels[columns] = target
            items.append(GeneratedImage(pixels=picture, parent=int(image), target=labels, run=run))
        workspace.add_generated(items)

    began = None
    while True:
        with workspace.catalog.held():  # the count decides which draws come next: nobody adds meanwhile
            have = made_by(workspace.catalog, run)
            began = have if began is None else began
            if have >= wanted:
                return have - began
            first = next_number(workspace.catalog, run)
            make(first, first + min(batch, wanted - have))
        progress.step(min(have + batch, wanted) - began, wanted - began)


def neighbour_table(workspace: Workspace, ids: np.ndarray[Any, np.dtype[np.int64]]) -> dict[int, dict[str, Any]]:
    """{id: path, origin} of images, for records of who guided what."""
    table = workspace.images(ids=np.unique(ids[ids >= 0]))
    return {
        int(i): {"image_id": int(i), "path": path, "origin": str(origin)}
        for i, path, origin in zip(table.ids, table.paths, table.origin, strict=True)
    }
