"""What the numbers allow to be said, in one vocabulary for the terminal and the report.

“not learned”: not clearly better than doing nothing. “no difference”: two arms closer than the interval of their
difference. A number without an interval is compared as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from translation.evaluation.report.lengths import listed, search_too_short, too_short
from translation.evaluation.scores import HIGHER_IS_BETTER, TOLERATED_LOSS

State = Literal["learned", "not learned", "better", "worse", "no difference"]
Numbers = Mapping[str, Any]

MARGIN = 0.05  # above chance or copying, in accuracy and in P@10, before anything counts as learned
CHANCE = 0.5  # of one attribute
RELIABLE = 0.8  # accuracy on real images that a classifier needs for its reading of translations to mean much
NEARER = 0.5  # of copying's distance to the truth where the edit acts, at most which a translation may keep
MODELS = ("stage1", "unguided", "random", "guided", "swapped")
CONTROLS = ("copy", "neighbour")
COMPARED = (
    *("accuracy_changed", "accuracy_kept", "fd_attr", "fd_judge", "truth", "truth_edit"),
    *("fid", "reverse", "relevance"),
)
FRECHET = ("fd_attr", "fd_judge", "fid")
MEASURES = {
    "accuracy_changed": "accuracy of changed attributes",
    "accuracy_kept": "accuracy of kept attributes",
    "accuracy_other": "agreement in all other attributes",
    "fd_attr": "FD-attr",
    "fd_judge": "FD-judge",
    "truth": "distance to the truth",
    "truth_edit": "distance to the truth where the edit acts",
    "identity": "identity distance",
    "diversity": "diversity",
    "reverse": "reverse classification",
    "relevance": "content kept",
    "neighbour_copies": "copies of a neighbour",
    "fid": "FID",
    "kid": "KID",
    "inception_score": "IS",
    "lpips": "LPIPS",
}
ARMS = {
    "stage1": "first training alone",
    "unguided": "unguided",
    "random": "random neighbours",
    "guided": "guided",
    "swapped": "guided with random neighbours",
    "copy": "copy of the input",
    "neighbour": "top neighbour itself",
}


BASELINES = {
    "content_only": "content alone",
    "style_only": "style alone",
    "late_fusion": "late fusion of both",
    "label_filter": "labels as a filter",
    "label_filter_content": "filter, then content",
    "same_labels": "random among the right labels",
}


@dataclass(frozen=True)
class Verdict:
    """One finding: about `subject` (an arm, two arms, `retrieval`, an attribute), by `measure`, with its sentence."""

    subject: str
    measure: str
    state: State
    text: str
    gap: tuple[float, float, float] | None = None  # between two arms: difference and its interval


def verdicts(translation: Numbers | None, retrieval: Numbers | None) -> tuple[Verdict, ...]:
    """Findings on the two evaluations (their contract JSON), retrieval first; a part that is None says nothing."""
    found: list[Verdict] = []
    if retrieval:
        found += _retrieval(retrieval)
    if translation:
        for judged in (_changed, _truth, _truth_edit):
            found += [v for arm in MODELS if (v := judged(translation, arm)) is not None]
        for other in () if too_short(translation) else ("unguided", "random", "swapped"):
            found += compared(translation, "guided", other)
    return tuple(found)


def state_of(found: Sequence[Verdict], subject: str, measure: str) -> State | None:
    """The state of one finding, None where there is none (of an attribute by the measure "one attribute")."""
    return next((v.state for v in found if v.subject == subject and v.measure == measure), None)


def missed(found: Sequence[Verdict]) -> list[str]:
    """The attributes that are not found better than by chance, in words."""
    mine = [v for v in found if v.measure == "one attribute" and v.state == "not learned"]
    return [v.subject.replace("_", " ") for v in mine]


def arms_of(translation: Numbers) -> list[str]:
    """The arms that were measured, models first."""
    return [a for a in (*MODELS, *CONTROLS) if value_of(translation, a, "accuracy_changed") is not None]


def compared(translation: Numbers, arm: str, other: str) -> list[Verdict]:
    """`arm` against `other` by every measure that both have and that knows a better and a worse."""
    found = []
    for measure in COMPARED:
        gap = difference(translation, arm, other, measure)
        if gap is None:
            continue
        value, low, high = gap
        gain = (value > 0) == HIGHER_IS_BETTER[measure]
        state: State = "no difference"
        if low > 0 or high < 0:
            state = "better" if gain else "worse"
        words = f"{signed(value)} ({signed(low)} to {signed(high)})"
        verb = "no difference from" if state == "no difference" else f"{state} than"
        text = f"{ARMS[arm].capitalize()}: {verb} {ARMS[other]} in {MEASURES[measure]}, {words}."
        if state == "better" and measure in FRECHET and _bought(translation, arm, other):
            text += " It does not count: fewer attributes were changed."
        found.append(Verdict(f"{arm} against {other}", measure, state, text, gap))
    return found


def headlines(translation: Numbers | None, retrieval: Numbers | None) -> tuple[Verdict, ...]:
    """The findings as few sentences: failures each, successes of the main arms, comparisons put together."""
    found, short = verdicts(translation, retrieval), too_short(translation)
    shown = [Verdict("run", "length", "not learned", short)] if short else []
    if early := search_too_short(retrieval):
        shown.append(Verdict("run", "length of retrieval", "not learned", early))
        found = tuple(v for v in found if v.subject != "retrieval" and v.measure != "one attribute")
    shown += [v for v in found if v.subject == "retrieval"]
    names = missed(found)
    if names and state_of(found, "retrieval", "attributes") == "learned":
        text = f"Retrieval: {listed(names)} {'is' if len(names) == 1 else 'are'} not found better than by chance."
        shown.append(Verdict("retrieval", "per_attribute", "not learned", text))
    for measure in ("accuracy_changed", "truth", "truth_edit"):
        mine = [v for v in found if v.subject in MODELS and v.measure == measure]
        shown += [v for v in mine if v.state == "learned" and v.subject in ("unguided", "guided")]
        failed = [v for v in mine if v.state == "not learned"]
        if len(failed) > 1:
            numbers = [f"{ARMS[v.subject]} {value_of(translation or {}, v.subject, measure):.3f}" for v in failed]
            told = {
                "accuracy_changed": "Not clearly more of the attributes changed than by chance or copying",
                "truth": "Not nearer to the true translation than the input itself "
                f"({three(value_of(translation or {}, 'copy', 'truth'))})",
                "truth_edit": "Where the edit acts, more than half as far from the true translation as the input "
                f"itself ({three(value_of(translation or {}, 'copy', 'truth_edit'))})",
            }[measure]
            shown.append(Verdict("several", measure, "not learned", f"{told}: {listed(numbers)}."))
        else:
            shown += failed
    if text := classifier_warning(translation):
        shown.append(Verdict("classifier", "accuracy", "not learned", text))
    for subject in dict.fromkeys(v.subject for v in found if v.gap):
        arm, other = subject.split(" against ")
        start = f"{ARMS[arm].capitalize()} against {ARMS[other]}"
        for state in ("better", "worse", "no difference"):
            same = [v for v in found if v.subject == subject and v.state == state and v.gap]
            if same and state == "no difference":
                text = f"{start}: no difference in {listed([MEASURES[v.measure] for v in same])}."
                shown.append(Verdict(subject, "several", "no difference", text))
            elif same:
                shown += same
    return tuple(shown)


def classifier_warning(translation: Numbers | None) -> str:
    """A sentence where the classifier that reads the attributes is too poor to trust, else empty."""
    accuracy = ((translation or {}).get("classifier") or {}).get("accuracy")
    if accuracy is None or accuracy >= RELIABLE:
        return ""
    share = f"{100 * accuracy:.0f} %"
    return f"The classifier that reads the attributes is right in only {share} of real images: its numbers say little."


def plain_words(translation: Numbers | None, retrieval: Numbers | None) -> str:
    """What came of it in two or three sentences; empty where nothing was evaluated."""
    found, short = verdicts(translation, retrieval), too_short(translation)
    early = search_too_short(retrieval)
    told = [short or early] if short or early else []
    state = state_of(found, "retrieval", "attributes")
    if state and not early:
        verb = "finds" if state == "learned" else "did not learn to find"
        but = f", except {listed(names)}" if (names := missed(found)) and state == "learned" else ""
        told.append(f"Retrieval {verb} what it is asked for{but}.")
    arm = next((a for a in ("guided", "unguided", "stage1") if state_of(found, a, "accuracy_changed")), None)
    if arm and not short:
        changes, near = state_of(found, arm, "accuracy_changed"), state_of(found, arm, "truth")
        text = "The translator changes" if changes == "learned" else "The translator did not learn to change"
        text += " what it is asked to change"
        if near:
            text += ", but" if (changes == "learned") != (near == "learned") else ", and"
            text += " comes nearer to the truth than" if near == "learned" else " comes no nearer to the truth than"
            text += " its input"
        told.append(text + ".")
        told += [words] if (words := _by_the_truth(translation or {}, found, arm)) else []
    if any(v.subject == "guided against unguided" for v in found):
        helps, harms = (_measures(found, "guided against unguided", s) for s in ("better", "worse"))
        parts = [f"{verb} {listed(names)}" for verb, names in (("improves", helps), ("harms", harms)) if names]
        text = "Guidance " + (" and ".join(parts) if parts else "makes no measurable difference")
        against = [v.state for v in found if v.subject == "guided against random"]
        if against and all(s == "no difference" for s in against):
            text += (
                "; whether neighbours were retrieved or random in training makes none"
                if not parts
                else ("; neighbours drawn at random in training do measurably no worse")
            )
        told.append(text + ".")
    return " ".join(told)


def _by_the_truth(translation: Numbers, found: Sequence[Verdict], arm: str) -> str:
    """Whether an arm worked by the drawn truth: near it where the edit acts, and no harm done elsewhere."""
    states = [state_of(found, arm, measure) for measure in ("truth_edit", "truth")]
    if None in states:
        return ""
    inside, whole = (
        100 * (value_of(translation, arm, measure) or 0.0) / (value_of(translation, "copy", measure) or math.inf)
        for measure in ("truth_edit", "truth")
    )
    worked = "it worked" if states == ["learned", "learned"] else "it did not work"
    return (
        f"By the drawn truth {worked}: its distance is {inside:.0f} % of copying's where the edit acts (wanted: at "
        f"most {100 * NEARER:.0f} %) and {whole:.0f} % over the whole picture (wanted: clearly below 100 %)."
    )


def _measures(found: Sequence[Verdict], subject: str, state: State) -> list[str]:
    return [MEASURES[v.measure] for v in found if v.subject == subject and v.state == state]


def difference(translation: Numbers, arm: str, other: str, measure: str) -> tuple[float, float, float] | None:
    """`arm` − `other` with its 95 % interval: as the evaluation paired them, else from both arms' intervals."""
    paired = ((translation.get("comparisons") or {}).get(f"{arm} vs {other}") or {}).get(measure)
    if paired is not None:
        low, high = paired["interval"]
        return float(paired["difference"]), float(low), float(high)
    a, b = value_of(translation, arm, measure), value_of(translation, other, measure)
    ends, others = interval_of(translation, arm, measure), interval_of(translation, other, measure)
    if a is None or b is None or ends is None or others is None:
        return None
    half = math.hypot(ends[1] - ends[0], others[1] - others[0]) / 2
    return a - b, a - b - half, a - b + half


def _bought(translation: Numbers, arm: str, other: str) -> bool:
    """Whether a better Fréchet distance came with fewer changed attributes: an accuracy more than a point lower."""
    gap = difference(translation, arm, other, "accuracy_changed")
    return gap is not None and gap[0] < -TOLERATED_LOSS


def signed(value: float) -> str:
    """A difference for reading: +0.012, −1.30, +0.0004."""
    size = abs(value)
    if size < 5e-5:
        return "0"
    return f"{value:+.{1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 else 4}f}".replace("-", "−")


def three(value: float | None) -> str:
    """A figure for a sentence or a cell: three digits, fewer of what is large, an en dash for nothing."""
    return "–" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def value_of(translation: Numbers, arm: str, measure: str) -> float | None:
    """A number of an arm, None where it was not or cannot be computed."""
    value = (translation.get(arm) or {}).get(measure)
    return None if value is None or not math.isfinite(value) else float(value)


def interval_of(translation: Numbers, arm: str, measure: str) -> tuple[float, float] | None:
    """The 95 % interval of a number of an arm, None where there is none."""
    ends = ((translation.get("intervals") or {}).get(arm) or {}).get(measure)
    return None if ends is None or any(end is None for end in ends) else (float(ends[0]), float(ends[1]))


def _retrieval(retrieval: Numbers) -> list[Verdict]:
    chance = retrieval["random"]
    asks, found = retrieval.get("style", True), []  # without a style no query asks for a label
    if asks and retrieval["attributes"] is not None and chance["attributes"] is not None:
        found.append(_above(retrieval["attributes"], chance["attributes"], "retrieval", "attributes"))
    for name, value in (retrieval.get("per_attribute") or {}).items():
        base = (chance.get("per_attribute") or {}).get(name)
        if asks and value is not None and base is not None:
            found.append(_above(value, base, name, "one attribute"))
    if retrieval.get("content") is not None and chance.get("content") is not None:
        value, base = retrieval["content"], chance["content"]
        state: State = "better" if value > base + 0.005 else "worse" if value < base - 0.005 else "no difference"
        word = {"better": "above", "worse": "below"}.get(state, "no different from")
        text = f"Retrieval: content P@10 {value:.3f} is {word} random images ({base:.3f})."
        found.append(Verdict("retrieval", "content", state, text))
    return found


def _above(value: float, base: float, subject: str, measure: str) -> Verdict:
    learned = value >= base + MARGIN
    what = "attributes P@10" if subject == "retrieval" else f"P@10 of {subject}"
    tail = "" if learned else ": not learned"
    text = f"Retrieval: {what} {value:.3f} against {base:.3f} of random images{tail}."
    return Verdict(subject, measure, "learned" if learned else "not learned", text)


def _changed(translation: Numbers, arm: str) -> Verdict | None:
    value = value_of(translation, arm, "accuracy_changed")
    if value is None:
        return None
    copy = value_of(translation, "copy", "accuracy_changed") or 0.0
    base = max(copy, CHANCE)
    ends = interval_of(translation, arm, "accuracy_changed")
    learned = (ends[0] if ends else value) > base + MARGIN
    sure = f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    told = f"{ARMS[arm].capitalize()}: {value:.3f}{sure} of the attributes to change were changed"
    tail = f", copying gets {copy:.3f}." if learned else f": not learned, chance gets {base:.3f}."
    return Verdict(arm, "accuracy_changed", "learned" if learned else "not learned", told + tail)


def _truth(translation: Numbers, arm: str) -> Verdict | None:
    value, copy = value_of(translation, arm, "truth"), value_of(translation, "copy", "truth")
    if value is None or copy is None:
        return None
    gap = difference(translation, arm, "copy", "truth")  # pair by pair: most of the spread is between pictures
    state: State = "learned" if (gap[2] if gap else value - copy) < 0 else "not learned"
    word = "nearer to the true translation than" if state == "learned" else "not nearer to the true translation than"
    text = f"{ARMS[arm].capitalize()}: {word} the input itself ({value:.3f} against {copy:.3f})."
    return Verdict(arm, "truth", state, text)


def _truth_edit(translation: Numbers, arm: str) -> Verdict | None:
    value, copy = value_of(translation, arm, "truth_edit"), value_of(translation, "copy", "truth_edit")
    if value is None or copy is None:
        return None
    state: State = "learned" if value <= NEARER * copy else "not learned"
    word = "at most half" if state == "learned" else "more than half"
    text = f"{ARMS[arm].capitalize()}: where the edit acts, {word} as far from the true translation as the input itself"
    return Verdict(arm, "truth_edit", state, f"{text} ({value:.3f} against {copy:.3f}).")


def baseline_name(name: str, scores: Numbers) -> str:
    """A simpler retrieval's name in a table, late fusion with its weight of content."""
    weight = f", best weight {scores['weight']:.1f}" if "weight" in scores else ""
    return BASELINES.get(name, name) + weight
