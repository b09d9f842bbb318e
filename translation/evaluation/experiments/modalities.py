"""Zero-pair translation across modalities: the rows of the thesis' Tables 4.1 to 4.3, trained and judged.

A row is one training whose settings differ in what the table asks about. Each is judged on the test images by all its
translations: those seen in training, the unseen ones by joining, the unseen ones by way of the anchor (`cascade`), and
the anchor's latent map mixed with another's (`both`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_store.errors import RgunitError, UsageError
from index_store.images import write_image
from index_store.learned import NOBODY, barred_from, left_out
from index_store.runs import CHECKPOINT
from index_store.whole import write_json
from index_store.workspace import Workspace
from retrieval.loading import resolve_device
from retrieval.tensors import as_picture, to_pixels, to_tensor
from translation.config import Config, load_config
from translation.evaluation.classifier import AttributeClassifier, train_classifier
from translation.methods import find_method
from translation.methods.zero_pair import ZeroPair, shown
from translation.modalities import MODALITIES, Parts, check_drawn, distance, seen_as
from translation.networks.mix_match import Latent
from translation.progress import Progress
from translation.stages import train_translation
from translation.training.checkpoints import load_networks

ROWS = {
    "translations alone": ("autoencoder=0", "latent=0", "noise=0", "pseudo=0"),
    "autoencoders": ("latent=0", "noise=0", "pseudo=0"),
    "latent consistency": ("noise=0", "pseudo=0"),
    "mix-match": ("pseudo=0",),
    "pseudo-pairs": (),
    "no side information": ("side=none", "pseudo=0"),
    "skip connections": ("side=skip", "pseudo=0"),
}
"""Table 4.3 (each with what the one before has, and more), then Table 4.2's beside `mix-match`. Table 4.1 is
`mix-match` and `pseudo-pairs` between opponent colours."""
PLACES = {"side": "networks.side", "noise": "translation.noise"}  # others are weights
SHARE = 0.2  # of the other modality's latent map beside the anchor's
BATCH = 64
SHOWN = 6  # images of a grid


@dataclass(frozen=True)
class Way:
    """A translation that is judged: from `source` to `target`, and how: seen, unseen, cascade or both."""

    kind: str
    source: str
    target: str

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.source} to {self.target}"


def ways(modalities: Sequence[str]) -> list[Way]:
    """Those from and to the anchor, and for each unseen one joining, cascade and both."""
    anchor, others = modalities[0], modalities[1:]
    found = [Way("seen", *pair) for other in others for pair in ((anchor, other), (other, anchor))]
    unseen = [(a, b) for a in others for b in others if a != b]
    return found + [Way(kind, a, b) for a, b in unseen for kind in ("unseen", "cascade", "both")]


def run_modalities(
    workspace: Workspace,
    preset: str,
    out: Path,
    *,
    rows: Sequence[str] = tuple(ROWS),
    seeds: Sequence[int] = (0,),
    file: Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and judge what is not done yet: {rows: {row: {way: {measure: mean over seeds}}}, seeds}.

    A file a row and seed in `out`, and a picture; a second call goes on. UsageError for a row that there is not.
    """
    progress = progress or Progress()
    if strange := [row for row in rows if row not in ROWS]:
        raise UsageError(f"no row is called {strange[0]!r}: --rows takes some of {', '.join(ROWS)}")
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        changes = [_setting(change) for change in ROWS[row]]
        config = load_config(preset, file=file, overrides=[*overrides, *changes])
        if find_method(config.method) is not ZeroPair:
            raise UsageError(f"{preset} is of {config.method}: give --preset zero-pair or zero-pair-colours")
        each = []
        for seed in seeds:
            path = out / f"{row.replace(' ', '-')}-{seed}.json"
            if path.exists():
                kept: dict[str, Any] = json.loads(path.read_text())
                if kept["config"] != config.model_dump(mode="json"):
                    raise RgunitError(f"{path} was made with other settings: give another --out")
                each.append(kept)
                continue
            progress.stage(f"{row}, seed {seed}")
            entry, grid = _row(workspace, config, seed, device, progress)
            out.mkdir(parents=True, exist_ok=True)
            write_image(path.with_suffix(".png"), grid)
            write_json(path, entry)
            each.append(entry)
        found[row] = {
            way: {name: fmean(one["ways"][way][name] for one in each) for name in measures}
            for way, measures in each[0]["ways"].items()
        }
    return {"rows": found, "seeds": list(seeds)}


def _setting(change: str) -> str:
    name, _, value = change.partition("=")
    return f"{PLACES.get(name, f'translation.weights.{name}')}={value}"


def _row(
    workspace: Workspace, config: Config, seed: int, device: str, progress: Progress
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    result = train_translation(workspace, config, seed=seed, device=device, resume="auto", progress=progress)
    if result.stopped:
        raise KeyboardInterrupt
    method = ZeroPair.build(config, workspace.schema.subset(()), "translation", inference=True)
    load_networks(result.run.path / CHECKPOINT, method.networks)
    placed = resolve_device(device)
    for network in method.networks.values():
        network.to(placed).eval().requires_grad_(False)
    classifier = None
    if "rgb" in method.modalities and workspace.schema.names:
        progress.stage("classifier")
        classifier = train_classifier(
            workspace, config.data.size, config.evaluation, device=str(placed), seed=0, progress=progress.step
        )
    progress.stage("judged")
    learned = barred_from(workspace, "test", [result.run], progress.note)
    judged, grid = judge(workspace, method, config.data.size, placed, classifier, learned)
    about = {"run": result.run.id, "steps": result.steps, "seconds": round(result.seconds, 1)}
    return {"config": config.model_dump(mode="json"), "seed": seed, **about, "ways": judged}, grid


@torch.no_grad()
def judge(
    workspace: Workspace,
    method: ZeroPair,
    size: int,
    device: torch.device,
    classifier: AttributeClassifier | None = None,
    learned: NDArray[np.int64] = NOBODY,
) -> tuple[dict[str, dict[str, float]], NDArray[np.uint8]]:
    """{way: measures} over the test images, and a picture of some: a row an image, RGB, then each way's result.

    Of classes `miou` (of those that occur) and `pixels` right; of depth `within` (δ < 1.25), `rmse` and `rmse_log` of
    distances; of others `rmse`; of RGB also the classifier's `accuracy` over all known labels and `group`, the share of
    images with all labels of exclusive groups right. RGB itself stands as the way `real`. Of each two modalities
    `alignment`, the mean cosine of their latent maps (Eq. 4.16). `learned`: ids that are not judged.
    """
    table = workspace.images("split=test origin=real")
    parts = Parts(table, size) if any(MODALITIES[name].drawn for name in method.modalities) else None
    ids = table.ids if parts is None else table.ids[parts.known]
    ids = ids[~left_out(ids, learned, "test")]
    check_drawn(method.modalities, ids)
    if not len(ids):
        raise RgunitError("the split test has no images to judge: add some with `rgunit add DIR --split test`")
    labels = table.labels[table.places(ids)]
    meters = {way.name: Meter(way.target, workspace, classifier) for way in ways(method.modalities)}
    if classifier is not None:
        meters["real"] = Meter("rgb", workspace, classifier)
    columns: list[Tensor] = []
    cosines: dict[str, list[Tensor]] = {}
    for start in range(0, len(ids), BATCH):
        some = ids[start : start + BATCH]
        images = to_tensor(workspace.load(some, size), device)
        drawn = None if parts is None else torch.from_numpy(parts.of(some)).to(device)
        seen = {name: seen_as(name, images, drawn) for name in method.modalities}
        if start == 0:
            columns += [images[:SHOWN], *(as_rgb(name, seen[name][:SHOWN]) for name in method.modalities[1:])]
        if "real" in meters:
            meters["real"].add(images, images, labels[start : start + BATCH])
        latents = {name: method.encode(name, one) for name, one in seen.items()}
        for first, second in itertools.combinations(method.modalities, 2):
            one, other = (latents[name].content.flatten(1).float() for name in (first, second))
            cosines.setdefault(f"latent: {first} and {second}", []).append(torch.cosine_similarity(one, other))
        for way, made in _made(method, latents):
            meters[way.name].add(made, seen[way.target], labels[start : start + BATCH])
            if start == 0 and way.kind != "cascade":
                columns.append(as_rgb(way.target, made[:SHOWN]))
    judged = {name: meter.measures() for name, meter in meters.items()}
    judged |= {name: {"alignment": float(torch.cat(parts).mean())} for name, parts in cosines.items()}
    return judged, as_picture(torch.stack(columns, 1))


def _made(method: ZeroPair, latents: Mapping[str, Latent]) -> Iterator[tuple[Way, Tensor]]:
    anchor = method.anchor
    for way in ways(method.modalities):
        latent = latents[way.source]
        if way.kind == "cascade":
            latent = method.encode(anchor, shown(anchor, method.decode(anchor, latent)))
        elif way.kind == "both":  # the anchor's side information
            mixed = torch.lerp(latents[anchor].content, latent.content, SHARE)
            latent = latents[anchor]._replace(content=mixed)
        yield way, shown(way.target, method.decode(way.target, latent))


def as_rgb(name: str, seen: Tensor) -> Tensor:
    """A modality [B, channels, H, W] as a picture [B, 3, H, W]; classes as greys."""
    if MODALITIES[name].kind == "classes":
        seen = 2 * seen.argmax(1, keepdim=True) / (seen.shape[1] - 1) - 1
    return seen.expand(-1, 3, -1, -1).float().clamp(-1, 1)


class Meter:
    """What is counted of one translation, batch by batch."""

    def __init__(self, target: str, workspace: Workspace, classifier: AttributeClassifier | None) -> None:
        self.target, self.kind = target, MODALITIES[target].kind
        self.classifier = classifier if target == "rgb" else None
        self.groups = [workspace.schema.indices(group) for group in workspace.schema.groups]
        self.columns = [] if classifier is None else workspace.schema.indices(classifier.names)
        self.confusion = torch.zeros(MODALITIES[target].channels, MODALITIES[target].channels, dtype=torch.int64)
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def add(self, made: Tensor, wanted: Tensor, labels: NDArray[np.int8]) -> None:
        """A batch: what was made, what it should be, and all labels int8 [n, A] of the images."""
        if self.kind == "classes":
            pairs = wanted.argmax(1).flatten() * len(self.confusion) + made.argmax(1).flatten()
            counted = torch.bincount(pairs.cpu(), minlength=self.confusion.numel())
            self.confusion += counted.view_as(self.confusion)
            return
        if self.kind == "depth":
            made, wanted = distance(made), distance(wanted)
            apart = torch.maximum(made / wanted, wanted / made)
            self._count("within", (apart < 1.25).float())
            self._count("rmse_log", (made.log() - wanted.log()).square())
        self._count("rmse", (made - wanted).square())
        if self.classifier is not None:
            known = labels[:, self.columns]
            right = self.classifier.read(to_pixels(made)).bits == known
            self._count("accuracy", torch.from_numpy(right[known >= 0]).float())
            for group in self.groups:
                places = [self.columns.index(column) for column in group if column in self.columns]
                told = (known[:, places] >= 0).all(1)
                self._count("group", torch.from_numpy(right[told][:, places].all(1)).float())

    def measures(self) -> dict[str, float]:
        """Means over all that was added; roots of squares."""
        if self.kind == "classes":
            hits, union = self.confusion.diag(), self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diag()
            there = self.confusion.sum(1) > 0
            miou = float((hits[there] / union[there]).mean())
            return {"miou": miou, "pixels": float(hits.sum() / self.confusion.sum())}
        means = {name: total / self.counts[name] for name, total in self.sums.items() if self.counts[name]}
        return {name: value**0.5 if name.startswith("rmse") else value for name, value in means.items()}

    def _count(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.double().sum())
        self.counts[name] = self.counts.get(name, 0.0) + values.numel()
