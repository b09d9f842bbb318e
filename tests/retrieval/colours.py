"""A world whose every answer is known: the blue pattern of a picture is its content, red and green are its style.

Its translation model is made of real torch modules, so that tests can ask whether training left them alone; its
workspaces, runs and checkpoints are real ones.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.attributes import AttributeSchema
from index_store.images import write_image
from index_store.workspace import Workspace
from retrieval.config import RetrievalConfig
from retrieval.retriever import Retriever
from retrieval.train import RetrievalTask

CONFIG = RetrievalConfig(widths=(16, 16, 8), hidden=64, dim=16, batch=16, learning_rate=0.05)
STEPS = 60


@dataclass(frozen=True)
class Painted:
    image: Tensor


class ColourEncoders:
    """The first two attributes are true where red, and green, are bright; 8 numbers each, as GMM-UNIT's style."""

    def __init__(self, names: tuple[str, ...] = ("Red", "Green"), size: int = 32) -> None:
        self.schema = AttributeSchema(names)
        self.size, self.content_channels, self.style_dim = size, 4, 8 * len(names)
        self.device = torch.device("cpu")
        self.fingerprint = hashlib.sha256(f"{names} {size}".encode()).hexdigest()
        self.content_network = nn.Conv2d(1, 4, 4, stride=4)
        self.style_network = nn.Linear(2, self.style_dim)
        self.encoded: list[int] = []  # images in each call of `content`
        self.painted: list[int] = []
        with torch.no_grad():
            self.content_network.weight.copy_(torch.linspace(-1, 1, 64).view(4, 1, 4, 4))
            self.content_network.weight[0] = 1 / 16  # the first channel is the pattern itself
            self.content_network.bias.zero_()
            self.style_network.weight.copy_(torch.eye(len(names), 2).repeat_interleave(8, dim=0))
            self.style_network.bias.zero_()

    def parameters(self) -> list[nn.Parameter]:
        return [*self.content_network.parameters(), *self.style_network.parameters()]

    def content(self, images: Tensor) -> Tensor:
        self.encoded.append(len(images))
        return self.content_network(images[:, 2:])

    def style(self, images: Tensor) -> Tensor:
        return self.style_network(images[:, :2].mean(dim=(2, 3)))

    def style_mean(self, labels: Tensor) -> Tensor:
        bits = labels.float()
        return torch.where(bits < 0, 0.0, 2 * bits - 1).repeat_interleave(8, dim=1)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean = self.style_mean(labels)
        return mean + 0.2 * torch.randn(mean.shape, generator=generator)

    def style_labels(self, style: Tensor) -> Tensor:
        return (style.unflatten(1, (-1, 8)).mean(2) > 0).to(torch.int8)

    def translate(self, images: Tensor, content: Tensor, style: Tensor) -> Painted:
        self.painted.append(len(images))
        colours = style.unflatten(1, (-1, 8)).mean(2)[:, :2].clamp(-1, 1)
        blue = F.interpolate(content[:, :1], scale_factor=4.0)
        planes = colours[:, :, None, None].expand(-1, -1, *blue.shape[2:])
        return Painted(torch.cat([planes, blue], dim=1))


class PlainEncoders(ColourEncoders):
    """A model of one direction, without a style: it paints red pictures green and leaves green ones as they are."""

    def __init__(self, names: tuple[str, ...] = ("A", "B"), size: int = 32) -> None:
        super().__init__(names or ("none",), size)
        self.schema, self.style_dim = AttributeSchema(names), 0
        self.fingerprint = hashlib.sha256(f"plain {names} {size}".encode()).hexdigest()

    def style(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 0)

    def style_mean(self, labels: Tensor) -> Tensor:
        return torch.zeros(len(labels), 0)

    def sample_style(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.zeros(len(labels), 0)

    def style_labels(self, style: Tensor) -> Tensor:
        return torch.full((len(style), len(self.schema.names)), -1, dtype=torch.int8)

    def translate(self, images: Tensor, content: Tensor, style: Tensor) -> Painted:
        self.painted.append(len(images))
        green = torch.ones_like(images[:, :1])
        return Painted(torch.cat([-green, green, F.interpolate(content[:, :1], scale_factor=4.0)], dim=1))


def paint(rng: np.random.Generator, labels: NDArray[np.int8], pattern: int, size: int = 32) -> NDArray[np.uint8]:
    """A picture uint8 [size, size, 3]: its colours tell labels int8 [2], its blue stripes tell pattern 0 … 7."""
    image = np.empty((size, size, 3), np.uint8)
    image[..., :2] = np.where(labels == 1, 225, 30) + rng.integers(-25, 26, 2)
    place = np.arange(size)
    wave = np.sin(2 * np.pi * (1 + pattern % 4) * place / size)
    plane = np.broadcast_to(wave[:, None] if pattern < 4 else wave[None], (size, size))
    image[..., 2] = (128 + 90 * plane + rng.normal(0, 8, (size, size))).clip(0, 255)
    return image


def fill(path: Path, *, count: int = 96, unlabelled: int = 0, seed: int = 0) -> Path:
    """A folder of pictures with labels.csv: attributes Red, Green (the style), Tall and Third (of the pattern)."""
    rng = np.random.default_rng(seed)
    path.mkdir()
    rows = []
    for i in range(count):
        labels, pattern = rng.integers(0, 2, 2).astype(np.int8), int(rng.integers(8))
        write_image(path / f"{i:03d}.png", paint(rng, labels, pattern))
        known = [int(bit) for bit in labels] if i >= unlabelled else ["", ""]
        rows.append(
            [f"{i:03d}.png", *known, int(pattern < 4), int(pattern % 4 == 2), "test" if i % 3 == 2 else "train"]
        )
    with (path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "Red", "Green", "Tall", "Third", "split"], *rows])
    return path


def make_workspace(tmp: Path, **kwargs: int) -> Workspace:
    folder = fill(tmp / "pictures", **kwargs)
    workspace = Workspace.create(tmp / "workspace")
    workspace.add_images(folder, attributes=folder / "labels.csv")
    return workspace


def train(task: RetrievalTask, steps: int, first: int = 0) -> list[dict[str, float]]:
    """What the training loop does, in short."""
    told = []
    for step in range(first, steps):
        torch.manual_seed(step)
        for group in task.optimizers["embedding"].param_groups:
            group["lr"] = task.learning_rates(step)["embedding"]
        told.append({name: float(value) for name, value in task.step(step, task.prepare(step)).items()})
    return told


def save_run(workspace: Workspace, task: RetrievalTask, encoders: ColourEncoders, config: RetrievalConfig) -> str:
    """The run and checkpoint that the training loop leaves."""
    run = workspace.add_run(
        "retrieval",
        "tiny",
        {
            "config": {"retrieval": config.model_dump(mode="json"), "data": {"size": encoders.size}},
            "attributes_used": list(encoders.schema.names),
            "translation_run": "r0",
            "encoders_fingerprint": encoders.fingerprint,
        },
    )
    weights = {f"networks.embedding.{k}": v for k, v in task.networks["embedding"].state_dict().items()}
    save_file(weights, Path(run.path) / "checkpoint.safetensors")
    workspace.update_run(run.id, steps=STEPS, status="done")
    return run.id


def untrained(workspace: Workspace, encoders: ColourEncoders) -> Retriever:
    """A retriever with its first weights, as a run of the workspace."""
    task = RetrievalTask(workspace, encoders, CONFIG, seed=1)
    return Retriever.open(workspace, save_run(workspace, task, encoders, CONFIG), encoders=encoders)
