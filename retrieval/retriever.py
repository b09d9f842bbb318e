"""The trained retrieval system in use by torch: its networks make vectors, and ask the index (`searching.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.workspace import RunRecord, Workspace
from retrieval.composing import Floats
from retrieval.loading import check_encoders, load_encoders, load_network, resolve_device, trained_on
from retrieval.network import content_vector
from retrieval.protocol import Encoders
from retrieval.queries import TorchReader
from retrieval.runs import find_run
from retrieval.searching import Searcher, Vectors
from retrieval.tensors import fingerprint, to_tensor

if TYPE_CHECKING:
    from retrieval.network import Network


class Retriever(Searcher):
    """A trained embedding network with the encoders that it was trained on. `open` loads one from a workspace.

    A context manager; it closes the workspace if it opened it.
    """

    def __init__(
        self,
        workspace: Workspace,
        run: RunRecord,
        network: Network,
        *,
        encoders_fingerprint: str,
        encoders: Encoders | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.workspace, self.run = workspace, run
        self.device = torch.device(device)
        self.place = str(self.device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.fingerprint = fingerprint({"": network}, encoders_fingerprint)
        self._encoders = encoders

    @staticmethod
    def open(
        workspace: Workspace | Path | str,
        run: str | None = None,
        *,
        encoders: Encoders | None = None,
        device: torch.device | str | None = None,
    ) -> Retriever:
        """Load a retrieval run of a workspace or of the workspace in a folder; by default the latest with a checkpoint.

        `encoders` is by default the translation model that it was trained on, loaded when a picture is first read;
        `device` by default theirs, or a GPU where there is one. Raises RgunitError where there is no such workspace
        or run, or it was trained on other encoders than these.
        """
        owner = not isinstance(workspace, Workspace)
        opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
        try:
            record = find_run(opened, run)
            if encoders is not None:
                check_encoders(record, encoders)
            where = device or (encoders.device if encoders is not None else "auto")
            made = Retriever(
                opened,
                record,
                load_network(record),
                encoders_fingerprint=trained_on(record),
                encoders=encoders,
                device=resolve_device(where),
            )
        except BaseException:
            if owner:
                opened.close()
            raise
        made._owner = owner
        return made

    @property
    def dim(self) -> int:
        return self.network.dim

    @property
    def style_dim(self) -> int:
        """Numbers of the style that it reads beside the content; 0 where its translation model has none."""
        return self.network.style_dim

    @property
    def encoders(self) -> Encoders:
        """The translation model that reads pictures for it, loaded when first asked for.

        Raises RgunitError where it cannot be loaded, or is not the one that this run was trained on any more.
        """
        if self._encoders is None:
            encoders = load_encoders(self.workspace, self.run, self.device)
            check_encoders(self.run, encoders)
            self._encoders = encoders
        return self._encoders

    @property
    def reader(self) -> TorchReader:
        return TorchReader(self.encoders)

    def embedded(self, content: Floats, style: Floats) -> Vectors:
        """`embed` of arrays."""
        vectors: Vectors = self.embed(torch.from_numpy(content), torch.from_numpy(style)).cpu().numpy()
        return vectors

    def contents_read(self, contents: Floats) -> Vectors:
        """`content_vectors` of arrays."""
        vectors: Vectors = self.content_vectors(torch.from_numpy(contents)).cpu().numpy()
        return vectors

    # Vectors

    @torch.no_grad()
    def embed(self, content: Tensor, style: Tensor) -> Tensor:
        """content [B, C, h, h] and style [B, S] → embeddings float32 [B, dim]; of a run without a style by content."""
        style = style[:, : self.style_dim]
        embedded: Tensor = self.network(content.to(self.device).float(), style.to(self.device).float())
        return embedded

    @torch.no_grad()
    def content_vectors(self, content: Tensor) -> Tensor:
        """content [B, C, h, h] → content vectors float32 [B, ·] of length 1.

        By the network's own content head where it has one, else the map pooled to 2×2 and flattened.
        """
        return content_vector(self.network, content.to(self.device).float())

    @torch.no_grad()
    def named_vectors(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """uint8 [n, size, size, 3] → the vectors of each of `encoder_names`, float32 [n, ·]."""
        encoders = self.encoders
        tensor = to_tensor(images, encoders.device)
        content, style = encoders.content(tensor), encoders.style(tensor).float()
        parts = (self.embed(content, style), self.content_vectors(content), style)
        return [part.cpu().numpy() for part in parts[: len(self.encoder_names)]]

    def embed_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, size, size, 3] → float32 [n, dim]: R(E_c(x), E_s(x))."""
        return self.named_vectors(images)[0] if len(images) else np.zeros((0, self.dim), np.float32)
