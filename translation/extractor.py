"""The semantic extractor: trained on the side, as narrow as it may be, and in use (UDIT; thesis, Section 5.5.1).

A classifier of the protected attribute is trained for each width D of its last map, all on the same batches. The
narrowest that keeps the accuracy of the best, on training images set aside, is the extractor: it has read what it must,
and little else that would hold a translation back.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from retrieval.tensors import first_weights, mirrored_pixels, to_tensor
from translation.config import Config, parse_config
from translation.evaluation.protocol import people_of
from translation.networks.extractor import Extractor
from translation.progress import Progress
from translation.runs import EXTRACTOR, extractors
from translation.sampling import shifted
from translation.training.checkpoints import load_networks

ASIDE = 5  # one in so many people is set aside to choose the width by
LEAST = 10  # images that each answer needs
FEW = 20  # images set aside, below which their accuracy says little
BATCH = 256


class ExtractorTask:
    """The classifiers as one task of the training loop: half of every batch has the attribute, half has not.

    RgunitError where fewer than LEAST training images are known to have it, or to lack it, or all of these are of one
    person.
    """

    average_decay = 0.99

    def __init__(
        self,
        workspace: Workspace,
        config: Config,
        protect: str,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.workspace, self.settings, self.size = workspace, config.extractor, config.data.size
        self.mirror, self.seed, self.rank = config.data.mirror, seed, rank
        self.device, self.autocast = torch.device(device), autocast
        table = workspace.images("split=train origin=real")
        column = workspace.schema.index(protect)
        table = table.select(np.flatnonzero(table.labels[:, column] >= 0))
        bits = table.labels[:, column]
        people = np.array(people_of(table))
        for value, verb in ((1, "have"), (0, "lack")):
            if (images := int((bits == value).sum())) < LEAST:
                raise RgunitError(
                    f"an extractor of {quoted(protect)} needs {LEAST} training images or more that are known to {verb} "
                    f"it: {images} do; add some"
                )
            if len(set(people[bits == value])) < 2:
                raise RgunitError(
                    f"an extractor of {quoted(protect)} learns from some people and is judged by others, and all "
                    f"{images} training images that are known to {verb} it are of one person: add images of others"
                )
        aside = _aside(people, bits, seed)
        self.by_value = [table.ids[~aside & (bits == value)] for value in (0, 1)]
        self.aside, self.aside_bits = table.ids[aside], bits[aside]
        self.learned = table.ids
        self.images_per_step = config.extractor.batch * world
        made = first_weights(seed, lambda: {name_of(width): build(config, width) for width in config.extractor.widths})
        self.networks: dict[str, nn.Module] = {name: network.to(self.device) for name, network in made.items()}
        self.averaged = tuple(self.networks)
        weights = [weight for network in self.networks.values() for weight in network.parameters()]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "extractor": torch.optim.AdamW(weights, lr=config.extractor.learning_rate, weight_decay=0.01)
        }

    def learning_rates(self, step: int) -> dict[str, float]:
        """In a line down to 0 at the last step, after a twentieth of rising."""
        total = self.settings.steps
        share = min((step + 1) / max(1.0, 0.05 * total), max(0.0, (total - step) / total))
        return {"extractor": self.settings.learning_rate * share}

    def prepare(self, step: int) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] and whether they have the attribute [B], drawn from (seed, step)."""
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        batch = self.settings.batch
        bits = np.arange(batch) % 2
        ids = np.array([self.by_value[bit][rng.integers(len(self.by_value[bit]))] for bit in bits])
        pixels = mirrored_pixels(self.workspace.load(ids, self.size), (rng.random(batch) < 0.5) & self.mirror)
        return shifted(to_tensor(pixels, self.device), rng), torch.from_numpy(bits).float().to(self.device)

    def step(self, step: int, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, bits = batch
        with self.autocast():
            losses = {
                name: F.binary_cross_entropy_with_logits(network(images).float(), bits)
                for name, network in self.networks.items()
            }
        optimizer = self.optimizers["extractor"]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        optimizer.step()
        return {f"loss/{name}": loss.detach() for name, loss in losses.items()}

    def sample_grid(self, networks: Mapping[str, nn.Module]) -> None:
        """There is nothing to look at."""

    def health(self, metrics: Mapping[str, float]) -> str | None:
        """A warning where none of them learns."""
        losses = [value for name, value in metrics.items() if name.startswith("loss/")]
        if losses and min(losses) > 0.75:  # chance is ln 2 = 0.69
            return f"no extractor learns (lowest loss {min(losses):.2f}): lower extractor.learning_rate"
        return None


def train_curve(task: ExtractorTask, run: RunRecord, config: Config) -> dict[str, Any]:
    """Of a finished run {curve: [{width, accuracy}], width, scale, doubt?}, on the images set aside.

    accuracy: mean of the shares read right of images that have the attribute and of those that lack it. width: the
    smallest within `tolerance` of the best. scale: standard deviation of its features, by which they are divided.
    doubt: why it should not be relied on, where that is so.
    """
    curve, scales = [], {}
    for width in sorted(config.extractor.widths):
        network = _load(run, config, width, task.device)
        logits, scales[width] = _read(task, network)
        right = (logits > 0) == (task.aside_bits == 1)
        shares = [right[task.aside_bits == value].mean() for value in (0, 1)]
        curve.append({"width": width, "accuracy": round(float(np.mean(shares)), 4)})
    best = max(point["accuracy"] for point in curve)
    chosen = next(int(point["width"]) for point in curve if point["accuracy"] >= best - config.extractor.tolerance)
    doubt = _doubt(best, [int((task.aside_bits == value).sum()) for value in (0, 1)])
    return {"width": chosen, "curve": curve, "scale": scales[chosen]} | ({"doubt": doubt} if doubt else {})


def _doubt(accuracy: float, aside: Sequence[int]) -> str:
    """What is said of an extractor of this accuracy on so many images that lack and that have the attribute, if any."""
    by_chance = 1.96 * math.sqrt(sum(0.25 / images for images in aside)) / 2
    if accuracy <= 0.5 + by_chance:
        return (
            f"reads no better than chance: accuracy {accuracy:.2f} on {sum(aside)} images set aside, by chance "
            f"0.50 ± {by_chance:.2f}; train it longer (extractor.steps), or add images"
        )
    return f"was judged by {sum(aside)} images only: add some" if sum(aside) < FEW else ""


@dataclass(frozen=True)
class SemanticExtractor:
    """A trained extractor of one attribute; its weights are frozen, gradients go through to the images."""

    run: str
    protect: str
    network: Extractor
    scale: float

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, size, size] in [−1, 1] → h, [B, D, s, s], of standard deviation 1 on real images."""
        return self.network.features(images) / self.scale

    @torch.no_grad()
    def bits(self, images: Tensor) -> NDArray[np.int8]:
        """What it reads, int8 [B] in {0, 1}."""
        read: NDArray[np.int8] = (self.network(images.float()) > 0).cpu().numpy().astype(np.int8)
        return read


def open_extractor(
    workspace: Workspace, name: str, size: int, device: torch.device | str, progress: Progress | None = None
) -> SemanticExtractor:
    """The extractor of a run, by default (empty name) the newest; `progress` is told of a doubt about it.

    RgunitError where it is none, or of another size.
    """
    runs = extractors(workspace)
    if not name and not runs:
        raise RgunitError(
            "semantic.weight holds what an extractor reads, and there is none: `rgunit train extractor --protect NAME` "
            "first"
        )
    run = workspace.run(name) if name else runs[-1]
    if run.stage != EXTRACTOR:
        raise RgunitError(f"semantic.extractor={name}: run {run.id} is of stage {run.stage}, not an extractor")
    if "width" not in run.summary:
        raise RgunitError(
            f"extractor {run.id} is not finished: `rgunit train extractor --protect {quoted(run.config['protect'])} "
            "--resume`"
        )
    config = parse_config(run.config["config"])
    if config.data.size != size:
        raise RgunitError(
            f"extractor {run.id} reads images of {config.data.size} px and these are of {size} px: train one with "
            f"--set data.size={size}"
        )
    if progress is not None:
        tell_doubt(run, progress)
    network = _load(run, config, int(run.summary["width"]), device)
    return SemanticExtractor(run.id, str(run.config["protect"]), network, float(run.summary["scale"]))


def check_held(protect: str, schema: AttributeSchema) -> None:
    """UsageError for an attribute that translation changes: what is seen of it cannot stay."""
    if protect in schema.names:
        raise UsageError(
            f"semantic.weight would hold {quoted(protect)}, an attribute in use, which translation changes: leave it "
            "out of --attributes-used, or name an extractor of another one (semantic.extractor)"
        )


def tell_doubt(run: RunRecord, progress: Progress) -> None:
    """A note where the extractor of a run should not be relied on."""
    if doubt := run.summary.get("doubt"):
        progress.note(f"the extractor of {quoted(run.config['protect'])}, run {run.id}, {doubt}")


def extractor_of(
    workspace: Workspace,
    protect: str,
    size: int,
    device: torch.device | str,
    named: Sequence[str] = (),
    progress: Progress | None = None,
) -> SemanticExtractor | None:
    """The extractor of an attribute: of `named` runs the one that protects it, else the newest; None where none is."""
    runs = [run for run in extractors(workspace) if run.config["protect"] == protect]
    runs = [run for run in runs if parse_config(run.config["config"]).data.size == size]
    chosen = [run for run in runs if run.id in named] or runs
    return open_extractor(workspace, chosen[-1].id, size, device, progress) if chosen else None


def build(config: Config, width: int) -> Extractor:
    """A fresh extractor of one width."""
    return Extractor(config.data.size, width, config.extractor.network_width)


def name_of(width: int) -> str:
    """What a checkpoint calls the extractor of a width."""
    return f"width{width}"


def _load(run: RunRecord, config: Config, width: int, device: torch.device | str) -> Extractor:
    network = build(config, width)
    load_networks(run.path / CHECKPOINT, {name_of(width): network})
    return network.to(device).eval().requires_grad_(False)


@torch.no_grad()
def _read(task: ExtractorTask, network: Extractor) -> tuple[NDArray[np.float32], float]:
    """Logits [n] of the images set aside, and the standard deviation of their features."""
    logits, features = [], []
    for start in range(0, len(task.aside), BATCH):
        part = task.workspace.load(task.aside[start : start + BATCH], task.size)
        found = network.features(to_tensor(part, task.device))
        features.append(found.float().flatten().cpu())
        logits.append(network.read(found)[:, 0].float().cpu())
    return torch.cat(logits).numpy(), max(float(torch.cat(features).std()), 1e-6)


def _aside(people: NDArray[np.str_], bits: NDArray[np.int8], seed: int) -> NDArray[np.bool_]:
    """bool [n]: whose images are set aside; of each value some person's, and not everybody's.

    Where few people have a value, chance may put them all on one side: then it is drawn again.
    """
    for draw in count(seed):
        chosen = {person: _drawn(person, draw) for person in set(people)}
        aside = np.array([chosen[person] for person in people])
        if all(0 < aside[bits == value].mean() < 1 for value in (0, 1)):
            break
    return aside


def _drawn(person: str, seed: int) -> bool:
    """Whether a person's images are set aside."""
    return int.from_bytes(hashlib.sha256(f"aside {seed} {person}".encode()).digest()[:4], "big") % ASIDE == 0
