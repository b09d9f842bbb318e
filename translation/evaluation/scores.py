"""What a table says of the arms: figures, how sure they are, and which differences are real.

Every measure of an arm is either Σ hits / Σ counts over pairs or real images (bootstrapped), a Fréchet distance
(jackknifed), or a bare number; two arms are compared on the same pairs, so what the pairs have in common cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from translation.evaluation.distances import Frechet, Resamples, interval, jackknife_error, percentile_interval

MODELS = ("stage1", "unguided", "random", "guided", "swapped", "cascade", "trained")
COMPARISONS = (
    ("guided", "unguided"),
    ("guided", "random"),
    ("guided", "swapped"),
    ("stage1", "cascade"),
    ("stage1", "trained"),
    *((model, "copy") for model in MODELS),
)
HIGHER_IS_BETTER = {
    "accuracy_changed": True,
    "accuracy_kept": True,
    "fd_attr": False,
    "fd_judge": False,
    "truth": False,
    "truth_edit": False,
    "fid": False,
    "neighbour_copies": False,
    "reverse": True,
    "relevance": True,
}
TOLERATED_LOSS = 0.01  # a gain in Fréchet distance counts if the accuracy of changed attributes falls by at most this
INTERVALS = (
    "95 %, people resampled: percentile bootstrap for accuracies, truth, truth_edit, identity, copies and reverse, "
    "infinitesimal jackknife for Fréchet distances; differences between arms are paired"
)


class PairList(Protocol):
    """What figures and intervals know of the pairs: `protocol.Pairs`, or those of two evaluations (`exchange.py`)."""

    def __len__(self) -> int: ...

    @property
    def changed(self) -> NDArray[np.bool_]: ...

    @property
    def kept(self) -> NDArray[np.bool_]: ...

    @property
    def people(self) -> tuple[str, ...]:
        """Who each pair's source shows."""

    @property
    def other_people(self) -> tuple[str, ...]:
        """Who each image of the reference shows."""

    @property
    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Whose each row of `Frechet.influence_a` and of `influence_b` is."""


@dataclass(frozen=True)
class PairScores:
    """One arm, pair by pair; None where it could not be measured.

    `right` bool [n, U]: the classifier reads the target's value. `likeness` float64 [n] in [0, 1]: mean probability
    that it gives to the targets of the attributes to change. `other` [n]: share of unused attributes read as in the
    source. `truth` [n] in [0, 1], `truth_edit` [n] the same where the edit acts (`truth.py`; nan: nowhere), `identity`
    [n] in [0, 2], `copies` bool [n] (`copies.py`). `reverse` int [m, 2]: how many attributes of each image of half B a
    classifier trained on the translations reads right, and how many are known (`reverse.py`). `relevance` int [n, 2]:
    whether the source's value of a text field is read, and known (`relevance.py`). `fid` … `lpips` are of
    `inception.py`; `diversity` and `lpips` are means over several translations of one input.
    """

    right: NDArray[np.bool_]
    likeness: NDArray[np.float64]
    other: NDArray[np.float64] | None
    truth: NDArray[np.float64] | None
    identity: NDArray[np.float64] | None
    fd_attr: Frechet
    fd_judge: Frechet | None
    diversity: float | None
    copies: NDArray[np.bool_] | None = None
    truth_edit: NDArray[np.float64] | None = None
    reverse: NDArray[np.int64] | None = None
    relevance: NDArray[np.int64] | None = None
    fid: Frechet | None = None
    kid: float | None = None
    inception_score: float | None = None
    lpips: float | None = None


@dataclass(frozen=True)
class Draws:
    """Bootstrap resamples of both halves' people: `sources` for what is counted over pairs, `others` over half B."""

    sources: Resamples
    others: Resamples

    @staticmethod
    def draw(pairs: PairList, count: int, seed: int) -> Draws:
        """`count` resamples of each half."""
        return Draws(Resamples.draw(pairs.people, count, seed), Resamples.draw(pairs.other_people, count, seed))

    def ratio(self, hits: NDArray[Any], counts: NDArray[Any], measure: str) -> tuple[float, NDArray[np.float64]]:
        """Σ hits / Σ counts and its value in every resample [r]."""
        return (self.others if measure == "reverse" else self.sources).ratio(hits, counts)


def figures(arm: PairScores, pairs: PairList) -> dict[str, float | int | None]:
    """The contract's keys of one arm and the further measures, None where one is missing."""
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
        "truth_edit": shares.get("truth_edit"),
        "neighbour_copies": shares.get("neighbour_copies"),
        "reverse": shares.get("reverse"),
        "relevance": shares.get("relevance"),
        "fid": frechets["fid"].distance if "fid" in frechets else None,
        "kid": arm.kid,
        "inception_score": arm.inception_score,
        "lpips": arm.lpips,
        "n": len(pairs),
    }


def intervals(arm: PairScores, pairs: PairList, draws: Draws) -> dict[str, list[float]]:
    """{measure: [low, high]} at 95 %."""
    found = {}
    for name, (hits, counts) in _ratios(arm, pairs).items():
        found[name] = list(percentile_interval(draws.ratio(hits, counts, name)[1]))
    for name, value in _frechets(arm).items():
        sides = list(zip((value.influence_a, value.influence_b), pairs.halves, strict=True))
        low, high = interval(value.distance, jackknife_error(sides))
        found[name] = [max(low, 0.0), high]
    return found


def comparisons(
    scores: Mapping[str, PairScores], pairs: PairList, draws: Draws, which: Sequence[tuple[str, str]] = COMPARISONS
) -> dict[str, dict[str, dict[str, Any]]]:
    """{"guided vs unguided": {measure: {difference, interval, verdict}}} for those of `which` that were run."""
    return {
        f"{first} vs {second}": _compare(scores[first], scores[second], pairs, draws)
        for first, second in which
        if first in scores and second in scores
    }


def _ratios(arm: PairScores, pairs: PairList) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Measures that are Σ hits / Σ counts: name → (hits [n], counts [n]) over pairs, `reverse` over half B."""
    changed, kept, ones = pairs.changed, pairs.kept, np.ones(len(pairs))
    ratios: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "accuracy_changed": ((arm.right & changed).sum(1), changed.sum(1)),
        "accuracy_kept": ((arm.right & kept).sum(1), kept.sum(1)),
    }
    means = {"accuracy_other": arm.other, "identity": arm.identity, "truth": arm.truth, "neighbour_copies": arm.copies}
    ratios.update({name: (values, ones) for name, values in means.items() if values is not None})
    if arm.truth_edit is not None:
        ratios["truth_edit"] = (np.nan_to_num(arm.truth_edit), np.isfinite(arm.truth_edit))
    if arm.reverse is not None:
        ratios["reverse"] = (arm.reverse[:, 0], arm.reverse[:, 1])
    if arm.relevance is not None:
        ratios["relevance"] = (arm.relevance[:, 0], arm.relevance[:, 1])
    return {name: (hits, counts) for name, (hits, counts) in ratios.items() if counts.sum()}


def _frechets(arm: PairScores) -> dict[str, Frechet]:
    named = {"fd_attr": arm.fd_attr, "fd_judge": arm.fd_judge, "fid": arm.fid}
    return {name: value for name, value in named.items() if value is not None}


def _compare(first: PairScores, second: PairScores, pairs: PairList, draws: Draws) -> dict[str, dict[str, Any]]:
    """{measure: {difference (first − second), interval, verdict "better" | "worse" | "no difference" of first}}.

    A better Fréchet distance also says whether it `counts`: not where the accuracy of changed attributes fell too far.
    """
    found: dict[str, dict[str, Any]] = {}
    ratios, others = _ratios(first, pairs), _ratios(second, pairs)
    for name in ratios.keys() & others.keys() & HIGHER_IS_BETTER.keys():
        (here, one), (there, other) = draws.ratio(*ratios[name], name), draws.ratio(*others[name], name)
        found[name] = _difference(name, here - there, percentile_interval(one - other))
    for name, a in _frechets(first).items():
        b = _frechets(second)[name]
        influences = (a.influence_a - b.influence_a, a.influence_b - b.influence_b)
        sides = list(zip(influences, pairs.halves, strict=True))
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
