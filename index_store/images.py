"""Reading and writing pictures: decoding to uint8 RGB under limits, with a reason for what is refused.

The one idea: whatever a file holds (grey, palette, alpha, rotated by EXIF), the rest of the system sees RGB.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from index_store.decoding import (
    DARK,
    LARGEST_PIXELS,
    check_size,
    grey_of,
    is_deep,
    is_deep_colour,
    open_image,
    read_file,
)
from index_store.errors import ImageRefused, ImageTooLarge
from index_store.whole import whole

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before anything is decoded

_MADE_OF, _MADE_BY, _SHOWS = "rgunit:made-of", "rgunit:made-by", "rgunit:shows"
_ORIENTATION = 0x0112  # EXIF's number for which side is up

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Checked:
    """What a full decode of a file told: size after rotation, and whether it had to be converted to RGB.

    `deep`: it is grey of more than 8 bits; `dark`: it stays below an eighth of white, grey whose white was not said or
    `dark_colour` of 16 bits, whose white cannot be said.
    """

    width: int
    height: int
    converted: bool
    deep: bool = False
    dark: bool = False
    dark_colour: bool = False


def read_image(path: Path | str, *, size: int | None = None, white: float | None = None) -> Pixels:
    """Decode a file to uint8 [H, W, 3] RGB; with `size` centre-cropped to a square and resized to size × size.

    EXIF orientation is applied, alpha is laid over white. Grey of more than 8 bits is scaled by what its type makes
    white (16 bits: 65,535; fractions: 1), or by `white`. Raises ImageRefused with the reason.
    """
    path = Path(path)
    return _pixels(_fit(_upright(path, open_image(path, read_file(path)), white)[0], size))


def decode(data: bytes, *, most: int = LARGEST_PIXELS) -> Pixels:
    """The bytes of a picture file as `read_image` gives a file: uint8 [H, W, 3] RGB, upright.

    At most `most` pixels, told by its head before it is decoded. Raises ImageRefused with the reason, ImageTooLarge
    for its size.
    """
    name = "the picture"
    image = open_image(name, data)
    if image.width * image.height > most:
        raise ImageTooLarge(f"{name}: {image.width} x {image.height} is too large (at most {most / 1e6:g} megapixels)")
    return _pixels(_upright(name, image)[0])


def prepare(image: Image.Image | Pixels, *, size: int | None = None, name: str = "the picture") -> Pixels:
    """A picture in memory, a PIL image or uint8 [H, W, 3], as `read_image` gives one from a file, under its limits.

    Raises ImageRefused with the reason; `name` is what it is called there.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ImageRefused(f"{name}: must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
        check_size(name, image.shape[1], image.shape[0])
        if size is None or image.shape[:2] == (size, size):
            return np.ascontiguousarray(image)
        image = Image.fromarray(np.ascontiguousarray(image))
    return _pixels(_fit(_upright(name, image)[0], size))


def check_header(path: Path) -> None:
    """Refuse a file whose head tells that it is no image, or one outside the limits: ImageRefused with the reason.

    Its pixels are not decoded, so it may still be damaged.
    """
    open_image(path, read_file(path))


def check_image(path: Path, data: bytes, white: float | None = None) -> Checked:
    """Decode the bytes of a file in full and return its size; raises ImageRefused with the reason."""
    image = open_image(path, data)
    deep, deep_colour = is_deep(image), is_deep_colour(image)
    upright, converted = _upright(path, image, white)
    dark_colour = deep_colour and _brightest(image) < DARK
    dark = dark_colour or (deep and white is None and int(np.asarray(upright).max()) < DARK)
    return Checked(upright.width, upright.height, converted, deep, dark, dark_colour)


def _brightest(image: Image.Image) -> float:
    """The greatest value of a decoded picture's colours, alpha left aside."""
    pairs = zip(image.getbands(), np.reshape(image.getextrema(), (-1, 2)), strict=True)
    return max(float(top) for band, (_, top) in pairs if band not in "Aa")


def write_image(
    path: Path | str,
    pixels: Pixels,
    *,
    durable: bool = False,
    made_of: str | None = None,
    made_by: str | None = None,
    shows: Iterable[int] | None = None,
) -> None:
    """Write uint8 [H, W, 3] as PNG, whole or not at all; `durable` also flushes it to the disk.

    `made_of`, `made_by` and `shows` are noted in the file, for the functions of these names to read: what it was made
    of, how, and the ids of all images of the workspace that can be seen in it.
    """
    buffer, note = io.BytesIO(), PngInfo()
    ids = None if shows is None else " ".join(map(str, shows))
    for name, text in ((_MADE_OF, made_of), (_MADE_BY, made_by), (_SHOWS, ids)):
        if text is not None:
            note.add_text(name, text)
    Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8), "RGB").save(
        buffer, "PNG", compress_level=3, pnginfo=note
    )
    with whole(Path(path)) as part, part.open("wb") as file:
        file.write(buffer.getbuffer())
        if durable:
            file.flush()
            os.fsync(file.fileno())


def made_of(path: Path) -> str | None:
    """What a picture that `write_image` wrote was made of; None for any other file."""
    return _note(path, _MADE_OF)


def made_by(path: Path) -> str | None:
    """How a picture that `write_image` wrote was made; None for any other file."""
    return _note(path, _MADE_BY)


def shows(path: Path) -> set[int] | None:
    """The ids of all images of the workspace that can be seen in a picture that `write_image` wrote; None where it does
    not say."""
    told = _note(path, _SHOWS)
    return None if told is None else {int(one) for one in told.split()}


def mark_of(path: Path) -> str:
    """What is noted in translations of a picture: its place, as a hash that tells nobody where that is."""
    return hashlib.sha256(bytes(path.resolve())).hexdigest()[:32]


def _note(path: Path, name: str) -> str | None:
    """A text in a PNG."""
    try:
        with Image.open(io.BytesIO(read_file(path)), formats=("PNG",)) as image:
            return image.info.get(name)
    except Exception:  # whatever it is, it was not written here
        return None


def _upright(name: Path | str, image: Image.Image, white: float | None = None) -> tuple[Image.Image, bool]:
    """Return an image of allowed size, upright and in RGB, and whether it was converted."""
    check_size(name, *image.size)
    try:
        image.load()
        if is_deep(image):
            grey = Image.fromarray(grey_of(name, image, white))
            grey.getexif()[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
            image = grey
        turned = image.getexif().get(_ORIENTATION, 1) != 1  # else it would be copied
        upright = ImageOps.exif_transpose(image) if turned else image
    except ImageRefused:
        raise
    except Exception as error:
        raise ImageRefused(f"{name}: truncated or damaged ({error})") from error
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright, False
    try:
        return _to_rgb(upright), True
    except Exception as error:
        raise ImageRefused(f"{name}: cannot be converted to RGB ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode of 8 bits to RGB; alpha is laid over white."""
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
