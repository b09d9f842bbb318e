"""What a table says of the arms: figures, how sure they are, and which differences are real.

Every measure of an arm is either Σ hits / Σ counts over pairs (bootstrapped) or a Fréchet distance (jackknifed); two
arms are compared on the same pairs, so what the pairs have in common cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from translation.evaluation.distances import Frechet, Resamples, interval, jackknife_error, percentile_interval
from translation.evaluation.protocol import Pairs

MODELS = ("stage1", "unguided", "random", "guided", "swapped")
COMPARISONS = (
    ("guided", "unguided"),
    ("guided", "random"),
    ("guided", "swapped"),
    *((model, "copy") for model in MODELS),
)
HIGHER_IS_BETTER = {
    "accuracy_changed": True,
    "accuracy_kept": True,
    "fd_attr": False,
    "fd_judge": False,
    "truth": False,
}
TOLERATED_LOSS = 0.01  # a gain in Fréchet distance counts while the accuracy of changed bits falls by at most this
INTERVALS = (
    "95 %, people resampled: percentile bootstrap for accuracies, truth and identity, infinitesimal jackknife for "
    "Fréchet distances; differences between arms are paired"
)


@dataclass(frozen=True)
class PairScores:
    """One arm, pair by pair; None where it could not be measured.

    `right` bool [n, U]: the classifier sees the target's bit. `likeness` float64 [n] in [0, 1]: mean probability that
    it gives to the changed bits' targets. `other` [n]: share of unused attributes read as in the source. `truth` [n]
    in [0, 1], `identity` [n] in [0, 2], `diversity` a number.
    """

    right: NDArray[np.bool_]
    likeness: NDArray[np.float64]
    other: NDArray[np.float64] | None
    truth: NDArray[np.float64] | None
    identity: NDArray[np.float64] | None
    fd_attr: Frechet
    fd_judge: Frechet | None
    diversity: float | None


def figures(arm: PairScores, pairs: Pairs) -> dict[str, float | int | None]:
    """The contract's keys of one arm, None where a measure is missing."""
    ratios, frechets = _ratios(arm, pairs), _frechets(arm)
    shares = {name: float(hits.sum() / counts.sum()) for name, (hits, counts) in ratios.items()}
    return {
        "accuracy_changed": shares.get("accuracy_changed"),
        "accuracy_kept": shares.get("accuracy_kept"),
        "accuracy_other": shares.get("accuracy_other"),
        "fd_attr": frechets["fd_attr"].distance,
        "fd_judge": frechets["fd_judge"].distance if "fd_judge" in frechets else None,
        "diversity": arm.diversity,
        "identity": shares.get("identity"),
        "truth": shares.get("truth"),
        "n": len(pairs),
    }


def intervals(arm: PairScores, pairs: Pairs, resamples: Resamples) -> dict[str, list[float]]:
    """{measure: [low, high]} at 95 %."""
    found = {}
    for name, (hits, counts) in _ratios(arm, pairs).items():
        found[name] = list(percentile_interval(resamples.ratio(hits, counts)[1]))
    for name, value in _frechets(arm).items():
        sides = [(value.influence_a, pairs.people), (value.influence_b, pairs.other_people)]
        low, high = interval(value.distance, jackknife_error(sides))
        found[name] = [max(low, 0.0), high]
    return found


def comparisons(
    scores: Mapping[str, PairScores], pairs: Pairs, resamples: Resamples
) -> dict[str, dict[str, dict[str, Any]]]:
    """{"guided vs unguided": {measure: {difference, interval, verdict}}} for those of COMPARISONS that were run."""
    return {
        f"{first} vs {second}": _compare(scores[first], scores[second], pairs, resamples)
        for first, second in COMPARISONS
        if first in scores and second in scores
    }


def _ratios(arm: PairScores, pairs: Pairs) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Measures that are Σ hits / Σ counts over pairs: name → (hits [n], counts [n])."""
    changed, kept, ones = pairs.changed, pairs.kept, np.ones(len(pairs))
    ratios: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "accuracy_changed": ((arm.right & changed).sum(1), changed.sum(1)),
        "accuracy_kept": ((arm.right & kept).sum(1), kept.sum(1)),
    }
    means = {"accuracy_other": arm.other, "identity": arm.identity, "truth": arm.truth}
    ratios.update({name: (values, ones) for name, values in means.items() if values is not None})
    return {name: (hits, counts) for name, (hits, counts) in ratios.items() if counts.sum()}


def _frechets(arm: PairScores) -> dict[str, Frechet]:
    named = {"fd_attr": arm.fd_attr, "fd_judge": arm.fd_judge}
    return {name: value for name, value in named.items() if value is not None}


def _compare(first: PairScores, second: PairScores, pairs: Pairs, resamples: Resamples) -> dict[str, dict[str, Any]]:
    """{measure: {difference (first − second), interval, verdict "better" | "worse" | "no difference" of first}}.

    A better Fréchet distance also says whether it `counts`: not where it was bought with changed bits.
    """
    found: dict[str, dict[str, Any]] = {}
    ratios, others = _ratios(first, pairs), _ratios(second, pairs)
    for name in ratios.keys() & others.keys() & HIGHER_IS_BETTER.keys():
        (here, draws), (there, other_draws) = resamples.ratio(*ratios[name]), resamples.ratio(*others[name])
        found[name] = _difference(name, here - there, percentile_interval(draws - other_draws))
    for name, a in _frechets(first).items():
        b = _frechets(second)[name]
        sides = [
            (a.influence_a - b.influence_a, pairs.people),
            (a.influence_b - b.influence_b, pairs.other_people),
        ]
        gap = a.distance - b.distance
        found[name] = _difference(name, gap, interval(gap, jackknife_error(sides)))
        if found[name]["verdict"] == "better":
            found[name]["counts"] = found["accuracy_changed"]["difference"] >= -TOLERATED_LOSS
    return {name: found[name] for name in HIGHER_IS_BETTER if name in found}


def _difference(name: str, gap: float, limits: tuple[float, float]) -> dict[str, Any]:
    verdict = "no difference"
    if limits[0] > 0 or limits[1] < 0:
        verdict = "better" if (limits[0] > 0) == HIGHER_IS_BETTER[name] else "worse"
    return {"difference": gap, "interval": list(limits), "verdict": verdict}
