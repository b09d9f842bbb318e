"""How sure a difference between two arms is over several seeds, all judged on the same pairs.

What one seed's interval says of its two models, this says of the mean over all seeds' models: the same people are
drawn for every seed. Other trainings would differ as these seeds differ from each other. Where the halves of the test
people were exchanged as well, there is also the mean of both ways, for which everyone is source and reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError
from index_store.whole import whole
from translation.evaluation.distances import Resamples, interval, jackknife_error, joined, percentile_interval
from translation.evaluation.protocol import Pairs
from translation.evaluation.scores import PairScores

BITS = ("accuracy_changed", "accuracy_kept")
DISTANCES = ("fd_attr", "fd_judge")
BOOTSTRAP = 1000  # resamples of people
EXCHANGED, BOTH = "halves exchanged", "both ways"
Judged = tuple[Mapping[str, PairScores], Pairs]
Arrays = dict[str, NDArray[Any]]


def with_way(part: str, way: str) -> str:
    """The name of a part of a row that is judged another way: EXCHANGED or BOTH."""
    return f"{part}, {way}" if part else way


def scores_of(part: str, judged: Judged) -> Arrays:
    """What intervals are made of, pair by pair and person by person, by names that begin with `part|`."""
    scores, pairs = judged
    bits = dict(zip(BITS, (pairs.changed, pairs.kept), strict=True))
    arrays: Arrays = {f"{part}|people": np.array(pairs.people), f"{part}|others": np.array(pairs.other_people)}
    arrays |= {f"{part}|{name}": counted.sum(1) for name, counted in bits.items()}
    for arm, score in scores.items():
        arrays |= {f"{part}|{arm}|{name}": (score.right & counted).sum(1) for name, counted in bits.items()}
        for name in DISTANCES:
            if (value := getattr(score, name)) is not None:
                arrays[f"{part}|{arm}|{name}"] = np.array([value.distance])
                arrays[f"{part}|{arm}|{name}|a"] = value.influence_a.astype(np.float32)
                arrays[f"{part}|{arm}|{name}|b"] = value.influence_b.astype(np.float32)
    return arrays


def save_scores(path: Path, scores: Arrays) -> None:
    """Write them as an .npz, whole or not at all."""
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **scores)  # type: ignore[arg-type]  # names are no options of it


def load_scores(path: Path) -> Arrays:
    """What `save_scores` wrote."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def over_seeds(seeds: Sequence[Arrays]) -> dict[str, dict[str, Any]]:
    """{part: {"guided vs unguided": {measure: {difference, interval, seeds}}}} of the `scores_of` of each seed.

    Each arm against `unguided` and itself with swapped neighbours, `guided` against `random` and `stage1`; parts that
    every seed has. RgunitError where the seeds were not judged on the same pairs.
    """
    found: dict[str, dict[str, Any]] = {}
    parts = list(dict.fromkeys(name.split("|")[0] for name in seeds[0]))
    for part in (part for part in parts if all(f"{part}|people" in one for one in seeds)):
        for name in ("people", "others", *BITS):
            if any(not np.array_equal(one[f"{part}|{name}"], seeds[0][f"{part}|{name}"]) for one in seeds):
                raise RgunitError(f"seeds were not judged on the same pairs ({part or 'the row'}): judge them again")
        found[part] = _compared(seeds, (part,))
    for part in [part for part in found if with_way(part, EXCHANGED) in found]:
        found[with_way(part, BOTH)] = _compared(seeds, (part, with_way(part, EXCHANGED)))
    return found


def _compared(seeds: Sequence[Arrays], ways: Sequence[str]) -> dict[str, Any]:
    """The comparisons of the arms that all seeds have in all `ways`: a part, or a part and its halves exchanged."""
    arms = [name.split("|")[1] for name in seeds[0] if name.startswith(f"{ways[0]}|") and name.endswith("|fd_attr")]
    arms = [arm for arm in arms if all(f"{way}|{arm}|fd_attr" in one for one in seeds for way in ways)]
    which = [(arm, "unguided") for arm in arms if arm not in ("unguided", "copy", "neighbour", "stage1")]
    which += [("guided", other) for other in ("random", "swapped", "stage1")] + [("unguided", "stage1")]
    which += [(arm, f"{arm}, swapped") for arm in arms]
    return {
        f"{first} vs {second}": gaps(seeds, ways, first, second)
        for first, second in which
        if first in arms and second in arms
    }


def gaps(seeds: Sequence[Arrays], ways: Sequence[str], first: str, second: str) -> dict[str, Any]:
    """{measure: {difference, interval, seeds}} of one arm less another, means over seeds and ways.

    The interval is of people alone: `seeds` has each seed's difference, by which the trainings differ.
    """
    measured: dict[str, Any] = {}
    for name in DISTANCES:
        if any(f"{way}|{arm}|{name}" not in one for one in seeds for way in ways for arm in (first, second)):
            continue
        gap = float(np.mean([_mean_gap(seeds, way, first, second, name) for way in ways]))
        error = jackknife_error([_half(seeds, ways, first, second, name, start) for start in (0, 1)])
        each = [float(np.mean([_mean_gap([one], way, first, second, name) for way in ways])) for one in seeds]
        measured[name] = {"difference": gap, "interval": list(interval(gap, error)), "seeds": each}
    draws = Resamples.draw([who for way in ways for who in seeds[0][f"{way}|people"].tolist()], BOOTSTRAP, 0)
    for name in BITS:
        counts = np.concatenate([seeds[0][f"{way}|{name}"] for way in ways])
        hits = np.concatenate([_mean_gap(seeds, way, first, second, name) for way in ways])
        mean, resampled = draws.ratio(hits, counts)
        each = [
            float(np.concatenate([_mean_gap([one], way, first, second, name) for way in ways]).sum() / counts.sum())
            for one in seeds
        ]
        measured[name] = {"difference": mean, "interval": list(percentile_interval(resampled)), "seeds": each}
    return measured


def _half(
    seeds: Sequence[Arrays], ways: Sequence[str], first: str, second: str, name: str, start: int
) -> tuple[NDArray[np.float64], list[str]]:
    """The influence of every row of one half's people on the mean gap, and whose row it is.

    The half gives the sources of the first way where `start` is 0, its reference where it is 1; of the next the other.
    """
    rows, people = [], []
    for number, way in enumerate(ways):
        side, who = (("a", "people"), ("b", "others"))[(start + number) % 2]
        rows.append(_mean_gap(seeds, way, first, second, f"{name}|{side}"))
        people += seeds[0][f"{way}|{who}"].tolist()
    return joined(rows), people


def _mean_gap(seeds: Sequence[Arrays], part: str, first: str, second: str, name: str) -> NDArray[np.float64]:
    gaps = [one[f"{part}|{first}|{name}"].astype(np.float64) - one[f"{part}|{second}|{name}"] for one in seeds]
    return np.asarray(np.mean(gaps, axis=0), np.float64)
