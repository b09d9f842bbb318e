"""Filling the index: every image's vectors, made while the next images are decoded and the last ones are written.

An image has three named vectors of a retrieval run: its embedding (`r2`), its content vector (`r2.content`) and its
style μ (`r2.style`); and one each of the user's content model and text model, where there are some.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from index_store.errors import UsageError
from index_store.workspace import ImageTable, Workspace
from retrieval.content_models import ContentModel
from retrieval.retriever import Retriever
from retrieval.scales import measure_scale, scale_of
from retrieval.text_models import TextModel

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]
Read = Callable[[ImageTable, int], Pixels]
T = TypeVar("T")
Part = tuple[int, int]
"""Which part of how many, from 1: the images whose ids leave the same rest. Every process finds the same, whatever the
others have done meanwhile."""
WHOLE: Part = (1, 1)

SEAL = 2048
"""Images whose vectors are sealed together: what a killed build may have to make again."""
AHEAD = 4
"""Batches that are decoded before they are needed."""


def part_of(text: str | None) -> Part:
    """The part that `I/N` names, all of it for None; UsageError for anything else."""
    if text is None:
        return WHOLE
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 10_000):
        raise UsageError(f"a part is I/N with I from 1 to N, such as 2/4, not {text!r}")
    return int(number), int(count)


def build_index(
    workspace: Workspace,
    retriever: Retriever,
    *,
    where: str | None = None,
    part: Part = WHOLE,
    batch: int = 64,
    progress: Progress | None = None,
) -> int:
    """Embed the images that lack a vector of this retriever (of a `part` of all); returns how many there were.

    Decoding, embedding and writing overlap; memory does not grow with the collection. Vectors are sealed `SEAL` images
    at a time and at any end, also an interrupted one: the next call goes on from there. Then the scales of content and
    style distances are measured. `progress(done, total)` after each batch.
    """
    encoders = dict.fromkeys(retriever.encoder_names, retriever.fingerprint)
    # On a CPU a batch a core, each in one thread: decoding then takes from no other batch's threads.
    at_once = len(os.sched_getaffinity(0)) if retriever.encoders.device.type == "cpu" else 1
    read, embed = _squares(retriever.encoders.size), retriever.named_vectors
    added = _embed(workspace, encoders, read, embed, where, part, batch, progress, at_once=at_once)
    for name in retriever.encoder_names[1:]:
        if added or scale_of(workspace, name, retriever.fingerprint) is None:
            measure_scale(workspace, name, retriever.fingerprint)
    return added


def build_content(
    workspace: Workspace,
    model: ContentModel,
    *,
    part: Part = WHOLE,
    batch: int = 64,
    progress: Progress | None = None,
) -> int:
    """Embed the images that lack a vector of the user's content model, like `build_index`; returns how many."""
    encoders = {model.encoder_name: model.fingerprint}
    read = _squares(model.side)
    added = _embed(workspace, encoders, read, lambda images: [model(images)], None, part, batch, progress)
    if added or scale_of(workspace, model.encoder_name, model.fingerprint) is None:
        measure_scale(workspace, model.encoder_name, model.fingerprint)
    return added


def build_words(
    workspace: Workspace,
    model: TextModel,
    *,
    part: Part = WHOLE,
    batch: int = 64,
    progress: Progress | None = None,
) -> int:
    """Embed the images that lack a vector of the user's text model, like `build_index`; returns how many."""

    def read(table: ImageTable, row: int) -> Pixels:
        return model.preparation.pixels(table.read(row))

    def embed(images: Pixels) -> list[Vectors]:
        return [model.pictures(images)]

    return _embed(workspace, {model.encoder_name: model.fingerprint}, read, embed, None, part, batch, progress)


def _squares(size: int) -> Read:
    """The middle square of an image at so many pixels a side."""
    return lambda table, row: table.read(row, size)


def _embed(
    workspace: Workspace,
    encoders: Mapping[str, str],
    read: Read,
    embed: Callable[[Pixels], Sequence[Vectors]],
    where: str | None,
    part_of_all: Part,
    batch: int,
    progress: Progress | None,
    *,
    at_once: int = 1,
) -> int:
    """Give each image that lacks one its vectors under `encoders` {name: fingerprint}, in the order of `embed`'s.

    `read` gives what `embed` sees of a row of the table, all of one shape.
    With `at_once` more than 1, so many batches are decoded and embedded side by side, a thread each.
    """
    missing = [workspace.missing_vectors(name, fingerprint, where) for name, fingerprint in encoders.items()]
    ids = np.setdiff1d(np.concatenate(missing), workspace.left_out)
    ids = ids[ids % part_of_all[1] == part_of_all[0] % part_of_all[1]]
    table = workspace.images(ids=ids) if len(ids) else workspace.images().select(ids)
    parts = [slice(start, min(start + batch, len(ids))) for start in range(0, len(ids), batch)]
    made: list[tuple[Ids, Sequence[Vectors]]] = []

    def decode(part: slice) -> Pixels:
        return np.stack([read(table, row) for row in range(part.start, part.stop)])

    def whole(part: slice) -> Sequence[Vectors]:
        torch.set_num_threads(1)
        return embed(decode(part))

    def write(batches: list[tuple[Ids, Sequence[Vectors]]]) -> None:
        rows = np.concatenate([rows for rows, _ in batches])
        for place, (name, fingerprint) in enumerate(encoders.items()):
            vectors = np.concatenate([vectors[place] for _, vectors in batches])
            workspace.put_vectors(rows, vectors, encoder=name, fingerprint=fingerprint)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(max(2, at_once), "decode") as workers, ThreadPoolExecutor(1, "write") as writer:
        writing: Future[None] | None = None
        results = _ahead(workers, whole, parts) if at_once > 1 else map(embed, _ahead(workers, decode, parts))
        try:
            for part, vectors in zip(parts, results, strict=True):
                made.append((ids[part], vectors))
                if sum(len(rows) for rows, _ in made) >= SEAL:
                    if writing is not None:
                        writing.result()
                    writing, made = writer.submit(write, made), []
                if progress is not None:
                    progress(part.stop, len(ids))
        finally:
            torch.set_num_threads(threads)
            if writing is not None:
                writing.result()
            if made:
                write(made)
    return len(ids)


def _ahead(pool: ThreadPoolExecutor, make: Callable[[slice], T], parts: Sequence[slice]) -> Iterator[T]:
    """What is made of the parts, in order, at most `AHEAD` of them waiting."""
    waiting: deque[Future[T]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(make, part))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()
