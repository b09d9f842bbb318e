"""How sure a difference between two arms is over several seeds, all judged on the same pairs.

What one seed's interval says of its two models, this says of the mean over all seeds' models: the same people are
drawn for every seed. Other trainings would differ as these seeds differ from each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.errors import RgunitError
from translation.evaluation.distances import Resamples, interval, jackknife_error, percentile_interval
from translation.evaluation.protocol import Pairs
from translation.evaluation.scores import PairScores

BITS = ("accuracy_changed", "accuracy_kept")
DISTANCES = ("fd_attr", "fd_judge")
Judged = tuple[Mapping[str, PairScores], Pairs]
Arrays = dict[str, NDArray[Any]]


def keep_scores(path: Path, parts: Mapping[str, Judged]) -> None:
    """Write what intervals are made of, pair by pair and person by person, to an .npz file, whole or not at all."""
    arrays: Arrays = {}
    for part, (scores, pairs) in parts.items():
        bits = dict(zip(BITS, (pairs.changed, pairs.kept), strict=True))
        arrays |= {f"{part}|people": np.array(pairs.people), f"{part}|others": np.array(pairs.other_people)}
        arrays |= {f"{part}|{name}": counted.sum(1) for name, counted in bits.items()}
        for arm, score in scores.items():
            arrays |= {f"{part}|{arm}|{name}": (score.right & counted).sum(1) for name, counted in bits.items()}
            for name in DISTANCES:
                if (value := getattr(score, name)) is not None:
                    arrays[f"{part}|{arm}|{name}"] = np.array([value.distance])
                    arrays[f"{part}|{arm}|{name}|a"] = value.influence_a.astype(np.float32)
                    arrays[f"{part}|{arm}|{name}|b"] = value.influence_b.astype(np.float32)
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)
    unfinished.replace(path)


def over_seeds(paths: Sequence[Path], bootstrap: int = 1000) -> dict[str, dict[str, Any]]:
    """{part: {"guided vs unguided": {measure: {difference, interval}}}}, means over the files, a seed each.

    Each arm against `unguided`, `guided` against `random`, and each against itself with swapped neighbours. RgunitError
    where the seeds were not judged on the same pairs.
    """
    seeds = []
    for path in paths:
        with np.load(path) as file:
            seeds.append({name: file[name] for name in file.files})
    found: dict[str, dict[str, Any]] = {}
    for part in dict.fromkeys(name.split("|")[0] for name in seeds[0]):
        for name in ("people", "others", *BITS):
            if any(not np.array_equal(one[f"{part}|{name}"], seeds[0][f"{part}|{name}"]) for one in seeds):
                raise RgunitError(f"the seeds of {paths[0].name} were not judged on the same pairs: judge them again")
        arms = [name.split("|")[1] for name in seeds[0] if name.startswith(f"{part}|") and name.endswith("|fd_attr")]
        arms = [arm for arm in arms if all(f"{part}|{arm}|fd_attr" in one for one in seeds)]
        which = [(arm, "unguided") for arm in arms if arm not in ("unguided", "copy", "neighbour", "stage1")]
        which += [("guided", "random"), ("guided", "swapped"), *((arm, f"{arm}, swapped") for arm in arms)]
        found[part] = {
            f"{first} vs {second}": _gaps(seeds, part, first, second, bootstrap)
            for first, second in which
            if first in arms and second in arms
        }
    return found


def _gaps(seeds: Sequence[Arrays], part: str, first: str, second: str, bootstrap: int) -> dict[str, Any]:
    """{measure: {difference, interval}} of one arm less another, means over the seeds."""
    people, others = (seeds[0][f"{part}|{name}"].tolist() for name in ("people", "others"))
    measured: dict[str, Any] = {}
    for name in DISTANCES:
        if any(f"{part}|{arm}|{name}" not in one for one in seeds for arm in (first, second)):
            continue
        gap, ours, theirs = (_mean_gap(seeds, part, first, second, name + side) for side in ("", "|a", "|b"))
        error = jackknife_error([(ours, people), (theirs, others)])
        measured[name] = {"difference": float(gap[0]), "interval": list(interval(float(gap[0]), error))}
    draws = Resamples.draw(people, bootstrap, 0)
    for name in BITS:
        counts = seeds[0][f"{part}|{name}"]
        mean, resampled = draws.ratio(_mean_gap(seeds, part, first, second, name), counts)
        measured[name] = {"difference": mean, "interval": list(percentile_interval(resampled))}
    return measured


def _mean_gap(seeds: Sequence[Arrays], part: str, first: str, second: str, name: str) -> NDArray[np.float64]:
    gaps = [one[f"{part}|{first}|{name}"].astype(np.float64) - one[f"{part}|{second}|{name}"] for one in seeds]
    return np.asarray(np.mean(gaps, axis=0), np.float64)
