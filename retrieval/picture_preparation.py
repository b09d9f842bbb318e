"""What a text-image model sees of a picture: resized, cut and scaled as its `preprocessor_config.json` says.

The keys are those of Hugging Face's image processors, and the pixels are theirs (by Pillow), for CLIP (the shorter edge
resized, the middle cut out) as for SigLIP (resized to its size, whatever the shape).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index_store.errors import RgunitError

LARGEST_SIDE = 2048
LONGEST_STRIP = 32
_KNOWN = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
_SPELT = "preprocessor_config.json"


@dataclass(frozen=True)
class Preparation:
    """`edge`: what the shorter edge is resized to; or `size`: (height, width) of the whole; `crop`: of the middle.

    None: not done. `factor`, `mean` and `deviation` make of bytes what the network gets.
    """

    edge: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: Image.Resampling
    factor: float
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    @staticmethod
    def of(told: Mapping[str, Any]) -> Preparation:
        """By the keys of a preprocessor_config.json. RgunitError, in one line, for what it cannot do exactly."""
        strange = [name for name, value in told.items() if name.startswith("do_") and value and name not in _KNOWN]
        if strange:
            raise RgunitError(f"{_SPELT} asks for {strange[0]}, which is not known here: CLIP's and SigLIP's are")
        clip = "CLIP" in str(told.get("image_processor_type", told.get("feature_extractor_type", "")))
        edge, size = _resized(told) if told.get("do_resize", True) else (None, None)
        crop = _pair(told.get("crop_size"), "crop_size") if told.get("do_center_crop", clip) else None
        if crop is None and size is None:
            raise RgunitError(f"{_SPELT} gives pictures no fixed size: it needs size with height and width, or a crop")
        try:
            resample = Image.Resampling(told.get("resample", Image.Resampling.BICUBIC))
        except ValueError:
            raise RgunitError(f"{_SPELT}: resample {told['resample']!r} is none of Pillow's, 0 to 5") from None
        normal = bool(told.get("do_normalize", True))
        return Preparation(
            edge,
            size,
            crop,
            resample,
            _number(told.get("rescale_factor", 1 / 255), "rescale_factor") if told.get("do_rescale", True) else 1.0,
            _three(told.get("image_mean"), "image_mean") if normal else (0.0, 0.0, 0.0),
            _three(told.get("image_std"), "image_std", least=1e-6) if normal else (1.0, 1.0, 1.0),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the network gets."""
        shape = self.crop or self.size
        assert shape is not None
        return shape

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] → uint8 [height, width, 3]; black where the cut is larger than the picture.

        Of a strip longer than `LONGEST_STRIP` times its width only the middle is taken before it is resized.
        """
        picture = Image.fromarray(image)
        if self.size is not None:
            picture = picture.resize((self.size[1], self.size[0]), self.resample)
        elif self.edge is not None:
            short = min(picture.size)
            most = LONGEST_STRIP * short
            picture = _cut(picture, min(picture.height, most), min(picture.width, most))
            long = int(self.edge * max(picture.size) / short)
            upright = picture.width <= picture.height
            picture = picture.resize((self.edge, long) if upright else (long, self.edge), self.resample)
        return np.asarray(picture if self.crop is None else _cut(picture, *self.crop))

    def scaled(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, height, width, 3] → float32 [n, 3, height, width]."""
        mean, deviation = np.asarray(self.mean, np.float32), np.asarray(self.deviation, np.float32)
        values = (pixels.astype(np.float32) * np.float32(self.factor) - mean) / deviation
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)


def _cut(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The middle of a picture; black beside it where the picture ends."""
    if (width, height) == picture.size:
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _resized(told: Mapping[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    """The length of the shorter edge, or height and width."""
    size = told.get("size")
    if isinstance(size, Mapping) and {"height", "width"} <= size.keys():
        return None, _pair(size, "size")
    edge = size.get("shortest_edge") if isinstance(size, Mapping) and "longest_edge" not in size else size
    return _pair(edge, "size")[0], None


def _pair(told: Any, name: str) -> tuple[int, int]:
    """Height and width, of a number or of {height, width}."""
    sides: tuple[Any, Any] = (told.get("height"), told.get("width")) if isinstance(told, Mapping) else (told, told)
    if not all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in sides):
        raise RgunitError(f"{_SPELT}: {name} {told!r} is no size from 1 to {LARGEST_SIDE}")
    return int(sides[0]), int(sides[1])


def _number(told: Any, name: str, least: float = -1e6) -> float:
    if isinstance(told, bool) or not isinstance(told, int | float) or not least <= told <= 1e6:
        raise RgunitError(f"{_SPELT}: {name} {told!r} is no number")
    return float(told)


def _three(told: Any, name: str, least: float = -1e6) -> tuple[float, float, float]:
    """A number for each of red, green and blue."""
    if not isinstance(told, list) or len(told) != 3:
        raise RgunitError(f"{_SPELT}: {name} {told!r} is no list of three numbers")
    red, green, blue = (_number(one, name, least) for one in told)
    return red, green, blue
