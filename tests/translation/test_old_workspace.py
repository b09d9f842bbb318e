"""A workspace of commit abd7a7a, before methods had a house of their own, opens, answers and trains on as it did."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from index_store.workspace import Workspace
from retrieval.retriever import Retriever
from translation import work
from translation.config import Config
from translation.inference import translate_images
from translation.stages import train_guided, train_retrieval, train_translation

from .small import USED, tiny

OLD = Path(__file__).parent / "old"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
SETTINGS = (
    *("networks.width=0.02", "networks.discriminator_width=0.01"),
    *("retrieval.widths=[4,4,4]", "retrieval.hidden=8", "retrieval.dim=8", "retrieval.components=8"),
    "index.generated=2",
)


def as_then(steps: str) -> Config:
    """The settings that it was made with."""
    config = tiny(*SETTINGS, steps)
    translation = config.translation.model_copy(update={"discriminator_learning_rate": None})
    return config.model_copy(update={"translation": translation})


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Workspace]:
    with tarfile.open(OLD / "workspace-abd7a7a.tar.xz") as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in Python 3.11.0 to 3.11.3
        archive.extractall(tmp_path, **safely)  # type: ignore[arg-type]
    with Workspace.open(tmp_path / "workspace") as workspace:
        yield workspace


def close(found: dict[str, float], expected: dict[str, float]) -> None:
    since = ("images_per_second", "made_diversity", "made_change", "draws_diversity", "generator_gradient")
    found = {name: value for name, value in found.items() if name not in since}
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_it_is_queried_and_translated_with_as_before(
    old: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "picture_key", lambda _: 0)  # then a picture's place in the list was in its stead
    source = old.path / "images/drawn/labelled/000003.png"
    with Retriever.open(old) as retriever:
        assert retriever.encoders.fingerprint == EXPECTED["fingerprint"]
        found = retriever.search(source, edit="+Blond_Hair", k=5, labels="ignore")
    assert [hit.image_id for hit in found] == [image for image, _ in EXPECTED["query"]]
    assert [hit.distance for hit in found] == pytest.approx([d for _, d in EXPECTED["query"]], rel=1e-4)
    (row,) = translate_images(old, [source], to="+Blond_Hair", out=tmp_path / "out", device="cpu")
    assert [image["image_id"] for image in row["neighbours"]] == EXPECTED["neighbours"]
    pixels = np.asarray(Image.open(row["path"]))[::8, ::8].astype(int)
    assert np.abs(pixels - np.array(EXPECTED["translation"])).max() <= 1


def test_its_stages_train_on_as_before(old: Workspace) -> None:
    guided = train_guided(old, as_then("guided.steps=5"), device="cpu", resume=True)
    assert (guided.run.id, guided.steps) == ("r3", 5)
    close(guided.metrics, EXPECTED["resumed_guided"])
    retrieval = train_retrieval(old, as_then("retrieval.steps=5"), device="cpu", resume=True)
    assert (retrieval.run.id, retrieval.steps) == ("r2", 5)
    close(retrieval.metrics, EXPECTED["resumed_retrieval"])
    first = train_translation(old, as_then("translation.steps=6"), attributes_used=USED, device="cpu", resume=True)
    assert (first.run.id, first.steps) == ("r1", 6)
    close(first.metrics, EXPECTED["resumed_translation"])
