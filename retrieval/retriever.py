"""The trained retrieval system: embeds pictures, fills the workspace's index with them and searches it.

Vectors carry the fingerprint of the weights that made them (encoders and embedding network together), so
that those of two trainings are never compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from torch import Tensor

from index_store.errors import RgunitError
from index_store.workspace import RunRecord, Workspace
from retrieval.config import RetrievalConfig
from retrieval.network import SMALLEST, EmbeddingNetwork, make_network
from retrieval.protocol import Encoders, as_images

if TYPE_CHECKING:
    from index_store.store import Found

CHECKPOINT = "checkpoint.safetensors"
PREFIX = "networks.embedding."
SEAL = 2048
"""Vectors in a sealed batch of the index: what an interrupted build may lose."""


class Retriever:
    """A trained embedding network with the encoders that it was trained on. `open` loads one from a workspace."""

    def __init__(
        self,
        workspace: Workspace,
        run: RunRecord,
        network: EmbeddingNetwork,
        *,
        encoders_fingerprint: str,
        encoders: Encoders | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.workspace, self.run = workspace, run
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.fingerprint = fingerprint(network, encoders_fingerprint)
        self._encoders = encoders

    @staticmethod
    def open(
        workspace: Workspace,
        run: str | None = None,
        *,
        encoders: Encoders | None = None,
        device: torch.device | str = "cpu",
    ) -> Retriever:
        """Load a retrieval run, by default the latest that has a checkpoint.

        Without `encoders` it embeds (content, style) and searches; pictures need them. Raises RgunitError
        where there is no such run, or it was trained on other encoders than these.
        """
        record = _record(workspace, run)
        trained_on = str(record.config.get("encoders_fingerprint") or record.summary.get("encoders_fingerprint", ""))
        if encoders is not None:
            _check(record, trained_on, encoders)
        return Retriever(
            workspace,
            record,
            _load(record),
            encoders_fingerprint=trained_on,
            encoders=encoders,
            device=device,
        )

    @property
    def dim(self) -> int:
        return self.network.dim

    @property
    def encoder_name(self) -> str:
        """The name of its vectors in the index: the run's id."""
        return self.run.id

    @property
    def encoders(self) -> Encoders:
        """The translation model that reads pictures for it. Raises RgunitError if opened without one."""
        if self._encoders is None:
            raise RgunitError(f"retrieval run {self.run.id} was opened without its encoders: pictures need them")
        return self._encoders

    @torch.no_grad()
    def embed(self, content: Tensor, style: Tensor) -> Tensor:
        """content [B, C, h, h] and style [B, S] → embeddings float32 [B, dim]."""
        embedded: Tensor = self.network(content.to(self.device).float(), style.to(self.device).float())
        return embedded

    @torch.no_grad()
    def embed_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, size, size, 3] → float32 [n, dim]: R(E_c(x), E_s(x))."""
        if not len(images):
            return np.zeros((0, self.dim), np.float32)
        encoders = self.encoders
        tensor = as_images(images, encoders.device)
        return self.embed(encoders.content(tensor), encoders.style(tensor)).cpu().numpy()

    def search(self, vectors: ArrayLike, *, k: int = 10, where: str | None = None, exclude: Any = None) -> Found:
        """The k nearest indexed images of vectors float32 [dim] or [q, dim]; see `IndexStore.search`.

        Without an `origin=` in `where`, real and unlabelled images only. Raises RgunitError while nothing
        is indexed.
        """
        store = self.workspace.store()
        where = default_origin(self.workspace, where)
        if (self.run.id, self.fingerprint) not in {(info.name, info.fingerprint) for info in store.encoders()}:
            raise RgunitError(
                f"{self.workspace.path} has no vectors of retrieval run {self.run.id} as it is now "
                f"({self.fingerprint[:12]}): run `rgunit index build`"
            )
        return store.search(
            np.asarray(vectors, np.float32),
            k=k,
            where=where,
            exclude=exclude,
            encoder=f"{self.run.id}@{self.fingerprint}",
        )


def default_origin(workspace: Workspace, where: str | None) -> str:
    """The filter with generated images left out, unless it names an origin itself."""
    text = (where or "").strip()
    if workspace.schema.filter(text).origin is None:
        text = f"{text} origin=real|unlabelled".strip()
    return text


def fingerprint(network: EmbeddingNetwork, encoders_fingerprint: str) -> str:
    """SHA-256 hex of the embedding network's weights and of the encoders' fingerprint."""
    digest = hashlib.sha256(encoders_fingerprint.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def build_index(
    workspace: Workspace,
    retriever: Retriever,
    *,
    where: str | None = None,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Embed the images that have no vector of this retriever yet and return how many were added.

    Pictures are decoded in the background while the batch before is embedded. Vectors are sealed `SEAL` at
    a time and at any end, also an interrupted one: the next call goes on from there. `progress(done,
    total)` after each batch.
    """
    ids = workspace.missing_vectors(retriever.encoder_name, retriever.fingerprint, where)
    parts = np.split(ids, range(batch, len(ids), batch)) if len(ids) else []
    size = retriever.encoders.size
    pending: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    added = 0

    def seal() -> None:
        nonlocal added
        if pending:
            keys = np.concatenate([key for key, _ in pending])
            vectors = np.concatenate([vector for _, vector in pending])
            pending.clear()
            workspace.put_vectors(keys, vectors, encoder=retriever.encoder_name, fingerprint=retriever.fingerprint)
            added += len(keys)

    with ThreadPoolExecutor(1, "decode") as pool:
        ahead = pool.submit(workspace.load, parts[0], size) if parts else None
        try:
            for place, part in enumerate(parts):
                assert ahead is not None
                images = ahead.result()
                if place + 1 < len(parts):
                    ahead = pool.submit(workspace.load, parts[place + 1], size)
                pending.append((part, retriever.embed_images(images)))
                if sum(len(key) for key, _ in pending) >= SEAL:
                    seal()
                if progress is not None:
                    progress(min((place + 1) * batch, len(ids)), len(ids))
        finally:
            seal()
    return added


def _record(workspace: Workspace, run: str | None) -> RunRecord:
    if run is not None:
        record = workspace.run(run)
        if record.stage != "retrieval":
            raise RgunitError(f"run {run} trained {record.stage}, not retrieval: name a retrieval run (`rgunit info`)")
        if not (Path(record.path) / CHECKPOINT).is_file():
            raise RgunitError(f"retrieval run {run} has no checkpoint yet: run `rgunit train retrieval --resume`")
        return record
    for record in reversed(workspace.runs("retrieval")):
        if (Path(record.path) / CHECKPOINT).is_file():
            return record
    raise RgunitError(f"no retrieval run in {workspace.path}: run `rgunit train retrieval` first")


def _check(record: RunRecord, trained_on: str, encoders: Encoders) -> None:
    used = tuple(record.config.get("attributes_used", ()))
    if used != encoders.schema.names:
        raise RgunitError(
            f"retrieval run {record.id} was trained on the attributes {', '.join(used)}, the translator on "
            f"{', '.join(encoders.schema.names)}: run `rgunit train retrieval`"
        )
    if trained_on != encoders.fingerprint:
        raise RgunitError(
            f"retrieval run {record.id} was trained on translation run {record.config.get('translation_run')} "
            f"(fingerprint {trained_on[:12]}), these encoders are others ({encoders.fingerprint[:12]}): "
            f"run `rgunit train retrieval`"
        )


def _load(record: RunRecord) -> EmbeddingNetwork:
    """The embedding network of a run: its shapes by the run's configuration and the tensors, then its weights."""
    from safetensors import SafetensorError, safe_open

    path = Path(record.path) / CHECKPOINT
    try:
        settings = record.config["config"]
        config = RetrievalConfig.model_validate(settings["retrieval"])
        content_size = int(settings["data"]["size"]) // 4
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            weights = {key.removeprefix(PREFIX): file.get_tensor(key) for key in names if key.startswith(PREFIX)}
        network = make_network(
            config,
            content_channels=weights["convolutions.0.weight"].shape[1],
            content_size=content_size,
            style_dim=weights["mlp.0.weight"].shape[1] - config.widths[2] * SMALLEST**2,
        )
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValidationError) as error:
        why = str(error).splitlines()[0]
        raise RgunitError(
            f"{path} does not hold the embedding network of run {record.id} ({why}): run `rgunit train retrieval`"
        ) from None
    return network
