"""Whether a training that was stopped and gone on with is the one that was not, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.translation.training.line import assert_same
from translation.training.metrics import read_metrics
from translation.training.sessions import StageResult

TIMES = ("seconds", "images_per_second")


def same_after_a_stop(train: Callable[[int, bool], StageResult], steps: int = 4) -> Path:
    """The folder of a run of `steps`, which is the same in one piece and in two: every tensor, every logged row.

    `train(steps, resume)` trains a new run to so many steps, or the newest one further.
    """
    whole, half = train(steps, False), train(steps // 2, False)
    again = train(steps, True)
    assert again.run.path == half.run.path != whole.run.path
    assert whole.steps == again.steps == again.run.steps == steps and not again.stopped
    assert_same(whole.run.path, again.run.path)
    logged = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(done.run.path)]
        for done in (whole, again)
    ]
    assert logged[0] == logged[1]
    return again.run.path
