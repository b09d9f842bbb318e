"""φ of INIT's importance weights: what a picture is compared by while a method trains. Fixed, the same for all arms.

`sampling.embedding` names it: a retrieval run (its content vectors), a translation run (its encoder's map, pooled), an
ONNX file; empty: the newest retrieval run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from retrieval.onnx import OnnxNetwork
from retrieval.protocol import Encoders
from retrieval.tensors import to_pixels
from translation.indexing import open_retriever
from translation.runs import GUIDED, RETRIEVAL, TRANSLATION, trained
from translation.translator import Translator

Embedding = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W] in [−1, 1] → vectors [B, d], without gradient."""


def open_embedding(workspace: Workspace, name: str, device: str) -> Embedding:
    """The embedding of that name. RgunitError where there is none, or nothing to take by default."""
    if name.lower().endswith(".onnx"):
        network = OnnxNetwork(Path(name).expanduser())
        return lambda images: torch.from_numpy(network.features(to_pixels(images))).to(images.device)
    if not name and not trained(workspace, RETRIEVAL):
        raise RgunitError(
            "sampling.informative weighs images by an embedding, and there is no retrieval run: train one, or name "
            "another run or an ONNX file (--set sampling.embedding=…)"
        )
    run = workspace.run(name) if name else trained(workspace, RETRIEVAL)[-1]
    if run.stage == RETRIEVAL:
        retriever = open_retriever(workspace, run.id, device)
        encoders = retriever.encoders
        return lambda images: retriever.content_vectors(_content(encoders, images))
    if run.stage in (TRANSLATION, GUIDED):
        translator = Translator.load(workspace, run.id, device)
        return lambda images: F.adaptive_avg_pool2d(_content(translator, images), 2).flatten(1)
    raise RgunitError(f"sampling.embedding={name}: run {run.id} is of stage {run.stage}, which embeds no pictures")


@torch.no_grad()
def _content(encoders: Encoders, images: Tensor) -> Tensor:
    """Content maps of images of any size."""
    if images.shape[2] != encoders.size:
        images = F.interpolate(images, size=(encoders.size, encoders.size), mode="bilinear", antialias=True)
    return encoders.content(images.float())
