"""Did the content stay? A classifier of a text field, taught by real images of the target domain, reads translations.

The field names what a translation has to keep, such as the class of PACS (`folder`) when photos become sketches. The
classifier sees real training images of the target domain only; the share of translations in which it still reads the
source's value stands beside the same share of real test images of that domain, and of copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from retrieval.tensors import first_weights
from translation.evaluation.classifier import AttributeClassifier, Progress, build_network, fit
from translation.evaluation.config import EvaluationConfig

MOST_VALUES = 50


@dataclass(frozen=True)
class ContentReader:
    """Reads a text field's value off images. `accuracy`: on real test images of the target domain, None without any.

    `wanted` int64 [n]: the value of each pair's source, as its place in `values`; −1 where it has none of them.
    """

    field: str
    values: tuple[str, ...]
    classifier: AttributeClassifier
    wanted: NDArray[np.int64]
    accuracy: float | None

    def kept(self, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [n, 2] for images [n, S, S, 3] of pairs `rows`: whether the source's value is read, and known."""
        wanted = self.wanted[rows]
        read = self.classifier.read(images).logits.argmax(1)
        return np.stack([(read == wanted) & (wanted >= 0), wanted >= 0], axis=1).astype(np.int64)


def train_content_reader(
    workspace: Workspace,
    field: str,
    source: NDArray[np.int64],
    size: int,
    config: EvaluationConfig,
    *,
    target: str = "",
    split: str = "test",
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> ContentReader:
    """Train a reader of `field` for pairs with these sources [n]; `target` is the filter of the target domain.

    UsageError for a field that the workspace does not have or with too many values; RgunitError where fewer than two
    values have two training images of the target domain each.
    """
    table = workspace.images(f"split=train origin=real {target}".strip())
    if field not in table.fields:
        there = ", ".join(table.fields) or "none"
        raise UsageError(f"there is no text field {field!r} to read the content by: there are {there}")
    names = table.fields[field]
    counts = {value: names.count(value) for value in dict.fromkeys(names) if value}
    if len(counts) > MOST_VALUES:
        raise UsageError(
            f"the field {field!r} has {len(counts)} values among the training images, and at most {MOST_VALUES} can be "
            "read: choose another one, a class rather than a name"
        )
    values = tuple(sorted(value for value, count in counts.items() if count > 1))
    if len(values) < 2:
        raise RgunitError(
            f"content is read by {field!r} where two of its values have two training images of the target domain each, "
            f"and {len(values)} have: add images, or choose another field"
        )
    place = {value: number for number, value in enumerate(values)}
    rows = np.array([row for row, value in enumerate(names) if value in place])
    labels = np.zeros((len(rows), len(values)), np.int8)
    labels[np.arange(len(rows)), [place[str(names[row])] for row in rows]] = 1
    ids = table.ids[rows]
    network = first_weights(seed, lambda: build_network(config.classifier, len(values), size))

    def read(chosen: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(workspace.load(ids[chosen], size))

    steps = fit(network, read, labels, config, device, seed, progress)
    about: dict[str, Any] = {
        "names": values,
        "size": size,
        "architecture": config.classifier,
        "fingerprint": "content",
        "steps": steps,
    }
    reader = AttributeClassifier(network, about, device)
    test = workspace.images(f"split={split} origin=real {target}".strip())
    known = np.array([row for row, value in enumerate(test.fields[field]) if value in place], np.int64)
    accuracy = None
    if len(known):
        truth = np.array([place[str(test.fields[field][row])] for row in known])
        accuracy = float((reader.read(workspace.load(test.ids[known], size)).logits.argmax(1) == truth).mean())
    sources = workspace.images(ids=np.unique(source))
    of = dict(zip(sources.ids.tolist(), sources.fields[field], strict=True))
    wanted = np.array([place.get(str(of[int(image)]), -1) for image in source], np.int64)
    return ContentReader(field, values, reader, wanted, accuracy)
