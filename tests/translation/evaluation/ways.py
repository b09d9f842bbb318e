"""Two evaluations of made-up features whose halves are exchanged: what the tests of judging both ways share."""

from __future__ import annotations

import numpy as np

from translation.evaluation.distances import frechet
from translation.evaluation.evaluate import Evaluation
from translation.evaluation.protocol import Pairs
from translation.evaluation.scores import PairScores

PEOPLE, IMAGES, BITS = 60, 4, 2  # of each half, of each of them, of each pair
SHIFTS = {"guided": 0.8, "unguided": 1.0}  # how far an arm moves what it translates


def two_ways(rng: np.random.Generator) -> tuple[Evaluation, Evaluation]:
    """People have a place in feature space and each image one near it; both arms shrink it and move it by SHIFTS."""
    n = PEOPLE * IMAGES
    names = [tuple(f"{half}{row // IMAGES}" for row in range(n)) for half in "AB"]
    places = [rng.normal(0, 1, (PEOPLE, 3)).repeat(IMAGES, 0) + rng.normal(0, 0.5, (n, 3)) for _ in names]
    able = [rng.random(PEOPLE).repeat(IMAGES)[:, None] for _ in names]
    found = []
    for mine, theirs in ((0, 1), (1, 0)):
        ids, before = np.arange(n), np.zeros((n, BITS), np.int8)
        target = before + np.array([0, 1], np.int8)
        pairs = Pairs(("a", "b"), ids, ids, before, target, ids, names[mine], ids, names[theirs])
        scores = {
            arm: PairScores(
                right=rng.random((n, BITS)) < able[mine] * shift,
                likeness=np.zeros(n),
                other=None,
                truth=None,
                identity=None,
                fd_attr=frechet(places[mine] * 0.7 + shift, places[theirs]),
                fd_judge=None,
                diversity=shift,
            )
            for arm, shift in SHIFTS.items()
        }
        floor = {"fd_attr": frechet(places[mine], places[theirs]).distance, "fd_judge": None, "n": n}
        found.append(Evaluation({"floor": floor}, pairs, scores))
    return found[0], found[1]
