"""The report's story: what an everyday reader is told, and that it follows from the numbers."""

from typing import Any

import pytest

import rgunit
from tests.translation.evaluation.report.test_report import RETRIEVAL, TRANSLATION, arm, plain
from translation.evaluation.report.data import ReportData
from translation.evaluation.report.story import Story, tell
from translation.evaluation.report.verdicts import headlines, plain_words, verdicts


def story(retrieval: Any = None, translation: Any = None, **given: Any) -> Story:
    data: ReportData = plain(retrieval=retrieval, translation=translation, **given)
    return tell(data, verdicts(translation, retrieval), images=100, workspace="/some/where else")


def answers(told: Story) -> dict[str, str]:
    return {row.key: row.answer for row in told.rows}


def drawn(inside: float, whole: float) -> dict[str, Any]:
    guided = {**arm(0.85, truth=whole), "truth_edit": inside}
    return {**TRANSLATION, "guided": guided, "copy": {**arm(0.05, truth=0.11), "truth_edit": 0.3}}


def test_at_most_six_questions_are_answered_with_numbers_of_a_hundred() -> None:
    told = story(RETRIEVAL, drawn(0.1, 0.07))
    assert answers(told) == {
        "search": "yes",
        "alike": "no difference",
        "change": "yes",
        "keep": "yes",
        "near": "yes",
        "guidance": "yes",
    }
    assert len(told.rows) == 6
    assert (
        "80 of 100 labels asked for fit; of random images 60. Not found better than by chance: Beard"
        in told.rows[0].text
    )
    assert "85 are seen changed; the untouched image counts as 5." in told.rows[2].text
    assert "33 % as far" in told.rows[4].text and "64 %" in told.rows[4].text
    assert told.worked == "The search works; the painter works."
    assert "labels that say which of them have Hat" in told.asked and "at most half as far" in told.success
    for word in ("stage 1", "bits", "swapped", "FD-attr", "label vector"):
        assert word not in str(told)


def test_photographs_have_no_truth_and_are_asked_whether_they_look_real() -> None:
    bare = {name: {**TRANSLATION[name], "truth": None} for name in ("unguided", "guided", "copy")}
    told = story(None, {**TRANSLATION, **bare})
    assert answers(told)["real"] == "no" and "4.000 apart from real" in next(
        r.text for r in told.rows if r.key == "real"
    )
    assert answers(story(None, {**TRANSLATION, **bare, "floor": {"fd_attr": 3.0}}))["real"] == "yes"
    assert "near" not in answers(told)


@pytest.mark.parametrize("inside, whole", [(0.2, 0.07), (0.1, 0.12)])
def test_what_misses_half_of_copying_or_harms_the_rest_is_not_near_the_truth(inside: float, whole: float) -> None:
    told = story(None, drawn(inside, whole))
    assert answers(told)["near"] == "no" and "Not everything is good yet" in told.worked


def test_a_run_that_was_too_short_answers_nothing_of_the_painter_and_names_the_time() -> None:
    short = {**TRANSLATION, "steps": {"stage1": 100, "guided": 50, "random": 50, "unguided": 50}}
    stages = [{"name": "translation", "seconds": 240.0, "steps": 100}]
    told = story(
        RETRIEVAL, short, stages=stages, commands=["rgunit -w faces run --minutes 4 --preset x --set guided.steps=9"]
    )
    assert {answers(told)[key] for key in ("change", "keep", "guidance")} == {"cannot say yet"}
    assert told.worked == "The search works; the painter cannot be judged yet. The run was too short to say more."
    assert told.steps[0][1] == "rgunit -w faces run --preset x --minutes 8", "the same command with twice the time"


def test_a_search_that_finds_little_more_than_chance_works_in_part() -> None:
    weak = {**RETRIEVAL, "attributes": RETRIEVAL["random"]["attributes"] + 0.1}
    assert answers(story(weak))["search"] == "partly" and story(weak).worked.startswith("The search works in part.")


def test_a_search_that_was_trained_too_shortly_is_not_judged_whatever_its_numbers() -> None:
    early = {**RETRIEVAL, "steps": {"stage1": 18, "retrieval": 3}}
    told = story(early, drawn(0.1, 0.07), stages=[{"name": "translation", "seconds": 240.0, "steps": 18}])
    assert answers(told)["search"] == answers(told)["alike"] == "cannot say yet" and answers(told)["change"] == "yes"
    assert told.worked == "The search cannot be judged yet; the painter works. The run was too short to say more."
    say, command = told.steps[0]
    assert "stage 2) made 3 steps of the 100 that show anything" in say and "about 34 times" in say
    assert command.endswith("--minutes 134"), "as many times the minutes"
    assert " query " not in str(told.steps) and "finds" not in plain_words(None, early)
    assert [v.measure for v in headlines(None, early)] == ["length of retrieval"]
    assert "Too short to judge the search" in str(rgunit.Result(early))
    assert answers(story({**early, "steps": {"stage1": 200, "retrieval": 100}}))["search"] == "yes"


def test_without_a_command_of_its_own_the_next_step_names_the_workspace_and_the_preset() -> None:
    failed = {**TRANSLATION, "guided": arm(0.3), "unguided": arm(0.3), "intervals": {}}
    told = story(None, failed)
    assert answers(told)["change"] == "no" and told.worked == "The painter did not learn its task."
    assert told.steps[0][1] == "rgunit -w '/some/where else' demo --minutes 4"
    assert "PICTURE" not in str(told.steps), "nobody is sent to translate with what did not learn"


def test_a_poor_classifier_and_a_collapsed_mask_are_told_first() -> None:
    poor = {**TRANSLATION, "classifier": {"accuracy": 0.6}}
    told = story(None, poor)
    assert "right in only 60 %" in told.worked and answers(told)["change"] == "cannot say yet"
    data = plain(translation=TRANSLATION)
    found = verdicts(TRANSLATION, None)
    assert "copies its input" in tell(data, found, images=1, workspace="w", collapsed="It copies its input.").worked
    assert story().worked.startswith("Nothing was evaluated") and not story().rows
