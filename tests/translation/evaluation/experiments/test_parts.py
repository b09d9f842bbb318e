"""The tables of parts on tiny networks: equal images, once trained, once judged, gone on with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from tests.translation.methods.test_init import TINY as INIT
from tests.translation.methods.test_sdit import TINY as SDIT
from tests.translation.small import USED, Notes
from translation.evaluation.experiments import parts
from translation.evaluation.experiments.ledger import Ledger
from translation.evaluation.experiments.parts import AS_LONG, TABLES, Ablation, run_ablation

JUDGED = (
    *("evaluation.classifier_epochs=0.1", "evaluation.classifier_batch=16", "evaluation.pairs=4"),
    *("evaluation.batch=4", "evaluation.diversity_inputs=1", "evaluation.bootstrap=100", "evaluation.reverse_steps=1"),
)


def test_rows_make_the_same_number_of_images_and_a_second_start_does_nothing(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Ablation(
        table="init",
        out=tmp_path / "out",
        workspace=tmp_path / "faces",
        rows=("neither", "weights from the store", "2 hops", AS_LONG),
        settings=(*INIT, *JUDGED),
        attributes_used=USED,
        embedding="r2",
        device="cpu",
    )
    pace = 60 * plan.minutes / 12
    monkeypatch.setattr(parts._Trainer, "paces", lambda self: {"neither": [pace, pace]})
    shutil.copytree(template, tmp_path / "faces")
    found = run_ablation(plan)
    rows = found["rows"]
    assert [rows[name]["steps"]["mean"] for name in ("neither", "weights from the store", "2 hops")] == [12, 12, 4]
    assert {rows[name]["images"]["mean"] for name in list(rows)[:3]} == {48}
    assert rows[AS_LONG]["seconds"]["mean"] > 0.9 and "accuracy_changed" in rows["2 hops"]["against"]
    assert rows["neither"]["fd_attr"]["mean"] > 0 and "against" not in rows["neither"]
    with Workspace.open(tmp_path / "faces") as workspace:
        runs = [run.id for run in workspace.runs()]
        kept = [run.config["config"]["sampling"]["embedding"] for run in workspace.runs("translation")[1:]]
    assert kept == ["", "store:r2", "", ""]
    notes = Notes()
    assert run_ablation(plan, notes) == found and notes.told == []
    with Workspace.open(tmp_path / "faces") as workspace:
        assert [run.id for run in workspace.runs()] == runs
    with pytest.raises(RgunitError, match="made with other settings"):
        run_ablation(replace(plan, minutes=1.0))


def test_a_warm_up_has_no_hops_and_is_cheaper(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Ablation(
        table="weights",
        out=tmp_path / "out",
        workspace=template,
        rows=("neither", "weights, 2 hops"),
        minutes=1.0,
        preset="celeba-64",
        settings=("translation.warmup=6", "translation.batch=4"),
        attributes_used=USED,
        embedding="r2",
        device="cpu",
    )
    paces = {"neither": [1.0, 2.0], "weights, 2 hops": [1.0, 6.0]}  # 6 + 27 and 6 + 9 steps in a minute
    monkeypatch.setattr(parts._Trainer, "paces", lambda self: paces)
    (tmp_path / "out").mkdir()
    with Workspace.open(template) as workspace:
        trainer = parts._Trainer(plan, workspace, Ledger.open(plan.out, {}), Notes())
        steps = {name: trainer.steps(row) for name, row in plan.chosen.items()}
        assert steps == {"neither": 33, "weights, 2 hops": 15}
        assert {trainer.images(row, steps[name]) for name, row in plan.chosen.items()} == {4 * 33}
        stages = [trainer.scheduled(row, steps[name]).translation for name, row in plan.chosen.items()]
        assert [(stage.steps, stage.mask_from) for stage in stages] == [(33, 600), (15, 200)]


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_made_of_drawn_faces(tmp_path: Path, table: str) -> None:
    own = {"sdit": SDIT, "init": INIT}.get(table, INIT)
    settings = (*own, *JUDGED, "guided.batch=4", "guided.neighbours=2", "retrieval.batch=4", "retrieval.steps=2")
    preset = {"weights": "init"}.get(table, "")
    plan = Ablation(
        table=table,
        out=tmp_path,
        preset=preset,
        settings=settings,
        seeds=(0, 1),
        minutes=0.02,
        embedding_minutes=0.05,
        drawn_images=60,
        device="cpu",
    )
    found = run_ablation(plan)
    assert list(found["rows"]) == list(TABLES[table])
    assert all(row["accuracy_changed"] is not None for row in found["rows"].values())
    done = json.loads((tmp_path / "ledger.json").read_text())["done"]
    assert set(done["paces"]) == {name for name, row in TABLES[table].items() if not row.arm and name != AS_LONG}


def test_what_is_asked_wrongly_is_told_before_anything_is_done(tmp_path: Path) -> None:
    for given, told in (
        ({"table": "unit"}, "there is no table 'unit': known are init, weights, sdit"),
        ({"table": "sdit", "rows": ("full", "no norms")}, "table sdit has no row 'no norms'"),
        ({"table": "sdit", "rows": ("no attention",)}, "leaves out 'full'"),
        ({"table": "weights", "preset": "cut"}, "sampling.hops is not for cut"),
    ):
        with pytest.raises(UsageError, match=told):
            Ablation(out=tmp_path / "out", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
