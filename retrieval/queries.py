"""Composed queries: the content of one picture with the style of an edit or of another picture.

A query is a pair (content, style) like any image's, so the embedding network reads it as it reads images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.attributes import Edit
from index_store.errors import RgunitError, UsageError
from index_store.store import Found
from index_store.workspace import Workspace
from retrieval.protocol import Encoders, as_images
from retrieval.retriever import Retriever


@dataclass(frozen=True)
class ComposedQuery:
    """content [1, C, h, h] and style [1, S] of what is sought, and its label vector int8 [A] of used attributes."""

    content: Tensor
    style: Tensor
    target: NDArray[np.int8]


@torch.no_grad()
def compose(
    encoders: Encoders,
    image: NDArray[np.uint8],
    *,
    edit: Edit | None = None,
    style_of: NDArray[np.uint8] | None = None,
    known_labels: NDArray[np.int8] | None = None,
    style_of_labels: NDArray[np.int8] | None = None,
    generator: torch.Generator | None = None,
) -> ComposedQuery:
    """The content of `image` uint8 [size, size, 3] with an edited style, or with that of the image `style_of`.

    `edit` is over the encoders' schema. It starts from the picture's labels: the known ones of int8 [A]
    `known_labels` (1, 0, −1 unknown), for others the sign of the mean of that attribute's 8 style numbers.
    The style is the mean of the component so reached, or a draw from it with `generator`. With `style_of`
    it is that picture's μ, in which the edit's bits (and the rivals that they end) are replaced. Raises
    UsageError if given neither.
    """
    if edit is None and style_of is None:
        raise UsageError("a query needs an edit (--to '+Blond_Hair') or a picture to take the style of (--style-of)")
    pixels = _tensor(encoders, image)
    content = encoders.content(pixels)
    if style_of is None:
        own = encoders.style(pixels).float()
        target = edited(_labels(encoders, own, known_labels), edit)
        style = component(encoders, target, generator)
        return ComposedQuery(content, style, target)

    own = encoders.style(_tensor(encoders, style_of)).float()
    target = edited(_labels(encoders, own, style_of_labels), edit)
    if edit is None:
        return ComposedQuery(content, own, target)
    each = own.shape[1] // len(target)  # numbers an attribute
    replaced = torch.zeros(len(target), dtype=torch.bool)
    replaced[[*edit.bits, *edit.cleared]] = True
    mask = replaced.repeat_interleave(each).to(own.device)
    return ComposedQuery(content, torch.where(mask, component(encoders, target, generator), own), target)


def edited(labels: NDArray[np.int8], edit: Edit | None) -> NDArray[np.int8]:
    """Labels int8 [A] after an edit, if there is one."""
    return labels if edit is None else edit.apply(labels)


def component(encoders: Encoders, labels: NDArray[np.int8], generator: torch.Generator | None = None) -> Tensor:
    """The mean [1, S] of the component of labels int8 [A], or with `generator` a draw from it."""
    vector = torch.from_numpy(np.ascontiguousarray(labels))[None]
    style = encoders.style_mean(vector) if generator is None else encoders.sample_style(vector, generator)
    return style.to(encoders.device)


def find(
    retriever: Retriever,
    query: ComposedQuery,
    *,
    k: int = 10,
    where: str | None = None,
    image_id: int | None = None,
) -> Found:
    """The k nearest images of a composed query: ids int64 [1, k] (−1 where fewer match), squared distances.

    Generated images only where `where` names them by `origin=`. `image_id` is the query picture's id if it
    is in the workspace: neither it nor anything made from it is returned.
    """
    if k < 1:
        raise UsageError(f"-k must be at least 1, not {k}")
    exclude = None if image_id is None else descendants(retriever.workspace, [image_id])
    return retriever.search(
        retriever.embed(query.content, query.style).cpu().numpy(), k=k, where=where, exclude=exclude
    )


def descendants(workspace: Workspace, ids: Sequence[int]) -> NDArray[np.int64]:
    """The ids themselves and those of every image made from them, or from what was made from them; ascending."""
    generated = workspace.images("origin=generated")
    family = np.unique(np.asarray(ids, np.int64))
    while True:
        children = generated.ids[np.isin(generated.parent, family)]
        grown = np.union1d(family, children)
        if len(grown) == len(family):
            return family
        family = grown


def _tensor(encoders: Encoders, image: NDArray[np.uint8]) -> Tensor:
    if image.shape != (encoders.size, encoders.size, 3) or image.dtype != np.uint8:
        raise RgunitError(
            f"a query picture must be uint8 [{encoders.size}, {encoders.size}, 3], not {image.dtype} "
            f"{list(image.shape)}: read it with size={encoders.size}"
        )
    return as_images(image[None], encoders.device)


def _labels(encoders: Encoders, style: Tensor, known: NDArray[np.int8] | None) -> NDArray[np.int8]:
    read: NDArray[np.int8] = encoders.style_labels(style)[0].cpu().numpy().astype(np.int8)
    return read if known is None else np.where(known < 0, read, known).astype(np.int8)
