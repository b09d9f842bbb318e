"""A network over a picture that does not fit into memory: in tiles, with the instance norms' numbers of the whole.

An instance norm needs the mean and variance of a whole map. A smaller copy of the picture has other ones, and the error
grows from norm to norm (half the size: outputs off by 60 to 160 of 255), so they are measured exactly: a norm after the
other, in a pass over all tiles that goes no further than that norm. To keep these passes short the network is cut into
parts (`ResnetDecoder.parts`) and the map between two parts is kept in a file. Sizes here are in places of the content
map, which stand for 4×4 pixels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from translation.networks.blocks import InstanceNorm

HALO = 8  # places around a tile that a part sees: an encoder needs 3, a part of a decoder 3, guidance and its painter 3
EPSILON = 1e-5  # as in torch's instance norm


class Box(NamedTuple):
    """Rows `top` … `bottom` and columns `left` … `right` of a map, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    def slices(self, scale: int = 1) -> tuple[slice, slice]:
        """Where it is in a map with `scale` times as many places to a side."""
        return slice(self.top * scale, self.bottom * scale), slice(self.left * scale, self.right * scale)


@dataclass(frozen=True)
class Tile:
    """`kept`: what the tile is for; `seen`: with up to `HALO` further places on each side, as far as there are any."""

    kept: Box
    seen: Box

    def crop(self, maps: Tensor) -> Tensor:
        """What is kept of maps [1, C, h, w] over all that is seen, of whatever resolution."""
        height, inner = self.seen.bottom - self.seen.top, self.kept
        top, bottom = inner.top - self.seen.top, inner.bottom - self.seen.top
        left, right = inner.left - self.seen.left, inner.right - self.seen.left
        if maps.shape[2] >= height:
            rows, columns = Box(top, bottom, left, right).slices(maps.shape[2] // height)
        else:  # an averaged map: tiles begin at multiples of what is averaged
            n = -(-height // maps.shape[2])
            rows, columns = Box(top // n, -(-bottom // n), left // n, -(-right // n)).slices()
        return maps[:, :, rows, columns]


def plan(height: int, width: int, most: int, step: int = 1) -> list[Tile]:
    """Tiles of a map [height, width], none of which sees more than `most` places; they begin at multiples of `step`.

    Of all ways that one is taken which sees the fewest places in sum. `least(step)` is the smallest `most`.
    """
    halo = -(-HALO // step) * step
    best: tuple[int, int, int] | None = None
    for rows in range(1, min(-(-height // step), 4096) + 1):
        inner = _rounded(-(-height // rows), step)
        tall = min(height, inner + 2 * halo)
        across = width if tall * width <= most else (most // tall - 2 * halo) // step * step
        if across < step:
            continue
        down, right = -(-height // inner), -(-width // across)
        across = _rounded(-(-width // right), step)
        cost = down * right * tall * min(width, across + 2 * halo)
        if best is None or cost < best[0]:
            best = (cost, inner, across)
    if best is None:
        raise ValueError(f"tiles of {most} places are too small: take {least(step)} or more")
    _, inner, across = best
    found = []
    for top in range(0, height, inner):
        for left in range(0, width, across):
            kept = Box(top, min(height, top + inner), left, min(width, left + across))
            seen = Box(
                *(max(0, top - halo), min(height, kept.bottom + halo)),
                *(max(0, left - halo), min(width, kept.right + halo)),
            )
            found.append(Tile(kept, seen))
    return found


def least(step: int = 1) -> int:
    """The fewest places that a tile may be allowed to see: then at least a ninth of what is computed is kept."""
    return (3 * _rounded(HALO, step)) ** 2


def _rounded(n: int, step: int) -> int:
    """n rounded up to a multiple of `step`."""
    return -(-n // step) * step


class MapFile:
    """A map [1, C, h, w] float32 in a file that vanishes, for what is between two parts of a network."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="rgunit-map-")  # noqa: SIM115 - closed by `close`
        self._map: NDArray[np.float32] = np.memmap(self._file, np.float32, "w+", shape=(height, width, channels))

    def read(self, box: Box, device: torch.device) -> Tensor:
        """[1, C, h, w] of a box, channels last in memory."""
        part = torch.from_numpy(np.array(self._map[box.slices()]))
        return part.to(device).permute(2, 0, 1)[None]

    def write(self, box: Box, maps: Tensor) -> None:
        """Put [1, C, h, w] into a box."""
        self._map[box.slices()] = maps[0].permute(1, 2, 0).float().cpu().numpy()

    def close(self) -> None:
        """Give the file's space back. It cannot be read or written any more."""
        self._map = np.empty((0, 0, 0), np.float32)
        self._file.close()


class _Measured(Exception):
    """A tile has come to the norm that is being measured."""


@dataclass
class _Sums:
    """Mean and variance so far, float64 [C]; merged as Chan et al. do, which does not cancel."""

    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, maps: Tensor) -> None:
        """Add what is in maps [1, C, h, w]."""
        n = maps.shape[2] * maps.shape[3]
        variance, mean = torch.var_mean(maps.float(), (0, 2, 3), correction=0)
        variance, mean = variance.cpu().double(), mean.cpu().double()
        shift, total = mean - self.mean, self.count + n
        self.squares = self.squares + variance * n + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total


class Passes:
    """Passes of parts of a network over tiles. While it is at work the norms are not to be used by anything else."""

    def __init__(self) -> None:
        self._known: dict[InstanceNorm, tuple[Tensor, Tensor]] = {}
        self._target: InstanceNorm | None = None
        self._sums = _Sums()
        self._tile: Tile | None = None

    @staticmethod
    @contextmanager
    def over(networks: Sequence[nn.Module]) -> Iterator[Passes]:
        """Take over the norms of networks, and give them back."""
        passes = Passes()
        norms = [module for network in networks for module in network.modules() if isinstance(module, InstanceNorm)]
        for norm in norms:
            norm.instead = passes._norm
        try:
            yield passes
        finally:
            for norm in norms:
                norm.instead = None

    def run(self, part: Callable[[Tile], Tensor], tiles: Sequence[Tile], write: Callable[[Tile, Tensor], None]) -> None:
        """Measure each norm in `part`, then write what it gives for each tile, cropped to what is kept.

        `part` gives for a tile maps [1, C, h, w] of whatever resolution over all that the tile sees.
        """
        while True:
            self._target, self._sums = None, _Sums()
            for self._tile in tiles:
                try:
                    made = part(self._tile)
                except _Measured:
                    continue
                write(self._tile, self._tile.crop(made))
            if self._target is None:
                return
            assert isinstance(self._sums.mean, Tensor) and isinstance(self._sums.squares, Tensor)
            self._known[self._target] = (self._sums.mean.float(), (self._sums.squares / self._sums.count).float())

    def _norm(self, norm: InstanceNorm, x: Tensor) -> Tensor:
        """x normalised, where the norm is known; else it is the one that this pass measures."""
        if norm in self._known:
            mean, variance = (numbers.to(x.device, x.dtype) for numbers in self._known[norm])
            return F.batch_norm(x, mean, variance, eps=EPSILON)
        assert self._tile is not None and self._target in (None, norm)
        self._target = norm
        self._sums.add(self._tile.crop(x))
        raise _Measured
