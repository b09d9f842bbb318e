"""What of a picture passes through a method that translates squares of one size, and how the picture comes back whole.

The one idea: the square is a part of the picture (the middle, or a box), or all of it with its sides filled up; what it
became is laid over the picture at the part's own size, and the rest is as it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from index_store.decoding import SMALLEST_SIDE
from index_store.errors import ImageRefused, UsageError
from index_store.images import Pixels, prepare

_BOX = re.compile(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*")


class Box(NamedTuple):
    """A part of a picture in its pixels: left, top, width, height."""

    left: int
    top: int
    width: int
    height: int


def parse_box(text: str) -> Box:
    """`X,Y,W,H` as a square box. UsageError where it is none."""
    found = _BOX.fullmatch(text)
    if found is None:
        raise UsageError(f"--box {text!r}: write X,Y,W,H in pixels, such as 20,0,178,178")
    box = Box(*map(int, found.groups()))
    if box.width != box.height:
        raise UsageError(f"--box {text}: the run translates squares, so W and H must be equal")
    if box.width < SMALLEST_SIDE:
        raise UsageError(f"--box {text}: a side of at least {SMALLEST_SIDE} pixels is needed")
    return box


@dataclass(frozen=True)
class Framing:
    """Which square passes: `box`, else the middle; with `fit` all of the picture, its sides filled up to a square."""

    box: Box | None = None
    fit: bool = False

    def part(self, pixels: Pixels, name: str) -> Box | None:
        """The part of uint8 [H, W, 3] that is translated, None: all of it. ImageRefused where a box lies outside."""
        height, width = pixels.shape[:2]
        if self.box is not None:
            left, top, side, _ = self.box
            if left + side > width or top + side > height:
                raise ImageRefused(
                    f"{name}: --box {','.join(map(str, self.box))} lies outside of its {width} x {height}"
                )
            return None if (side, side) == (width, height) else self.box
        side = min(width, height)
        if self.fit or width == height:
            return None
        return Box((width - side) // 2, (height - side) // 2, side, side)

    def square(self, pixels: Pixels, size: int) -> Pixels:
        """uint8 [size, size, 3] of a picture uint8 [H, W, 3]."""
        if self.box is not None:
            left, top, width, height = self.box
            return prepare(np.ascontiguousarray(pixels[top : top + height, left : left + width]), size=size)
        if not self.fit:
            return prepare(pixels, size=size)
        (below, above), (right, left) = ((n - n // 2, n // 2) for n in _missing(pixels))
        return prepare(np.pad(pixels, ((above, below), (left, right), (0, 0)), mode="edge"), size=size)

    def back(self, made: Pixels, over: Pixels) -> Pixels:
        """What a square became, [size, size, 3], laid over the picture [H, W, 3] that it was cut out of."""
        height, width = over.shape[:2]
        if made.shape == over.shape:
            return made
        if self.fit:
            whole = _resized(made, max(height, width))
            above, left = (n // 2 for n in _missing(over))
            return np.ascontiguousarray(whole[above : above + height, left : left + width])
        part = self.part(over, "the picture") or Box(0, 0, width, height)
        result = over.copy()
        rows, columns = slice(part.top, part.top + part.height), slice(part.left, part.left + part.width)
        result[rows, columns] = _resized(made, part.width)
        return result


def _missing(pixels: Pixels) -> tuple[int, int]:
    """How many rows and columns a picture lacks to be a square."""
    height, width = pixels.shape[:2]
    return max(0, width - height), max(0, height - width)


def _resized(pixels: Pixels, side: int) -> Pixels:
    """uint8 [side, side, 3]."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
