"""Drawn faces in a workspace: 60 people, 6 faces each under random attributes, one label in 50 unknown."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.workspace import Workspace
from translation.drawings import ATTRIBUTES, Content, draw_face, labels_of, name_drawing, random_attributes
from translation.evaluation.classifier import AttributeClassifier, train_classifier
from translation.evaluation.config import EvaluationConfig

FAST = EvaluationConfig(
    classifier_epochs=4, classifier_batch=16, classifier_mirror=False, batch=16, diversity_inputs=3, diversity_samples=2
)
PEOPLE, EACH, SIZE = 60, 6, 32


def draw(folder: Path) -> None:
    """Faces and labels.csv with identity, split (people 0–39 train) and drawing."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "identity", "split", "drawing", *ATTRIBUTES])
        for person in range(PEOPLE):
            for face in range(EACH):
                content = Content.from_seed(1000 + person)
                attributes = random_attributes(rng)
                name = f"{person:02d}-{face}.png"
                Image.fromarray(draw_face(content, attributes, SIZE)).save(folder / name)
                bits = ["" if rng.random() < 0.02 else int(bit) for bit in labels_of(content, attributes)]
                split = "train" if person < 40 else "test"
                writer.writerow([name, f"p{person}", split, name_drawing(content, attributes), *bits])


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("evaluation")
    draw(folder / "faces")
    with Workspace.create(folder / "workspace") as made:
        groups = ["Black_Hair|Blond_Hair|Brown_Hair"]
        made.add_images(folder / "faces", attributes=folder / "faces/labels.csv", groups=groups)
        yield made


@pytest.fixture(scope="session")
def classifier(workspace: Workspace) -> AttributeClassifier:
    """A classifier of the drawn faces, trained for some seconds: hats and glasses are easy to see."""
    return train_classifier(workspace, SIZE, FAST)


@pytest.fixture(scope="session")
def fast() -> EvaluationConfig:
    return FAST


@pytest.fixture(scope="session")
def write_network() -> Callable[[Path, list[int | str]], Path]:
    """Writes an ONNX file that averages each channel: its feature vector is the mean colour."""
    return _mean_colour_network


@pytest.fixture
def mean_colour_network(tmp_path: Path) -> Path:
    return _mean_colour_network(tmp_path / "mean.onnx", ["n", 3, 16, 16])


def _field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a varint or a length-delimited value."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def _tensor(name: str, shape: list[int | str]) -> bytes:
    """A ValueInfoProto of floats; a text is a free dimension."""
    dims = b"".join(_field(1, _field(1, side) if isinstance(side, int) else _field(2, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def _mean_colour_network(path: Path, shape: list[int | str]) -> Path:
    """An ONNX file that averages each channel: its feature vector is the mean colour."""
    node = _field(1, "x") + _field(2, "y") + _field(4, "GlobalAveragePool")
    graph = _field(1, node) + _field(2, "g") + _field(11, _tensor("x", shape))
    graph += _field(12, _tensor("y", [shape[0], 3, 1, 1]))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
    return path
