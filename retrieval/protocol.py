"""What retrieval needs of a translation model: encoders and a generator, frozen, behind one small protocol.

`translation` implements it: retrieval never imports translation and serves any model with content and style.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from index_store.attributes import AttributeSchema


class HasImage(Protocol):
    """The result of a translation; it may carry more (mask, unblended prediction)."""

    @property
    def image(self) -> Tensor:
        """[B, 3, H, W] in [−1, 1], as shown: blended by the mask."""


class Encoders(Protocol):
    """A frozen translation model for inference. Images: float [B, 3, size, size] in [−1, 1] on `device`."""

    @property
    def schema(self) -> AttributeSchema:
        """The attributes that make up the style, in its order."""

    @property
    def size(self) -> int:
        """Side of its images in pixels."""

    @property
    def content_channels(self) -> int: ...

    @property
    def style_dim(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex of the encoders' weights: vectors of two fingerprints never mix."""

    def content(self, images: Tensor) -> Tensor:
        """E_c: content [B, C, size/4, size/4]."""

    def style(self, images: Tensor) -> Tensor:
        """E_s's mean μ: [B, style_dim]."""

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of each label vector's component: int8 [B, A] → [B, style_dim]."""

    def style_mean(self, labels: Tensor) -> Tensor:
        """The components' means: int8 [B, A] → [B, style_dim]."""

    def style_labels(self, style: Tensor) -> Tensor:
        """The nearest label vector, by the sign of each attribute's mean: [B, style_dim] → int8 [B, A]."""

    def translate(self, images: Tensor, content: Tensor, style: Tensor) -> HasImage:
        """G(content, style), blended with its source `images`."""
