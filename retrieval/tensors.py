"""Bytes of pictures as tensors and back, first weights and the fingerprint of weights: the same for every model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

T = TypeVar("T")


def to_tensor(pixels: NDArray[np.uint8] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [−1, 1], channels last in memory; bytes travel, not floats."""
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # a decoded picture may be read-only
    tensor = pixels.to(device, non_blocking=True)
    return tensor.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """float [n, 3, H, W] in [−1, 1] → uint8 [n, H, W, 3], rounded."""
    pixels: Any = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # type: ignore[no-any-return]


def mirrored_pixels(pixels: NDArray[np.uint8], mirrored: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """uint8 [B, H, W, 3] with the chosen images flipped left to right."""
    return np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)


def at_size(images: Tensor, size: int) -> Tensor:
    """Square images [B, 3, H, H] at so many pixels a side, which are themselves where they have them."""
    if images.shape[2] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def as_picture(grid: Tensor) -> NDArray[np.uint8]:
    """float [rows, columns, 3, H, W] in [−1, 1] → one picture uint8 [rows · H, columns · W, 3]."""
    rows, columns, _, height, width = grid.shape
    strips = grid.permute(0, 2, 3, 1, 4).reshape(rows, 3, height, columns * width)
    return to_pixels(strips).reshape(rows * height, columns * width, 3)


def first_weights(seed: int, make: Callable[[], T]) -> T:
    """What `make` builds, its first weights drawn from the seed alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def fingerprint(networks: Mapping[str, nn.Module], of: str = "") -> str:
    """SHA-256 (hex) of the text `of`, then of all weights of the networks, names and shapes included.

    Tensors are named `network.tensor`; those of a network called "" by their own name alone.
    """
    digest = hashlib.sha256(of.encode())
    for name in sorted(networks):
        for key, tensor in sorted(networks[name].state_dict(prefix=f"{name}." if name else "").items()):
            digest.update(f"{key}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
