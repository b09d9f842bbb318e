"""Maps inside a network, by name, and the heads that make vectors to compare of them: what PatchNCE reads.

A network tells its maps one after another (`stages`), so that no more of it runs than what is asked for. Names:
`pixels`, `down1`, `down2` … (after a halving), `block1`, `block2` … (after a residual block), and `image`, the output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.errors import UsageError

PAPER_LAYERS = ("pixels", "down1", "down2", "block1", "block5")  # CUT, Section 3
SINGLE_IMAGE_LAYERS = ("pixels", "down1", "block2")  # as released
NAME = re.compile(r"pixels|(down|block)[1-9]\d*")


class Staged(Protocol):
    """A network that tells its maps, each made of the one before; the last is its output."""

    @property
    def stage_channels(self) -> Mapping[str, int]:
        """Names of the maps in their order, with their channels."""

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Names and maps [B, C, h, w], computed as they are asked for."""


def features(networks: Sequence[Staged], images: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """The maps [B, C, h, w] of `layers`, in that order, of images [B, 3, H, W] through the networks in turn.

    Nothing behind the last of them is computed: without `image` in `layers` no upsampling. With it one pass gives a
    translation and its source's features: `*keys, fake = features((encoder, decoder), images, (*layers, "image"))`.
    UsageError: a layer that the networks do not have.
    """
    _known(networks, layers)
    found = {"pixels": images}
    missing = set(layers) - found.keys()
    for name, map_ in _walk(networks, images) if missing else ():
        if name in missing:
            found[name] = map_
            missing.remove(name)
        if not missing:
            break
    return [found[name] for name in layers]


def usable_layers(networks: Sequence[Staged], layers: Sequence[str]) -> tuple[str, ...]:
    """Those of `layers` that the networks have: a network with fewer blocks is read at fewer places.

    UsageError: a name that no network could have, or nothing left.
    """
    for name in layers:
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no layer to compare patches at: take pixels, down1, down2, block1, block2 …")
    there = _channels(networks)
    usable = tuple(name for name in layers if name in there)
    if not usable:
        asked = ", ".join(layers) or "nothing"
        raise UsageError(f"no layer to compare patches at: asked for {asked}, and this network has {_list(there)}")
    return usable


def layer_channels(networks: Sequence[Staged], layers: Sequence[str]) -> list[int]:
    """How many channels the maps of `layers` have. UsageError: a layer that the networks do not have."""
    there = _known(networks, layers)
    return [there[name] for name in layers]


class PatchProjector(nn.Module):
    """For each layer an MLP C → dim → dim, its output of length 1: the vectors that PatchNCE compares (CUT, Section 3).

    Made with the network, not at the first batch, so that a checkpoint has its place for them. In float32 under mixed
    precision too: at the paper's first weights (gain 0.02) the lengths before normalisation are too small for fp16.
    """

    def __init__(self, channels: Sequence[int], dim: int = 256) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(c, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim)) for c in channels
        )

    def forward(self, patches: Sequence[Tensor]) -> list[Tensor]:
        """patches [B, P, C] of each layer → float32 [B, P, dim] of each layer."""
        with torch.autocast(patches[0].device.type, enabled=False):
            return [F.normalize(head(patch.float()), dim=2) for head, patch in zip(self.heads, patches, strict=True)]


def _walk(networks: Sequence[Staged], x: Tensor) -> Iterator[tuple[str, Tensor]]:
    for network in networks:
        for name, x in network.stages(x):  # noqa: B020 - each map is made of the one before, across networks too
            yield name, x


def _channels(networks: Sequence[Staged]) -> dict[str, int]:
    there = {"pixels": 3}
    for network in networks:
        there |= network.stage_channels
    return there


def _known(networks: Sequence[Staged], layers: Sequence[str]) -> dict[str, int]:
    there = _channels(networks)
    for name in layers:
        if name not in there:
            raise UsageError(f"this network has no layer {name!r}: it has {_list(there)}")
    return there


def _list(there: Mapping[str, int]) -> str:
    return ", ".join(there)
