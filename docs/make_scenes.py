"""Draws two scenes for CUT on two single pictures: a landscape by day in flat colours, and one at dusk in strokes.

python docs/make_scenes.py scenes                            # scenes/day.png, scenes/dusk.png
python docs/make_scenes.py --beside A.png B.png … out.png    # pictures of one height in a row
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 384, 256
DAY: dict[str, Any] = {
    "sky": ((120, 180, 240), (225, 240, 250)),
    "sun": (255, 245, 180),
    "hills": [(150, 185, 170), (110, 165, 90), (80, 140, 60)],
    "tree": (40, 95, 45),
    "trunk": (90, 60, 40),
}
DUSK: dict[str, Any] = {
    "sky": ((60, 40, 110), (250, 140, 90)),
    "sun": (255, 210, 120),
    "hills": [(120, 70, 120), (80, 45, 85), (45, 28, 55)],
    "tree": (25, 18, 35),
    "trunk": (20, 10, 20),
}


def ridge(rng: np.random.Generator, base: float, height: float, rough: float) -> np.ndarray:
    """The line of a hill, a y for each x."""
    x = np.linspace(0, 1, WIDTH)
    y = sum(rng.normal() / k * np.sin(2 * np.pi * (k * x * rough + rng.random())) for k in range(1, 7))
    return base + height * (y - y.min()) / (np.ptp(y) + 1e-9)


def scene(seed: int, palette: dict[str, Any], *, strokes: bool) -> Image.Image:
    """Sky, sun, three hills and trees."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for y in range(HEIGHT):
        colour = tuple(int(a + (b - a) * y / HEIGHT) for a, b in zip(*palette["sky"], strict=True))
        draw.line([(0, y), (WIDTH, y)], fill=colour)
    x, y = int(WIDTH * rng.uniform(0.2, 0.8)), int(HEIGHT * 0.2)
    draw.ellipse([x - 22, y - 22, x + 22, y + 22], fill=palette["sun"])
    for i, colour in enumerate(palette["hills"]):
        line = ridge(rng, HEIGHT * (0.35 + 0.18 * i), HEIGHT * 0.22, 1 + 0.5 * i)
        draw.polygon([*((x, int(v)) for x, v in enumerate(line)), (WIDTH, HEIGHT), (0, HEIGHT)], fill=colour)
        for _ in range(14 * i):
            x = int(rng.integers(WIDTH))
            y, size = int(line[x]) + int(rng.integers(5, 40)), int(rng.integers(10, 18)) + 6 * i
            draw.rectangle([x - 1, y, x + 1, y + size // 3], fill=palette["trunk"])
            draw.polygon([(x, y - size), (x - size // 3, y), (x + size // 3, y)], fill=palette["tree"])
    return _painted(image, rng) if strokes else image


def _painted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture in 9,000 strokes of its own colours."""
    pixels = np.asarray(image).astype(int)
    painted = Image.new("RGB", image.size, tuple(int(v) for v in pixels.mean((0, 1))))
    draw = ImageDraw.Draw(painted)
    for _ in range(9000):
        x, y = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        colour = tuple(int(v) for v in np.clip(pixels[y, x] + rng.normal(0, 14, 3), 0, 255))
        angle, half = rng.normal(0.4, 0.25), rng.uniform(4, 11)
        dx, dy = half * np.cos(angle), half * np.sin(angle)
        draw.line([(x - dx, y - dy), (x + dx, y + dy)], fill=colour, width=3)
    return painted


def beside(files: list[Path], out: Path) -> None:
    """Pictures of one height in a row, in 128 colours."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    row = Image.new("RGB", (sum(p.width + 8 for p in pictures) - 8, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + 8
    row.quantize(128).save(out, optimize=True)


def main(words: list[str]) -> None:
    """See above."""
    if words[:1] == ["--beside"]:
        *files, out = map(Path, words[1:])
        beside(files, out)
        return
    folder = Path(words[0])
    folder.mkdir(parents=True, exist_ok=True)
    scene(1, DAY, strokes=False).save(folder / "day.png")
    scene(2, DUSK, strokes=True).save(folder / "dusk.png")


if __name__ == "__main__":
    main(sys.argv[1:])
