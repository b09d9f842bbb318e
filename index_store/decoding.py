"""The bytes of a picture file to pixels: which formats are tried, what is left unread, what white is in deep grey.

The one idea: how bright a picture is follows the type of its file, never its brightest pixel.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from index_store import places
from index_store.errors import ImageRefused, ImageTooLarge

LARGEST_BYTES = 512 * 2**20
LARGEST_PIXELS = 64_000_000
SMALLEST_SIDE = 16
DARK = 255 / 8  # a deep picture that stays below an eighth of white was likely made for another white

FORMATS = (
    *("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "DDS", "DIB", "ICO", "JPEG2000", "PCX", "PSD"),
    *("QOI", "SGI", "SUN", "TGA"),
)
"""What is tried: formats of pictures whose size is known before they are decoded. None starts a program."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NESTED = re.compile(re.escape(_PNG) + rb"....IHDR(.{8})", re.DOTALL)
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")
_LONGEST_TEXT = 64 * 2**10
_MOST = {"WEBP": 32_000_000, "JPEG2000": 28_000_000}
"""Pixels of formats that a few bytes make large and whose decoders take 17 to 20 bytes a pixel: at most 600 MB."""
_BITS, _SAMPLE = 258, 339  # TIFF's BitsPerSample and SampleFormat
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_UNSIGNED = 1


def read_file(path: Path | str) -> bytes:
    """Read a regular file whole; ImageRefused says why anything else is not. A pipe or a device is never waited for."""
    try:
        with places.opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_BYTES:
                told = f"{size // 2**20} MiB are too large (at most {LARGEST_BYTES // 2**20} MiB)"
                raise ImageTooLarge(f"{path}: {told}")
            return file.read(LARGEST_BYTES)
    except places.NotRegular as error:
        kind = "a folder" if Path(path).is_dir() else "no regular file"
        raise ImageRefused(f"{path}: is {kind}: name a picture") from error
    except FileNotFoundError as error:
        raise ImageRefused(
            f"{path}: cannot be read: it is gone; put it back, or `rgunit add NEWPLACE` finds it where it is now"
        ) from error
    except IsADirectoryError as error:
        raise ImageRefused(f"{path}: is a folder: name a picture") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ImageRefused(f"{path}: cannot be read ({why})") from error


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_image(name: Path | str, data: bytes) -> Image.Image:
    """Open the bytes of a file, its header alone; ImageRefused where it is none, or of a size that is not taken."""
    for nested in () if data.startswith(_PNG) else _NESTED.finditer(data):  # whose size an outer header need not tell
        width, height = (int.from_bytes(nested[1][at : at + 4], "big") for at in (0, 4))
        if width * height > LARGEST_PIXELS:
            raise ImageTooLarge(f"{name}: holds a picture of {width} x {height}: too large (at most 64 megapixels)")
    if (canvas := _canvas(data)) is not None:  # memory for all of it is taken as soon as it is opened
        check_size(name, *canvas, most=_MOST["WEBP"], kind="WEBP")
    try:
        image = Image.open(io.BytesIO(without_texts(data)), formats=_formats())
    except UnidentifiedImageError as error:
        raise ImageRefused(f"{name}: not an image that can be read") from error
    except Exception as error:
        raise ImageRefused(f"{name}: not an image that can be read ({_line(error)})") from error
    check_size(name, *image.size, most=_MOST.get(str(image.format), LARGEST_PIXELS), kind=image.format)
    return image


def _canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP's head tells; None for another file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind, numbers = data[12:16], [int.from_bytes(data[at : at + 3], "little") for at in (24, 27)]
    if kind == b"VP8X":
        return numbers[0] + 1, numbers[1] + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return (width, height) if kind == b"VP8 " else None


def check_size(
    name: Path | str, width: int, height: int, *, most: int = LARGEST_PIXELS, kind: str | None = None
) -> None:
    """Refuse what is larger than `most` pixels, the limit of this `kind` of file, or smaller than the limit."""
    if width * height > most:
        limit = f"at most {most / 1e6:g} megapixels" + (
            "" if most == LARGEST_PIXELS else f" as {kind}, 64 as JPEG or PNG"
        )
        raise ImageTooLarge(f"{name}: {width} x {height} is too large ({limit})")
    if min(width, height) < SMALLEST_SIDE:
        raise ImageRefused(f"{name}: {width} x {height} is too small (at least {SMALLEST_SIDE} pixels a side)")


def without_texts(data: bytes) -> bytes:
    """A PNG without its texts and its colour profile, of any length, which are not the picture; others as they are.

    Short texts that may tell which side is up stay.
    """
    if not data.startswith(_PNG):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body, end = data[at + 8 : at + 8 + length], at + 12 + length
        if not (kind == b"iCCP" or (kind in _TEXTS and not _tells_orientation(kind, body))):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _tells_orientation(kind: bytes, body: bytes) -> bool:
    """Whether a text may tell which side is up, and is as short as such a text is."""
    word, _, rest = body.partition(b"\0")
    if word not in _ORIENTATION or len(body) > _LONGEST_TEXT:
        return False
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return True
    if kind == b"iTXt":
        return False
    try:
        return len(zlib.decompressobj().decompress(rest[1:], _LONGEST_TEXT + 1)) <= _LONGEST_TEXT
    except zlib.error:
        return False


def is_deep(image: Image.Image) -> bool:
    """Whether a picture is grey of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that was opened and not yet decoded is colour of 16 bits, of which Pillow gives the upper 8."""
    raw = [tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0] for tile in getattr(image, "tile", ())]
    return image.mode != "I;16" and not is_deep(image) and any(";16" in str(mode) for mode in raw)


def grey_of(name: Path | str, image: Image.Image, white: float | None) -> npt.NDArray[np.uint8]:
    """Deep grey as uint8 [H, W]. White is what the file's type says, or `white`: the value that was said to be white.

    ImageRefused, with the remedy, where neither tells what white is: signed numbers, fractions beyond 1, NaN.
    """
    values = np.asarray(image)
    top = white if white is not None else _white_of(image)
    if image.mode == "I" and _tag(image, _SAMPLE) == _UNSIGNED:
        values = values.view(np.uint32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageRefused(f"{name}: holds numbers that are none (NaN or infinite): write brightness in their place")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low < 0:
        raise ImageRefused(
            f"{name}: holds negative numbers (down to {low:g}), for which there is no black: save it with 0 as black"
        )
    if top is None or (white is None and image.mode == "F" and high > 1):
        why = "signed numbers" if top is None else f"fractions of white beyond 1 (up to {high:g})"
        raise ImageRefused(
            f"{name}: holds {why}, so it is not known what white is: say it, `rgunit add --white-level {_step(high)}`, "
            "or save it as 8 or 16 bit"
        )
    grey = np.clip(np.rint(values.astype(np.float64) * (255.0 / top)), 0, 255).astype(np.uint8)
    return 255 - grey if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO else grey


def _white_of(image: Image.Image) -> float | None:
    """The value that is white by the type of a deep picture; None if it tells of none."""
    if image.mode == "F":
        return 1.0
    bits = _tag(image, _BITS)
    if image.mode.startswith("I;16"):
        return float(2 ** (bits or 16) - 1)
    if image.format in ("PNG", "PPM"):  # Pillow hands 16 bits over in 32
        return 65535.0
    if bits is not None and _tag(image, _SAMPLE) == _UNSIGNED:
        return float(2**bits - 1)
    return None


def _tag(image: Image.Image, number: int) -> int | None:
    """A TIFF's tag as a number, None for another format or without it (what is left out means unsigned)."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return None
    value = tags.get(number, _UNSIGNED if number == _SAMPLE else None)
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, int) else None


def _step(high: float) -> str:
    """The least full scale, 2^n - 1, that a value fits into: what white likely is."""
    return str(2 ** max(1, int(np.ceil(np.log2(max(high, 1) + 1)))) - 1)


def _line(error: Exception) -> str:
    """An error of a library in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
