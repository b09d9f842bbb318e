"""Asking without torch: a run's encoders and embedding network as ONNX graphs beside its checkpoint, by onnxruntime.

The one idea: `rgunit index build` writes the graphs, checked against PyTorch, with marks of the checkpoints that they
are of. Where a checkpoint has another mark, or a graph another hash, they are passed over and torch answers.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from index_store import places
from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.whole import write_json
from index_store.workspace import RunRecord, Workspace
from retrieval.composing import Floats, Labels, Pixels
from retrieval.onnx import session
from retrieval.runs import find_run
from retrieval.searching import Searcher, Vectors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FOLDER, ABOUT = "graphs", "graphs.json"
ENCODER, COMPONENT, LABELS, EMBEDDING = "encoder.onnx", "component.onnx", "labels.onnx", "retrieval.onnx"
LARGEST_ABOUT = 1_000_000


def open_searcher(workspace: Workspace, run: str | None = None, *, device: str = "auto") -> Searcher:
    """A retrieval run (by default the newest) to ask: by its graphs where they are there and no GPU is named, else by
    torch. RgunitError where there is no such run."""
    record = find_run(workspace, run)
    if device in ("auto", "cpu"):
        found = GraphSearcher.of(workspace, record)
        if found is not None:
            return found
    from retrieval.retriever import Retriever

    return Retriever.open(workspace, record.id, device=device)


def mark_of(checkpoint: Path) -> str:
    """What a checkpoint is known by without reading its weights: the SHA-256 of its head, which tells steps and
    seconds, and every tensor's shape and place. OSError where there is none."""
    with places.opened(checkpoint) as file:
        length = file.read(8)
        if len(length) < 8 or (size := struct.unpack("<Q", length)[0]) > 100_000_000:
            raise OSError(0, "it is no checkpoint", str(checkpoint))
        return hashlib.sha256(length + file.read(size)).hexdigest()


def marks_of(workspace: Workspace, record: RunRecord) -> dict[str, str]:
    """The marks of a retrieval run's checkpoint and of its translation run's."""
    source = workspace.run(str(record.config["translation_run"]))
    return {one.id: mark_of(one.path / CHECKPOINT) for one in (record, source)}


def keep_about(folder: Path, about: dict[str, Any]) -> None:
    """Write what the graphs of a folder are of, with their hashes: the last of their files."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.onnx"))}
    write_json(folder / ABOUT, {**about, "files": files})


class GraphSearcher(Searcher):
    """A retrieval run by its graphs."""

    def __init__(
        self,
        workspace: Workspace,
        run: RunRecord,
        folder: Path,
        about: dict[str, Any],
        reader: Callable[..., GraphReader],
    ) -> None:
        self.workspace, self.run, self.fingerprint = workspace, run, str(about["fingerprint"])
        self._reader = reader(
            folder, workspace.schema.subset(tuple(about["attributes"])), int(about["size"]), int(about["style_dim"])
        )

    @staticmethod
    def of(
        workspace: Workspace, run: RunRecord, *, reader: Callable[..., GraphReader] | None = None
    ) -> GraphSearcher | None:
        """The searcher of a run; None where its graphs are not there, are of other weights, or were changed.

        `reader` makes what runs the graphs, a `GraphReader`.
        """
        folder = run.path / FOLDER
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, RgunitError):
            about = json.loads(places.read_bytes(folder / ABOUT, LARGEST_ABOUT))
            if about["attributes"] != run.config["attributes_used"] or about["marks"] != marks_of(workspace, run):
                return None
            for name, sha in about["files"].items():
                if hashlib.sha256(places.inside(folder, name).read_bytes()).hexdigest() != sha:
                    return None
            if {ENCODER, EMBEDDING} <= about["files"].keys():
                return GraphSearcher(workspace, run, folder, about, reader or GraphReader)
        return None

    @property
    def reader(self) -> GraphReader:
        return self._reader

    @property
    def style_dim(self) -> int:
        return self._reader.style_dim

    def embedded(self, content: Floats, style: Floats) -> Vectors:
        return self._embed(content, style)[0]

    def contents_read(self, contents: Floats) -> Vectors:
        return self._embed(contents, np.zeros((len(contents), self.style_dim), np.float32))[1]

    def _embed(self, content: Floats, style: Floats) -> list[Vectors]:
        given = {"content": content, **({"style": style} if self.style_dim else {})}
        return self._reader.run(EMBEDDING, given)


class GraphReader:
    """`composing.Reader` by graphs: each is loaded when first asked."""

    def __init__(self, folder: Path, schema: AttributeSchema, size: int, style_dim: int) -> None:
        self.folder, self._schema, self._size, self._style_dim = folder, schema, size, style_dim
        self._sessions: dict[str, InferenceSession] = {}

    @property
    def schema(self) -> AttributeSchema:
        return self._schema

    @property
    def size(self) -> int:
        return self._size

    @property
    def style_dim(self) -> int:
        return self._style_dim

    def content(self, pixels: Pixels) -> Floats:
        return self.run(ENCODER, {"images": _scaled(pixels)}, "content")[0]

    def style(self, pixels: Pixels) -> Floats:
        return self.run(ENCODER, {"images": _scaled(pixels)}, "style")[0]

    def read(self, pixels: Pixels) -> tuple[Floats, Floats]:
        content, style = self.run(ENCODER, {"images": _scaled(pixels)}, "content", "style")
        return content, style

    def style_labels(self, style: Floats) -> Labels:
        return np.asarray(self.run(LABELS, {"style": style})[0], np.int8)

    def component(self, labels: Labels) -> Floats:
        return self.run(COMPONENT, {"labels": labels[None].astype(np.float32)})[0]

    def telling(self, bits: Sequence[int]) -> NDArray[np.bool_]:
        told = np.zeros(self.style_dim, np.bool_)
        for bit in bits:
            labels = np.zeros(len(self.schema.names), np.int8)
            without = self.component(labels)
            labels[bit] = 1
            told |= (self.component(labels) != without)[0]
        return told

    def run(self, name: str, given: dict[str, Floats], *wanted: str) -> list[Floats]:
        """The outputs of a graph, or those named; nothing else is computed."""
        if name not in self._sessions:
            self._sessions[name] = session(self.folder / name)
        given = {key: np.ascontiguousarray(value, np.float32) for key, value in given.items()}
        answer: list[Floats] = self._sessions[name].run(list(wanted) or None, given, self._options)
        return answer

    @cached_property
    def _options(self) -> Any:
        from onnxruntime import RunOptions

        options = RunOptions()
        options.only_execute_path_to_fetches = True
        return options


def _scaled(pixels: Pixels) -> Floats:
    """uint8 [n, S, S, 3] → float32 [n, 3, S, S] in [−1, 1]."""
    return pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
