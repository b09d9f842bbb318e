"""INIT's weights: by hand, bounded, of mean 1 before the batch's factor, and without gradient."""

from __future__ import annotations

import math

import pytest
import torch

from translation.objectives.importance import LEAST, MOST, adversarial_importance, batch_factor

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
