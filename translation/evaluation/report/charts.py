"""Line charts and dot charts as inline SVG: a few hundred bytes of markup each, no script, no library.

Nothing here names a colour: classes (`s0` … `s5`, `axis`, `grid`) take theirs from the page's CSS variables,
so one picture serves light, dark and print. Lines differ by dash as well as by colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

SERIES = 6  # that many classes s0 … s5 are styled
_WIDTH, _HEIGHT = 360, 190
LETTER = 6.1  # width of a letter in a broad font, in the charts' units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 30
_POINTS = 400  # a line is drawn through at most that many


@dataclass(frozen=True)
class Line:
    """One line of a chart: x and y of equal length; y may hold NaN where nothing was measured."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Dot:
    """One row of a dot chart: a value, its interval (or None) and whether it is a control."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    control: bool = False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's text: 0, 0.05, 12, 3k, 1.5M, 2e-5."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{float(digits):g}e−{abs(int(power))}".replace("-", "−")
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.4g}{unit}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def smoothed(y: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred running mean over `window` points that passes over NaN; the ends use what is there."""
    known = np.isfinite(y)
    kernel = np.ones(max(window, 1))
    total = np.convolve(np.where(known, y, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def line_chart(lines: Sequence[Line], *, label: str, y_range: tuple[float, float] | None = None) -> Markup:
    """An SVG of up to SERIES lines over training steps; `label` is read out by a screen reader.

    `y_range` fixes the axis, else it fits the data, from 0 where all values are ≥ 0; a logarithmic axis where
    they are positive and span more than a factor of 100. Noisy lines are drawn faint under their running mean.
    Empty Markup if there are not two finite points.
    """
    drawn = [(line.name, *_finite(line)) for line in lines[:SERIES]]
    drawn = [entry for entry in drawn if len(entry[1]) > 1]
    if not drawn:
        return Markup("")
    every = np.concatenate([y for _, _, y in drawn])
    x_low, x_high = min(x[0] for _, x, _ in drawn), max(x[-1] for _, x, _ in drawn)
    floor, top = np.quantile(every, [0.01, 0.99])
    log = y_range is None and every.min() > 0 and top / floor > 100
    low, high = y_range or _fit(every, log)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(x: ArrayLike) -> NDArray[np.float64]:
        share = (np.asarray(x, dtype=np.float64) - x_low) / max(x_high - x_low, 1e-12)
        return np.asarray(_LEFT + (right - _LEFT) * share)

    def up(y: ArrayLike) -> NDArray[np.float64]:
        value = np.asarray(y, dtype=np.float64)
        share = np.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        return np.asarray(bottom - (bottom - _TOP) * np.clip(share, -0.02, 1.02))

    parts = []
    for value in _log_ticks(low, high) if log else ticks(low, high, 4):
        y_at = float(up(value))
        parts += [rule("grid", _LEFT, right, y_at, y_at), text(_LEFT - 6, y_at + 3.5, "end", number(value))]
    for value in ticks(x_low, x_high, 4):
        x_at = float(across(value))
        parts.append(rule("axis", x_at, x_at, bottom, bottom + 4))
        parts.append(text(x_at, bottom + 15, "middle", number(value)))
    parts += [rule("axis", _LEFT, right, bottom, bottom), text(right, _HEIGHT - 2, "end", "step")]
    for i, (_, x, y) in enumerate(drawn):
        mean = smoothed(y, len(y) // 25)
        if len(y) >= 50:
            parts.append(f'<polyline class="line faint s{i}" points="{_points(across(x), up(y))}"/>')
        shown = mean if len(y) >= 50 else y
        parts.append(f'<polyline class="line s{i}" points="{_points(across(x), up(shown))}"/>')
    return svg(_WIDTH, _HEIGHT, label, parts)


def legend(names: Sequence[str]) -> Markup:
    """The key of a line chart, as HTML: a short stroke and a name for each line."""
    stroke = '<svg viewBox="0 0 18 6"><line class="line s{}" x1="0" x2="18" y1="3" y2="3"/></svg>'
    key = Markup(f'<span class="key">{stroke}{{}}</span>')
    return Markup("").join(key.format(i, name) for i, name in enumerate(names[:SERIES]))


def dot_chart(
    dots: Sequence[Dot], *, label: str, x_range: tuple[float, float], marks: Mapping[str, float] | None = None
) -> Markup:
    """An SVG with a row for each dot, its interval as a whisker, and named vertical `marks` (chance, a goal)."""
    shown = [dot for dot in dots if math.isfinite(dot.value)]
    if not shown:
        return Markup("")
    low, high = x_range
    left, right, row = 16 + LETTER * max(len(dot.name) for dot in shown), _WIDTH - 12, 22
    top = 16
    bottom = top + row * len(shown) + 2

    def across(value: float) -> float:
        return left + (right - left) * min(max((value - low) / (high - low), 0.0), 1.0)

    parts = []
    for value in ticks(low, high, 5):
        x = across(value)
        parts += [rule("grid", x, x, top, bottom), text(x, bottom + 14, "middle", number(value))]
    for name, value in (marks or {}).items():
        x = across(value)
        parts += [rule("mark", x, x, top - 2, bottom), text(x, top - 6, "middle", name)]
    for i, dot in enumerate(shown):
        y = top + row * (i + 0.5)
        kind = "control" if dot.control else "s0"
        parts.append(text(left - 10, y + 4, "end", dot.name, f"name {kind}"))
        if dot.interval is not None:
            a, b = (across(end) for end in dot.interval)
            parts.append(rule(f"whisker {kind}", a, b, y, y))
        parts.append(f'<circle class="dot {kind}" cx="{across(dot.value):.1f}" cy="{y:.1f}" r="4"/>')
    return svg(_WIDTH, bottom + 20, label, parts)


def _finite(line: Line) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(line.x, dtype=np.float64), np.asarray(line.y, dtype=np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    return x[kept], y[kept]


def _fit(values: NDArray[np.float64], log: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if log:
        return max(low, float(np.quantile(values, 0.01)) / 2) / 1.15, high * 1.15
    # a first spike must not flatten the rest: the axis ends a little over the bulk
    high = min(high, float(np.quantile(values, 0.99)) * 1.5) if high > 0 else high
    low = 0.0 if low >= 0 else low
    gap = 0.06 * ((high - low) or abs(high) or 1.0)
    return (low if low == 0.0 else low - gap), high + gap


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**p for p in powers]


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    step = max(1, math.ceil(len(x) / _POINTS))
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[::step], y[::step], strict=True))


def text(x: float, y: float, anchor: str, text: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def rule(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def svg(width: int, height: int, label: str, parts: Sequence[str]) -> Markup:
    body = Markup("".join(parts))  # every text in it was escaped above
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, label, body
    )
