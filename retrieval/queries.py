"""Composed queries by torch networks: `composing.py` with encoders as the reader of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.composing import Floats, Labels, Pixels, compose_read
from retrieval.protocol import Encoders
from retrieval.tensors import to_tensor

if TYPE_CHECKING:
    from index_store.attributes import AttributeSchema, Edit


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


class TorchReader:
    """Encoders as a `Reader`. With `generator` components are drawn."""

    def __init__(self, encoders: Encoders, generator: torch.Generator | None = None) -> None:
        self.encoders, self.generator = encoders, generator

    @property
    def schema(self) -> AttributeSchema:
        return self.encoders.schema

    @property
    def size(self) -> int:
        return self.encoders.size

    @property
    def style_dim(self) -> int:
        return self.encoders.style_dim

    @torch.no_grad()
    def content(self, pixels: Pixels) -> Floats:
        return _array(self.encoders.content(to_tensor(pixels, self.encoders.device)))

    @torch.no_grad()
    def style(self, pixels: Pixels) -> Floats:
        return _array(self.encoders.style(to_tensor(pixels, self.encoders.device)))

    def read(self, pixels: Pixels) -> tuple[Floats, Floats]:
        return self.content(pixels), self.style(pixels)

    def style_labels(self, style: Floats) -> Labels:
        read: Labels = self.encoders.style_labels(torch.from_numpy(style)).cpu().numpy().astype(np.int8)
        return read

    def component(self, labels: Labels) -> Floats:
        vector = torch.from_numpy(np.ascontiguousarray(labels))[None]
        if self.generator is None:
            return _array(self.encoders.style_mean(vector))
        return _array(self.encoders.sample_style(vector, self.generator))

    def telling(self, bits: Sequence[int]) -> NDArray[np.bool_]:
        without, having = (torch.zeros(len(bits), len(self.schema.names), dtype=torch.int8) for _ in range(2))
        having[torch.arange(len(bits)), list(bits)] = 1
        return (self.encoders.style_mean(without) != self.encoders.style_mean(having)).any(dim=0).cpu().numpy()


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
    """`compose_read` by encoders, on their device. The style is the mean of the component reached, or a draw from it
    with `generator`."""
    query = compose_read(
        TorchReader(encoders, generator),
        images,
        edit=edit,
        style_of=style_of,
        known_labels=known_labels,
        style_of_labels=style_of_labels,
    )
    contents, style = (torch.from_numpy(part).to(encoders.device) for part in (query.contents, query.style))
    return ComposedQuery(contents, style, query.target)


def _array(tensor: Tensor) -> Floats:
    """float32, on the host."""
    array: Floats = tensor.detach().float().cpu().numpy()
    return array
