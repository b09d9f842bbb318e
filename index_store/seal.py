"""Sealing a file: a trailer behind its content that finds every flipped byte and repairs what it finds.

The one idea: the trailer holds the content's sha-256, a checksum of every 4 KiB block, and one parity block for
each 64 blocks (interleaved). A damaged block is found by its checksum and is the XOR of the others of its group.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index_store import places
from index_store.errors import RgunitError

BLOCK = 4096
SHARE = 64  # blocks that share one parity block
MAGIC = b"rgunit01"
FOOTER = struct.Struct("<8sQ32sI")  # magic, content bytes, sha-256, checksum of the trailer before it


class Damaged(RgunitError):
    """A sealed file whose bytes are not what they were."""


def trailer(content: npt.NDArray[np.uint8]) -> bytes:
    """Return the trailer of uint8 [n]: parity blocks, checksums, footer."""
    checks, parity = _checks(content), _parity(content)
    digest = hashlib.sha256(content.data).digest()
    body = parity.tobytes() + checks.tobytes()
    return body + FOOTER.pack(MAGIC, len(content), digest, zlib.crc32(body + digest))


def check(path: Path) -> tuple[str, str]:
    """Return (digest, what is wrong or ""): whether a sealed file is as it was written."""
    return check_bytes(map_bytes(path))


def map_bytes(path: Path) -> npt.NDArray[np.uint8]:
    """Return the bytes of a regular file, uint8 [n], memory-mapped: a file of any size takes no memory."""
    with places.opened(path) as file:
        return np.memmap(file, np.uint8, "r") if os.fstat(file.fileno()).st_size else np.zeros(0, np.uint8)


def check_bytes(data: npt.NDArray[np.uint8]) -> tuple[str, str]:
    """See `check`: the same for a file's bytes, uint8 [n]."""
    footer = _footer(data)
    if footer is None:
        return "", "its end is damaged or cut off"
    length, digest, _, _ = footer
    if hashlib.sha256(data[:length].data).digest() != digest:
        return digest.hex(), "its content does not match its digest"
    return digest.hex(), ""


def digest_of(path: Path) -> str:
    """Return the digest that a sealed file carries; raises Damaged."""
    with places.opened(path) as file:
        file.seek(0, os.SEEK_END)
        size = file.tell()
        if size < FOOTER.size:
            raise Damaged(f"{path.name}: its end is damaged or cut off")
        file.seek(size - FOOTER.size)
        magic, _, digest, _ = FOOTER.unpack(file.read(FOOTER.size))
    if magic != MAGIC:
        raise Damaged(f"{path.name}: its end is damaged or cut off")
    return str(digest.hex())


def mend(path: Path, size: int | None, digest: str | None) -> bytes | None:
    """Return the whole file as it was, None if that cannot be known.

    `size` and `digest` are what the catalog keeps of it, None where the catalog itself is lost.
    """
    data: npt.NDArray[np.uint8] = map_bytes(path)
    if size is not None and len(data) != size:
        data = np.concatenate([data[:size], np.zeros(max(0, size - len(data)), np.uint8)])
    footer = _footer(data)
    if footer is None:
        length = _content_length(len(data))
        content = data[:length]
        # Only the trailer suffered, if the content still has the digest that the catalog keeps.
        if length and digest is not None and hashlib.sha256(content.data).hexdigest() == digest:
            return content.tobytes() + trailer(content)
        return None
    length, told, parity, checks = footer
    content = data[:length].copy()
    groups = len(parity)
    bad = np.flatnonzero(_checks(content) != checks)
    if len(np.unique(bad % groups)) < len(bad):
        return None  # two damaged blocks share a parity block
    blocks = _blocks(content)
    for number in bad:
        group = number % groups
        others = [place for place in range(group, len(blocks), groups) if place != number]
        blocks[number] = parity[group]
        if others:
            blocks[number] ^= np.bitwise_xor.reduce(blocks[others], axis=0)
    content = blocks.reshape(-1)[:length]
    if hashlib.sha256(content.data).digest() != told:
        return None
    return content.tobytes() + trailer(content)


def _footer(
    data: npt.NDArray[np.uint8],
) -> tuple[int, bytes, npt.NDArray[np.uint8], npt.NDArray[np.uint32]] | None:
    """Return (content bytes, digest, parity [g, BLOCK], checksums) of a file, None if its trailer is damaged."""
    if len(data) < FOOTER.size:
        return None
    magic, length, digest, check = FOOTER.unpack(data[-FOOTER.size :].tobytes())
    if magic != MAGIC or length > len(data) or _sealed_size(length) != len(data):
        return None
    body = data[length : len(data) - FOOTER.size].tobytes()
    if zlib.crc32(body + digest) != check:
        return None
    groups = _groups(length)
    parity = np.frombuffer(body, np.uint8, groups * BLOCK).reshape(groups, BLOCK)
    return length, digest, parity, np.frombuffer(body, np.uint32, offset=groups * BLOCK)


def _count(length: int) -> int:
    """Return how many blocks a content has."""
    return -(-length // BLOCK)


def _groups(length: int) -> int:
    """Return how many parity blocks a content has."""
    return max(1, -(-_count(length) // SHARE))


def _sealed_size(length: int) -> int:
    """Return the size of the sealed file of a content."""
    return length + _groups(length) * BLOCK + 4 * _count(length) + FOOTER.size


def _content_length(size: int) -> int:
    """Return the content's length of a sealed file, 0 if no length fits."""
    low, high = 0, size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _sealed_size(middle) <= size else (low, middle - 1)
    return low if _sealed_size(low) == size else 0


def _blocks(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the content as [blocks, BLOCK], the last one padded with zeros."""
    count = _count(len(content))
    padded = np.zeros(count * BLOCK, np.uint8)
    padded[: len(content)] = content
    return padded.reshape(count, BLOCK)


def _checks(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return the checksum of every block."""
    view = content.data
    return np.array([zlib.crc32(view[at : at + BLOCK]) for at in range(0, len(content), BLOCK)], np.uint32)


def _parity(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the XOR of the blocks of every group, uint8 [groups, BLOCK]; block i belongs to group i mod groups."""
    groups = _groups(len(content))
    whole = len(content) // (groups * BLOCK)
    stack: npt.NDArray[np.uint64] = (
        content[: whole * groups * BLOCK].reshape(whole, groups, BLOCK // 8, 8).view(np.uint64)
    )
    folded = np.asarray(np.bitwise_xor.reduce(stack, axis=0), np.uint64)
    parity: npt.NDArray[np.uint8] = folded.reshape(groups, BLOCK // 8).view(np.uint8).copy()
    rest = _blocks(content[whole * groups * BLOCK :])
    parity[: len(rest)] ^= rest
    return parity
