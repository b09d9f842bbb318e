"""The demo from nothing to a report: again does nothing, stopped in the middle goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from tests.translation.small import TINY
from translation.pipeline import PipelineResult, run_demo
from translation.progress import Progress

SHORT = (
    *TINY,
    "translation.steps=5",
    "evaluation.classifier_epochs=1",
    "evaluation.pairs=8",
    "evaluation.batch=8",
    "evaluation.diversity_inputs=2",
    "evaluation.diversity_samples=2",
    "evaluation.bootstrap=100",
)


class Watch(Progress):
    """Remembers the stages; at a step of one of them it does `then`."""

    def __init__(self, stage: str = "", then: Callable[[], None] | None = None) -> None:
        self.stages: list[str] = []
        self.at, self.then = stage, then

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def step(self, done: int, total: int, seconds_left: float | None = None) -> None:
        if self.then is not None and self.stages[-1] == self.at and done >= 2:
            self.then()


def demo(path: Path, progress: Progress) -> PipelineResult:
    return run_demo(path, images=80, minutes=50, device="cpu", overrides=SHORT, progress=progress)


def state(path: Path) -> list[tuple[object, ...]]:
    with Workspace.open(path) as workspace:
        return [(run.id, run.stage, run.steps, run.status, run.config.get("neighbours")) for run in workspace.runs()]


def test_stopped_it_goes_on_and_done_it_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "demo"

    def stop() -> None:
        raise KeyboardInterrupt

    for stage in ("translation", "index", "guided:random"):  # the second Ctrl-C: at once, without a checkpoint
        with pytest.raises(KeyboardInterrupt):
            demo(path, Watch(stage, stop))
        assert state(path)[-1][3] == ("done" if stage == "index" else "stopped")

    ended = demo(path, Watch("evaluate", lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert ended.stopped and state(path)[-1][1:4] == ("evaluate", 0, "stopped")

    result = demo(path, Watch())
    assert [stage["name"] for stage in result.stages] == ["translation", "retrieval", "index", "guided", "evaluate"]
    assert not result.stopped and result.report is not None and result.report.exists()
    assert result.retrieval is not None and result.translation is not None
    assert all(result.translation[arm]["n"] for arm in ("unguided", "random", "guided", "copy", "neighbour"))
    assert result.translation["copy"]["truth"] is not None, "the drawn faces' true translations are known"
    before = state(path)
    assert [row[1:] for row in before] == [
        ("translation", 5, "done", None),
        ("retrieval", 3, "done", None),
        ("guided", 3, "done", "retrieved"),
        ("guided", 3, "done", "random"),
        ("guided", 3, "done", "none"),
        ("evaluate", 0, "stopped", None),
        ("evaluate", before[-1][2], "done", None),
    ]
    with Workspace.open(path) as workspace:
        images = len(workspace.images())
    times = {file: file.stat().st_mtime_ns for file in path.rglob("*.safetensors")}

    again = demo(path, Watch())
    assert state(path) == before
    assert (again.retrieval, again.translation) == (result.retrieval, result.translation)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*.safetensors")} == times
    with Workspace.open(path) as workspace:
        assert len(workspace.images()) == images

    with pytest.raises(RgunitError, match="--images, --size or --seed"):
        run_demo(path, images=90, device="cpu", overrides=SHORT)


def test_the_demo_does_not_touch_a_workspace_of_yours(workspace: Workspace) -> None:
    path = workspace.path
    workspace.close()
    with pytest.raises(RgunitError, match="images of its own"):
        run_demo(path, images=80, device="cpu", overrides=SHORT)
    with pytest.raises(RgunitError, match="at least 60"):
        run_demo(path, images=10, device="cpu", overrides=SHORT)


def test_of_a_method_without_neighbours_stage_1_is_trained_and_judged(tmp_path: Path, drawn: Path) -> None:
    from tests.translation.small import USED, filled
    from translation.config import load_config
    from translation.pipeline import run_all

    small = ("networks.width=0.0625", "networks.blocks=1", "translation.steps=3", "translation.batch=4")
    config = load_config("init", overrides=[*small, "training.tensorboard=false", *SHORT[-6:]])
    filled(tmp_path / "faces", drawn)
    with Workspace.open(tmp_path / "faces") as workspace:
        found = [run_all(workspace, config, attributes_used=USED, device="cpu") for _ in range(2)]
        assert [run.stage for run in workspace.runs()] == ["translation", "evaluate"], "the second call does nothing"
    for result in found:
        assert [(one["name"], "skipped" in one) for one in result.stages] == [
            *(("translation", False), ("retrieval", True), ("index", True), ("guided", True), ("evaluate", False))
        ]
        assert result.retrieval is None and result.report is not None and result.report.exists()
        assert result.translation is not None and result.translation["stage1"]["n"] == 8


def test_what_a_later_stage_would_refuse_is_refused_before_the_first(tmp_path: Path, drawn: Path) -> None:
    from tests.translation.small import USED, filled, tiny
    from translation.drawings import make_dataset
    from translation.pipeline import run_all

    filled(tmp_path / "faces", drawn)
    with Workspace.open(tmp_path / "faces") as workspace:
        with pytest.raises(RgunitError, match=r"a batch of 999 is larger .* guided\.batch"):
            run_all(workspace, tiny("guided.batch=999"), attributes_used=USED, device="cpu")
        assert workspace.runs() == []
    make_dataset(tmp_path / "few", images=30, size=32, seed=1)
    with Workspace.ensure(tmp_path / "workspace") as workspace:
        workspace.add_images(tmp_path / "few" / "labelled", attributes=tmp_path / "few" / "labelled" / "labels.csv")
        with pytest.raises(RgunitError, match="the split test has 6 labelled images, and an evaluation needs 11"):
            run_all(workspace, tiny(), attributes_used=USED, device="cpu")
        assert workspace.runs() == []
