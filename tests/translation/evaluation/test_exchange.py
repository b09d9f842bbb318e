"""Both ways: the mean of two evaluations, and an interval that knows who is in both."""

import numpy as np
import pytest

from tests.translation.evaluation.ways import two_ways
from translation.evaluation.exchange import both_ways
from translation.evaluation.scores import Draws, comparisons

MEASURES = ("fd_attr", "accuracy_changed")


def test_figures_are_means_of_both_ways_and_n_counts_all_pairs():
    there, back = two_ways(np.random.default_rng(1))
    found = both_ways(there, back, 100, 0)
    distances = [way.scores["guided"].fd_attr.distance for way in (there, back)]
    hits = [(way.scores["guided"].right & way.pairs.changed).sum() for way in (there, back)]
    assert found["guided"]["fd_attr"] == pytest.approx(np.mean(distances))
    assert found["guided"]["accuracy_changed"] == pytest.approx(sum(hits) / found["guided"]["n"])
    assert found["guided"]["n"] == len(there.pairs) + len(back.pairs) == found["floor"]["n"]
    assert found["guided"]["diversity"] == pytest.approx(0.8) and found["guided"]["fd_judge"] is None
    low, high = found["intervals"]["guided"]["fd_attr"]
    assert low < found["guided"]["fd_attr"] < high


def test_the_interval_is_as_wide_as_differences_vary_over_people_drawn_anew():
    rng = np.random.default_rng(0)
    gaps = {(way, measure): [] for way in ("one", "both") for measure in MEASURES}
    widths = {key: [] for key in gaps}
    for _ in range(200):
        there, back = two_ways(rng)
        draws = Draws.draw(there.pairs, 100, 0)
        ways = {
            "one": comparisons(there.scores, there.pairs, draws),
            "both": both_ways(there, back, 100, 0)["comparisons"],
        }
        for way, found in ways.items():
            for measure in MEASURES:
                gap = found["guided vs unguided"][measure]
                gaps[way, measure].append(gap["difference"])
                widths[way, measure].append(np.diff(gap["interval"])[0] / (2 * 1.96))
    for key in gaps:
        assert np.mean(widths[key]) == pytest.approx(np.std(gaps[key], ddof=1), rel=0.2), key
    assert np.std(gaps["both", "fd_attr"]) < 0.7 * np.std(gaps["one", "fd_attr"]), "what halves differ by cancels"
