"""Biased collections: two domains, and a protected attribute that goes with one of them; and a judge that never saw
them.

Three sets of images, with nobody in common: the biased one that all trainings of a table see, the images to be
translated, and those that teach the judge, in which every combination counts as much as the others.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from index_store.errors import RgunitError
from index_store.names import quoted
from index_store.workspace import ImageTable, Workspace
from retrieval.tensors import first_weights
from translation.drawings import Content, draw_face, name_drawing, random_attributes, restyled
from translation.evaluation.classifier import AttributeClassifier, build_network, fit
from translation.evaluation.config import EvaluationConfig
from translation.evaluation.protocol import halves, people_of
from translation.progress import Progress

COMBINATIONS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (wanted, protected)
LEAST = 5  # images of the rarer kind in a domain


@dataclass(frozen=True)
class Row:
    """An image of a set: its file, whether it has the wanted and the protected attribute, and text fields."""

    file: Path
    wanted: int
    protected: int
    fields: dict[str, str]


@dataclass(frozen=True)
class Bias:
    """`wanted` tells domains apart, `protected` should stay; `share` of a domain's images have the same value of it.

    `positive`: images with the wanted attribute are those that mostly have the protected one.
    """

    wanted: str
    protected: str
    share: float = 0.95
    positive: bool = True

    def usual(self, wanted: int) -> int:
        """The value of the protected attribute that most images of a domain have."""
        return wanted if self.positive else 1 - wanted

    def counts(self, per_domain: int) -> dict[tuple[int, int], int]:
        """Training images of each combination."""
        rare = max(1, round((1 - self.share) * per_domain))
        return {(w, p): per_domain - rare if p == self.usual(w) else rare for w, p in COMBINATIONS}


def drawn_sets(
    folder: Path, bias: Bias, *, size: int, per_domain: int, tested: int, taught: int
) -> dict[str, list[Row]]:
    """{train, test, judge} of drawn faces: `per_domain` biased ones, `tested` and `taught` of each combination."""
    wanted: dict[str, dict[tuple[int, int], int]] = {
        "train": bias.counts(per_domain),
        "test": dict.fromkeys(COMBINATIONS, tested),
        "judge": dict.fromkeys(COMBINATIONS, taught),
    }
    folder.mkdir(parents=True, exist_ok=True)
    sets: dict[str, list[Row]] = {}
    for part, (name, counts) in enumerate(wanted.items()):
        sets[name] = []
        order = [combination for combination in COMBINATIONS for _ in range(counts[combination])]
        for number, (has, keeps) in enumerate(order):
            random = np.random.default_rng([0xB1A5, part, number])
            content = Content.from_seed(int(random.integers(2**48)))
            attributes = {**random_attributes(random), "Hat": 0}
            attributes = restyled(attributes, {bias.wanted: has, bias.protected: keeps})
            file = folder / f"{name}-{number:05d}.png"
            if not file.exists():
                Image.fromarray(draw_face(content, attributes, size)).save(file, compress_level=1)
            sets[name].append(Row(file, has, keeps, {"drawing": name_drawing(content, attributes)}))
    return sets


def chosen_sets(source: Workspace, bias: Bias) -> dict[str, list[Row]]:
    """{train, test, judge} of a workspace's labelled images: half of the training people teach the judge.

    As many biased images as the rarest combination of the other half allows. Who appears is decided by a hash.
    RgunitError where a domain would have fewer than LEAST images of its rarer kind.
    """
    columns = source.schema.indices((bias.wanted, bias.protected))

    def labelled(split: str) -> ImageTable:
        table = source.images(f"split={split} origin=real")
        return table.select(np.flatnonzero((table.labels[:, columns] >= 0).all(axis=1)))

    table, test = labelled("train"), labelled("test")
    for_judge = halves(people_of(table), 0)
    bits = table.labels[:, columns]
    rows = {pair: np.flatnonzero((bits == pair).all(axis=1) & ~for_judge) for pair in COMBINATIONS}
    share = {(w, p): bias.share if p == bias.usual(w) else 1 - bias.share for w, p in COMBINATIONS}
    per_domain = int(min(len(rows[pair]) / share[pair] for pair in COMBINATIONS) + 1e-9)
    counts = bias.counts(per_domain) if per_domain else dict.fromkeys(COMBINATIONS, 0)
    if min(counts.values()) < LEAST:
        raise RgunitError(
            f"too few training images for a biased set of {quoted(bias.wanted)} and {quoted(bias.protected)}: a domain "
            f"would have {min(counts.values())} of its rarer kind, and {LEAST} are needed; choose other attributes"
        )
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(rows[pair])[: min(counts[pair], len(rows[pair]))] for pair in COMBINATIONS]
    return {
        "train": _rows(table.select(np.sort(np.concatenate(chosen))), columns),
        "test": _rows(test, columns),
        "judge": _rows(table.select(np.flatnonzero(for_judge)), columns),
    }


def biased_workspace(path: Path, sets: dict[str, list[Row]], bias: Bias) -> Workspace:
    """A workspace of the training and test images with these two labels alone; left where it is there."""
    workspace = Workspace.ensure(path)
    told = json.dumps([bias.wanted, bias.protected, bias.share, {name: len(rows) for name, rows in sets.items()}])
    if (kept := workspace.meta("biased")) is not None:
        if kept != told:
            raise RgunitError(f"{path} holds another biased set: give another --out")
        return workspace
    links = path / "images" / "given"
    links.mkdir(parents=True, exist_ok=True)
    fields = list(dict.fromkeys(name for rows in sets.values() for row in rows for name in row.fields))
    with (path / "images" / "biased.csv").open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["image", bias.wanted, bias.protected, "split", *fields])
        for split in ("train", "test"):
            for number, row in enumerate(sets[split]):
                name = f"{split}-{number:05d}{row.file.suffix}"
                if not (links / name).exists():
                    (links / name).symlink_to(row.file.absolute())
                writer.writerow([name, row.wanted, row.protected, split, *(row.fields.get(f, "") for f in fields)])
    workspace.add_images(links, attributes=path / "images" / "biased.csv")
    workspace.set_meta("biased", told)
    return workspace


def train_judge(
    path: Path,
    rows: Sequence[Row],
    bias: Bias,
    size: int,
    config: EvaluationConfig,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> AttributeClassifier:
    """The judge of both attributes, kept at `path`: a residual network on `rows` at `size` px.

    It is another network than any extractor, starts from another seed, and no training of the table saw its images.
    Where combinations are not equally often among them its last layer learns anew, each combination counting as much
    as the others (Kirichenko et al. 2023, deep feature reweighting): the features are learned from all images, what is
    read from them is not what mostly goes together. RgunitError where a combination has no image.
    """
    labels = np.array([(row.wanted, row.protected) for row in rows], np.int8)
    counts = [int((labels == pair).all(axis=1).sum()) for pair in COMBINATIONS]
    if not all(counts):
        raise RgunitError("the judge has no image of one combination of the two attributes: choose other attributes")
    uneven = len(set(counts)) > 1
    about: dict[str, Any] = {
        "names": [bias.wanted, bias.protected],
        "size": size,
        "architecture": config.classifier,
        "fingerprint": _fingerprint(rows, config, uneven),
    }
    if path.exists():
        kept = AttributeClassifier.load(path, device)
        if kept.fingerprint == about["fingerprint"]:
            return kept
    from index_store.images import read_image

    images = np.stack([read_image(row.file, size=size) for row in rows])
    given = torch.from_numpy(images)
    network = first_weights(JUDGE_SEED, lambda: build_network(config.classifier, 2, size))
    fit(
        network,
        lambda some: given[torch.from_numpy(some)],
        labels,
        config,
        device,
        JUDGE_SEED,
        None if progress is None else progress.step,
        timed=False,
    )
    judge = AttributeClassifier(network, about, device)
    if uneven:
        weight, bias_of_layer = evened(judge.read(images).features, labels)
        layer: Any = network.fc
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias_of_layer))
    judge.save(path, about)
    return judge


JUDGE_SEED = 4711
SHRINK = 0.1  # price on the squared weights of the judge's last layer, of features with deviation 1


def evened(features: NDArray[np.float32], labels: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [2, F] and bias [2] of logistic regressions of features [n, F] on labels [n, 2] in {0, 1}.

    Every combination of the two labels, each of which has to be there, weighs a quarter, however many have it.
    """
    middle, spread = features.mean(0), features.std(0) + 1e-6
    given, wanted = torch.from_numpy((features - middle) / spread), torch.from_numpy(labels).float()
    weights = torch.zeros(len(labels), 1)
    for pair in COMBINATIONS:
        have = torch.from_numpy((labels == pair).all(axis=1))
        weights[have] = 1 / (len(COMBINATIONS) * have.sum())
    layer = torch.nn.Linear(features.shape[1], 2)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def loss() -> float:
        optimizer.zero_grad()
        misread = F.binary_cross_entropy_with_logits(layer(given), wanted, reduction="none")
        total = (weights * misread).sum() + 2 * SHRINK * layer.weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = layer.weight.detach().numpy() / spread
    return found, layer.bias.detach().numpy() - found @ middle


def _rows(table: ImageTable, columns: list[int]) -> list[Row]:
    fields = {name: values for name, values in table.fields.items() if name in ("identity", "drawing")}
    return [
        Row(
            Path(table.paths[i]),
            int(table.labels[i, columns[0]]),
            int(table.labels[i, columns[1]]),
            {name: str(values[i]) for name, values in fields.items() if values[i]},
        )
        for i in range(len(table))
    ]


def _fingerprint(rows: Sequence[Row], config: EvaluationConfig, uneven: bool) -> str:
    told: list[Any] = [config.of_classifier(), [(row.file.name, row.wanted, row.protected) for row in rows]]
    told += ["evened", SHRINK] if uneven else []
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
