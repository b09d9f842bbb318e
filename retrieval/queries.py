"""Composed queries: the content of some pictures with the style of an edit or of another picture.

A query is a pair (content, style) like any image's, so the embedding network reads it as it reads images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from retrieval.protocol import Encoders
from retrieval.tensors import to_tensor

if TYPE_CHECKING:
    from index_store.attributes import Edit
    from index_store.workspace import Workspace


@dataclass(frozen=True)
class ComposedQuery:
    """contents [n, C, h, h] of the pictures, style [1, S] of what is sought, its labels int8 [A] of used attributes."""

    contents: Tensor
    style: Tensor
    target: NDArray[np.int8]

    @property
    def content(self) -> Tensor:
        """The content that is sought, [1, C, h, h]: the mean of the pictures'."""
        return self.contents.mean(dim=0, keepdim=True) if len(self.contents) > 1 else self.contents


@torch.no_grad()
def compose(
    encoders: Encoders,
    images: NDArray[np.uint8],
    *,
    edit: Edit | None = None,
    style_of: NDArray[np.uint8] | None = None,
    known_labels: NDArray[np.int8] | None = None,
    style_of_labels: NDArray[np.int8] | None = None,
    generator: torch.Generator | None = None,
) -> ComposedQuery:
    """The content of `images` uint8 [size, size, 3], or [n, size, size, 3] of several, with the style asked for.

    `edit` is over the encoders' schema. It starts from the pictures' labels: the known ones of int8 [A] or [n, A]
    `known_labels` (1, 0, −1 unknown), for others the sign of the mean of that attribute's 8 style numbers; of several
    pictures the majority's, and the first one's where they are even. The style is the mean of the component so
    reached, or a draw from it with `generator`. With `style_of` it is that picture's μ, in which the edit's bits (and
    the rivals that they end) are replaced. With neither it is the mean of the pictures' own μ: what is like them.

    Of a model without a style the content alone is sought, and no label: UsageError for an edit or `style_of`.
    """
    pixels = _tensor(encoders, images)
    if not encoders.style_dim:
        if edit is not None or style_of is not None:
            raise no_style("this translation model")
        target = np.full(len(encoders.schema.names), -1, np.int8)
        return ComposedQuery(encoders.content(pixels), pixels.new_zeros(1, 0), target)
    contents = encoders.content(pixels)
    if style_of is None:
        own = encoders.style(pixels).float()
        target = _majority(_labels(encoders, own, known_labels))
        if edit is None:
            return ComposedQuery(contents, own.mean(dim=0, keepdim=True), target)
        target = edit.apply(target)
        return ComposedQuery(contents, component(encoders, target, generator), target)

    own = encoders.style(_tensor(encoders, style_of)).float()
    target = _labels(encoders, own, style_of_labels)[0]
    if edit is None:
        return ComposedQuery(contents, own, target)
    target = edit.apply(target)
    mask = _numbers_of(encoders, (*edit.bits, *edit.cleared)).to(own.device)
    return ComposedQuery(contents, torch.where(mask, component(encoders, target, generator), own), target)


def no_style(model: str) -> UsageError:
    """What to say where a model without a style is asked for one; `model` begins the line and names it."""
    return UsageError(
        f"{model} has no style, so --to and --style-of change nothing: look for the content alone "
        "(`rgunit similar IMAGE`), where --where '+Name' filters by an attribute instead"
    )


def style_edit(workspace: Workspace, encoders: Encoders, text: str) -> Edit:
    """An edit over the encoders' schema. UsageError for an attribute that the workspace has but their style has not."""
    names = workspace.schema.names
    edit = workspace.schema.edit(text)
    strange = [names[column] for column in sorted(edit.bits) if names[column] not in encoders.schema.names]
    if strange:
        raise UsageError(
            f"{', '.join(map(quoted, strange))} cannot be edited: the style was trained on "
            f"{', '.join(map(quoted, encoders.schema.names))} "
            "(--where takes any attribute)"
        )
    return encoders.schema.edit(text)


def component(encoders: Encoders, labels: NDArray[np.int8], generator: torch.Generator | None = None) -> Tensor:
    """The mean [1, S] of the component of labels int8 [A], or with `generator` a draw from it."""
    vector = torch.from_numpy(np.ascontiguousarray(labels))[None]
    style = encoders.style_mean(vector) if generator is None else encoders.sample_style(vector, generator)
    return style.to(encoders.device)


def descendants(workspace: Workspace, ids: Sequence[int]) -> NDArray[np.int64]:
    """The ids themselves and those of every image made from them, or from what was made from them; ascending."""
    table = workspace.images()
    made = np.flatnonzero(table.parent >= 0)
    family = {int(image) for image in ids}
    while True:
        children = table.ids[made[np.isin(table.parent[made], sorted(family))]]
        grown = family.union(children.tolist())
        if len(grown) == len(family):
            return np.array(sorted(family), np.int64)
        family = grown


def _numbers_of(encoders: Encoders, bits: Sequence[int]) -> Tensor:
    """bool [S]: the numbers of a style that tell these attributes: those in which their components differ."""
    without, having = (torch.zeros(len(bits), len(encoders.schema.names), dtype=torch.int8) for _ in range(2))
    having[torch.arange(len(bits)), list(bits)] = 1
    return (encoders.style_mean(without) != encoders.style_mean(having)).any(dim=0)


def _tensor(encoders: Encoders, images: NDArray[np.uint8]) -> Tensor:
    several = images if images.ndim == 4 else images[None]
    if several.shape[1:] != (encoders.size, encoders.size, 3) or images.dtype != np.uint8:
        raise RgunitError(
            f"a query picture must be uint8 [{encoders.size}, {encoders.size}, 3], not {images.dtype} "
            f"{list(images.shape)}: read it with size={encoders.size}"
        )
    return to_tensor(several, encoders.device)


def _labels(encoders: Encoders, style: Tensor, known: NDArray[np.int8] | None) -> NDArray[np.int8]:
    """int8 [n, A]: what is known of n pictures, and what their style tells where it is not."""
    read: NDArray[np.int8] = encoders.style_labels(style).cpu().numpy().astype(np.int8)
    if known is None:
        return read
    known = known.reshape(read.shape)
    return np.where(known < 0, read, known).astype(np.int8)


def _majority(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """int8 [A] of [n, A] without unknown bits; the first row decides a tie."""
    twice = 2 * labels.sum(axis=0, dtype=np.int64)
    even = twice == len(labels)
    decided: NDArray[np.int8] = np.where(even, labels[0], twice > len(labels)).astype(np.int8)
    return decided
