"""Adversarial terms whose images count differently, and the log loss, against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from translation import objectives

REAL = [torch.tensor([[1.0, 3.0], [0.0, 0.0]])[:, None, :, None], torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)]
FAKE = [torch.tensor([[0.0, 2.0], [1.0, -1.0]])[:, None, :, None], torch.tensor([-1.0, 3.0]).view(2, 1, 1, 1)]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_log_loss_sums_over_scales() -> None:
    first = (softplus(-1) + softplus(-3) + 2 * softplus(0) + softplus(0) + softplus(2) + softplus(1) + softplus(-1)) / 4
    second = (softplus(-2) + softplus(1) + softplus(-1) + softplus(3)) / 2
    assert objectives.logistic_discriminator(REAL, FAKE).item() == pytest.approx(first + second)
    wanted = (softplus(0) + softplus(-2) + softplus(-1) + softplus(1)) / 4 + (softplus(1) + softplus(-3)) / 2
    assert objectives.logistic_generator(FAKE).item() == pytest.approx(wanted)


def test_the_generator_still_learns_where_the_discriminator_is_sure() -> None:
    """Nonsaturating: −log σ(D) has the gradient −1 where log(1 − σ(D)) has none."""
    sure = torch.full((1, 1, 1, 1), -20.0, requires_grad=True)
    objectives.logistic_generator([sure]).backward()  # type: ignore[no-untyped-call]
    assert sure.grad is not None and sure.grad.item() == pytest.approx(-1)


def test_each_fake_counts_by_its_weight() -> None:
    weight = torch.tensor([0.5, 1.5])
    # least squares for G: image 0: (1 + 1)/2 = 1 and 4; image 1: (0 + 4)/2 = 2 and 4
    assert objectives.adversarial_generator(FAKE, weight).item() == pytest.approx((0.5 * (1 + 4) + 1.5 * (2 + 4)) / 2)
    # for D: reals (0 + 4 + 1 + 1)/4 and (1 + 4)/2 unweighted; fakes 2 and 1, then 1 and 9
    wanted = 1.5 + 2.5 + (0.5 * (2 + 1) + 1.5 * (1 + 9)) / 2
    assert objectives.adversarial_discriminator(REAL, FAKE, weight).item() == pytest.approx(wanted)


def test_real_images_under_wrong_labels_are_half_of_what_is_false() -> None:
    real, fake, wrong = (torch.tensor(values).view(2, 1, 1, 1) for values in ([1.0, 3.0], [2.0, 4.0], [5.0, 7.0]))
    found = objectives.adversarial_discriminator([real], [fake], wrong=([wrong], torch.tensor([0.0, 1.0])))
    assert found.item() == pytest.approx((0 + 4) / 2 + 0.5 * (4 + 16) / 2 + 0.5 * 49)
    none = objectives.adversarial_discriminator([real], [fake], wrong=([wrong], torch.zeros(2)))
    assert none.item() == pytest.approx((0 + 4) / 2 + 0.5 * (4 + 16) / 2), "nobody's labels differ"


@pytest.mark.parametrize(
    "loss",
    [
        lambda fake, weight: objectives.adversarial_generator(fake, weight),
        lambda fake, weight: objectives.adversarial_discriminator(REAL, fake, weight),
        lambda fake, weight: objectives.logistic_generator(fake, weight),
        lambda fake, weight: objectives.logistic_discriminator(REAL, fake, weight),
    ],
)
def test_weights_of_one_change_nothing_and_no_gradient_goes_into_them(loss: object) -> None:
    assert callable(loss)
    plain: Tensor = loss(FAKE, None)
    weight = torch.ones(2, requires_grad=True)
    fake = [f.clone().requires_grad_() for f in FAKE]
    weighted: Tensor = loss(fake, weight)
    torch.testing.assert_close(weighted, plain)
    weighted.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None and all(f.grad is not None and f.grad.abs().sum() > 0 for f in fake)


def test_without_weights_the_numbers_are_those_of_the_plain_formula_bit_for_bit() -> None:
    """Earlier runs resume to the same numbers: one mean over all elements, not one of images first."""
    draw = torch.Generator().manual_seed(0)
    real, fake = ([torch.randn(3, 1, 5, 5, generator=draw), torch.randn(3, 1, 3, 3, generator=draw)] for _ in range(2))
    plain = torch.stack([(f - 1).square().mean() for f in fake]).sum()
    assert torch.equal(objectives.adversarial_generator(fake), plain)
    terms = [(r - 1).square().mean() + f.square().mean() for r, f in zip(real, fake, strict=True)]
    assert torch.equal(objectives.adversarial_discriminator(real, fake), torch.stack(terms).sum())


def test_a_weight_for_each_image_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"3,.*2 images"):
        objectives.adversarial_generator(FAKE, torch.ones(3))
