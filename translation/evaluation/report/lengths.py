"""Whether trainings were long enough, and of equal length, for anything to be concluded from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LEAST_STEPS = {"stage1": 200, "retrieval": 100, "guided": 50, "random": 50, "unguided": 50}
"""Under which nothing is concluded."""
ENOUGH = 0.5  # share of its planned steps with which a classifier may judge arms


def too_short(translation: Mapping[str, Any] | None) -> str:
    """A sentence where the trainings were too short for arms to be compared, else empty: what is missing, and how much.

    By `steps` {arm: of its training} and the classifier's; what an older evaluation did not note counts as enough.
    """
    told, factor = _missing(translation)
    if not told:
        return ""
    more = f" Give it about {math.ceil(factor)} times the time." if factor > 1 else " Train them for equal steps."
    start = "Too short to draw conclusions" if factor > 1 else "No conclusions can be drawn"
    return f"{start}: {listed(told)}.{more}"


def search_too_short(retrieval: Mapping[str, Any] | None) -> str:
    """`too_short` of a search, by its `steps` {stage1, retrieval}: those of its translator and its own."""
    told, factor = _missing_of_search(retrieval)
    return (
        f"Too short to judge the search: {listed(told)}. Give it about {math.ceil(factor)} times the time."
        if told
        else ""
    )


def times_needed(translation: Mapping[str, Any] | None, retrieval: Mapping[str, Any] | None = None) -> float:
    """How many times the time would be enough, 1 where it was."""
    return max(_missing(translation)[1], _missing_of_search(retrieval)[1])


def _missing_of_search(retrieval: Mapping[str, Any] | None) -> tuple[list[str], float]:
    """See `_missing`."""
    steps = (retrieval or {}).get("steps") or {}
    names = {"stage1": "the first training (stage 1)", "retrieval": "the search's own training (stage 2)"}
    short = {name: made for name, made in steps.items() if made < LEAST_STEPS[name]}
    told = [
        f"{names[one]} made {made} steps of the {LEAST_STEPS[one]} that show anything" for one, made in short.items()
    ]
    return told, max((LEAST_STEPS[one] / max(1, made) for one, made in short.items()), default=1.0)


def _missing(translation: Mapping[str, Any] | None) -> tuple[list[str], float]:
    """What stands against conclusions, in words, and how many times the time would be enough."""
    numbers = translation or {}
    steps, classifier = numbers.get("steps") or {}, numbers.get("classifier") or {}
    short = {arm: (steps[arm], least) for arm, least in LEAST_STEPS.items() if arm in steps and steps[arm] < least}
    told, factor = [], 1.0
    if "stage1" in short:
        made, least = short.pop("stage1")
        told.append(f"the first training (stage 1) made {made} steps of the {least} that show anything")
        factor = least / max(1, made)
    if short:
        made, least = min(short.values())
        told.append(f"the shortest of the trainings that are compared made {made} steps of {least}")
        factor = max(factor, least / max(1, made))
    arms = {arm: steps[arm] for arm in ("guided", "random", "unguided") if arm in steps}
    if len(set(arms.values())) > 1:
        told.append(f"the arms made different numbers of steps ({', '.join(f'{k} {v}' for k, v in arms.items())})")
    done, planned = classifier.get("steps", 0), classifier.get("planned_steps", 0)
    if done < ENOUGH * planned:
        told.append(f"the classifier that judges made {done} of its {planned} (--classifier-minutes)")
        factor = max(factor, ENOUGH * planned / max(1, done))
    return told, factor


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
