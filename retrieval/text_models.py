"""A text-image model of the user's, as CLIP and SigLIP are exported for Hugging Face: words and pictures as vectors.

A folder with `onnx/vision_model.onnx`, `onnx/text_model.onnx`, `preprocessor_config.json`, `tokenizer.json` and mostly
`tokenizer_config.json`. Names of inputs and outputs are read from the graphs. The workspace keeps a copy, so that what
was indexed can be asked later; words need the text graph and the tokenizer alone, and no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store import places
from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from retrieval.onnx import session
from retrieval.onnxfile import LARGEST, check_whole
from retrieval.picture_preparation import Preparation

FOLDER, SETTING = "models", "text_model"
VISION, TEXT = "onnx/vision_model.onnx", "onnx/text_model.onnx"
PICTURES, TOKENIZER, WORDS = "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"
LARGEST_FILE = {VISION: LARGEST, TEXT: LARGEST, PICTURES: 2**20, TOKENIZER: 2**26, WORDS: 2**24}
"""Bytes that a file may have; all but the last are needed."""
MOST_TOKENS, MOST_NUMBERS = 4096, 2**14
_JOINT = {"image": ("image_embeds", "pooler_output"), "text": ("text_embeds", "pooler_output")}
"""Outputs in the space that words and pictures share: CLIP's projections, SigLIP's pooled states."""
_TRAINED_AT = {"Siglip": 64, "CLIP": 77}
"""Tokens by the image processor's kind, where nothing else tells them."""
_IDS, _MASK, _TYPES, _POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class TextModel:
    """A text-image model of a folder: unit vectors of pictures and of words in one space, by onnxruntime.

    `files` are the SHA-256 of its files (None: read now); each is compared when it is used. Graphs are loaded when
    first asked. Raises RgunitError in one line.
    """

    def __init__(self, folder: Path, files: Mapping[str, str] | None = None, *, device: str = "cpu") -> None:
        self.folder, self._device = Path(folder), device
        self._given = files is not None
        self.files = dict(files) if files is not None else _digests(self.folder)
        told = "\n".join(f"{name} {sha}" for name, sha in sorted(self.files.items()))
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()
        """SHA-256 hex of the names and digests of its files."""

    @property
    def encoder_name(self) -> str:
        """The name of its pictures' vectors in the index."""
        return f"text.{self.fingerprint[:8]}"

    @cached_property
    def preparation(self) -> Preparation:
        """What its vision network sees of a picture."""
        return Preparation.of(self._json(PICTURES))

    def pictures(self, pixels: Pixels) -> Floats:
        """uint8 [n, height, width, 3] by `preparation.pixels` → float32 [n, d] of length 1."""
        return self._vision.vectors(len(pixels), {self._pixel_input: self.preparation.scaled(pixels)})

    def words(self, text: str) -> Floats:
        """Words → float32 [1, d] of length 1. UsageError for none."""
        return self._text.vectors(1, self._text_inputs(text))

    def cut(self, text: str) -> bool:
        """Whether the words are more than it reads."""
        return bool(self._tokenizer.encode(text).overflowing)

    def check(self) -> None:
        """Load both networks and let them read once. RgunitError, in one line, for what does not fit together."""
        height, width = self.preparation.shape
        seen, told = self.pictures(np.zeros((1, height, width, 3), np.uint8)), self.words("a picture")
        if seen.shape != told.shape or not 0 < seen.shape[1] <= MOST_NUMBERS:
            raise RgunitError(
                f"{self.folder}: pictures are {seen.shape[1]} numbers and words {told.shape[1]}, not of one space: "
                "export the model with its projections (CLIPVisionModelWithProjection, CLIPTextModelWithProjection)"
            )

    # Pictures

    @cached_property
    def _vision(self) -> _Joint:
        return _Joint(self._file(VISION), _JOINT["image"], self._device)

    @cached_property
    def _pixel_input(self) -> str:
        """The name of the pixels, once it is sure that they fit."""
        height, width = self.preparation.shape
        shapes = {one.name: (one.type, list(one.shape)) for one in self._vision.session.get_inputs()}
        kind, shape = next(iter(shapes.values()))
        wanted = [None, 3, height, width]
        fits = len(shape) == 4 and all(
            not isinstance(a, int) or b in (None, a) for a, b in zip(shape, wanted, strict=True)
        )
        if len(shapes) > 1 or kind != "tensor(float)" or not fits:
            raise RgunitError(
                f"{self.folder / VISION} takes {', '.join(f'{name} {shape}' for name, (_, shape) in shapes.items())}, "
                f"and {PICTURES} makes one float input [n, 3, {height}, {width}]"
            )
        return str(next(iter(shapes)))

    # Words

    @cached_property
    def _text(self) -> _Joint:
        return _Joint(self._file(TEXT), _JOINT["text"], self._device)

    @cached_property
    def _spelling(self) -> Mapping[str, Any]:
        return self._json(WORDS) if WORDS in self.files else {}

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise RgunitError(
                "words are read by the package tokenizers, which is not installed: pip install 'rgunit[text]'"
            ) from None
        told = self._read(TOKENIZER)
        try:
            made = Tokenizer.from_str(told.decode())
        except Exception as error:  # tokenizers raises Exception itself
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RgunitError(f"{self.folder / TOKENIZER} is no tokenizer: {reason}") from None
        made.no_padding()
        made.enable_truncation(max_length=self._length)
        return made

    @cached_property
    def _length(self) -> int:
        """Tokens that the text network reads: what its graph says, else the tokenizer, else what its kind reads."""
        inputs = {one.name: list(one.shape) for one in self._text.session.get_inputs()}
        if _IDS not in inputs or len(inputs[_IDS]) != 2:
            raise RgunitError(f"{self.folder / TEXT} takes {', '.join(inputs)}: it needs {_IDS} [n, tokens]")
        kind = str(self._json(PICTURES).get("image_processor_type", ""))
        usual = next((length for name, length in _TRAINED_AT.items() if kind.startswith(name)), None)
        for told in (inputs[_IDS][1], self._spelling.get("model_max_length"), usual):
            if isinstance(told, int | float) and 1 < told <= MOST_TOKENS:
                return int(told)
        raise RgunitError(f"{self.folder}: {WORDS} must say model_max_length, the tokens that words have (CLIP: 77)")

    def _text_inputs(self, text: str) -> dict[str, NDArray[Any]]:
        """What the text graph takes of words, [1, tokens]: cut and filled up to the length that it was trained at."""
        if not text.strip():
            raise UsageError("there are no words in --text ''")
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # bytes of a terminal that are no UTF-8
            raise UsageError(f"--text {text!r} is no text in UTF-8")
        length, read = self._length, self._tokenizer.encode(text)
        if not read.ids:
            raise UsageError(f"the tokenizer of {self.folder.name} finds no words in --text {text!r}")
        short = length - len(read.ids)
        masked = _MASK in self._spelling.get("model_input_names", [_IDS, _MASK])  # SigLIP reads what is filled up, too
        made: dict[str, list[int]] = {
            _IDS: read.ids + [self._filler(read.ids[-1])] * short,
            _MASK: [1] * len(read.ids) + [0 if masked else 1] * short,
            _TYPES: [0] * length,
            _POSITIONS: list(range(length)),
        }
        given = {}
        for one in self._text.session.get_inputs():
            kind = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(one.type)
            if one.name not in made or kind is None:
                raise RgunitError(f"{self.folder / TEXT} takes {one.name} {one.type}, which is not known here")
            given[one.name] = np.asarray([made[one.name]], kind)
        return given

    def _filler(self, last: int) -> int:
        """The token that fills words up: the tokenizer's, else the one that ends them."""
        told = self._spelling.get("pad_token")
        token = told.get("content") if isinstance(told, Mapping) else told
        number = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        return last if number is None else int(number)

    # Files

    def _place(self, name: str) -> Path:
        """Where a file of it lies: in the user's own folder it may be a link, as in Hugging Face's cache."""
        return places.inside(self.folder, *name.split("/")) if self._given else self.folder / name

    def _file(self, name: str) -> Path:
        """A file of it, once it is sure that it is the one that was kept."""
        path = self._place(name)
        check_whole(path)
        if self._given and _sha256(path, LARGEST_FILE[name]) != self.files[name]:
            raise RgunitError(f"{path} is not what was indexed: run `rgunit index build --text-model FOLDER` again")
        return path

    def _read(self, name: str) -> bytes:
        try:
            data = places.read_bytes(self._place(name), LARGEST_FILE[name])
        except OSError as error:
            raise RgunitError(f"{self.folder / name} cannot be read: {error.strerror or error}") from None
        if self._given and hashlib.sha256(data).hexdigest() != self.files[name]:
            raise RgunitError(
                f"{self.folder / name} is not what was indexed: run `rgunit index build --text-model FOLDER` again"
            )
        return data

    def _json(self, name: str) -> Mapping[str, Any]:
        try:
            told = json.loads(self._read(name))
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, Mapping):
            raise RgunitError(f"{self.folder / name} is no JSON object")
        return told


class _Joint:
    """A graph with an output in the space that words and pictures share."""

    def __init__(self, path: Path, outputs: tuple[str, ...], device: str) -> None:
        self.path, self.session = path, session(path, device=device)
        there = {one.name: list(one.shape) for one in self.session.get_outputs()}
        named = [name for name in outputs if name in there] or [
            name for name, shape in there.items() if len(shape) == 2
        ]
        if len(named) < 1 or len(there[named[0]]) != 2:
            raise RgunitError(f"{path} gives {', '.join(there)}, and none of {', '.join(outputs)} [n, numbers]")
        self.output = named[0]

    def vectors(self, count: int, given: Mapping[str, NDArray[Any]]) -> Floats:
        """Its output at length 1, float32 [count, d]. A graph of one row at a time gets one row at a time."""
        first = self.session.get_inputs()[0].shape[0]
        step = first if isinstance(first, int) and first > 0 else count
        if count % step:
            raise RgunitError(f"{self.path} takes {step} rows at once: export it for any number of them")
        rows = []
        for start in range(0, count, step):
            part = {name: values[start : start + step] for name, values in given.items()}
            try:
                rows.append(np.asarray(self.session.run([self.output], part)[0], np.float32))
            except Exception as error:  # onnxruntime has an exception class a status code
                reason = str(error).strip().splitlines()[0]
                raise RgunitError(f"{self.path} cannot be run: {reason}") from None
        vectors = np.concatenate(rows)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            raise RgunitError(f"{self.path} gives numbers that are none (NaN or infinite)")
        return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def keep_text_model(workspace: Workspace, folder: Path) -> TextModel:
    """Copy a model into the workspace, once it has read a picture and words; words are asked of it from now on."""
    model = TextModel(folder)
    model.check()
    name = model.fingerprint[:16]
    copy = workspace.path / FOLDER / name
    if copy.is_dir() and not _holds(copy, model.files):
        shutil.rmtree(copy)
    if not copy.is_dir():
        copy.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(prefix=f"{name}-", dir=copy.parent) as writing:  # gone where the disk is full
            for file in model.files:
                target = Path(writing) / name / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(folder) / file, target)
            try:
                (Path(writing) / name).replace(copy)
            except OSError:
                if not copy.is_dir():  # else another process was first
                    raise
    told = {"folder": name, "files": model.files, "from": Path(folder).absolute().name}
    workspace.set_meta(SETTING, json.dumps(told, sort_keys=True))
    return model


def forget_text_model(workspace: Workspace) -> None:
    """Words cannot be asked any more. The model's vectors stay."""
    if workspace.meta(SETTING):
        workspace.set_meta(SETTING, "")


def kept_text_model(workspace: Workspace, *, device: str = "cpu") -> TextModel | None:
    """The model that words are asked of, None where there is none. RgunitError where its copy is gone."""
    kept = workspace.meta(SETTING)
    if not kept:
        return None
    try:
        told = json.loads(kept)
        name, files = str(told["folder"]), {str(file): str(sha) for file, sha in told["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):  # a workspace of somebody else may say anything
        name, files = "", {}
    folder = places.inside(workspace.path, FOLDER, name) if name else workspace.path / FOLDER
    if not folder.is_dir() or not LARGEST_FILE.keys() - {WORDS} <= files.keys():
        raise RgunitError(
            f"the text model that {workspace.path} was indexed by is not in {workspace.path / FOLDER} any more: "
            "run `rgunit index build --text-model FOLDER` again, or `--text-model none`"
        )
    return _opened(folder, tuple(sorted(files.items())), device)


@lru_cache(1)
def _opened(folder: Path, files: tuple[tuple[str, str], ...], device: str) -> TextModel:
    """The model of a folder; the last one stays loaded, for the next question."""
    return TextModel(folder, dict(files), device=device)


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of the files of a folder. RgunitError names what is missing, or too large."""
    if not folder.is_dir():
        raise RgunitError(f"no folder {folder}: give the folder of a CLIP or SigLIP model exported to ONNX")
    found = {}
    for name, most in LARGEST_FILE.items():
        path = folder / name
        if not path.is_file() and name != WORDS:
            raise RgunitError(
                f"{folder} has no {name}: a text model is a folder with {', '.join(list(LARGEST_FILE)[:-1])}, "
                "as CLIP and SigLIP are exported to ONNX for Hugging Face"
            )
        if path.is_file():
            found[name] = _sha256(path, most)
    return found


def _holds(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether the files of a folder are there and have these digests."""
    try:
        return _digests(folder) == files
    except RgunitError:
        return False


def _sha256(path: Path, most: int) -> str:
    try:
        return places.sha256_of(path, most)
    except OSError as error:
        raise RgunitError(f"{path} cannot be read: {error.strerror or error}") from None
