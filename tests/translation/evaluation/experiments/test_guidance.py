"""Every row of the tables on tiny networks, once; a second start changes nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import main
from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from tests.scripts import load
from tests.translation.evaluation.ways import two_ways
from tests.translation.small import TINY, Notes, filled, tiny
from translation.config import load_config
from translation.evaluation.distances import frechet
from translation.evaluation.exchange import both_ways
from translation.evaluation.experiments import seeds
from translation.evaluation.experiments.guidance import run_guidance
from translation.evaluation.experiments.ledger import Ledger
from translation.evaluation.experiments.plan import Plan
from translation.evaluation.experiments.trainings import Trainer
from translation.evaluation.protocol import Pairs
from translation.evaluation.scores import Draws, PairScores, comparisons

SETTINGS = (
    *TINY,
    "evaluation.classifier_epochs=0.1",
    "evaluation.classifier_batch=16",
    "evaluation.pairs=4",
    "evaluation.batch=4",
    "evaluation.diversity_inputs=0",
    "evaluation.bootstrap=100",
)


@pytest.fixture(scope="module")
def proof(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The plan of all rows, which are done; `plan.out` is beside the workspace."""
    folder = tmp_path_factory.mktemp("proof")
    filled(folder / "faces", drawn)
    plan = Plan(
        out=folder / "out",
        workspace=folder / "faces",
        preset="demo",
        device="cpu",
        drawn_images=60,
        attributes_used=("Black_Hair", "Blond_Hair", "Glasses"),
        settings=SETTINGS,
        steps=2,
    )
    run_guidance(plan)
    return plan


def out_of(plan: Plan) -> Path:
    assert plan.out is not None
    return plan.out


def asked(plan: Plan, **changes: Any) -> Plan:
    """The plan with other choices, checked as a new one."""
    return Plan(**(dict(plan) | changes))


def test_every_row_has_its_arms_their_swaps_and_the_controls(proof: Plan) -> None:
    rows = {row: json.loads((out_of(proof) / f"row-{row}-seed-0.json").read_text()) for row in range(1, 6)}
    always = {"stage1", "copy", "neighbour", "unguided", "floor"}
    for row, found in rows.items():
        for part in found["parts"].values():
            assert always <= set(part), row
            assert part["protocol"]["pairs"] == 4
    assert {"guided", "random", "swapped"} <= set(rows[1]["parts"][""])
    assert rows[2]["parts"][""]["guided"]["truth"] > 0
    assert list(rows[3]["parts"]) == ["all labels", "25 % of the labels"]
    kinds = {"convolution", "style", "patches and style with dropout", "patches and style with dropout, swapped"}
    assert kinds <= set(rows[4]["parts"][""])
    assert {"k = 1", "k = 10", "k = 10, swapped"} <= set(rows[5]["parts"][""])
    assert "fd_attr" in rows[5]["parts"][""]["comparisons"]["k = 10 vs unguided"]


def test_arms_take_equal_steps_from_one_start_and_shared_ones_are_trained_once(proof: Plan) -> None:
    done = json.loads((out_of(proof) / "ledger.json").read_text())["done"]
    arms = {key: entry for key, entry in done.items() if key.split("/")[2].startswith(("guided", "random", "unguided"))}
    assert {entry["steps"] for entry in arms.values()} == {2}
    assert sum(key.startswith("workspace/0/guided") for key in arms) == 1 + 5 + 2, "convolution and k = 3 are row 1's"
    with Workspace.open(out_of(proof).parent / "faces") as workspace:
        starts = {workspace.run(e["run"]).config["translation_run"] for k, e in arms.items() if k[0] == "w"}
    assert starts == {done["workspace/0/translation"]["run"]}


def test_a_quarter_of_the_labels_is_what_stage_1_had_and_all_images_guide(proof: Plan) -> None:
    lines = (out_of(proof) / "quarter-0" / "images" / "labels.csv").read_text().splitlines()
    assert len(lines) == 1 + 16 + 16, "a heading, a quarter of 64 training images, the test images"
    with Workspace.open(out_of(proof) / "quarter-0") as quarter:
        assert len(quarter.images("origin=unlabelled")) == 12 + 48, "withheld, whatever is trained there later"
        assert len(quarter.images("origin=real split=train")) == 16
    parts = json.loads((out_of(proof) / "row-3-seed-0.json").read_text())["parts"]
    row_1 = json.loads((out_of(proof) / "row-1-seed-0.json").read_text())["parts"][""]
    assert parts["25 % of the labels"]["classifier"] == row_1["classifier"], "one classifier judges both"
    assert parts["all labels"] == row_1, "what row 1 has judged is not judged again"


def test_a_second_start_does_nothing_again_and_what_is_missing_is_made(
    proof: Plan,
) -> None:
    out = out_of(proof)
    before = (out / "ledger.json").stat().st_mtime_ns, (out / "row-5-seed-0.json").stat().st_mtime_ns
    first = json.loads((out / "row-1-seed-0.json").read_text())
    (out / "row-1-seed-0.json").unlink()
    notes = Notes()
    found = run_guidance(proof, notes)
    assert before == ((out / "ledger.json").stat().st_mtime_ns, (out / "row-5-seed-0.json").stat().st_mtime_ns)
    again = json.loads((out / "row-1-seed-0.json").read_text())["parts"][""]["guided"]
    known = {name: value for name, value in first["parts"][""]["guided"].items() if value is not None}
    assert {name: again[name] for name in known} == pytest.approx(known, rel=1e-3)
    assert notes.told == [f"row 1, seed 0 is judged: {out / 'row-1-seed-0.json'}"]
    assert [(row["row"], row["seed"]) for row in found["rows"]] == [(row, 0) for row in range(1, 6)]
    assert found["rows"][0] == json.loads((out / "row-1-seed-0.json").read_text()) and found["over_seeds"] == []
    assert found["runs"] == json.loads((out / "ledger.json").read_text())["done"]
    shown = load("docs/make_guidance.py").tables(out)
    assert (out / "row-5-seed-0.npz").exists() and not (out / "row-5-over-seeds.json").exists(), "one seed is none"
    assert shown.count("## ") == 6 and "- guided vs unguided, fd_attr:" in shown and "| k = 10, swapped |" in shown


def test_the_command_shows_what_is_there(proof: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-w", str(proof.workspace), "--device", "cpu", "evaluate", "guidance", "--out", str(proof.out)]
    words += ["--steps", "2", "--preset", "demo", "--drawn-images", "60", "--rows", "1,5"]
    words += ["--attributes-used", ",".join(proof.attributes_used)]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    assert main([*words, "--use", "neighbours=2"]) == 1
    assert "holds rows made with other settings (use): give another --out" in capsys.readouterr().err
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][1] == json.loads((out_of(proof) / "row-5-seed-0.json").read_text())
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "5. Table 4: number of neighbours (seeds 0)" in shown and "k = 10, swapped" in shown
    assert "k = 10 vs unguided: changed" in shown and f"results: {proof.out}" in shown


def test_seeds_that_are_judged_get_an_interval_over_all_of_them(proof: Plan) -> None:
    out = out_of(proof)
    for suffix in (".json", ".npz"):
        shutil.copy(out / f"row-5-seed-0{suffix}", out / f"row-5-seed-1{suffix}")
    assert len(run_guidance(asked(proof, rows=(5,), seeds=(0, 1)))["over_seeds"]) == 1
    found = json.loads((out / "row-5-over-seeds.json").read_text())
    own = json.loads((out / "row-5-seed-0.json").read_text())["parts"][""]["comparisons"]["k = 10 vs unguided"]
    assert found["seeds"] == [0, 1]
    mean = found["parts"][""]["k = 10 vs unguided"]["fd_attr"]["difference"]
    assert mean == pytest.approx(own["fd_attr"]["difference"], rel=1e-5)
    assert "- over the seeds, k = 10 vs unguided: fd_attr" in load("docs/make_guidance.py").tables(out)


def test_halves_are_exchanged_beside_what_was_judged(proof: Plan) -> None:
    out = out_of(proof)
    before = json.loads((out / "row-1-seed-0.json").read_text())["parts"]
    run_guidance(asked(proof, rows=(1, 3), both_ways=True))
    parts = json.loads((out / "row-1-seed-0.json").read_text())["parts"]
    assert parts[""] == before[""] and list(parts) == ["", "halves exchanged"]
    assert parts["halves exchanged"]["guided"] != parts[""]["guided"]
    both = json.loads((out / "row-1-over-seeds.json").read_text())["parts"]
    ways = [both[part]["guided vs random"]["fd_attr"]["difference"] for part in ("", "halves exchanged", "both ways")]
    assert ways[2] == pytest.approx((ways[0] + ways[1]) / 2)
    third = json.loads((out / "row-3-seed-0.json").read_text())["parts"]
    assert third["all labels, halves exchanged"] == parts["halves exchanged"]
    assert "25 % of the labels, halves exchanged" in third
    assert load("docs/make_guidance.py").tables(out).count("With the halves exchanged as well:") == 1 + 2


def test_some_of_the_arms_are_enough(staged: Workspace, tmp_path: Path) -> None:
    plan = Plan(
        out=tmp_path / "out",
        workspace=staged.path,
        preset="demo",
        device="cpu",
        settings=(*SETTINGS, "guided.guidance=patches"),
        rows=(1,),
        steps=1,
        start={0: {"translation": "r1"}},
        arms=("guided", "unguided"),
        use=({"neighbour_style": 0.5, "neighbours": 2},),
    )
    staged.close()
    run_guidance(plan)
    part = json.loads((tmp_path / "out" / "row-1-seed-0.json").read_text())["parts"][""]
    assert {"guided", "swapped", "unguided"} <= set(part) and "random" not in part
    used = "neighbour_style = 0.5, neighbours = 2"
    assert part[f"guided, {used}"]["n"] == 4 and part[f"guided, {used}"] != part["guided"]
    assert {f"guided, {used} vs unguided", f"guided, {used} vs swapped, {used}"} <= set(part["comparisons"])
    assert all(len(set(pair.split(" vs "))) == 2 for pair in part["comparisons"]), "nothing is compared with itself"
    before = json.loads((tmp_path / "out" / "ledger.json").read_text())["done"]
    run_guidance(asked(plan, arms=("guided", "unguided", "random")))
    assert "random" in json.loads((tmp_path / "out" / "row-1-seed-0.json").read_text())["parts"][""]
    done = json.loads((tmp_path / "out" / "ledger.json").read_text())["done"]
    assert done.keys() - before.keys() == {"workspace/0/random"} and before.items() <= done.items()
    small, there = tmp_path / "small", tmp_path / "there"
    run_guidance(asked(plan, until="arms", carry=small))
    there.mkdir()
    shutil.copy(tmp_path / "out" / "ledger.json", there)
    (row,) = run_guidance(asked(plan, workspace=small, out=there))["rows"]
    assert {"guided", "swapped", "unguided"} <= set(row["parts"][""]), "judged on another machine, trained here"
    with pytest.raises(UsageError, match=r"guided\.neighbour_style"):
        run_guidance(asked(plan, use=({"neighbour_style": 2},)))
    with pytest.raises(UsageError, match=r"guided\.guidance is fixed by training: in use there are neighbour_style"):
        run_guidance(asked(plan, use=({"guidance": 1},)))


def test_runs_that_were_there_before_are_not_trained_on(staged: Workspace, tmp_path: Path) -> None:
    config = tiny()
    ledger = Ledger.open(tmp_path / "out", {})
    plan = Plan(device="cpu", steps=1, settings=TINY, preset="demo")
    trainer = Trainer("workspace", staged, config, plan, ledger)
    first, second = trainer.stages(0)
    assert (first, second) == ("r3", "r4") and staged.run("r1").steps == 4
    started = Trainer("workspace", staged, config, asked(plan, start={0: {"translation": "r1"}}), ledger)
    ledger.done.clear()
    assert started.stages(0) == ("r1", "r5")
    assert Ledger.open(tmp_path / "out", {}).before == {"workspace": ["r1", "r2"]}


def test_other_settings_in_the_same_folder_are_refused(proof: Plan) -> None:
    with pytest.raises(RgunitError, match=r"other settings \(steps\): give another --out"):
        run_guidance(asked(proof, steps=3))


def test_a_ledger_of_before_a_setting_existed_still_opens(tmp_path: Path) -> None:
    settings = {"workspace": load_config("demo").model_dump(mode="json"), "steps": 2}
    Ledger.open(tmp_path, settings).save()
    old = json.loads((tmp_path / "ledger.json").read_text())
    del old["settings"]["workspace"]["guided"]["neighbour_pool"], old["settings"]["workspace"]["method"]
    (tmp_path / "ledger.json").write_text(json.dumps(old))
    assert Ledger.open(tmp_path, settings).done == {}
    with pytest.raises(RgunitError, match=r"other settings \(workspace\)"):
        Ledger.open(tmp_path, {**settings, "workspace": load_config("celeba-64").model_dump(mode="json")})


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"rows": (7,)}, "--rows takes some of 1,2,3,4,5"),
        ({"rows": (1,), "arms": ("k = 1",)}, "--arms leaves nothing to do in row 1"),
        ({"arms": ("guidded",)}, "no arm is called 'guidded': --arms takes some of guided,random,unguided,convolution"),
        ({"jobs": 2}, "--jobs needs --steps"),
        ({"carry": Path("small")}, "add --until arms"),
        ({"carry": Path(__file__).parent, "until": "arms"}, "is there already: --carry makes a new folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(choices: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Plan(**choices)


def test_nothing_is_begun_without_a_folder_a_workspace_or_a_judge_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out DIR"):
        run_guidance(Plan())
    with pytest.raises(UsageError, match="rows 1, 3, 4 and 5 need a workspace"):
        run_guidance(Plan(out=tmp_path / "out"))
    with pytest.raises(RgunitError, match="no workspace at"):
        run_guidance(Plan(out=tmp_path / "out", workspace=tmp_path / "none"))
    (tmp_path / "judge.onnx").write_text("no network")
    with pytest.raises(RgunitError, match=r"judge\.onnx"):
        run_guidance(Plan(out=tmp_path / "out", rows=(2,), judge=tmp_path / "judge.onnx"))
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_copied_is_refused_before_anything_is_trained(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RGUNIT_CATALOG", postgres)
    Workspace.create(tmp_path / "w").close()
    plan = Plan(out=tmp_path / "out", workspace=tmp_path / "w", device="cpu", steps=1)
    for more in ({"carry": tmp_path / "small", "until": "arms"}, {"jobs": 2}):
        with pytest.raises(RgunitError, match="on PostgreSQL, which cannot be copied"):
            run_guidance(asked(plan, **more))
    assert not (tmp_path / "out").exists()


def test_the_cost_counts_the_stages_of_a_seed_once() -> None:
    first, second, third = Plan(rows=(1, 4, 3), seeds=(0, 1), minutes=10, retrieval_minutes=5).cost()
    assert (first["starts"], first["arms"], first["minutes"]) == (1, 3, 2 * (50 + 30))
    assert (second["starts"], second["arms"]) == (0, 7)
    assert (third["starts"], third["arms"]) == (1, 4), "stages 1 and 2 once more where labels are withheld"
    assert Plan(rows=(1,), steps=5).cost()[0]["minutes"] == 48, "how long steps take is not known"


def test_the_interval_over_seeds_of_one_seed_twice_is_that_seeds_own() -> None:
    rng = np.random.default_rng(0)
    before, target = rng.integers(0, 2, (2, 40, 3), dtype=np.int8)
    people, others = tuple(f"p{i // 4}" for i in range(40)), tuple(f"q{i // 3}" for i in range(30))
    ids = np.arange(40)
    pairs = Pairs(("a", "b", "c"), ids, ids, before, target, ids, people, np.arange(30), others)

    def arm(shift: float) -> PairScores:
        features = frechet(rng.normal(shift, 1, (40, 4)), rng.normal(0, 1, (30, 4)))
        right = rng.random((40, 3)) < 0.5 + shift / 4
        return PairScores(right, np.zeros(40), None, None, None, features, features, None)

    scores = {"guided": arm(0.2), "random": arm(1.0), "unguided": arm(0.6)}
    other = {name: arm(0.5) for name in scores}
    third, fourth = (seeds.scores_of("", (each, pairs)) for each in (scores, other))
    own = comparisons(scores, pairs, Draws.draw(pairs, 1000, 0), [("guided", "unguided"), ("guided", "random")])
    twice = seeds.over_seeds([third, third])[""]
    for pair, measured in own.items():
        for measure in ("fd_attr", "fd_judge", "accuracy_changed", "accuracy_kept"):
            assert twice[pair][measure]["difference"] == pytest.approx(measured[measure]["difference"], abs=1e-9)
            assert twice[pair][measure]["interval"] == pytest.approx(measured[measure]["interval"], abs=1e-5)
    both = seeds.over_seeds([third, fourth])[""]["guided vs unguided"]["fd_attr"]
    means = [sum(each[name].fd_attr.distance for each in (scores, other)) / 2 for name in ("guided", "unguided")]
    assert both["difference"] == pytest.approx(means[0] - means[1])
    assert both["seeds"] == pytest.approx(
        [each["guided"].fd_attr.distance - each["unguided"].fd_attr.distance for each in (scores, other)]
    )
    changed = seeds.over_seeds([third, fourth])[""]["guided vs unguided"]["accuracy_changed"]
    assert np.mean(changed["seeds"]) == pytest.approx(changed["difference"])
    assert both["interval"][0] < both["difference"] < both["interval"][1]
    fifth = seeds.scores_of("", (scores, replace(pairs, people=people[::-1])))
    with pytest.raises(RgunitError, match="not judged on the same pairs"):
        seeds.over_seeds([third, fifth])


def test_both_ways_are_what_the_evaluation_makes_of_them() -> None:
    there, back = two_ways(np.random.default_rng(0))
    kept = seeds.scores_of("", (there.scores, there.pairs)) | seeds.scores_of(
        "halves exchanged", (back.scores, back.pairs)
    )
    ours = seeds.over_seeds([kept])["both ways"]["guided vs unguided"]
    theirs = both_ways(there, back, 1000, 0)["comparisons"]["guided vs unguided"]
    for measure in ("fd_attr", "accuracy_changed", "accuracy_kept"):
        assert ours[measure]["difference"] == pytest.approx(theirs[measure]["difference"], abs=1e-6)
        assert ours[measure]["interval"] == pytest.approx(theirs[measure]["interval"], abs=1e-4)
