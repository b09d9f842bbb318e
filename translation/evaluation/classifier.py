"""The attribute classifier that every translation is judged by: a residual network on all labels of the workspace.

It never sees a generated image or a test image in training. Its 512 features (2,048 of a ResNet-50) are the space of
FD-attr. Kept in the workspace's cache under a hash of the data and the settings, so one workspace trains it once.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from index_store.errors import RgunitError
from index_store.whole import whole
from index_store.workspace import ImageTable, Workspace
from retrieval.loading import resolve_device
from retrieval.objectives import labels_loss
from retrieval.tensors import first_weights, to_tensor
from translation.evaluation.config import EvaluationConfig
from translation.sampling import shifted
from translation.training.precision import faster_precision

RECIPE = 1  # part of the cache key: raise it when training here changes
WARM_UP = 0.2  # share of the schedule in which the learning rate rises
INFERENCE_BATCH = 128
IN_MEMORY = 2 << 30  # bytes of decoded training images that may be held
Progress = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True)
class Reading:
    """What the classifier sees in n images: `logits` float32 [n, A] (positive = true), `features` float32 [n, F]."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]

    @property
    def bits(self) -> NDArray[np.int8]:
        """int8 [n, A] in {0, 1}."""
        return (self.logits > 0).astype(np.int8)


class AttributeClassifier:
    """A trained classifier: reads attributes and features off uint8 images [n, size, size, 3].

    `accuracy` is the mean over the attributes of `per_attribute`, measured on the test split (nan without one). Where
    `steps` is less than `planned`, `classifier_minutes` ended its training.
    """

    def __init__(self, network: nn.Module, about: dict[str, Any], device: str = "cpu") -> None:
        self.names: tuple[str, ...] = tuple(about["names"])
        self.size = int(about["size"])
        self.architecture = str(about["architecture"])
        self.fingerprint = str(about["fingerprint"])
        self.per_attribute: dict[str, float | None] = dict(about.get("per_attribute", {}))
        known = [value for value in self.per_attribute.values() if value is not None]
        self.accuracy = float(np.mean(known)) if known else math.nan
        self.seconds = float(about.get("seconds", 0.0))
        self.steps = int(about.get("steps", 0))
        self.planned = int(about.get("planned", self.steps))
        self.device = resolve_device(device)
        self._network = network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def read(self, images: NDArray[np.uint8]) -> Reading:
        """Logits and features of n > 0 images [n, size, size, 3]; ValueError for another shape."""
        net: Any = self._network
        logits, features = [], []
        for pixels in self._batches(images):
            with torch.inference_mode():
                pooled = self._stages(pixels)[-1].mean((2, 3))
                logits.append(net.fc(pooled).cpu())
            features.append(pooled.cpu())
        return Reading(torch.cat(logits).numpy(), torch.cat(features).numpy())

    def diversity(self, images: NDArray[np.uint8]) -> float:
        """Mean distance between the pairs of n translations of one input, images [n, size, size, 3], n ≥ 2.

        The form of LPIPS (Zhang et al. 2018, Eq. 1) in this classifier's four stages, each position's channels
        normalised to length 1 and unweighted: comparable between arms here, not with LPIPS elsewhere.
        """
        stages = [self._stages(pixels) for pixels in self._batches(images)]
        first, second = np.triu_indices(len(images), k=1)
        total = torch.zeros(len(first))
        for maps in zip(*stages, strict=True):
            unit = F.normalize(torch.cat(maps).float(), dim=1).cpu()
            total += (unit[first] - unit[second]).square().sum(1).mean((1, 2))
        return float(total.mean())

    @torch.inference_mode()
    def _stages(self, pixels: Tensor) -> list[Tensor]:
        """Maps after each of the four stages, in float32 on every machine; the last one's mean is the feature."""
        net: Any = self._network
        x, maps = net.maxpool(net.relu(net.bn1(net.conv1(pixels)))), []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def _batches(self, images: NDArray[np.uint8]) -> Iterator[Tensor]:
        if images.ndim != 4 or images.shape[1:] != (self.size, self.size, 3) or not len(images):
            raise ValueError(f"expected uint8 images [n, {self.size}, {self.size}, 3], got {images.shape}")
        for start in range(0, len(images), INFERENCE_BATCH):
            yield to_tensor(images[start : start + INFERENCE_BATCH], self.device)

    def score(self, images: NDArray[np.uint8], labels: NDArray[np.int8]) -> dict[str, float | None]:
        """Accuracy of each attribute over its known labels [n, A], None where none is known."""
        known = labels >= 0
        right = ((self.read(images).bits == labels) & known).sum(0)
        return {
            name: float(hits / count) if count else None
            for name, hits, count in zip(self.names, right, known.sum(0), strict=True)
        }

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Weights and `about` in one safetensors file, written whole and renamed."""
        from safetensors.torch import save_file

        state = {name: tensor.contiguous() for name, tensor in self._network.state_dict().items()}
        with whole(path) as part:
            save_file(state, part, metadata={"rgunit": json.dumps(about)})

    @staticmethod
    def load(path: Path, device: str = "cpu") -> AttributeClassifier:
        """A classifier kept by `save`. RgunitError where the file is no such thing."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["rgunit"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            network = build_network(about["architecture"], len(about["names"]), about["size"])
            network.load_state_dict(state)
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise RgunitError(f"{path} is no attribute classifier ({error}): delete it and evaluate again") from None
        return AttributeClassifier(network, about, device)


def build_network(architecture: str, attributes: int, size: int) -> nn.Module:
    """A torchvision ResNet-18 or -50 with `attributes` outputs, its stem fitted to `size` pixels.

    From 64 px on the stem is torchvision's own (7×7 at stride 2, then pooling); smaller images get a 3×3 convolution
    at stride 1. (Drawn faces of 32 px, 20 s on 2 cores: mean accuracy .984; with the stride in the convolution and no
    pooling, at the same cost, .954: a small mouth is lost.)
    """
    import torchvision.models

    network: nn.Module = getattr(torchvision.models, architecture)(num_classes=attributes)
    if size < 64:
        network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    return network


def train_classifier(
    workspace: Workspace,
    size: int,
    config: EvaluationConfig,
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> AttributeClassifier:
    """The classifier of this workspace's labels at `size` px: from the cache, else trained on the train split.

    Only real images teach it; an unknown label teaches nothing. Start, order and augmentation are drawn from `seed`;
    what is left to chance is the rounding of the kernels and where `classifier_minutes` cuts the training short.
    RgunitError where no labelled image is there.
    """
    train, test = _labelled(workspace, "train"), _labelled(workspace, "test")
    if len(train) < 2:
        raise RgunitError("no labelled real images in split train: add images with a CSV of attributes first")
    fingerprint = _fingerprint(workspace.schema.names, train, test, size, config, seed)
    path = workspace.path / "cache" / f"classifier-{fingerprint[:16]}.safetensors"
    if path.exists():
        return AttributeClassifier.load(path, device)
    started, device = time.perf_counter(), str(resolve_device(device))
    network = first_weights(seed, lambda: build_network(config.classifier, len(workspace.schema.names), size))
    steps = fit(network, _reader(workspace, train.ids, size), train.labels, config, device, seed, progress)
    about: dict[str, Any] = {
        "names": list(workspace.schema.names),
        "size": size,
        "architecture": config.classifier,
        "fingerprint": fingerprint,
        "images": len(train),
        "steps": steps,
        "planned": planned_steps(config, len(train)),
    }
    classifier = AttributeClassifier(network, about, device)
    if len(test):
        about["per_attribute"] = classifier.score(workspace.load(test.ids, size), test.labels)
    about["seconds"] = round(time.perf_counter() - started, 1)
    classifier = AttributeClassifier(network, about, device)
    classifier.save(path, about)
    return classifier


def planned_steps(config: EvaluationConfig, images: int) -> int:
    """The updates of `classifier_epochs` passes over so many images."""
    return max(1, round(config.classifier_epochs * (images // min(config.classifier_batch, images))))


def fit(
    network: nn.Module,
    read: Callable[[NDArray[np.int64]], Tensor],
    labels: NDArray[np.int8],
    config: EvaluationConfig,
    device: str,
    seed: int,
    progress: Progress | None = None,
    *,
    steps: int | None = None,
    timed: bool = True,
) -> int:
    """Trains in place, AdamW on a one-cycle schedule that ends with the epochs (or `steps`) or the minutes; steps done.

    `read` gives uint8 images [b, S, S, 3] of rows of `labels` [n, A]. Not `timed`: all steps, whatever they take.
    """
    place = torch.device(device)
    network.to(place, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.classifier_lr)
    rng = np.random.default_rng(seed)
    batch = min(config.classifier_batch, len(labels))
    per_epoch = len(labels) // batch
    total = steps or planned_steps(config, len(labels))
    seconds = 60 * config.classifier_minutes if timed else math.inf
    targets = torch.from_numpy(labels)
    order, step, started = np.arange(len(labels)), 0, time.perf_counter()
    while True:
        done = max(step / total, (time.perf_counter() - started) / seconds)
        if done >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = config.classifier_lr * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
        if step % per_epoch == 0:
            order = rng.permutation(len(labels))
        rows = order[step % per_epoch * batch :][:batch]
        images = _augmented(to_tensor(read(rows), place), rng, config.classifier_mirror)
        with _autocast(place):
            logits = network(images)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(labels_loss(logits.float(), targets[rows].to(place)))
        optimizer.step()
        step += 1
        if progress is not None:
            progress(step, total)


def _augmented(images: Tensor, rng: np.random.Generator, mirror: bool) -> Tensor:
    """Images [B, 3, S, S], half of them mirrored if asked, all shifted by up to S/16 pixels (edges reflected)."""
    if mirror:
        mirrored = torch.from_numpy(rng.random(len(images)) < 0.5).to(images.device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return shifted(images, rng).contiguous(memory_format=torch.channels_last)


def _autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 where it is quicker."""
    half = faster_precision(device.type) == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()


def _labelled(workspace: Workspace, split: str) -> ImageTable:
    """Real images of a split with at least one known label."""
    table = workspace.images(f"split={split} origin=real")
    return table.select(np.flatnonzero((table.labels >= 0).any(1)))


def _reader(workspace: Workspace, ids: NDArray[np.int64], size: int) -> Callable[[NDArray[np.int64]], Tensor]:
    """Rows → uint8 images [b, size, size, 3]: decoded once where the memory is small, else as they are needed."""
    if len(ids) * size * size * 3 <= IN_MEMORY:
        images = torch.from_numpy(workspace.load(ids, size))
        return lambda rows: images[torch.from_numpy(rows)]
    return lambda rows: torch.from_numpy(workspace.load(ids[rows], size))


def _fingerprint(
    names: Sequence[str], train: ImageTable, test: ImageTable, size: int, config: EvaluationConfig, seed: int
) -> str:
    """sha-256 hex of all that decides the weights and their scores: ids are never reused, so they name the images."""
    text = json.dumps([RECIPE, list(names), size, config.of_classifier(), seed], sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for table in (train, test):
        digest.update(np.ascontiguousarray(table.ids).tobytes() + np.ascontiguousarray(table.labels).tobytes())
    return digest.hexdigest()
