"""A user's own embedding model as the content vector: face identity, CLIP, DINO … from an ONNX file.

The workspace keeps a copy of the file, so that what was indexed can be asked later, wherever the file has gone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index_store import places
from index_store.errors import RgunitError
from index_store.whole import whole
from index_store.workspace import Workspace
from retrieval.onnx import OnnxNetwork

FOLDER = "models"
SETTING = "content_model"


class ContentModel:
    """Content vectors by an ONNX network: its features at length 1, so that squared distances order as cosines do."""

    def __init__(self, path: Path, crop: str | None = None, *, device: str = "cpu") -> None:
        self.network = OnnxNetwork(path, crop, device=device)
        with path.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self.crop = crop
        self.side = self.network.side
        """Side in pixels of the images that it wants."""

    @property
    def encoder_name(self) -> str:
        """The name of its vectors in the index."""
        return f"content.{self.sha256[:8]}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 hex of the file and of what it sees of an image."""
        return hashlib.sha256(f"{self.sha256} {self.crop or ''}".encode()).hexdigest()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, S, S, 3] → float32 [n, d] of length 1 (0 where the features are)."""
        features = self.network.features(images)
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)


def content_model(path: Path | str, crop: str | None = None, *, device: str = "cpu") -> ContentModel:
    """An embedding model of an ONNX file with one image input [n, 3, height, width], as a function of images.

    `crop` is "left,top,width,height@side": what it sees of an image of that side; None: all of it.
    Raises RgunitError for a file that is no such network, UsageError for a malformed crop.
    """
    return ContentModel(Path(path), crop, device=device)


def keep_model(workspace: Workspace, path: Path, crop: str | None) -> ContentModel:
    """Copy a model into the workspace and make its vectors the content of weighted queries."""
    model = content_model(path, crop)
    name = f"{FOLDER}/{model.sha256[:16]}.onnx"
    copy = workspace.path / name
    if not copy.is_file():
        with whole(copy) as part:
            shutil.copyfile(path, part)
    told = {"file": name, "crop": crop, "sha256": model.sha256, "from": Path(path).name}
    workspace.set_meta(SETTING, json.dumps(told))
    return model


def forget_model(workspace: Workspace) -> None:
    """Take the content of weighted queries from the retrieval run again. The model's vectors stay."""
    if workspace.meta(SETTING):
        workspace.set_meta(SETTING, "")


def kept_model(workspace: Workspace, *, device: str = "cpu") -> ContentModel | None:
    """The model that the workspace takes content vectors from, None where it is the retrieval run.

    Raises RgunitError where its copy is gone or is another file.
    """
    told = json.loads(workspace.meta(SETTING) or "{}")
    if not told:
        return None
    path = places.inside(workspace.path, *str(told["file"]).split("/"))
    if not path.is_file():
        raise RgunitError(
            f"the content model {told['from']} is not in {path.parent} any more: "
            "run `rgunit index build --content-model FILE.onnx` again, or `--content-model none`"
        )
    model = content_model(path, told["crop"], device=device)
    if model.sha256 != told["sha256"]:
        raise RgunitError(f"{path} is not the content model that was indexed: run `rgunit index build --content-model`")
    return model
