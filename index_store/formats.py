"""Which picture formats are tried, and what is looked at before one is decoded.

The one idea: a file says how large it is, and so does each picture inside it; both are asked before anything is
decoded. Formats that start a program (EPS), that nobody photographs in or that hold whole documents are not tried.
"""

from __future__ import annotations

import io
import struct
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import Image

from index_store import places

_MODULES = (
    "JPEG:Jpeg MPO:Mpo PNG:Png WEBP:WebP AVIF:Avif GIF:Gif BMP:Bmp TIFF:Tiff "
    "JPEG2000:Jpeg2K PPM:Ppm TGA:Tga PCX:Pcx SGI:Sgi DDS:Dds ICO:Ico ICNS:Icns"
)
FORMATS = dict(pair.split(":") for pair in _MODULES.split())
"""The formats that are tried, the usual ones first: Pillow's name of each, and that of its module."""
LARGEST_BYTES = 256_000_000
LARGEST_PIXELS = 64_000_000
_INNER = ("PNG", "JPEG2000", "DIB")  # what the pictures inside an icon may be


@cache
def _known() -> tuple[str, ...]:
    """The formats, their modules loaded."""
    for module in FORMATS.values():
        import_module(f"PIL.{module}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(data: bytes) -> Image.Image:
    """The picture of a file's bytes, its head read and nothing decoded. Raises what Pillow raises."""
    return Image.open(io.BytesIO(data), formats=_known())


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of a file as its head tells them. Raises OSError where it is no picture."""
    data = places.read_bytes(path, LARGEST_BYTES)
    if any(width * height > LARGEST_PIXELS for width, height in inner_sizes(data)):
        raise OSError(0, "it holds too large a picture", str(path))
    with open_image(data) as image:
        return image.size


def inner_sizes(data: bytes) -> list[tuple[int, int]]:
    """Width and height of each picture inside an icon's bytes, whose head may say otherwise; none for other formats.

    Pillow decodes one of them as soon as it opens an icon.
    """
    sizes = []
    for start, length in _parts(data):
        try:
            with Image.open(io.BytesIO(data[start : start + length]), formats=_INNER) as inner:
                width, height = inner.size
        except Exception:  # old icons hold bare rows of pixels, whose size is that of the head
            continue
        sizes.append((width, height // 2 if inner.format == "DIB" else height))  # a mask lies below the colours
    return sizes


def _parts(data: bytes) -> list[tuple[int, int]]:
    """Start and length of what an icon's head names."""
    found: list[tuple[int, int]] = []
    if data[:4] == b"\0\0\1\0":
        count = int.from_bytes(data[4:6], "little")
        for length, start in struct.iter_unpack("<8x2I", data[6 : 6 + 16 * min(count, (len(data) - 6) // 16)]):
            found.append((start, length))
    elif data[:4] == b"icns":
        at = 8
        while at + 8 <= len(data):
            length = int.from_bytes(data[at + 4 : at + 8], "big")
            if length < 8:
                break
            found.append((at + 8, length - 8))
            at += length
    return found
