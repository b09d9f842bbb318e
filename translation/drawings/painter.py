"""A face as shapes: the painter behind `drawings`.

Every shape is a polygon in head coordinates (centre of the face 0, half its width and height 1) that one
affine map carries to a canvas four times too large; averaging 4 × 4 pixels smooths the edges. No fonts, no
random draws.
"""

from __future__ import annotations

import colorsys
import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from translation.drawings.content import HAIR_COLOURS, Content

SUPERSAMPLING = 4

Colour = tuple[int, ...]
Points = NDArray[np.float64]

_TURN = np.linspace(0, 2 * math.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_STEPS = np.linspace(0, 1, 7, endpoint=False)
# Catmull–Rom basis [7, 4]: a smooth curve through its control points
_SPLINE = 0.5 * np.stack(
    [
        -_STEPS + 2 * _STEPS**2 - _STEPS**3,
        2 - 5 * _STEPS**2 + 3 * _STEPS**3,
        _STEPS + 4 * _STEPS**2 - 3 * _STEPS**3,
        -(_STEPS**2) + _STEPS**3,
    ],
    axis=1,
)
_SKIN = [(0, (255, 226, 205)), (0.3, (244, 200, 168)), (0.65, (188, 130, 92)), (1, (112, 70, 48))]
_HAIR = {
    "Black_Hair": ((22, 20, 26), (44, 40, 50)),
    "Blond_Hair": ((222, 176, 84), (248, 216, 134)),
    "Brown_Hair": ((98, 56, 28), (136, 82, 44)),
    "red": ((186, 70, 34), (206, 88, 44)),
    "grey": ((160, 162, 170), (198, 200, 208)),
}
_EYES = [(70, 46, 30), (58, 110, 160), (72, 120, 74), (110, 78, 40), (84, 98, 112)]


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round(x + (y - x) * share) for x, y in zip(a[:3], b[:3], strict=True))


def _hls(hue: float, light: float, saturation: float) -> Colour:
    return tuple(round(255 * c) for c in colorsys.hls_to_rgb(hue % 1, light, saturation))


def _skin_colour(tone: float) -> Colour:
    for (low, a), (high, b) in pairwise(_SKIN):
        if tone <= high:
            return _mix(a, b, (tone - low) / (high - low))
    return _SKIN[-1][1]


def _smooth(points: ArrayLike, *, closed: bool = True) -> Points:
    """A smooth curve through control points [n, 2]."""
    p = np.asarray(points, dtype=float)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([p[:1], p, p[-1:]])
    windows = np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], axis=1)  # [segments, 4, 2]
    curve: Points = (_SPLINE @ windows).reshape(-1, 2)
    return curve if closed else np.vstack([curve, p[-1:]])


def _stroke(points: Points, width: float, taper: float = 1.0) -> Points:
    """The outline of a line of `width` along points [n, 2], thinner at its ends by `taper` in [0, 1]."""
    direction = np.gradient(points, axis=0)
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    along = np.linspace(-1, 1, len(points))[:, None]
    half = width / 2 * (1 - taper * along**4)
    return np.vstack([points + normal * half, (points - normal * half)[::-1]])


def _mirrored(right: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points from the right to the middle, then mirrored to the left; the last one lies on the axis."""
    return [*right, *[(-x, y) for x, y in right[-2::-1]]]


class _Painter:
    """The canvas and the map from head coordinates to it."""

    def __init__(self, content: Content, attributes: frozenset[str], size: int) -> None:
        self.content = c = content
        self.on = attributes
        self.side = size * SUPERSAMPLING
        self.rx, self.ry = 0.262 * c.width * c.scale, 0.315 * c.height * c.scale
        cos, sin = math.cos(c.tilt), math.sin(c.tilt)
        self.matrix = np.array([[cos * self.rx, sin * self.rx], [-sin * self.ry, cos * self.ry]]) * self.side
        self.centre = np.array([0.5 + c.shift[0], 0.55 + c.shift[1]]) * self.side
        self.aspect = self.rx / self.ry
        self.skin = _skin_colour(c.skin)
        self.shade = _mix(self.skin, (96, 30, 40), 0.22)
        hair = next((n for n in HAIR_COLOURS if n in attributes), "red" if c.hair_shade > 0 else "grey")
        self.hair = _mix(*_HAIR[hair], (c.hair_shade + 1) / 2)
        self.hair_dark = _mix(self.hair, (16, 8, 10), 0.28)
        self.hair_light = _mix(self.hair, (255, 250, 240), 0.16)
        self.image = self._background()
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def _background(self) -> Image.Image:
        c = self.content
        light = 0.2 + 0.62 * c.background_light
        a = _hls(c.background_hue, light + 0.09, 0.5)
        b = _hls(c.background_hue + 0.06, light - 0.07, 0.5)
        x, y = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16))
        share = 0.5 + 0.36 * (x * math.cos(c.background_angle) + y * math.sin(c.background_angle))
        pixels = np.array(a) * (1 - share[..., None]) + np.array(b) * share[..., None]
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).resize(
            (self.side, self.side), Image.Resampling.BILINEAR
        )

    def fill(self, points: ArrayLike, colour: Colour, at: tuple[float, float] = (0.0, 0.0)) -> None:
        """A polygon [n, 2] in head coordinates, moved by `at`."""
        placed = (np.asarray(points, dtype=float) + at) @ self.matrix + self.centre
        self.pen.polygon(placed.ravel().tolist(), fill=colour)

    def ellipse(self, x: float, y: float, w: float, h: float, colour: Colour) -> None:
        self.fill(_CIRCLE * (w, h), colour, at=(x, y))

    def turned(self, u: float) -> float:
        """Where a feature at `u` across a face seen from the front lies on the turned head."""
        return math.sin(u * 1.1 + 0.4 * self.content.yaw)

    def foreshortened(self, u: float) -> float:
        return math.cos(u * 0.9 + 0.4 * self.content.yaw)

    def outline(self, grow: float = 0.0) -> Points:
        """The face [n, 2]: an ellipse above, a tapered jaw below."""
        x, y = _CIRCLE[:, 0], _CIRCLE[:, 1]
        below = np.maximum(y, 0)
        jaw = self.content.jaw
        width = np.sign(x) * np.abs(x) ** (1 - 0.28 * jaw * below) * (1 - (0.2 - 0.12 * jaw) * below)
        lean = 0.1 * self.content.yaw * below**2
        return np.stack([width * (1 + grow) + lean, y * (1 + grow)], axis=1)

    def clothes(self) -> None:
        c = self.content
        top = _hls(c.clothes_hue, 0.2 + 0.5 * c.clothes_light, 0.42)
        neck = 0.42 + 0.1 * c.jaw
        self.fill(_smooth([(-neck, 0.5), (neck, 0.5), (neck + 0.05, 1.7), (-neck - 0.05, 1.7)]), self.shade)
        shoulders = [(-2.3, 2.2), (-2.0, 1.55), (-1.2, 1.22), (-0.5, 1.1), (0, 1.36)]
        self.fill(_smooth(shoulders + [(-x, y) for x, y in shoulders[-2::-1]]), top)
        collar = _smooth([(-0.56, 1.1), (-0.3, 1.27), (0, 1.36), (0.3, 1.27), (0.56, 1.1)], closed=False)
        self.fill(_stroke(collar, 0.09), _mix(top, (0, 0, 0), 0.25))

    def _wavy(self, points: Points, amount: float) -> Points:
        """A closed outline [n, 2] pushed out and in along itself: curls."""
        if amount < 0.4:
            return points
        out = np.gradient(points, axis=0)
        normal = np.stack([out[:, 1], -out[:, 0]], axis=1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        return points + normal * (0.075 * amount * np.abs(np.sin(np.arange(len(points)) * math.pi / 4)))[:, None]

    def hair_behind(self) -> None:
        c = self.content
        wide = 1.13 + 0.17 * c.hair_volume
        top = -1.16 - 0.16 * c.hair_volume
        end = -0.1 + 0.28 * c.hair_length if c.hair_length < 0.5 else 0.55 + 0.95 * c.hair_length
        flare = wide + (0.12 + 0.1 * c.hair_volume if c.hair_length > 0.5 else -0.06)
        half = [
            (0.5, end + 0.06),
            (flare * 0.96, end),
            (flare, 0.5 * end),
            (wide, -0.35),
            (0.62 * wide, 0.8 * top),
        ]
        outline = _mirrored([*half, (0.0, top)])[::-1]
        colour = self.hair_dark if c.hair_length > 0.5 else self.hair
        self.fill(self._wavy(_smooth(outline), c.hair_wave), colour, at=(-0.1 * c.yaw, 0))

    def ears(self) -> None:
        for side in (-1, 1):
            if side * self.content.yaw > 0.55:  # hidden on the side it turns to
                continue
            x = side * 1.0 - 0.12 * self.content.yaw
            self.ellipse(x, 0.06, 0.16, 0.2, self.skin)
            self.ellipse(x, 0.07, 0.08, 0.12, self.shade)

    def face(self) -> None:
        outline = self.outline()
        self.fill(outline, (*_mix(self.shade, (30, 8, 12), 0.25), 150), at=(0, 0.1))  # shadow on the neck
        self.fill(outline, self.shade)
        turn = float(np.sign(self.content.yaw))
        self.fill(outline * (0.93, 0.965), self.skin, at=(0.07 * turn, -0.03))
        blush = (*_mix(self.skin, (226, 70, 70), 0.5), 90)
        for u in (-0.5, 0.5):
            self.ellipse(self.turned(u), 0.34, 0.19 * self.foreshortened(u), 0.12, blush)

    def beard(self) -> None:
        outline = self.outline(0.03)
        edge = outline[outline[:, 1] > 0.1]
        edge = edge[np.argsort(-edge[:, 0])]  # from the right cheek by the chin to the left
        middle, lift = self.turned(0), 0.05 * self.content.smile
        heights = ((0.86, 0.26), (0.66, 0.44 - lift), (0.4, 0.36 - lift), (0.0, 0.38))
        right, left = edge[0, 0] - middle, edge[-1, 0] - middle
        inner = [(middle + left * share, y) for share, y in heights]
        inner += [(middle + right * share, y) for share, y in heights[-2::-1]]
        self.fill(np.vstack([edge, _smooth(inner, closed=False)]), _mix(self.hair, self.hair_dark, 0.5))
        self.ellipse(middle + 0.1 * self.content.yaw, 0.86, 0.26, 0.07, (*self.hair_light, 60))

    def eyes(self) -> None:
        c = self.content
        iris = _EYES[c.eye_colour]
        for side in (-1, 1):
            u = 0.43 * c.eye_spacing * side
            x, narrow = self.turned(u), 0.7 + 0.3 * self.foreshortened(u)
            w, h = 0.205 * c.eye_size * narrow, 0.125 * c.eye_size * (1 - 0.14 * max(c.smile, 0))
            look = x + 0.035 * c.yaw
            self.ellipse(x, -0.06, w, h, (250, 250, 250))
            self.ellipse(look, -0.055, 0.1 * c.eye_size, 0.1 * c.eye_size * self.aspect * 1.12, iris)
            self.ellipse(look, -0.055, 0.052, 0.052 * self.aspect, (16, 14, 18))
            self.ellipse(look + 0.035, -0.1, 0.026, 0.026 * self.aspect, (255, 255, 255))
            lid = _smooth([(x - w, -0.06), (x, -0.06 - h * 1.25), (x + w, -0.06)], closed=False)
            self.fill(_stroke(lid, 0.06, 0.6), (52, 32, 32))
            y = -0.34 - 0.05 * c.brow
            slope = side * 0.07 * c.brow
            w = 0.25 * narrow
            arch = [(x - w, y + slope + 0.04), (x, y - 0.035), (x + w, y - slope + 0.04)]
            brow = _mix(self.hair_dark, (48, 30, 24), 0.35)
            self.fill(_stroke(_smooth(arch, closed=False), 0.085 * c.brow_weight, 0.7), brow)

    def nose(self) -> None:
        c = self.content
        x = self.turned(0) + 0.09 * c.yaw
        side = 0.13 * c.nose * float(np.sign(c.yaw))
        line = [(x - 0.35 * side, 0.05), (x + 0.55 * side, 0.24), (x - side, 0.31), (x, 0.34)]
        self.fill(_smooth(line), (*_mix(self.shade, (60, 10, 20), 0.18), 170))

    def mouth(self) -> None:
        c = self.content
        x, half = self.turned(0) + 0.02 * c.yaw, 0.37 + 0.07 * c.smile
        y, bend = 0.57, 0.15 * c.smile
        lip = _mix(self.skin, (170, 28, 48), 0.62)
        corners = [(x - half, y - 0.8 * bend), (x + half, y - 0.8 * bend)]
        upper = _smooth([corners[0], (x, y + 0.35 * bend), corners[1]], closed=False)
        gap = 0.03 + (0.2 * c.mouth_open + 0.08) * max(c.smile, 0.12)
        lower = _smooth([corners[0], (x, y + 0.35 * bend + gap * 1.4), corners[1]], closed=False)
        self.fill(np.vstack([upper, lower[::-1]]), (104, 22, 34))
        if c.smile > 0.2:
            teeth = upper * (0.86, 1) + (0.14 * x, 0.012)
            bottom = lower * (0.86, 1) + (0.14 * x, 0)
            self.fill(np.vstack([teeth, (teeth * 0.35 + bottom * 0.65)[::-1]]), (252, 248, 244))
        self.fill(_stroke(upper, 0.07, 0.8), lip)
        self.fill(_stroke(lower, 0.09, 0.8), lip)

    def hair_front(self) -> None:
        """The hair over the forehead: an outer arc of the skull, closed by the cut's hairline."""
        c = self.content
        wide, top = 1.07 + 0.13 * c.hair_volume, -1.13 - 0.17 * c.hair_volume
        lean = (-0.07 * c.yaw, 0.0)
        side = 0.12 if c.hair_length > 0.5 else -0.08
        arc = _mirrored([(wide, side), (wide, -0.4), (0.72, 0.8 * top), (0, top)])[::-1]
        x0 = self.turned(0) * 0.8
        if c.hair_cut == 0:
            line = [
                (0.9, -0.12),
                (0.8, -0.42),
                (x0 + 0.45, -0.66),
                (x0 - 0.1, -0.6),
                (-0.7, -0.5),
                (-0.9, -0.12),
            ]
        elif c.hair_cut == 1:
            line = [(0.9, -0.1), (0.82, -0.42), (x0, -0.5), (-0.82, -0.42), (-0.9, -0.1)]
        elif c.hair_cut == 2:
            inner = [(x0 + 0.3, -0.66), (x0, -0.84), (x0 - 0.3, -0.66)]
            line = [(0.92, 0.0), (0.78, -0.36), *inner, (-0.78, -0.36), (-0.92, 0.0)]
        else:
            inner = [(x0 + 0.5, -0.72), (x0, -0.74), (x0 - 0.5, -0.72)]
            line = [(0.92, -0.16), (0.84, -0.5), *inner, (-0.84, -0.5), (-0.92, -0.16)]
        outer = self._wavy(_smooth(arc, closed=False), c.hair_wave) + np.array(lean)
        self.fill(np.vstack([outer, _smooth(line, closed=False)]), self.hair)
        if c.hair_cut == 3:
            tuft = [(-0.55, -0.78), (-0.5, -1.2), (0.1, -1.42), (0.62, -1.25), (0.6, -0.85), (0, -0.8)]
            self.fill(_smooth(tuft) * (-float(np.sign(c.yaw)), 1), self.hair)
        shine = _smooth([(-0.62, -0.78), (-0.2, -1.0), (0.3, -1.02)], closed=False)
        self.fill(_stroke(shine, 0.1), (*self.hair_light, 150), at=lean)

    def glasses(self) -> None:
        c = self.content
        frame = (30, 28, 36)
        for side in (-1, 1):
            u = 0.45 * side
            x, w, h = self.turned(u), 0.37 * (0.68 + 0.32 * self.foreshortened(u)), 0.27
            lens = _CIRCLE if c.frame == 0 else np.sign(_CIRCLE) * np.abs(_CIRCLE) ** 0.55
            ring = np.vstack([lens, lens[:1]]) * (w, h) + (x, -0.03)
            self.fill(ring, (220, 236, 255, 46))
            self.fill(_stroke(ring, 0.1, 0.0), frame)
            temple = np.array([(x + side * w, -0.08), (side * 1.02 - 0.1 * c.yaw, -0.02)])
            if temple[1, 0] * side > temple[0, 0] * side:
                self.fill(_stroke(temple, 0.08, 0.0), frame)
        left, right = self.turned(-0.45), self.turned(0.45)
        bridge = _smooth([(left + 0.3, -0.05), ((left + right) / 2, -0.11), (right - 0.3, -0.05)], closed=False)
        self.fill(_stroke(bridge, 0.08, 0.0), frame)

    def hat(self) -> None:
        c = self.content
        colour = _hls(c.hat_hue, 0.42, 0.62)
        dark, light = _mix(colour, (0, 0, 0), 0.3), _mix(colour, (255, 255, 255), 0.22)
        x = -0.06 * c.yaw
        if c.hat == 0:  # beanie
            dome = _mirrored([(1.2, -0.68), (1.14, -1.15), (0.6, -1.6), (0, -1.7)])
            self.fill(_smooth(dome, closed=False), colour, at=(x, 0))
            self.ellipse(x, -1.72, 0.2, 0.17, light)
            band = _mirrored([(1.24, -0.68), (0.6, -0.82), (0, -0.86)])
            self.fill(_stroke(_smooth(band, closed=False), 0.3, 0.0), dark, at=(x, 0))
        else:  # brimmed
            crown = _mirrored([(0.92, -0.75), (0.86, -1.3), (0.5, -1.62), (0, -1.55)])
            self.fill(_smooth(crown, closed=False), colour, at=(x, 0))
            ribbon = _smooth([(-0.92, -0.9), (0, -1.0), (0.92, -0.9)], closed=False)
            self.fill(_stroke(ribbon, 0.2, 0.0), dark, at=(x, 0))
            self.ellipse(x, -0.78, 1.55, 0.17, colour)
            self.ellipse(x, -0.82, 1.5, 0.1, light)
            self.fill(_stroke(ribbon, 0.16, 0.0), dark, at=(x, 0.08))


def paint(content: Content, attributes: frozenset[str], size: int) -> NDArray[np.uint8]:
    """The face as uint8 [size, size, 3]; `attributes` are the style attributes that are on."""
    painter = _Painter(content, attributes, size)
    painter.hair_behind()
    painter.clothes()
    painter.ears()
    painter.face()
    painter.nose()
    if "Beard" in attributes:
        painter.beard()
    painter.mouth()
    painter.eyes()
    painter.hair_front()
    if "Glasses" in attributes:
        painter.glasses()
    if "Hat" in attributes:
        painter.hat()
    return np.asarray(painter.image.reduce(SUPERSAMPLING))
