"""How the minutes of `run` are divided: parts scale with what they cost, and what was decided is kept."""

from __future__ import annotations

import pytest

from index_store.workspace import Workspace
from tests.translation.small import TINY, USED
from translation import budget
from translation.budget import Budget, Pace
from translation.config import Config, load_config
from translation.planning import plan_run
from translation.translator import Translator

QUICK, SLOW = Pace(0.001, 0.0005), Pace(5.0, 2.0)


def test_without_minutes_everything_is_as_configured(staged: Workspace) -> None:
    config = load_config("demo", overrides=TINY)
    budget, translator = Budget(staged, config, None, 0), Translator.load(staged, "r1")
    assert budget.share(0.5) is None and budget.guided() is None
    assert budget.generated(SLOW) == config.index.generated
    assert budget.pool(translator, SLOW) == config.retrieval.pool
    assert budget.evaluation(SLOW, 5) == config.evaluation


def test_a_slow_machine_judges_less_and_the_same_command_decides_the_same(
    staged: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "LEAST_PAIRS", 4)  # of the eight that there could be
    config, translator = load_config("demo"), Translator.load(staged, "r1")
    quick = Budget(staged, config, 5.7, 0)
    assert quick.generated(QUICK) == config.index.generated and quick.pool(translator, QUICK) == config.retrieval.pool
    assert quick.evaluation(QUICK, 5) == config.evaluation.model_copy(
        update={"classifier_minutes": quick.decide("classifier_minutes", lambda: 0.0)}
    )
    slow = Budget(staged, config, 5.0, 0)
    made = slow.generated(SLOW), slow.pool(translator, SLOW), slow.guided(), slow.evaluation(SLOW, 5)
    assert made[0] < config.index.generated and made[1] < config.retrieval.pool
    assert made[3].pairs == 4 and made[3].diversity_inputs < config.evaluation.diversity_inputs
    assert made[3].classifier_minutes <= config.evaluation.classifier_minutes
    again = Budget(staged, config, 5.0, 0)
    assert (again.generated(QUICK), again.pool(translator, QUICK), again.guided(), again.evaluation(QUICK, 5)) == made
    other = Budget(staged, config, 50.0, 0)
    assert other.evaluation(SLOW, 5).pairs == config.evaluation.pairs, "another command decides anew"


def test_arms_give_up_what_the_stages_before_took_too_long(staged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("demo")
    late, share = Budget(staged, config, 10.0, 0), 10 * config.shares.guided
    late.started -= 9 * 60
    assert late.guided() == pytest.approx(share / 4)
    assert Budget(staged, config, 12.0, 0).guided() == pytest.approx(12 * config.shares.guided)


@pytest.mark.parametrize("minutes", [None, 0.001, 10_000.0])
def test_a_plan_times_steps_and_leaves_nothing_behind(workspace: Workspace, minutes: float | None) -> None:
    config = load_config("demo", overrides=TINY)
    plan = plan_run(workspace, config, attributes_used=USED, minutes=minutes, device="cpu")
    assert [stage["name"] for stage in plan.stages] == ["translation", "retrieval", "index", "guided", "evaluate"]
    assert plan.seconds_a_step > 0 and plan.memory_mib > 0 and plan.disk_mib > 0 and plan.least_minutes > 0
    assert workspace.runs() == []
    first = plan.stages[0]
    if minutes is None:
        assert plan.warning() is None and first["steps"] == config.translation.steps
        assert first["minutes"] == pytest.approx(first["steps"] * plan.seconds_a_step / 60), "what its steps take"
        assert plan.stages[1]["minutes"] is None
    elif minutes < 1:
        assert "is short: here at least" in (plan.warning() or "") and first["steps"] < 4
    else:
        assert plan.warning() is None and first["steps"] == config.translation.steps
        assert sum(stage["minutes"] for stage in plan.stages) == pytest.approx(minutes)


def test_a_plan_has_no_stages_that_its_run_skips(workspace: Workspace) -> None:
    config = load_config("init", overrides=["networks.width=0.0625", "data.size=32"])
    plan = plan_run(workspace, config, attributes_used=USED, minutes=10_000.0, device="cpu")
    assert [stage["name"] for stage in plan.stages if "skipped" in stage] == ["retrieval", "index", "guided"]
    assert sum(stage["minutes"] for stage in plan.stages) == pytest.approx(10_000 * (1 - 0.4 * _rest(config)))


def _rest(config: Config) -> float:
    return 1 - config.shares.translation - config.shares.retrieval - config.shares.guided
