"""Importance weights of made images, and φ, what a picture is compared by for them. Fixed, the same for all arms.

`sampling.embedding` names φ: a retrieval run (its content vectors), a translation run (its encoder's map, pooled), an
ONNX file; empty: the newest retrieval run. `store:RUN`: weights by the real images that the index has of that run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from retrieval.onnx import OnnxNetwork
from retrieval.protocol import Encoders
from retrieval.tensors import at_size, to_pixels
from translation.indexing import open_retriever, require_index
from translation.objectives.importance import adversarial_importance, nearest_of_domain, nearness_importance
from translation.runs import GUIDED, RETRIEVAL, TRANSLATION, trained
from translation.sections import STORE
from translation.translator import Translator

Embedding = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W] in [−1, 1] → vectors [B, d], without gradient."""


class Importance(Protocol):
    """How much each made image of a batch counts."""

    def __call__(self, sources: Tensor, fakes: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
        """Weights float32 [B] of fakes [B, 3, H, W] made of sources for labels `targets` [B, A]; `logits` [B] are D's
        of them. All float32, detached, on the training device."""


@dataclass(frozen=True)
class Adversarial:
    """INIT's: by how much D takes each for real, and the batch by an embedding."""

    embedding: Embedding

    def __call__(self, sources: Tensor, fakes: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
        return adversarial_importance(logits, self.embedding(sources), self.embedding(fakes))


@dataclass(frozen=True)
class Stored:
    """By how near each is to real training images of its target domain; their vectors [N, d] and labels [N, A] lie on
    the training device, so that no step waits for a search."""

    embedding: Embedding
    vectors: Tensor
    labels: Tensor

    def __call__(self, sources: Tensor, fakes: Tensor, targets: Tensor, logits: Tensor) -> Tensor:
        found = self.embedding(fakes)
        return nearness_importance(nearest_of_domain(found, self.vectors, self.labels, targets))


def open_importance(workspace: Workspace, schema: AttributeSchema, name: str, device: str, batch: int) -> Importance:
    """The weights that `sampling.embedding` names, for labels of `schema` and batches of so many images.

    RgunitError where there is none, UsageError for the store's in batches of one.
    """
    if not name.startswith(STORE):
        return Adversarial(open_embedding(workspace, name, device))
    if batch == 1:
        raise UsageError(
            f"sampling.embedding={name} weighs the images of a batch against each other, and a batch has one: raise "
            "the stage's batch (translation.batch or guided.batch)"
        )
    run = name.removeprefix(STORE)
    if not run and not trained(workspace, RETRIEVAL):
        raise RgunitError(f"sampling.embedding={name} asks the index, and there is no retrieval run: train one")
    if run and workspace.run(run).stage != RETRIEVAL:
        raise RgunitError(
            f"sampling.embedding={name}: run {run} is no retrieval run, so the index has no vectors of it"
        )
    retriever = open_retriever(workspace, run or None, device)
    require_index(workspace, retriever)
    images = workspace.images("split=train origin=real")
    images = images.select(~np.isin(images.ids, workspace.left_out))
    vectors = workspace.store().vectors(images.ids, encoder=f"{retriever.encoder_names[1]}@{retriever.fingerprint}")
    labels = images.labels[:, workspace.schema.indices(schema.names)]
    return Stored(
        lambda pictures: retriever.content_vectors(_content(retriever.encoders, pictures)),
        torch.from_numpy(vectors).to(device),
        torch.from_numpy(labels).to(device),
    )


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
    return encoders.content(at_size(images, encoders.size).float())
