"""A map of the collection: every image is a point of the plane, similar images lie close together.

The one idea: the vectors that searches use are laid out by t-SNE (van der Maaten and Hinton, 2008), so that the map
shows what the index knows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from index_store.errors import ImageRefused, RgunitError, UsageError
from index_store.imagetable import ImageTable
from index_store.workspace import Workspace
from retrieval.pictures import with_origin
from retrieval.retriever import Retriever

Method = Literal["tsne", "pca"]
By = Literal["both", "content", "style"]
VECTORS: tuple[By, ...] = ("both", "content", "style")
FEWEST, NEIGHBOURS, COMPONENTS = 10, 30, 50

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Map:
    """places float32 [n, 2] in [0, 1] of the images of `table`, in its order; `of`: how many there were in all.

    `used`: the attributes that the retrieval run is about.
    """

    table: ImageTable
    places: Vectors
    of: int
    used: tuple[str, ...]


def make_map(
    workspace: Workspace,
    retriever: Retriever,
    *,
    by: By = "both",
    method: Method = "tsne",
    images: int = 4000,
    where: str | None = None,
    seed: int = 0,
) -> Map:
    """Lay out the indexed images that pass a filter, at most `images` of them, drawn by the seed.

    `by` says what brings two images together: their embedding, their content or their style. Without an `origin=` in
    `where`, real and unlabelled images. Raises RgunitError where too few have a vector.
    """
    if by == "style" and not retriever.style_dim:
        raise UsageError(f"retrieval run {retriever.run.id} has no style to lay images out by: choose content or both")
    table = workspace.images(with_origin(workspace, where))
    name = retriever.encoder_names[VECTORS.index(by)]
    indexed = np.isin(table.ids, workspace.store().vector_ids(name, retriever.fingerprint))
    if len(table) >= FEWEST and not indexed.any():
        raise RgunitError(
            f"{workspace.path} has no vectors {name} of retrieval run {retriever.run.id} as it is now: "
            "run `rgunit index build`"
        )
    rows = np.flatnonzero(indexed)
    if len(rows) < FEWEST:
        raise RgunitError(f"a map needs at least {FEWEST} indexed images, and {len(rows)} pass the filter: widen it")
    if len(rows) > images:
        rows = np.sort(np.random.default_rng(seed).choice(rows, images, replace=False))
    chosen = table.select(rows)
    vectors = workspace.store().vectors(chosen.ids, encoder=f"{name}@{retriever.fingerprint}")
    used = tuple(name for name in retriever.run.config.get("attributes_used", ()) if name in table.schema.names)
    return Map(chosen, lay_out(vectors, method, seed), int(indexed.sum()), used)


def lay_out(vectors: Vectors, method: Method, seed: int = 0) -> Vectors:
    """float32 [n, d] → float32 [n, 2] in [0, 1]: t-SNE on the first 50 principal components, or the first two."""
    from sklearn.decomposition import PCA

    count, dim = vectors.shape
    if method == "pca":
        places = PCA(2, random_state=seed).fit_transform(vectors)
    else:
        from sklearn.manifold import TSNE

        fewer = PCA(min(COMPONENTS, dim, count), random_state=seed).fit_transform(vectors)
        perplexity = min(NEIGHBOURS, (count - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=-1).fit_transform(fewer)
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray((places - low) / np.maximum(high - low, 1e-12), np.float32)


def thumbnails(table: ImageTable, side: int, progress: Callable[[int, int], None] | None = None) -> NDArray[np.uint8]:
    """uint8 [n, side, side, 3]; grey for a picture that cannot be read any more."""
    made = np.full((len(table), side, side, 3), 200, np.uint8)

    def one(row: int) -> None:
        try:
            made[row] = table.read(row, side)
        except ImageRefused:
            return

    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(pool.map(one, range(len(table))), start=1):
            if progress is not None and not done % 100:
                progress(done, len(table))
    return made
