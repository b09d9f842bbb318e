"""Collections that change under a run: pictures that are gone, splits that are exchanged."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index_store.errors import RgunitError
from index_store.learned import count_left_out, learned_from
from index_store.workspace import Workspace
from retrieval.pictures import neighbours_of
from tests.translation.small import USED, Notes, filled, tiny
from translation.evaluation.judging import evaluate_retrieval_run, evaluate_translation_runs
from translation.evaluation.protocol import kept_pairs
from translation.stages import train_retrieval, train_translation
from translation.training import sessions


@pytest.fixture
def own(tmp_path: Path, drawn: Path) -> Path:
    """The faces in a folder that a test may change, and a workspace of them beside it."""
    shutil.copytree(drawn, tmp_path / "faces")
    filled(tmp_path / "own", tmp_path / "faces")
    return tmp_path / "own"


def lose(workspace: Workspace, where: str, count: int) -> list[str]:
    paths = workspace.images(where).paths[:count]
    for path in paths:
        Path(path).unlink()
    return paths


def test_one_lost_picture_is_left_out_and_told_and_more_than_one_percent_end_it_before_the_first_step(
    own: Path,
) -> None:
    with Workspace.open(own) as workspace:
        real, notes = len(workspace.images("origin=real")), Notes()
        (lost,) = lose(workspace, "split=train origin=real", 1)
        done = train_translation(workspace, tiny(), attributes_used=USED, device="cpu", progress=notes)
        assert done.run.status == "done" and len(learned_from(workspace, [done.run])) == 63
        assert any(f"1 of {real} pictures is gone and left out, {lost}" in told for told in notes.told)
        assert train_retrieval(workspace, tiny(), device="cpu").run.status == "done"
        runs = workspace.runs()
        lose(workspace, "split=train origin=real", 2)
        for resume in (False, "changed"):
            with pytest.raises(RgunitError, match=f"of {real} pictures are gone.*rgunit add NEWPLACE"):
                longer = tiny("translation.steps=9")
                train_translation(workspace, longer, attributes_used=USED, device="cpu", resume=resume)
        assert workspace.runs() == runs


def test_a_finished_run_whose_resume_fails_is_still_done(staged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RgunitError("the disk is gone")

    monkeypatch.setattr(sessions, "train", fails)
    with pytest.raises(RgunitError, match="the disk is gone"):
        longer = tiny("translation.steps=9")
        train_translation(staged, longer, attributes_used=USED, device="cpu", resume="changed")
    assert (staged.run("r1").status, staged.run("r1").steps) == ("done", 4)


def test_a_neighbour_that_is_gone_is_told_with_its_remedy(own: Path) -> None:
    with Workspace.open(own) as workspace:
        found = neighbours_of(workspace, np.array([1, 2]), np.zeros(2, np.float32))
        Path(found[1].path).unlink()
        assert found[0].array(16).shape == (16, 16, 3)
        with pytest.raises(RgunitError, match=r"it is gone.*rgunit add NEWPLACE"):
            found[1].array(16)


@pytest.fixture
def split_anew(staged: Workspace, drawn: Path, tmp_path: Path) -> Callable[[Callable[[int, str], str]], None]:
    """Give the faces other splits: a function of their number and old split."""

    def change(new: Callable[[int, str], str]) -> None:
        with (drawn / "labelled" / "labels.csv").open(newline="") as text:
            rows = list(csv.DictReader(text))
        with (tmp_path / "other.csv").open("w", newline="") as text:
            writer = csv.DictWriter(text, rows[0])
            writer.writeheader()
            writer.writerows({**row, "split": new(number, row["split"])} for number, row in enumerate(rows))
        staged.add_images(drawn / "labelled", attributes=tmp_path / "other.csv", update=True)

    return change


def test_what_a_run_learned_from_is_never_judged_after_an_exchange_of_splits(
    staged: Workspace, split_anew: Callable[[Callable[[int, str], str]], None]
) -> None:
    runs = staged.runs()
    learned = learned_from(staged, [staged.run("r2")])  # r2 came from r1
    assert learned.tolist() == staged.images("split=train origin=real").ids.tolist()
    before = staged.images("split=test origin=real").ids
    split_anew(lambda number, split: "train" if split == "test" else "test")
    assert count_left_out(staged, "test", learned) == len(learned) > len(before)
    with pytest.raises(RgunitError, match=f"{len(learned)} are left out: the runs learned from them"):
        evaluate_translation_runs(staged, device="cpu")
    with pytest.raises(RgunitError, match=f"{len(learned)} are left out: the run learned from them"):
        evaluate_retrieval_run(staged, device="cpu")
    assert staged.runs() == runs


def test_the_rest_of_a_split_is_judged_and_how_many_are_left_out_is_told(
    staged: Workspace, tmp_path: Path, split_anew: Callable[[Callable[[int, str], str]], None]
) -> None:
    learned, before = learned_from(staged, [staged.run("r1")]), staged.images("split=test origin=real").ids
    asked = {"split": "test", "limit": 100, "seed": 0, "learned": learned}
    used = staged.schema.subset(USED)
    first, _ = kept_pairs(tmp_path, staged, used, **asked)  # type: ignore[arg-type]
    split_anew(lambda number, split: "test" if number % 3 else split)
    again, stale = kept_pairs(tmp_path, staged, used, **asked)  # type: ignore[arg-type]
    assert not stale and (again.source == first.source).all()
    assert not set(again.source) & set(learned) and set(again.others) <= set(before)
    notes = Notes()
    found = evaluate_retrieval_run(staged, device="cpu", progress=notes)
    count = count_left_out(staged, "test", learned)
    assert found.summary["left_out"] == count > 0 and set(found.query_ids) <= set(before)
    assert any(f"{count} images of split test are left out" in told for told in notes.told)
    changes = {"classifier_minutes": 0.001, "classifier_batch": 8, "diversity_inputs": 0, "bootstrap": 5}
    judged = evaluate_translation_runs(staged, run="r1", device="cpu", changes=changes, progress=Notes())
    assert judged.summary["protocol"]["left_out"] == count and not set(judged.pairs.others) & set(learned)
