"""A picture in its own size through a method without a style: whole where memory allows it, in tiles beyond.

Such a network is convolutional, so width and height may be anything that it can halve: a side that is no multiple of 4
(of 8, where the encoder halves thrice) is reflected up at the right or the bottom, and what comes out is cut back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from index_store.decoding import LARGEST_PIXELS
from index_store.errors import ImageRefused, RgunitError
from index_store.images import Pixels
from retrieval.tensors import to_pixels, to_tensor
from translation.guidance import CELL, Guidance, Guide, Window, fuse, paint
from translation.tiles import Box, MapFile, Passes, Tile, least, plan
from translation.translator import Translator

BYTES = 10.5
"""Memory that a picture takes on its way, a pixel and channel of the content map: CUT's networks in float32, as the
process grew on a CPU (672 of 64 channels, 2653 of 256)."""
UNKNOWN_MEMORY = 4 << 30  # bytes, where the system does not tell how much is free


@runtime_checkable
class Parted(Protocol):
    """A decoder that can be cut into parts, each of which sees only few places around."""

    def parts(self) -> list[Callable[[Tensor], Tensor]]: ...


def fitting(translator: Translator) -> int:
    """How many pixels a picture may have to go through whole: what half of the free memory takes."""
    return int(_free(translator.device) / 2 / (BYTES * translator.content_channels))


def smallest_limit(translator: Translator) -> int:
    """The fewest pixels that a tile may be allowed: it must see what is around it."""
    return CELL**2 * least(_step(translator))


@torch.no_grad()
def translate_any_size(
    translator: Translator, pixels: Pixels, guide: Guide | None = None, *, most: int | None = None
) -> Pixels:
    """Translate uint8 [H, W, 3], each side at least 8, to uint8 [H, W, 3].

    Beyond `most` pixels (by default `fitting`) in tiles, with the same result but for rounding: at most a level or
    two of 255. ValueError for a `most` below `smallest_limit`.
    """
    if guide is not None and guide.strength == 0:
        guide = None
    height, width = pixels.shape[:2]
    multiple = max(CELL, getattr(translator.networks["encoder"], "factor", CELL))  # of what the encoder can halve
    below, right = -height % multiple, -width % multiple
    filled = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="reflect") if below or right else pixels
    most = max(smallest_limit(translator), fitting(translator)) if most is None else most
    if filled.shape[0] * filled.shape[1] <= most:
        images = to_tensor(filled[None], translator.device)
        style = images.new_zeros(1, 0)
        made: Pixels = to_pixels(translator.translate(images, translator.content(images), style, guide=guide).image)[0]
    else:
        made = _tiled(translator, filled, guide, most)
    return np.ascontiguousarray(made[:height, :width])


def scaled(pixels: Pixels, short: int, name: str = "the picture") -> Pixels:
    """uint8 [H, W, 3] with its shorter side scaled to `short` pixels, antialiased; proportions stay.

    ImageRefused, which calls it `name`, where it would become larger than any picture may be.
    """
    height, width = pixels.shape[:2]
    factor = short / min(height, width)
    size = (max(short, round(width * factor)), max(short, round(height * factor)))
    if size == (width, height):
        return pixels
    if size[0] * size[1] > LARGEST_PIXELS:
        raise ImageRefused(
            f"{name}: --size {short} would make it {size[0]} x {size[1]}, and at most "
            f"{LARGEST_PIXELS // 10**6} megapixels pass: take a smaller one"
        )
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))


def _tiled(translator: Translator, pixels: Pixels, guide: Guide | None, most: int) -> Pixels:
    """uint8 [H, W, 3], sides multiples of 4, in tiles of at most `most` pixels."""
    networks, device = translator.networks, translator.device
    decoder, fusion = networks["decoder"], networks.get("fusion")
    if not isinstance(decoder, Parted):
        raise RgunitError(
            f"a picture of {pixels.shape[1]} x {pixels.shape[0]} is too large to go through whole, and networks of "
            f"{translator.config.method} cannot be cut into parts: scale it down with --size"
        )
    guidance = fusion if isinstance(fusion, Guidance) else None
    height, width = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    tiles = plan(height, width, most // CELL**2, _step(translator))
    made = np.empty_like(pixels)

    def images(tile: Tile) -> Tensor:
        return to_tensor(np.ascontiguousarray(pixels[tile.seen.slices(CELL)])[None], device)

    def fused(tile: Tile) -> Tensor:
        return fuse(guidance, content.read(tile.seen, device), _within(guide, tile.seen, height, width)).content

    def drawn(tile: Tile) -> Tensor:
        image = last(before.read(tile.seen, device))
        if guidance is None or guide is None:  # the content's file is closed by then
            return image
        guided = fuse(guidance, content.read(tile.seen, device), _within(guide, tile.seen, height, width))
        return paint(guidance, image, torch.ones_like(image[:, :1]), guided, images(tile), guide.strength)

    def keep(tile: Tile, maps: Tensor) -> None:
        made[tile.kept.slices(CELL)] = to_pixels(maps)[0]

    *blocks, last = decoder.parts()
    with ExitStack() as files, Passes.over(list(networks.values())) as passes:

        def stored(part: Callable[[Tile], Tensor]) -> MapFile:
            file = MapFile(translator.content_channels, height, width)
            files.callback(file.close)
            passes.run(part, tiles, lambda tile, maps: file.write(tile.kept, maps))
            return file

        content = stored(lambda tile: translator.content(images(tile)))
        before = content if guide is None else stored(fused)
        for block in blocks:
            after = stored(lambda tile, block=block, before=before: block(before.read(tile.seen, device)))  # type: ignore[misc]
            if guide is None or before is not content:
                before.close()
            before = after
        passes.run(drawn, tiles, keep)
    return made


def _within(guide: Guide | None, seen: Box, height: int, width: int) -> Guide | None:
    """The guide for a tile that sees `seen` of a content map [height, width]."""
    return None if guide is None else replace(guide, window=Window(seen.top, seen.left, height, width))


def _step(translator: Translator) -> int:
    """Tiles of the content map begin at multiples of it."""
    fusion, side = translator.networks.get("fusion"), translator.size // CELL
    return fusion.step(side) if isinstance(fusion, Guidance) else 1


def _free(device: torch.device) -> int:
    """Bytes of free memory of a device, as far as this process may take them."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # free to us, not to others
        return torch.cuda.mem_get_info(device)[0] + kept
    limits: list[float] = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with suppress(OSError, ValueError):  # a container's own limit; "max": none
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    if not limits:
        with suppress(AttributeError, OSError, ValueError):
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2)
    return int(max(0.0, min(limits, default=math.inf))) if limits else UNKNOWN_MEMORY
