"""Filling the index: every image's vectors, made while the next images are decoded and the last ones are written.

An image has three named vectors of a retrieval run: its embedding (`r2`), its content vector (`r2.content`) and its
style μ (`r2.style`); and one of the user's content model, where there is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from index_store.images import read_image
from index_store.workspace import Workspace
from retrieval.content_models import ContentModel
from retrieval.retriever import Retriever
from retrieval.scales import measure_scale, scale_of

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]

SEAL = 2048
"""Images whose vectors are sealed together: what a killed build may have to make again."""
AHEAD = 4
"""Batches that are decoded before they are needed."""


def build_index(
    workspace: Workspace,
    retriever: Retriever,
    *,
    where: str | None = None,
    batch: int = 64,
    progress: Progress | None = None,
) -> int:
    """Embed the images that lack a vector of this retriever; returns how many there were.

    Decoding, embedding and writing overlap; memory does not grow with the collection. Vectors are sealed `SEAL` images
    at a time and at any end, also an interrupted one: the next call goes on from there. Then the scales of content and
    style distances are measured. `progress(done, total)` after each batch.
    """
    encoders = dict.fromkeys(retriever.encoder_names, retriever.fingerprint)
    added = _embed(workspace, encoders, retriever.encoders.size, retriever.named_vectors, where, batch, progress)
    for name in retriever.encoder_names[1:]:
        if added or scale_of(workspace, name, retriever.fingerprint) is None:
            measure_scale(workspace, name, retriever.fingerprint)
    return added


def build_content(
    workspace: Workspace, model: ContentModel, *, batch: int = 64, progress: Progress | None = None
) -> int:
    """Embed the images that lack a vector of the user's content model, like `build_index`; returns how many."""
    encoders = {model.encoder_name: model.fingerprint}
    added = _embed(workspace, encoders, model.side, lambda images: [model(images)], None, batch, progress)
    if added or scale_of(workspace, model.encoder_name, model.fingerprint) is None:
        measure_scale(workspace, model.encoder_name, model.fingerprint)
    return added


def _embed(
    workspace: Workspace,
    encoders: Mapping[str, str],
    size: int,
    embed: Callable[[Pixels], Sequence[Vectors]],
    where: str | None,
    batch: int,
    progress: Progress | None,
) -> int:
    """Give each image that lacks one its vectors under `encoders` {name: fingerprint}, in the order of `embed`'s."""
    missing = [workspace.missing_vectors(name, fingerprint, where) for name, fingerprint in encoders.items()]
    ids = np.unique(np.concatenate(missing))
    table = workspace.images(ids=ids) if len(ids) else workspace.images().select(ids)
    parts = [slice(start, min(start + batch, len(ids))) for start in range(0, len(ids), batch)]
    made: list[tuple[Ids, Sequence[Vectors]]] = []

    def decode(part: slice) -> Pixels:
        return np.stack([read_image(path, size=size) for path in table.paths[part]])

    def write(batches: list[tuple[Ids, Sequence[Vectors]]]) -> None:
        rows = np.concatenate([rows for rows, _ in batches])
        for place, (name, fingerprint) in enumerate(encoders.items()):
            vectors = np.concatenate([vectors[place] for _, vectors in batches])
            workspace.put_vectors(rows, vectors, encoder=name, fingerprint=fingerprint)

    with ThreadPoolExecutor(2, "decode") as decoders, ThreadPoolExecutor(1, "write") as writer:
        writing: Future[None] | None = None
        try:
            for part, images in zip(parts, _ahead(decoders, decode, parts), strict=True):
                made.append((ids[part], embed(images)))
                if sum(len(rows) for rows, _ in made) >= SEAL:
                    if writing is not None:
                        writing.result()
                    writing, made = writer.submit(write, made), []
                if progress is not None:
                    progress(part.stop, len(ids))
        finally:
            if writing is not None:
                writing.result()
            if made:
                write(made)
    return len(ids)


def _ahead(pool: ThreadPoolExecutor, decode: Callable[[slice], Pixels], parts: Sequence[slice]) -> Iterator[Pixels]:
    """The decoded parts in order, at most `AHEAD` of them waiting."""
    waiting: deque[Future[Pixels]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(decode, part))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()
