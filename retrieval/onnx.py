"""Any image-to-features network of the user's, from an ONNX file: a judge of translations, or a content vector.

What it reads of an image (a box, or the whole) is resized to the input that its graph declares and scaled to
(x − 127.5)/128; its first output, flattened, is the feature vector.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index_store.errors import RgunitError, UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BATCH = 64
_CROP = re.compile(r"([-+.\d]+),([-+.\d]+),([-+.\d]+),([-+.\d]+)@(\d+)")


class OnnxNetwork:
    """Feature vectors by an ONNX network.

    `crop` is "left,top,width,height@side": a box in the pixels of a side × side image, scaled to the images given
    (mobilefacenet on aligned 128 px faces: "25.84,24.69,76.48,89.23@128"); None: the whole image.
    Raises RgunitError for a file that is no network of one image input [n, 3, height, width] with fixed height and
    width, UsageError for a malformed crop.
    """

    def __init__(self, path: Path, crop: str | None = None, *, device: str = "cpu") -> None:
        self.path, self.crop = Path(path), crop
        self._box = parse_crop(crop)  # refused before anything is loaded
        if not self.path.is_file():
            raise RgunitError(f"no network at {path}: give the path of an ONNX file")
        self._session = session(self.path, device=device)
        entry, *more = self._session.get_inputs()
        shape = list(entry.shape)
        fixed = len(shape) == 4 and shape[1] == 3 and all(isinstance(side, int) for side in shape[2:])
        if more or not fixed or entry.type != "tensor(float)":
            raise RgunitError(
                f"{path} takes {entry.type} {shape}{' and more inputs' if more else ''}: needed is one "
                "float input [n, 3, height, width] with fixed height and width"
            )
        self._input = str(entry.name)
        self._height, self._width = int(shape[2]), int(shape[3])
        self.side = crop_side(crop) or max(self._height, self._width)
        """Side in pixels at which it should be given images: the crop's own, else its input's longer one."""
        self._batch = int(shape[0]) if isinstance(shape[0], int) and shape[0] > 0 else None

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features float32 [n, d] of square RGB images uint8 [n, S, S, 3]; ValueError for another shape.

        RgunitError where the network does not give finite numbers for each image.
        """
        if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2] or not len(images):
            raise ValueError(f"expected uint8 images [n, S, S, 3] with n > 0, got {images.shape}")
        step = self._batch or BATCH
        rows = []
        for start in range(0, len(images), step):
            pixels = np.stack([self._prepared(image) for image in images[start : start + step]])
            short = step - len(pixels) if self._batch else 0  # a graph of fixed batch takes full batches only
            padded = np.concatenate([pixels, np.repeat(pixels[-1:], short, axis=0)])
            output = np.asarray(self._session.run(None, {self._input: padded})[0], dtype=np.float32)
            if output.ndim == 0 or len(output) != len(padded):
                raise RgunitError(
                    f"{self.path} gives {list(output.shape)} for {len(padded)} images: needed is a row of features for "
                    "each, [n, …]"
                )
            rows.append(output.reshape(len(padded), -1)[: len(pixels)])
        features = np.concatenate(rows)
        if not np.isfinite(features).all():
            raise RgunitError(f"{self.path} gives features that are not finite: it cannot be used on these images")
        return features

    def _prepared(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One image [S, S, 3] → [3, height, width], the box cut and resized with antialiasing."""
        side = image.shape[0]
        left, top, width, height = (part * side for part in self._box)
        box = (left, top, min(left + width, side), min(top + height, side))
        resized = Image.fromarray(image).resize((self._width, self._height), Image.Resampling.BILINEAR, box=box)
        return (np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) - 127.5) / 128.0


def session(path: Path, *, device: str = "cpu") -> InferenceSession:
    """An ONNX file, ready to run, on a GPU where onnxruntime can. RgunitError for what is none."""
    import onnxruntime

    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    available = set(onnxruntime.get_available_providers())
    providers = [name for name in wanted if name in available] + ["CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, and told once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow the others
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has an exception class a status code
        reason = str(error).strip().splitlines()[0]
        raise RgunitError(f"{path} is no ONNX network that onnxruntime can run: {reason}") from None


def crop_side(text: str | None) -> int | None:
    """The side that a crop is written for; None for no crop."""
    return None if text is None else int(text.rpartition("@")[2])


def parse_crop(text: str | None) -> tuple[float, float, float, float]:
    """left, top, width, height as shares of the side, each in [0, 1]; the whole image for None."""
    if text is None:
        return 0.0, 0.0, 1.0, 1.0
    match = _CROP.fullmatch(text.replace(" ", ""))
    try:
        if match is None or not int(match[5]):
            raise ValueError
        left, top, width, height = (float(match[part]) / int(match[5]) for part in range(1, 5))
    except ValueError:
        raise UsageError(f"crop {text!r}: write left,top,width,height@side, as 25.84,24.69,76.48,89.23@128") from None
    if min(left, top) < 0 or min(width, height) <= 0 or max(left + width, top + height) > 1 + 1e-6:
        raise UsageError(f"crop {text!r}: the box must lie within the {match[5]}×{match[5]} image")
    return left, top, width, height
