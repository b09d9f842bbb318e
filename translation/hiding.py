"""What training hides: neighbours from some images, places of the source's content from its reconstruction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

BLOCKS = 4  # content is hidden in blocks, 4×4 of them on a map


def draw_shown(images: int, dropout: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """bool [B]: which images see their neighbours; each is shown none with probability `dropout`."""
    return rng.random(images) >= dropout


def draw_hidden(images: int, side: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """bool [B, 1, side, side]: positions of a content map to hide, in 4×4 blocks, each with probability `share`."""
    blocks = rng.random((images, 1, BLOCKS, BLOCKS)) < share
    of = np.arange(side) * BLOCKS // side
    return blocks[:, :, of][:, :, :, of]


def hide(content: Tensor, hidden: Tensor | None) -> Tensor:
    """Content [B, C, h, w] with the `hidden` [B, 1, h, w] positions 0; None hides nothing."""
    return content if hidden is None else content.masked_fill(hidden, 0)
