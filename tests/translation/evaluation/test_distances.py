"""Fréchet distances against closed forms, and intervals against repeated experiments."""

import numpy as np
import pytest

from translation.evaluation.distances import (
    Resamples,
    cosine_distance,
    frechet,
    interval,
    jackknife_error,
    percentile_interval,
    pixel_distance,
)


def exact_gaussian(rng, n, mean, covariance):
    """Rows whose sample mean and sample covariance are exactly the ones asked for."""
    rows = rng.normal(size=(n, len(mean)))
    rows -= rows.mean(0)
    white = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def test_frechet_distance_of_known_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(2, 5, 5))
    cov_a, cov_b = mix[0] @ mix[0].T + np.eye(5), mix[1] @ mix[1].T + np.eye(5)
    mean_a, mean_b = rng.normal(size=5), rng.normal(size=5)
    a, b = exact_gaussian(rng, 40, mean_a, cov_a), exact_gaussian(rng, 60, mean_b, cov_b)
    half = root(cov_a)
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * root(half @ cov_b @ half))
    assert frechet(a, b).distance == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_one_dimension_is_the_difference_of_means_and_deviations():
    a = np.array([[0.0], [2.0]])  # mean 1, standard deviation √2
    b = np.array([[2.0], [6.0]])  # mean 4, standard deviation 2√2
    assert frechet(a, b).distance == pytest.approx(3**2 + 2)


@pytest.mark.parametrize("n", [6, 40])
def test_a_set_is_at_distance_0_from_itself_and_a_shift_counts_as_its_square(n):
    a = np.random.default_rng(1).normal(size=(n, 20)).astype(np.float32)  # n = 6: fewer rows than dimensions
    assert frechet(a, a).distance == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + np.float32(0.5)).distance == pytest.approx(20 * 0.25, rel=1e-5)


def test_frechet_distance_is_symmetric_also_with_fewer_rows_than_dimensions():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(7, 30)), 2 * rng.normal(size=(11, 30)) + 1
    assert frechet(a, b).distance == pytest.approx(frechet(b, a).distance)


def test_frechet_distance_refuses_a_single_row_and_different_widths():
    with pytest.raises(ValueError, match="2 rows"):
        frechet(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"\[n, d\]"):
        frechet(np.zeros((5, 3)), np.zeros((5, 4)))


def test_influence_is_the_derivative_by_the_weight_of_a_row():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(50, 4)) * [1, 2, 3, 4], rng.normal(size=(60, 4)) + 1
    found = frechet(a, b)

    def weighted(row, step):
        """The closed form with weight 1 + step on one row of a, weights scaled back to sum 50."""
        weights = np.ones(50)
        weights[row] += step
        mean = np.average(a, axis=0, weights=weights)
        centred = a - mean
        cov_a = (weights[:, None] * centred).T @ centred / weights.sum() * 50 / 49
        half = root(np.cov(b, rowvar=False))
        cross = np.trace(root(half @ cov_a @ half))
        return np.sum((mean - b.mean(0)) ** 2) + np.trace(cov_a) + np.trace(half @ half) - 2 * cross

    for row in (0, 17, 49):
        slope = (weighted(row, 1e-4) - weighted(row, -1e-4)) / 2e-4
        assert found.influence_a[row] / 50 == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(("n", "d"), [(200, 4), (60, 100)])
def test_jackknife_error_is_the_spread_over_repeated_experiments(n, d):
    distances, errors = [], []
    for repeat in range(150):
        rng = np.random.default_rng(repeat)
        scale = np.exp(-np.arange(d) / (d / 4))
        found = frechet(rng.normal(size=(n, d)) * scale * 1.3 + 0.2, rng.normal(size=(n, d)) * scale)
        distances.append(found.distance)
        errors.append(jackknife_error([(found.influence_a, None), (found.influence_b, None)]))
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.3)


def test_five_copies_of_each_person_widen_the_error_when_people_are_known():
    rng = np.random.default_rng(4)
    influence = np.repeat(rng.normal(size=100), 5)
    people = [str(row // 5) for row in range(500)]
    ratio = jackknife_error([(influence, people)]) / jackknife_error([(influence, None)])
    assert ratio == pytest.approx(5**0.5, rel=0.02)


def test_an_interval_is_two_errors_wide_each_way():
    assert interval(3.0, 0.5) == pytest.approx((2.02, 3.98), abs=1e-3)


def test_bootstrap_intervals_of_a_share_cover_it_19_times_in_20():
    covered = 0
    for repeat in range(300):
        rng = np.random.default_rng(repeat)
        talent = rng.normal(0, 0.15, size=60)  # each person's three images succeed or fail together
        hits = rng.random((60, 3)) < np.clip(0.7 + talent, 0, 1)[:, None]
        people = [str(person) for person in range(60) for _ in range(3)]
        low, high = percentile_interval(Resamples.draw(people, 400, repeat).ratio(hits.ravel(), np.ones(180))[1])
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_a_ratio_pools_bits_over_pairs_and_resamples_without_bits_are_left_out():
    resamples = Resamples.draw(["a", "b"], 200, 0)
    value, draws = resamples.ratio([1, 0], [2, 0])
    assert value == 0.5
    assert np.isnan(draws).any()
    assert percentile_interval(draws) == (0.5, 0.5)


def test_differences_of_two_arms_on_the_same_pairs_are_surer_than_the_arms():
    rng = np.random.default_rng(5)
    hits = rng.random(400) < 0.6
    better = hits | (rng.random(400) < 0.1)
    resamples = Resamples.draw([str(row) for row in range(400)], 500, 0)
    first, second = resamples.ratio(better, np.ones(400))[1], resamples.ratio(hits, np.ones(400))[1]
    assert np.std(first - second) < 0.7 * np.std(first)
    assert percentile_interval(first - second)[0] > 0


def test_pixel_distance_of_black_and_white_is_1():
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    white[1, 2:] = 0
    assert pixel_distance(black, white).tolist() == [1.0, 0.5]
    assert pixel_distance(white, black).tolist() == [1.0, 0.5]
    where = np.zeros(black.shape[:3], bool)
    where[1, 0] = True
    inside = pixel_distance(black, white, where)
    assert np.isnan(inside[0]), "no pixel to measure is no distance"
    assert inside[1] == pixel_distance(black[1:, :1], white[1:, :1])[0]


def test_cosine_distance_runs_from_0_to_2():
    a = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    b = np.array([[3, 0], [0, 2], [-1, 0]], np.float32)
    assert cosine_distance(a, b) == pytest.approx([0, 1, 2])
