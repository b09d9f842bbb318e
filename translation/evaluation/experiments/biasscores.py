"""The numbers of UDIT's table (thesis, Section 5.6.3): means, and differences between arms with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from translation.evaluation.distances import Resamples, percentile_interval

TOLERATED = 0.02  # a gain counts only where the wanted attribute changes at most this much less often
LEARNED = 0.1  # share changed in each direction below which an arm has not learned to change the wanted attribute
DRAWS = 2000


class Judged(BaseModel):
    """One arm of one seed, image by image.

    people: whose each image is; added: whether it is to get the wanted attribute, or to lose it; at_risk: its protected
    value is rare in the domain that it is translated to; misclassified: the judge reads another one; drop: how much
    less sure the judge is of its own; changed: the judge reads the wanted value; identity and truth: distances to the
    source and to the true translation, None where they are not measured; diversity: mean distance between several
    translations of one image.
    """

    model_config = ConfigDict(frozen=True)

    people: list[str]
    added: list[bool]
    at_risk: list[bool]
    misclassified: list[bool]
    drop: list[float]
    changed: list[bool]
    identity: list[float] | None
    truth: list[float] | None
    diversity: float


def summary_of(seeds: Sequence[Mapping[str, Judged]], control: str) -> dict[str, Any]:
    """{arms: {arm: figures}, differences: {"arm vs other": {measure: {difference, interval, seeds}, verdict}}}.

    Figures: of sources at risk misclassified, drop, identity, truth; of all sources misclassified_all; changed (all),
    changed_least (of those that are to get the attribute and of those that are to lose it, the fewer), diversity; each
    with the smallest and largest mean of a seed as `spread`. Intervals: 95 %, people resampled, the
    same ones in all arms; seeds are taken as they are. Each arm is compared with `control`, and the arm of both parts
    with each of its parts. A gain `counts` where misclassification falls by its whole interval, and the wanted
    attribute changes as often as in the other arm within TOLERATED, both having learned to change it.
    """
    names = [name for name in seeds[0] if all(name in one for one in seeds)]
    arms = {name: _figures([one[name] for one in seeds]) for name in names}
    pairs = [(name, control) for name in names if name != control and control in names]
    pairs += [(name, part) for name in names for part in name.split(" and ") if " and " in name and part in names]
    found: dict[str, Any] = {}
    for name, other in pairs:
        gaps = _gaps([one[name] for one in seeds], [one[other] for one in seeds])
        fewer, changed = gaps["misclassified"], gaps["changed"]["difference"]
        falls = fewer["interval"][1] < 0
        learned = all(arms[one]["changed_least"] >= LEARNED for one in (name, other))
        told = "no difference shown"
        if not learned:
            told = "not to be compared: one of them has not learned to change the wanted attribute both ways"
        elif falls:
            told = "a gain" if changed >= -TOLERATED else "fewer, but the wanted attribute changes less often"
        elif fewer["interval"][0] > 0:
            told = "worse"
        found[f"{name} vs {other}"] = {**gaps, "counts": learned and falls and changed >= -TOLERATED, "verdict": told}
    return {"seeds": len(seeds), "sources": len(seeds[0][names[0]].people), "arms": arms, "differences": found}


def _columns(judged: Judged) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """{measure: (values [n], which count [n])}."""
    risk, everyone = np.array(judged.at_risk, np.float64), np.ones(len(judged.people))
    values = {
        "misclassified": (judged.misclassified, risk),
        "misclassified_all": (judged.misclassified, everyone),
        "drop": (judged.drop, risk),
        "changed": (judged.changed, everyone),
        "identity": (judged.identity, risk),
        "truth": (judged.truth, risk),
    }
    return {
        name: (np.array(one, np.float64) * counts, counts) for name, (one, counts) in values.items() if one is not None
    }


def _mean(column: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
    values, which = column
    return float(values.sum() / which.sum())


def _figures(seeds: Sequence[Judged]) -> dict[str, Any]:
    means = [{name: _mean(column) for name, column in _columns(one).items()} for one in seeds]
    for mean, one in zip(means, seeds, strict=True):
        added, changed = np.array(one.added), np.array(one.changed)
        mean["changed_least"] = min(float(changed[way].mean()) for way in (added, ~added) if way.any())
        mean["diversity"] = one.diversity
    figures: dict[str, Any] = {name: float(np.mean([mean[name] for mean in means])) for name in means[0]}
    figures["spread"] = {name: [min(m[name] for m in means), max(m[name] for m in means)] for name in means[0]}
    return {"identity": None, "truth": None, **figures}


def _gaps(first: Sequence[Judged], second: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """{measure: {difference (first − second), interval, seeds}}: the seeds' images one after the other, people as one;
    `seeds`: the difference of each."""
    draws = Resamples.draw([person for one in first for person in one.people], DRAWS, 0)
    a, b = ([_columns(one) for one in seeds] for seeds in (first, second))
    found = {}
    for name in a[0].keys() & b[0].keys():
        (here, one), (there, other) = (
            draws.ratio(*(np.concatenate([seed[name][side] for seed in part]) for side in (0, 1))) for part in (a, b)
        )
        each = [
            float(x[name][0].sum() / x[name][1].sum() - y[name][0].sum() / y[name][1].sum())
            for x, y in zip(a, b, strict=True)
        ]
        found[name] = {"difference": here - there, "interval": list(percentile_interval(one - other)), "seeds": each}
    order = ("misclassified", "misclassified_all", "drop", "changed", "identity", "truth")
    return {name: found[name] for name in order if name in found}
