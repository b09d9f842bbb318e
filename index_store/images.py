"""Reading and writing pictures: decoding to uint8 RGB under limits, with a reason for what is refused.

The one idea: whatever a file holds (grey, palette, alpha, rotated by EXIF), the rest of the system sees RGB.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from index_store import places
from index_store.errors import ImageRefused
from index_store.formats import LARGEST_BYTES, LARGEST_PIXELS, inner_sizes, open_image

SMALLEST_SIDE = 16
ORIENTATION = 0x0112  # EXIF's tag

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before anything is decoded

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Checked:
    """What a full decode of a file told: size after rotation, and whether it had to be converted to RGB."""

    width: int
    height: int
    converted: bool


def read_image(path: Path | str, *, size: int | None = None) -> Pixels:
    """Decode a file to uint8 [H, W, 3] RGB; with `size` centre-cropped to a square and resized to size × size.

    EXIF orientation is applied, alpha is laid over white. Raises ImageRefused with the reason.
    """
    path = Path(path)
    return _pixels(_fit(_decode(path, _read(path))[0], size))


def prepare(image: Image.Image | Pixels, *, size: int | None = None, name: str = "the picture") -> Pixels:
    """A picture in memory, a PIL image or uint8 [H, W, 3], as `read_image` gives one from a file, under its limits.

    Raises ImageRefused with the reason; `name` is what it is called there.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ImageRefused(f"{name}: must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
        _check_size(name, image.shape[1], image.shape[0])
        if size is None or image.shape[:2] == (size, size):
            return np.ascontiguousarray(image)
        image = Image.fromarray(np.ascontiguousarray(image))
    return _pixels(_fit(_upright(name, image)[0], size))


def check_image(path: Path, data: bytes) -> Checked:
    """Decode the bytes of a file in full and return its size; raises ImageRefused with the reason."""
    image, converted = _decode(path, data)
    return Checked(image.width, image.height, converted)


def write_image(path: Path | str, pixels: Pixels, *, durable: bool = False) -> None:
    """Write uint8 [H, W, 3] as PNG, whole or not at all; `durable` also flushes it to the disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".writing")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8), "RGB").save(buffer, "PNG", compress_level=3)
    with temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.rename(path)


def _read(path: Path) -> bytes:
    """Read a regular file whole."""
    try:
        return places.read_bytes(path, LARGEST_BYTES)
    except OSError as error:
        raise ImageRefused(f"{path}: cannot be read ({error.strerror})") from error


def _decode(path: Path, data: bytes) -> tuple[Image.Image, bool]:
    """Return the upright RGB image and whether it was converted."""
    for width, height in inner_sizes(data):
        _check_largest(path, width, height)
    try:
        image = open_image(data)
    except Exception as error:
        raise ImageRefused(f"{path}: not an image that can be read") from error
    return _upright(path, image)


def _upright(name: Path | str, image: Image.Image) -> tuple[Image.Image, bool]:
    """Return an image of allowed size, upright and in RGB, and whether it was converted."""
    _check_size(name, *image.size)
    try:
        image.load()
        turned = image.getexif().get(ORIENTATION, 1) != 1  # else it would be copied
        upright = ImageOps.exif_transpose(image) if turned else image
    except Exception as error:
        raise ImageRefused(f"{name}: truncated or damaged ({error})") from error
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright, False
    try:
        return _to_rgb(upright), True
    except Exception as error:
        raise ImageRefused(f"{name}: cannot be converted to RGB ({error})") from error


def _check_size(name: Path | str, width: int, height: int) -> None:
    """Refuse what is larger or smaller than the limits."""
    _check_largest(name, width, height)
    if min(width, height) < SMALLEST_SIDE:
        raise ImageRefused(f"{name}: {width} x {height} is too small (at least {SMALLEST_SIDE} pixels a side)")


def _check_largest(name: Path | str, width: int, height: int) -> None:
    """Refuse what is larger than the limit."""
    if width * height > LARGEST_PIXELS:
        raise ImageRefused(f"{name}: {width} x {height} is too large (at most 64 megapixels)")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; 16-bit grey is scaled, alpha laid over white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image, np.float64)
        top = 255.0 if grey.max(initial=0) <= 255 else 65535.0
        grey = np.clip(grey * (255.0 / top), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        over = Image.new("RGB", image.size)
        for box in _strips(image):  # whole, four copies of it would be held
            layered = image.crop(box).convert("RGBA")
            white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            over.paste(Image.alpha_composite(white, layered).convert("RGB"), box)
        return over
    return image.convert("RGB")


def _strips(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """Boxes that cover an image from top to bottom, of about a megapixel each."""
    rows = max(1, 2**20 // max(1, image.width))
    return [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]


def _pixels(image: Image.Image) -> Pixels:
    """An RGB image as uint8 [H, W, 3]."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for box in _strips(image):
        pixels[box[1] : box[3]] = np.asarray(image.crop(box))
    return pixels


def _fit(image: Image.Image, size: int | None) -> Image.Image:
    """Crop the centre square and resize it, antialiased."""
    if size is None or image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
