"""What can be seen of one scene: RGB, what follows from its pixels, and what a drawing knows beside them.

Wang 2020, Eq. 4.14: the opponent colours Θ1 = R − G and Θ2 = G − B. Shapes: B images of H×W pixels; RGB [B, 3, H, W] in
[−1, 1], a modality [B, channels, H, W] in [−1, 1], or its classes as ones and zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from index_store.errors import RgunitError, UsageError
from index_store.workspace import ImageTable, Workspace
from translation.drawings.maps import CLASS_OF, CLASSES, NEARNESS, drawn_parts
from translation.sampling import Draw, Epochs

Kind = Literal["colours", "values", "depth", "classes"]
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Modality:
    """`drawn`: only drawings have it."""

    channels: int
    kind: Kind
    drawn: bool = False


MODALITIES = {
    "rgb": Modality(3, "colours"),
    "opponent1": Modality(1, "values"),
    "opponent2": Modality(1, "values"),
    "edges": Modality(1, "values"),
    "depth": Modality(1, "depth", drawn=True),
    "segmentation": Modality(len(CLASSES), "classes", drawn=True),
}


def check_modalities(names: Sequence[str]) -> None:
    """ValueError for fewer than three, for one that is there twice and for one that nobody knows."""
    if len(names) < 3 or len(set(names)) < len(names) or not set(names) <= set(MODALITIES):
        raise ValueError(
            f"networks.modalities takes three or more of {', '.join(MODALITIES)}, the anchor first, not {list(names)}"
        )


def seen_as(name: str, images: Tensor, parts: Tensor | None) -> Tensor:
    """A modality of RGB images [B, 3, H, W], by the `parts` [B, H, W] of drawings where pixels do not tell it."""
    if name == "rgb":
        return images
    red, green, blue = images.unbind(1)
    if name == "opponent1":
        return (red - green)[:, None] / 2
    if name == "opponent2":
        return (green - blue)[:, None] / 2
    if name == "edges":
        return _edges(images)
    assert parts is not None, f"{name} is known of drawings only"
    if name == "depth":
        near = torch.tensor(NEARNESS, device=images.device)[parts.long()]
        return near[:, None] * 2 - 1
    classes = torch.tensor(CLASS_OF, device=images.device)[parts.long()]
    return F.one_hot(classes, len(CLASSES)).permute(0, 3, 1, 2).float()


def distance(depth: Tensor) -> Tensor:
    """How far away: 2 for the background (−1), 1 for the nearest (1). What is predicted beyond is clipped."""
    return 1.5 - 0.5 * depth.clamp(-1, 1)


def _edges(images: Tensor) -> Tensor:
    """[B, 1, H, W]: the length of the Sobel gradient of the luma, from −1 (flat) to 1 (a step from black to white)."""
    luma = torch.einsum("bchw,c->bhw", images, torch.tensor(LUMA, device=images.device, dtype=images.dtype))
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device, dtype=images.dtype) / 8
    both = torch.stack([sobel, sobel.T])[:, None]
    gradient = F.conv2d(F.pad(luma[:, None], (1, 1, 1, 1), mode="reflect"), both)
    return 2 * gradient.square().sum(1, keepdim=True).sqrt().clamp(max=1) - 1


class ModalitySampler:
    """Draws for step t images that the anchor and modality t mod (n − 1) are known of: real training images.

    Each modality beside the anchor has images of its own, which no other one is shown of. RgunitError for fewer than
    a batch each, and for modalities of drawings where images were not drawn.
    """

    def __init__(
        self,
        workspace: Workspace,
        modalities: Sequence[str],
        size: int,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        mirror: bool = True,
    ) -> None:
        self.batch, self.seed, self.rank, self.mirror = batch, seed, rank, mirror
        table = workspace.images("split=train origin=real|unlabelled")
        self.parts = Parts(table, size) if any(MODALITIES[name].drawn for name in modalities) else None
        ids = table.ids if self.parts is None else table.ids[self.parts.known]
        check_drawn(modalities, ids)
        order = np.random.default_rng([seed, 1]).permutation(len(ids))
        others = len(modalities) - 1
        self.ids: list[NDArray[np.int64]] = [np.sort(ids[order[start::others]]) for start in range(others)]
        if min(map(len, self.ids)) < max(2, batch * world):
            raise RgunitError(
                f"{len(ids)} training images in {others} parts are fewer than the {max(2, batch * world)} of a batch "
                "each: add images or lower the batch (--set translation.batch)"
            )
        self.labels: NDArray[np.int8] = np.zeros((1, 0), np.int8)
        self._epochs = [
            Epochs(len(ids), (seed, 1, other), batch=batch, rank=rank, world=world)
            for other, ids in enumerate(self.ids)
        ]

    @property
    def learned(self) -> Sequence[NDArray[np.int64]]:
        """The ids of all images that may be drawn."""
        return self.ids

    def draw(self, step: int) -> Draw:
        """The batch of a step; `domains` are the modality and the anchor, 0."""
        turn, other = divmod(step, len(self.ids))
        ids = self.ids[other][self._epochs[other].rows(turn)]
        mirrored = (np.random.default_rng([self.seed, 2, step, self.rank]).random(self.batch) < 0.5) & self.mirror
        parts = None if self.parts is None else self.parts.of(ids)
        if parts is not None:
            parts = np.where(mirrored[:, None, None], parts[:, :, ::-1], parts)
        none = np.zeros((self.batch, 0), np.int8)
        return Draw(ids, mirrored, none, none, torch.zeros(0, self.batch, 0), domains=(other + 1, 0), parts=parts)


class Parts:
    """The parts of drawn images, kept once they are drawn. `known` bool [n]: which images of the table were drawn."""

    def __init__(self, table: ImageTable, size: int) -> None:
        drawings = table.fields.get("drawing") or [None] * len(table)
        self.known: NDArray[np.bool_] = np.array([text is not None for text in drawings], bool)
        self._drawings = dict(zip(table.ids.tolist(), drawings, strict=True))
        self._size = size
        self._draw = lru_cache(maxsize=8192)(drawn_parts)

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [n, size, size] of images that were drawn."""
        return np.stack([self._draw(str(self._drawings[int(one)]), self._size) for one in ids])


def check_drawn(modalities: Sequence[str], ids: NDArray[np.int64]) -> None:
    """UsageError where modalities of drawings are asked for and no image was drawn."""
    if not len(ids) and (drawn := [name for name in modalities if MODALITIES[name].drawn]):
        raise UsageError(
            f"{' and '.join(drawn)} are known of drawn faces only, and the workspace has none: choose others of "
            f"{', '.join(name for name, one in MODALITIES.items() if not one.drawn)} (--set networks.modalities=…)"
        )
