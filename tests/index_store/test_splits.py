"""Splits are drawn and changed; the same draw again changes nothing, and a person stays on one side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store.errors import RgunitError, UsageError
from index_store.learned import keep_learned
from index_store.splits import draw_splits, set_split, told
from index_store.workspace import GeneratedImage, Workspace
from tests.catalogs import sealed_only


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """40 images of 8 people, all in split train, with one attribute."""
    (tmp_path / "d").mkdir()
    rows = ["image,identity,A,split"]
    for number in range(40):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "d" / f"{number}.png")
        rows.append(f"{number}.png,p{number % 8},{number % 2},train")
    (tmp_path / "d" / "metadata.csv").write_text("\n".join(rows))
    with Workspace.create(tmp_path / "w") as made:
        made.add_images(tmp_path / "d")
        yield made


def test_a_share_is_drawn_and_the_same_draw_changes_nothing(workspace) -> None:
    first = draw_splits(workspace, test=0.3, val=0.2)
    assert first.changed == first.by_split["test"] + first.by_split["val"] > 8
    assert draw_splits(workspace, test=0.3, val=0.2).changed == 0
    assert draw_splits(workspace, test=0.3, val=0.2, seed=1).changed > 0
    labels, fields = workspace.images().labels[:, 0], workspace.images().fields["identity"]
    assert labels.tolist() == [number % 2 for number in range(40)] and fields[9] == "p1"
    assert workspace.store().verify().ok


def test_whole_people_are_drawn(workspace) -> None:
    draw_splits(workspace, test=0.5, by="identity")
    table = workspace.images()
    of = {person: set() for person in table.fields["identity"]}
    for person, split in zip(table.fields["identity"], table.split, strict=True):
        of[person].add(str(split))
    assert all(len(splits) == 1 for splits in of.values()) and len({*map(tuple, of.values())}) == 2


def test_images_of_a_filter_get_a_split_and_translations_follow(workspace) -> None:
    number = int(workspace.images().ids[0])
    workspace.add_generated([GeneratedImage(np.zeros((16, 16, 3), np.uint8), number, np.ones(1, np.int8), "r1")])
    report = set_split(workspace, "Testing", f"id={number}")
    assert (report.changed, report.by_split) == (2, {"test": 1, "train": 39})
    assert set(map(str, workspace.images("origin=generated").split)) == {"test"}


@pytest.mark.sqlite
def test_translations_that_a_killed_writer_had_sealed_follow_too(workspace) -> None:
    number = int(workspace.images().ids[0])
    workspace.close()
    made = [GeneratedImage(np.zeros((16, 16, 3), np.uint8), number, np.ones(1, np.int8), "r1")]
    sealed_only(workspace.path, lambda other: other.add_generated(made))
    with Workspace.open(workspace.path) as again:
        assert set_split(again, "test", f"id={number}").changed == 2


def test_what_runs_learned_from_is_told(workspace) -> None:
    run = workspace.add_run("translation", "demo", {})
    keep_learned(run.path, workspace.images().ids[:10])
    assert draw_splits(workspace, test=0.5).learned == told(workspace).learned > 0


def test_what_cannot_be_meant_is_refused(workspace) -> None:
    for given, error in (
        ({"test": 1.0}, "together they are"),
        ({"test": 0.5, "val": 0.5}, "together they are"),
        ({"test": 0.5, "by": "who"}, "no such text column"),
    ):
        with pytest.raises(UsageError, match=error):
            draw_splits(workspace, **given)
    with pytest.raises(RgunitError, match="no image passes"):
        set_split(workspace, "test", "id=900")
    assert told(workspace).by_split == {"train": 40}
