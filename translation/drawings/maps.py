"""What a drawing knows of each pixel: which part it shows, and from that its class and how far away it is.

The painter's own shapes, filled with the number of their part instead of a colour; what is only a tint (blush, shadow,
lenses) is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from translation.drawings.faces import parse_drawing
from translation.drawings.painter import SUPERSAMPLING, Colour, _Painter

PARTS = (
    *("background", "hair behind", "neck", "clothes", "ears", "face", "nose", "beard", "mouth", "eyes"),
    *("hair", "glasses", "hat"),
)
CLASSES = ("background", "hair", "skin", "clothes", "beard", "mouth", "eyes", "glasses", "hat")
CLASS_OF = (0, 1, 2, 3, 2, 2, 2, 4, 5, 6, 1, 7, 8)
"""The class of each part: an index of CLASSES."""
NEARNESS = (0.0, 0.35, 0.4, 0.45, 0.45, 0.55, 0.68, 0.58, 0.57, 0.56, 0.6, 0.66, 0.62)
"""Of each part: 0 the background, 1 the nearest; in units of which the background is 2 away (`distance`)."""


class _PartPainter(_Painter):
    """Paints parts' numbers."""

    part = 0

    def _background(self) -> Image.Image:
        return Image.new("RGB", (self.side, self.side))

    def fill(self, points: ArrayLike, colour: Colour, at: tuple[float, float] = (0.0, 0.0)) -> None:
        if len(colour) > 3 and colour[3] < 255 and PARTS[self.part] != "nose":
            return
        part = PARTS.index("neck") if PARTS[self.part] == "clothes" and colour == self.shade else self.part
        placed = (np.asarray(points, dtype=float) + at) @ self.matrix + self.centre
        self.pen.polygon(placed.ravel().tolist(), fill=(part, 0, 0))


def drawn_parts(drawing: str, size: int) -> NDArray[np.uint8]:
    """uint8 [size, size]: for each pixel of a drawing (`name_drawing`) an index of PARTS; RgunitError for others."""
    content, attributes = parse_drawing(drawing)
    on = frozenset(name for name, value in attributes.items() if value)
    painter = _PartPainter(content, on, size)
    order = {
        "hair behind": painter.hair_behind,
        "clothes": painter.clothes,
        "ears": painter.ears,
        "face": painter.face,
        "nose": painter.nose,
        "beard": painter.beard if "Beard" in on else None,
        "mouth": painter.mouth,
        "eyes": painter.eyes,
        "hair": painter.hair_front,
        "glasses": painter.glasses if "Glasses" in on else None,
        "hat": painter.hat if "Hat" in on else None,
    }
    for name, draw in order.items():
        if draw is not None:
            painter.part = PARTS.index(name)
            draw()
    middle = SUPERSAMPLING // 2
    return np.asarray(painter.image)[middle::SUPERSAMPLING, middle::SUPERSAMPLING, 0].copy()
