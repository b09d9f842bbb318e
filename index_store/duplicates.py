"""Near-duplicates: one picture kept twice, re-encoded, resized, brightened or slightly cropped.

A picture is known by the signs of its 8×8 coarsest waves about their median, 64 bits; two pictures are
near-duplicates where few bits differ. A mirrored picture is another picture. The bits know no colour and little of
what fills a face: pictures that are built alike (drawings, icons) need `alike` as well.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Hashes = npt.NDArray[np.uint64]

DISTANCE = 6  # bits up to which two pictures count as near-duplicates
COLOUR_DIFFERENCE = 12.0  # of 255, a mean over small coloured pictures: copies lie below it
_SIDE, _WAVES, _THUMB = 32, 8, 8
_BLOCK = 1024  # hashes compared with all others of their bucket at once


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> Hashes:
    """Return a hash uint64 [n] of each of the pictures uint8 [n, H, W, 3].

    The one of pHash (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010): grey, 32×32,
    discrete cosine transform, frequencies 1 to 8 in both directions, a bit each: above their median or not. A
    picture of one colour has hash 0.
    """
    bits = np.empty((len(pixels), _WAVES * _WAVES), np.uint64)
    frequency, place = np.arange(1, _WAVES + 1)[:, None], np.arange(_SIDE)[None]
    waves = np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE))
    for row, picture in enumerate(pixels):
        small = Image.fromarray(picture).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        grey = np.asarray(small, np.float64)
        found = np.round(waves @ grey @ waves.T, 6).ravel()  # rounded: a wave that is absent is 0, not noise
        bits[row] = found > np.median(found)
    hashes: Hashes = np.bitwise_or.reduce(bits << np.arange(_WAVES * _WAVES, dtype=np.uint64), axis=1)
    return hashes


def near_pairs(hashes: Hashes, max_distance: int = DISTANCE) -> npt.NDArray[np.int64]:
    """Return the pairs (i, j), i < j, whose hashes uint64 [n] differ in at most `max_distance` bits: int64 [m, 2].

    In order of i, then j. Exact: hashes that differ in d bits agree in one of d + 1 parts, so only those that
    share a part are compared, a block of them at a time.
    """
    parts = max_distance + 1
    if parts >> (64 // parts):  # more parts than values of one: nothing is saved
        parts = 1
    width = 64 // parts
    found = [np.empty((0, 2), np.int64)]
    for part in range(parts):
        values = (hashes >> np.uint64(part * width)) & np.uint64((1 << width) - 1 if parts > 1 else 0)
        order = np.argsort(values, kind="stable")
        borders = np.flatnonzero(np.diff(values[order])) + 1
        for bucket in np.split(order, borders):
            found += [_compare(hashes, bucket, start, max_distance) for start in range(0, len(bucket) - 1, _BLOCK)]
    return np.unique(np.concatenate(found), axis=0)


def thumbs(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return small coloured pictures float32 [n, 192] of pictures uint8 [n, H, W, 3], less their mean brightness."""
    small = np.empty((len(pixels), _THUMB * _THUMB * 3), np.float32)
    for row, picture in enumerate(pixels):
        resized = Image.fromarray(picture).resize((_THUMB, _THUMB), Image.Resampling.BOX)
        small[row] = np.asarray(resized, np.float32).ravel()
    level: npt.NDArray[np.float32] = small - small.mean(axis=1, keepdims=True)
    return level


def alike(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return for each row of two arrays of `thumbs` [m, 192] whether they have the colours of one picture, bool [m]."""
    near: npt.NDArray[np.bool_] = np.abs(a - b).mean(axis=1) <= COLOUR_DIFFERENCE
    return near


def _compare(hashes: Hashes, bucket: npt.NDArray[np.int64], start: int, limit: int) -> npt.NDArray[np.int64]:
    """Pairs of a block of the bucket (ascending rows) with the later ones of the bucket."""
    block, later = bucket[start : start + _BLOCK], bucket[start:]
    near = np.bitwise_count(hashes[block][:, None] ^ hashes[later][None]) <= limit
    a, b = np.nonzero(np.triu(near, 1))
    return np.stack([block[a], later[b]], axis=1)
