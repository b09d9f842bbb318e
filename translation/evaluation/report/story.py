"""The report's story in words of every day: what was asked, what success is, what came out, and what to do next.

At most six questions are answered; each has its numbers in its sentence, as how many of a hundred. Everything else is
the findings (`verdicts.py`), which the page folds away.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from translation.evaluation.report.data import ReportData
from translation.evaluation.report.lengths import listed, search_too_short, times_needed, too_short
from translation.evaluation.report.verdicts import (
    MARGIN,
    NEARER,
    Numbers,
    Verdict,
    classifier_warning,
    missed,
    state_of,
    three,
    value_of,
)
from translation.evaluation.report.words import PLAIN

LIMITS = r" (--minutes|--set[ =](translation|retrieval|guided)\.steps)[ =][^ ]+"  # of a command's time
Answer = Literal["yes", "partly", "no", "no difference", "cannot say yet"]
FITTING = 0.5  # of the labels that random images miss: so many a search must find to be said to work
REAL = 1.5  # times the distance between two sets of real images, up to which translations count as real


@dataclass(frozen=True)
class Row:
    """One question with its answer and the sentence that has the numbers."""

    key: Literal["search", "alike", "change", "keep", "near", "real", "guidance"]
    question: str
    answer: Answer
    text: str


@dataclass(frozen=True)
class Story:
    """`worked` is the headline; `rows` are at most six; `steps` are (what to do, the command or empty)."""

    asked: str
    success: str
    worked: str
    rows: Sequence[Row]
    steps: Sequence[tuple[str, str]]


def tell(data: ReportData, found: Sequence[Verdict], *, images: int, workspace: str, collapsed: str = "") -> Story:
    """The story of a run from its numbers, its findings, and how many `images` its workspace has.

    `collapsed`: a sentence where the painter does nothing, or keeps nothing of its input.
    """
    rows = [*_search(data.retrieval, found), *_translation(data.translation, found)]
    worked = _worked(rows, data, collapsed)
    return Story(_asked(data, images), _success(data), worked, rows, _next(data, found, workspace))


def main_arm(translation: Numbers | None) -> str | None:
    """The arm that a story is about: the guided one where there is one, else what was trained most."""
    for arm in ("guided", "unguided", "stage1"):
        if value_of(translation or {}, arm, "accuracy_changed") is not None:
            return arm
    return None


def _asked(data: ReportData, images: int) -> str:
    names = [name.replace("_", " ") for name in data.attributes_used]
    told = [f"The program looked at {images} images"]
    if names:
        told.append(f", and at labels that say which of them have {_or(names)}")
    told.append(". It was to learn ")
    asks = (data.retrieval or {}).get("style", True)
    search = f"to find images that look like a given one{' but have other attributes' if asks else ''}"
    paint = "to repaint an image so that chosen attributes change and everything else stays"
    tasks = [*([search] if data.retrieval else []), *([paint] if data.translation or not data.retrieval else [])]
    told.append(" and ".join(tasks))
    if data.retrieval and value_of(data.translation or {}, "guided", "accuracy_changed") is not None:
        told.append("; what the search finds is shown to the painter as examples (this is called guidance)")
    return "".join(told) + "."


def _success(data: ReportData) -> str:
    told = []
    if data.retrieval:
        asked = "nearly all of the first ten images found have what was asked for, far more than a random choice"
        alike = "the images found share clearly more with the one that was asked with than a random choice"
        told.append(asked if data.retrieval.get("style", True) else alike)
    if data.translation:
        told.append(
            "of a hundred attributes to change, eighty or more are seen changed by a network trained to recognise "
            "them, and as many of those to keep are kept as in the untouched image"
        )
        if value_of(data.translation, "copy", "truth_edit") is not None:
            told.append(
                "and, since these faces are drawn and their true translations known, the result is at most half as far "
                "from them as the untouched image where something had to change, and nearer over the whole picture"
            )
    return (listed(told) if len(told) == 1 else "; ".join(told)).capitalize() + "." if told else ""


def _search(retrieval: Numbers | None, found: Sequence[Verdict]) -> list[Row]:
    if not retrieval:
        return []
    rows, chance, k = [], retrieval["random"], retrieval.get("k", 10)
    early = bool(search_too_short(retrieval))
    if state := state_of(found, "retrieval", "attributes"):
        text = (
            f"Of the first {k} images found, {_hundred(retrieval['attributes'])} of 100 labels asked for fit; of "
            f"random images {_hundred(chance['attributes'])}."
        )
        names = missed(found)
        text += f" Not found better than by chance: {listed(names)}." if names and state == "learned" else ""
        works = retrieval["attributes"] >= chance["attributes"] + FITTING * (1 - chance["attributes"])
        answer: Answer = ("yes" if works else "partly") if state == "learned" else "no"
        told = "cannot say yet" if early else answer
        rows.append(Row("search", "Does the search find what is asked for?", told, text))
    if state := state_of(found, "retrieval", "content"):
        asks = state_of(found, "retrieval", "attributes") is not None
        question = "Do they look alike in other ways?" if asks else "Does the search find images that look alike?"
        text = (
            f"Of their{' other' if asks else ''} labels {_hundred(retrieval['content'])} of 100 are those of the image "
            f"that was asked with; of random images {_hundred(chance['content'])}."
        )
        answer = "yes" if state == "better" else "no" if state == "worse" else "no difference"
        rows.append(Row("alike", question, "cannot say yet" if early else answer, text))
    return rows


def _translation(translation: Numbers | None, found: Sequence[Verdict]) -> list[Row]:
    arm = main_arm(translation)
    if translation is None or arm is None:
        return []
    short = bool(too_short(translation))
    unsure = short or bool(classifier_warning(translation))

    rows: list[Row] = []

    def add(row: Row, doubted: bool = unsure) -> None:
        rows.append(replace(row, answer="cannot say yet") if doubted else row)

    copy = {m: value_of(translation, "copy", m) for m in ("accuracy_changed", "accuracy_kept", "truth", "truth_edit")}
    state = state_of(found, arm, "accuracy_changed")
    text = f"Of 100 attributes to change {_hundred(value_of(translation, arm, 'accuracy_changed'))} are seen changed"
    text += (
        f"; the untouched image counts as {_hundred(copy['accuracy_changed'])}." if copy["accuracy_changed"] else "."
    )
    add(Row("change", "Does the painter change what it is asked to?", "yes" if state == "learned" else "no", text))
    kept = value_of(translation, arm, "accuracy_kept")
    if kept is not None:
        base = copy["accuracy_kept"]
        text = f"Of 100 attributes to keep {_hundred(kept)} are still seen"
        text += f"; of the untouched image {_hundred(base)}." if base is not None else "."
        answer: Answer = "no" if kept < (1.0 if base is None else base) - MARGIN else "yes"
        add(Row("keep", "Does it leave the other attributes alone?", answer, text))
    states = [state_of(found, arm, measure) for measure in ("truth_edit", "truth")]
    if None not in states:
        text = (
            f"Where something had to change it is {_share(translation, arm, 'truth_edit')} as far from the true "
            f"picture as the untouched image (wanted: at most {100 * NEARER:.0f} %), over the whole picture "
            f"{_share(translation, arm, 'truth')} (wanted: below 100 %)."
        )
        answer = "yes" if states == ["learned", "learned"] else "no"
        add(Row("near", "Does it come near the true picture?", answer, text), short)
    elif (row := _realism(translation, arm)) is not None:
        add(row)
    helped = _guidance(found, translation, unsure)
    return [*rows, helped] if helped else rows


def _realism(translation: Numbers, arm: str) -> Row | None:
    """Whether translations lie about as far from real images as these from each other."""
    measure = "fd_judge" if value_of(translation, arm, "fd_judge") is not None else "fd_attr"
    value, floor = value_of(translation, arm, measure), (translation.get("floor") or {}).get(measure)
    if value is None or floor is None:
        return None
    text = (
        f"Seen by a network, the set of its pictures is {three(value)} apart from real images, where two sets of real "
        f"images are {three(floor)} apart (a Fréchet distance; wanted: at most {REAL:.1f} times as much)."
    )
    return Row("real", "Do its pictures look real?", "yes" if value <= REAL * floor else "no", text)


def _guidance(found: Sequence[Verdict], translation: Numbers, unsure: bool) -> Row | None:
    """Whether the arm with retrieved neighbours beats the one that was trained as long without any."""
    if any(value_of(translation, arm, "accuracy_changed") is None for arm in ("guided", "unguided")):
        return None
    question = "Do the images that were found help the painter?"
    against = [v for v in found if v.subject == "guided against unguided"]
    if unsure or not against:
        return Row("guidance", question, "cannot say yet", "The painters with and without them cannot be compared yet.")
    better, worse = ([PLAIN[v.measure] for v in against if v.state == state] for state in ("better", "worse"))
    if not better and not worse:
        return Row(
            "guidance",
            question,
            "no difference",
            "With and without them it does equally well, as far as can be measured.",
        )
    parts = [f"{verb} in {listed(names)}" for verb, names in (("better", better), ("worse", worse)) if names]
    answer: Answer = "yes" if len(better) > len(worse) else "no"
    return Row("guidance", question, answer, f"Against a painter that saw none: {', '.join(parts)}.")


def _worked(rows: Sequence[Row], data: ReportData, collapsed: str) -> str:
    if not rows:
        return "Nothing was evaluated, so nothing can be said about what was learned."
    answers = {row.key: row.answer for row in rows}
    said = {
        "yes": "works",
        "partly": "works in part",
        "no": "did not learn its task",
        "cannot say yet": "cannot be judged yet",
    }
    told = [
        f"the {what} {said.get(answers[key], 'cannot be judged yet')}"
        for key, what in (("search", "search"), ("change", "painter"))
        if key in answers
    ]
    headline = "; ".join(told).capitalize() + "." if told else ""
    if too_short(data.translation) or search_too_short(data.retrieval):
        return f"{headline} The run was too short to say more.".strip()
    for told_too in (classifier_warning(data.translation), collapsed):
        if told_too:
            return f"{headline} {told_too}".strip()
    if "no" in answers.values() and "no" not in (answers.get("search"), answers.get("change")):
        return f"{headline} Not everything is good yet: see what is answered with “no”.".strip()
    return headline


def _next(data: ReportData, found: Sequence[Verdict], workspace: str) -> list[tuple[str, str]]:
    """What is worth doing now, the most urgent first, at most three things."""
    command = f"rgunit -w {shlex.quote(workspace)}"
    steps: list[tuple[str, str]] = []
    minutes = max(sum(float(stage.get("seconds") or 0) for stage in data.stages) / 60, 1.0)
    short, arm = too_short(data.translation), main_arm(data.translation)
    early = search_too_short(data.retrieval)
    changes = state_of(found, arm, "accuracy_changed") if arm else None
    if short or early:
        more = minutes * max(times_needed(data.translation, data.retrieval), 1.5)
        steps.append((f"Give it more time. {short or early}", _again(data, command, math.ceil(more))))
    elif warning := classifier_warning(data.translation):
        told = f"{warning} Train it for longer, or label more images."
        steps.append((told, f"{command} evaluate translation --classifier-minutes 10"))
    elif changes == "not learned":
        steps.append(
            (
                "Give it several times as long, or ask for fewer attributes.",
                _again(data, command, math.ceil(4 * minutes)),
            )
        )
    if (names := missed(found)) and not early:
        steps.append((f"Add labelled images that have {_or(names)} and some that have not, then train again.", ""))
    if data.attributes_used:
        edit = shlex.quote(f"+{data.attributes_used[0]}")
        if changes == "learned" and not short:
            steps.append(("Translate pictures of your own.", f"{command} translate PICTURE --to {edit}"))
        if state_of(found, "retrieval", "attributes") == "learned" and not early:
            steps.append(("Search with a picture of your own.", f"{command} query PICTURE --to {edit}"))
    if data.translation_rows:
        steps.append(("Look at the worst translations below: they show what is missing.", ""))
    return steps[:3]


def _again(data: ReportData, command: str, minutes: int) -> str:
    """The command that made this report, with more time: what is finished goes on from where it is."""
    given = data.commands[0] if data.commands else ""
    if given.startswith("rgunit "):
        # A number of steps that was given would end each stage before its minutes.
        return f"{re.sub(LIMITS, '', given)} --minutes {minutes}"
    what = "demo" if data.preset == "demo" else f"run --preset {shlex.quote(data.preset)}"
    return f"{command} {what} --minutes {minutes}"


def _share(translation: Mapping[str, Any], arm: str, measure: str) -> str:
    value, copy = value_of(translation, arm, measure), value_of(translation, "copy", measure)
    return "–" if value is None or not copy else f"{100 * value / copy:.0f} %"


def _hundred(value: float | None) -> str:
    """A share as how many of a hundred."""
    return "–" if value is None else f"{100 * value:.0f}"


def _or(names: Sequence[str]) -> str:
    return listed(names).replace(" and ", " or ") if len(names) > 1 else names[0]
