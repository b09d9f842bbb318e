"""Whether the content stayed: painted pictures whose class is their colour and whose domain is a frame around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from translation.evaluation.config import EvaluationConfig
from translation.evaluation.relevance import MOST_VALUES, train_content_reader

FAST = EvaluationConfig(classifier_epochs=6, classifier_batch=16, classifier_mirror=False)
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def paint(colour: str, framed: bool, rng: np.random.Generator) -> np.ndarray:
    pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 25, (32, 32, 3)), 0, 255)
    if framed:
        pixels[:4] = pixels[-4:] = pixels[:, :4] = pixels[:, -4:] = 0
    return pixels.astype(np.uint8)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """`plain/COLOUR/…` and `framed/COLOUR/…` below train and test: the colour becomes the text field `folder`."""
    folder, rng = tmp_path_factory.mktemp("painted"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 6)):
        for domain in ("plain", "framed"):
            for colour in COLOURS:
                place = folder / "pictures" / split / domain / colour
                place.mkdir(parents=True)
                for number in range(count):
                    Image.fromarray(paint(colour, domain == "framed", rng)).save(place / f"{number}.png")
    with Workspace.create(folder / "workspace") as workspace:
        workspace.add_images(folder / "pictures")
        yield workspace


def test_the_share_is_that_of_pictures_whose_class_is_still_read(painted: Workspace) -> None:
    sources = painted.images("split=test +plain")
    reader = train_content_reader(painted, "folder", sources.ids, 32, FAST, target="+framed")
    assert reader.values == ("blue", "green", "red") and reader.accuracy is not None and reader.accuracy > 0.9
    colours, rng = [str(value) for value in sources.fields["folder"]], np.random.default_rng(1)
    rows = np.arange(len(colours))
    right = np.stack([paint(colour, True, rng) for colour in colours])
    assert reader.kept(right, rows)[:, 0].mean() > 0.9 and (reader.kept(right, rows)[:, 1] == 1).all()
    wrong = np.stack([paint({"red": "green", "green": "blue", "blue": "red"}[c], True, rng) for c in colours])
    assert reader.kept(wrong, rows)[:, 0].mean() < 0.1


def test_a_source_of_a_class_that_is_not_known_counts_neither_way(painted: Workspace) -> None:
    sources = painted.images("split=test +plain")
    reader = train_content_reader(
        painted, "folder", sources.ids[:2], 32, FAST.model_copy(update={"classifier_epochs": 0.1})
    )
    reader.wanted[0] = -1
    assert reader.kept(painted.load(sources.ids[:2], 32), np.array([0, 1]))[0].tolist() == [0, 0]


def test_fields_that_cannot_be_read_are_refused_in_one_line(painted: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text field 'class' to read the content by: there are folder"):
        train_content_reader(painted, "class", np.array([1]), 32, FAST)
    rows = ["image,split,A,identity"]
    for number in range(MOST_VALUES + 2):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,train,{number % 2},n{number}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    with Workspace.create(tmp_path / "workspace") as workspace:
        workspace.add_images(tmp_path, attributes=tmp_path / "labels.csv")
        with pytest.raises(UsageError, match="has 52 values among the training images, and at most 50"):
            train_content_reader(workspace, "identity", np.array([1]), 32, FAST)
        with pytest.raises(RgunitError, match="add images, or choose another field"):
            train_content_reader(workspace, "identity", np.array([1]), 32, FAST, target="id=1|2")
