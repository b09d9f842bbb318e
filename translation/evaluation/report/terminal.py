"""The short tables that end `rgunit run` and `rgunit evaluate` in the terminal, in the report's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from translation.evaluation.report.lengths import search_too_short
from translation.evaluation.report.verdicts import (
    ARMS,
    COMPARED,
    CONTROLS,
    Numbers,
    State,
    Verdict,
    arms_of,
    classifier_warning,
    plain_words,
    state_of,
    three,
    value_of,
    verdicts,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = (
    *COMPARED,
    "neighbour_copies",
    "kid",
    "inception_score",
    "lpips",
)  # in the terminal's table, where they were measured
SHORT = {
    "accuracy_changed": "changed",
    "accuracy_kept": "kept",
    "fd_attr": "FD-attr",
    "fd_judge": "FD-judge",
    "truth": "to truth",
    "truth_edit": "in edit",
    "fid": "FID",
    "reverse": "reverse",
    "relevance": "content",
    "neighbour_copies": "copies",
    "kid": "KID",
    "inception_score": "IS",
    "lpips": "LPIPS",
}


def terminal_table(retrieval: Numbers | None, translation: Numbers | None) -> RenderableType:
    """The short tables that end `rgunit run`: retrieval against random, and the arms with their verdicts."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    found = verdicts(translation, retrieval)
    shown: list[RenderableType] = []
    if retrieval:
        early = search_too_short(retrieval)
        table = Table(title=f"Retrieval, P@{retrieval.get('k', 10)}", title_justify="left", box=None, pad_edge=False)
        for heading in ("", "here", "random", ""):
            table.add_column(heading, justify="right" if heading else "left")
        for measure in ("attributes", "content", "average"):
            value, base = retrieval.get(measure), retrieval["random"].get(measure)
            state = state_of(found, "retrieval", measure) if measure == "attributes" and not early else None
            table.add_row(measure, three(value), three(base), _styled(state))
        shown.append(table)
        missed = [v.subject for v in found if v.measure == "one attribute" and v.state == "not learned"]
        if missed and not early:
            shown.append(f"{_styled('not learned')}: {escape(', '.join(missed))}")
    if translation:
        arms = arms_of(translation)
        columns = [m for m in SHOWN if any(value_of(translation, arm, m) is not None for arm in arms)]
        table = Table(title="Translation", title_justify="left", box=None, pad_edge=False)
        for heading in ("", *[SHORT[m] for m in columns], ""):
            table.add_column(heading, justify="right" if heading else "left")
        for arm in arms:
            style = "dim" if arm in CONTROLS else ""
            numbers = [three(value_of(translation, arm, m)) for m in columns]
            table.add_row(ARMS[arm], *numbers, _arm_verdict(found, arm), style=style)
        shown += ["", table]
        if warning := classifier_warning(translation):
            shown.append(f"[red]{warning}[/]")
    if words := plain_words(translation, retrieval):
        shown += ["", words]
    return Group(*shown)


def _arm_verdict(found: Sequence[Verdict], arm: str) -> str:
    if arm in CONTROLS:
        return "control"
    if state_of(found, arm, "accuracy_changed") == "not learned":
        return _styled("not learned")
    if arm != "guided":
        return ""
    states = [v.state for v in found if v.subject == "guided against unguided"]
    if states and all(state == "no difference" for state in states):
        return _styled("no difference") + " from unguided"
    told = []
    for state in ("better", "worse"):
        names = [SHORT[v.measure] for v in found if v.subject == "guided against unguided" and v.state == state]
        if names:
            told.append(f"{_styled(state)}: {', '.join(names)}")
    return "; ".join(told)


def _styled(state: State | None) -> str:
    colour = {"not learned": "bold red", "worse": "red", "no difference": "yellow"}.get(state or "", "green")
    return f"[{colour}]{state}[/]" if state else ""
