"""The experiment on a scarce domain: who is in which part, what is refused, and all of it through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import main
from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from translation.evaluation.experiments.scarce import ScarcePlan, _parts, run_scarce
from translation.evaluation.experiments.scarcescores import summary_of
from translation.evaluation.experiments.workspaces import part_workspace


def test_few_images_stay_and_who_teaches_the_judge_is_in_nothing_else(workspace: Workspace, tmp_path: Path) -> None:
    taught, scarce = _parts(workspace, ScarcePlan(wanted="Glasses", images=3))
    column, training = workspace.schema.index("Glasses"), scarce.split.astype(str) == "train"
    assert (scarce.labels[training, column] == 1).sum() == 3 < (taught.labels[:, column] == 1).sum()
    both = np.intersect1d(taught.ids, scarce.ids)
    assert set(workspace.images(ids=both).split) == {"test"} == set(scarce.split[~training])
    with part_workspace(tmp_path / "part", scarce) as part:
        assert len(part.images()) == len(scarce) and part.schema == workspace.schema
        assert (part.images("split=train").labels[:, column] == 1).sum() == 3
    with pytest.raises(RgunitError, match="was made of"):
        part_workspace(tmp_path / "part", taught)


def test_what_cannot_be_meant_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give presets of one size"):
        ScarcePlan(generator_preset="wgan-gp-64")
    with pytest.raises(UsageError, match="takes guidance, and cut is none"):
        ScarcePlan(preset="cut")
    with pytest.raises(UsageError, match=r"--mined 10 is too few, .*: give 11 or more"):
        ScarcePlan(mined=10)
    with pytest.raises(UsageError, match="needs a folder"):
        run_scarce(ScarcePlan())
    with pytest.raises(RgunitError, match="training images beside those that teach the judge, and 4000"):
        _parts(workspace, ScarcePlan(wanted="Glasses", images=4000))
    with pytest.raises(UsageError, match="Hat is none of the attributes used"):
        run_scarce(ScarcePlan(out=tmp_path / "out", workspace=workspace.path, wanted="Hat"))
    assert ScarcePlan(seeds=(0, 1), steps=1).cost() == {"trainings": 16, "minutes": 41.0}


def test_rows_are_compared_with_real_images_alone_image_by_image() -> None:
    def seed(better: float) -> dict[str, Any]:
        real: dict[str, list[float | None]] = {"changed": [0.0, 1.0, 0.0, 1.0], "truth_edit": [0.2, None, 0.2, 0.4]}
        mined = {"changed": [1.0] * 4, "truth_edit": [None if v is None else v - better for v in real["truth_edit"]]}
        rows = {"real": real, "mined": mined}
        told = {"real": 9.0, "mined": 9.0 - better}
        return {"people": list("abcd"), "scores": {"retrieval": rows, "translation": rows}, "fd_attr": told}

    found = summary_of([seed(0.1), seed(0.1)])["translation"]
    assert found["real"]["truth_edit"]["mean"] == pytest.approx(0.8 / 3) and "against" not in found["real"]
    assert found["mined"]["against"]["changed"]["difference"] == 0.5
    assert found["mined"]["against"]["truth_edit"]["interval"] == pytest.approx([-0.1, -0.1])
    assert found["mined"]["fd_attr"] == {"mean": 8.9, "low": 8.9, "high": 8.9}


@pytest.mark.slow
def test_the_table_is_made_and_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow = ["networks.width=0.0625", "networks.discriminator_width=0.0625", "retrieval.batch=4"]
    narrow += ["evaluation.classifier_epochs=1", "translation.batch=4", "guided.batch=4", "training.tensorboard=false"]
    words = ["evaluate", "scarce", "--out", str(tmp_path / "out"), "--drawn-images", "400", "--images", "8"]
    words += ["--mined", "30", "--steps", "2", "--generator-steps", "2", "--guided-steps", "2"]
    words += ["--retrieval-minutes", "0.02", *(word for one in narrow for word in ("--set", one))]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["table"]["retrieval"]) == {"real", "mined", "real and mined"}
    assert set(found["table"]["translation"]) == {"stage 1", "unguided", "real", "mined", "real and mined", "copy"}
    assert (tmp_path / "out" / "seed-0.png").exists() and 0 <= found["seeds"][0]["mined_read"] <= 1
    with Workspace.open(tmp_path / "out" / "seed-0") as workspace:
        runs = {key.partition("/")[2]: workspace.run(one["run"]) for key, one in found["runs"].items()}
        assert len(workspace.images("origin=generated")) == 30
        assert len({run.steps for name, run in runs.items() if name.startswith("arm")}) == 1
        assert runs["miner"].config["config"]["miner"]["release"] == 200
        assert runs["arm mined"].config["config"]["guided"]["pool"] == "generated"
    (tmp_path / "out" / "seed-0.json").unlink()  # killed before it was written
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "30 mined images, the judge reads Blond_Hair in" in told and "mined against real: has it" in told
    with Workspace.open(tmp_path / "out" / "seed-0") as workspace:
        assert len(workspace.runs()) == len(runs) and len(workspace.images("origin=generated")) == 30
