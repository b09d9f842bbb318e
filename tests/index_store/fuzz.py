"""Pictures of every format, and what accident or malice makes of them."""

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

FORMATS = [
    "JPEG",
    "MPO",
    "PNG",
    "WEBP",
    "AVIF",
    "GIF",
    "BMP",
    "TIFF",
    "JPEG2000",
    "PPM",
    "TGA",
    "PCX",
    "SGI",
    "DDS",
    "ICO",
    "DIB",
]
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 8000, 64_000_000)


def originals() -> dict[str, list[bytes]]:
    """Good files of every format that is read: noise and a flat colour, in the modes that the format knows."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
    flat = Image.new("RGB", (64, 64), (200, 30, 60))
    found: dict[str, list[bytes]] = {}
    for name in FORMATS:
        files = []
        for image in (noise, flat):
            for mode in ("RGB", "RGBA", "L", "P", "1", "I;16", "CMYK"):
                options = {"save_all": True, "append_images": [image]} if name == "MPO" else {}
                if name == "TIFF":
                    options = {"compression": ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"][len(files) % 4]}
                if name in ("TGA", "PCX"):
                    options = {"rle": True} if name == "TGA" else {}
                buffer = io.BytesIO()
                try:
                    image.convert(mode).save(buffer, name, **options)
                except (OSError, ValueError, KeyError, SystemError):
                    continue
                files.append(buffer.getvalue())
        assert files, name
        found[name] = files
    return found


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """So many files that are good but for one thing: bytes, a number in the head, an end, a piece of another."""
    rng, files = np.random.default_rng(seed), originals()
    for number in range(count):
        name = list(files)[number % len(files)]
        data = bytearray(files[name][rng.integers(len(files[name]))])
        for _ in range(rng.integers(1, 4)):
            size = len(data)
            head = int(rng.integers(min(size, 96)))
            match rng.integers(6):
                case 0:
                    data[int(rng.integers(size))] = int(rng.integers(256))
                case 1:
                    data[head] = int(rng.integers(256))
                case 2 | 3:  # a size, a count or an offset
                    value, order = int(rng.choice(NUMBERS)), str(rng.choice(["<", ">"]))
                    piece = (
                        struct.pack(f"{order}I", value)
                        if rng.random() < 0.5
                        else struct.pack(f"{order}H", value % 65536)
                    )
                    data[head : head + len(piece)] = piece
                case 4:
                    del data[int(rng.integers(size)) :]
                    data = data or bytearray(b"\0")
                case 5:
                    at, other = int(rng.integers(size)), files[str(rng.choice(list(files)))][0]
                    data[at:at] = other[: int(rng.integers(len(other)))]
        yield name, bytes(data)
