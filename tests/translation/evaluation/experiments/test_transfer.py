"""The transfer experiment: what is refused before anything is trained, and which rows are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from translation.evaluation.experiments.transfer import TransferPlan, _mixture, _over_seeds, alike, run_transfer


def judged(**rows: tuple[float, float]) -> dict[str, Any]:
    """A seed whose rows have an FD-attr and half its interval."""
    other = {"kmmd": 0.1, "diversity": 1.0, "nearest": 0.5, "copies": 0.0, "selector": [0.3, 0.7]}
    told = {
        name: {"fd_attr": value, "intervals": {"fd_attr": [value - half, value + half]}, **other}
        for name, (value, half) in rows.items()
    }
    return {"rows": told, "sources": {"+A": {"learned": True}, "+B": {"learned": False}}}


def test_rows_whose_intervals_overlap_are_not_told_apart() -> None:
    seeds = [
        judged(scratch=(30, 2), transfer=(28, 2), miner=(10, 1)),
        judged(scratch=(31, 2), transfer=(29, 2), miner=(11, 1)),
    ]
    found = _over_seeds(seeds)
    assert alike(found) == [("scratch", "transfer")]
    assert found["miner"]["fd_attr"]["mean"] == 10.5 and found["miner"]["selector"][1]["mean"] == 0.7
    assert found["scratch"]["counts"] and not found["miner"]["counts"], "a source did not learn"


def test_a_target_is_mixed_of_training_images_in_the_shares_asked_for(workspace: Workspace) -> None:
    filters, shares = ("+Glasses", "-Glasses"), (0.3, 0.7)
    chosen = workspace.images(_mixture(workspace, "train", filters, shares, 20))
    glasses = chosen.labels[:, workspace.schema.index("Glasses")]
    assert set(chosen.split) == {"train"} and (glasses == 1).sum() == 6 and (glasses == 0).sum() == 14
    assert _mixture(workspace, "train", filters, shares, 20) == _mixture(workspace, "train", filters, shares, 20)
    tested = workspace.images(_mixture(workspace, "test", filters, shares, None))
    assert set(tested.split) == {"test"}
    assert (tested.labels[:, workspace.schema.index("Glasses")] == 1).mean() == pytest.approx(0.3, abs=0.02)
    with pytest.raises(RgunitError, match="images of split train, and 3000 are needed"):
        _mixture(workspace, "train", filters, shares, 10_000)


def test_a_plan_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a folder"):
        run_transfer(TransferPlan())
    with pytest.raises(UsageError, match="at least 2 images"):
        TransferPlan(images=1)
    with pytest.raises(UsageError, match="a share for each --target"):
        TransferPlan(mix=(0.5, 0.5))
    with pytest.raises(RgunitError, match="no workspace at"):
        run_transfer(TransferPlan(out=tmp_path, workspace=tmp_path / "none"))
