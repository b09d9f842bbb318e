"""INIT's weights: by hand, bounded, of mean 1 before the batch's factor, and without gradient."""

from __future__ import annotations

import math

import pytest
import torch

from translation.objectives.importance import (
    LEAST,
    MOST,
    adversarial_importance,
    batch_factor,
    nearest_of_domain,
    nearness_importance,
)

AXES = torch.eye(3)


def test_the_factor_is_worked_out_by_hand() -> None:
    """Pairs alike (distance 0), strangers at right angles (√2): (1 + (2 − √2))²."""
    assert batch_factor(AXES, AXES).item() == pytest.approx((1 + 2 - math.sqrt(2)) ** 2)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert batch_factor(opposite, opposite).item() == pytest.approx(1.0), "the optimum: Δl = 2r"
    assert batch_factor(opposite, -opposite).item() == pytest.approx(25.0), "every pair as far apart as can be"
    assert batch_factor(7 * opposite, 0.1 * opposite).item() == pytest.approx(1.0), "on the sphere lengths are gone"
    assert batch_factor(opposite, opposite, radius=3.0).item() == pytest.approx(1.0)


def test_weights_are_the_hardness_times_the_factor_within_bounds() -> None:
    logits = torch.tensor([0.0, math.log(2.0), math.log(5.0)])
    factor = (3 - math.sqrt(2)) ** 2
    weights = adversarial_importance(logits, AXES, AXES)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 5.0]) * 3 / 8 * factor)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert adversarial_importance(torch.zeros(2), opposite, -opposite).tolist() == [MOST, MOST]
    assert LEAST < 1 < MOST
    huge = adversarial_importance(torch.tensor([1e4, -1e4, 0.0]), AXES, AXES)
    assert huge.isfinite().all() and huge.mean().item() == pytest.approx(factor, rel=1e-5)


def test_another_embedding_gives_other_weights_and_no_gradient_flows() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, generator=g).requires_grad_()
    first, second = (torch.randn(4, 6, generator=g).requires_grad_() for _ in range(2))
    weights = adversarial_importance(logits, first, second)
    assert not weights.requires_grad
    other = adversarial_importance(logits, first.roll(1, 0), second)
    assert not torch.allclose(weights, other)
    torch.testing.assert_close(weights / weights.sum(), other / other.sum())


def test_a_single_image_has_no_strangers() -> None:
    weight = adversarial_importance(torch.tensor([3.0]), AXES[:1], AXES[:1])
    assert weight.tolist() == [1.0], "alike: the optimum"


def test_nearness_is_worked_out_by_hand() -> None:
    """Distances 1, 2, 3 have the mean 2: exp(−½), exp(−1), exp(−3/2), scaled to a mean of 1."""
    each = [math.exp(-1 / 2), math.exp(-1), math.exp(-3 / 2)]
    expected = torch.tensor([3 * one / sum(each) for one in each])
    torch.testing.assert_close(nearness_importance(torch.tensor([1.0, 2.0, 3.0])), expected)
    assert nearness_importance(torch.zeros(2)).tolist() == [1, 1], "all of them real images"
    far = nearness_importance(torch.tensor([0.0, 0.0, 0.0, 1e9]))
    assert far.isfinite().all() and far.mean().item() == pytest.approx(1) and math.exp(-2) < far.min() < far.max()
    assert far.max() < math.exp(2)
    assert not nearness_importance(torch.ones(2, requires_grad=True)).requires_grad


def test_the_nearest_are_sought_in_the_targets_domain() -> None:
    """On a line, real images at 0, 1, 5 of domain (1, 0), at 2 of (0, 0) and one at 3 whose first label is unknown."""
    known = torch.tensor([[0.0], [1.0], [5.0], [2.0], [3.0]])
    labels = torch.tensor([[1, 0], [1, 0], [1, 0], [0, 0], [-1, 0]])
    made = torch.tensor([[2.0], [2.0], [2.0]])
    targets = torch.tensor([[1, 0], [0, 0], [0, 1]])
    found = nearest_of_domain(made, known, labels, targets, 2)
    assert found[:2].tolist() == [1.5, 0.0], "of (1, 0) those at 1 and 0; of (0, 0) there is one"
    assert found[2].item() == 0.0, "nothing has both labels: of those with one it is the nearest"
    assert nearest_of_domain(made[:1], known, labels, targets[:1], 9).item() == pytest.approx(2.0)
