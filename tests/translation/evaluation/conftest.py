"""Drawn faces in a workspace: 60 people, 6 faces each under random attributes, one label in 50 unknown."""

import csv
from collections.abc import Iterator
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
