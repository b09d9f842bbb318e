"""Every term of the loss against numbers worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from index_store.errors import RgunitError
from tests.places import SHARED
from translation import objectives
from translation.networks.vgg import VGG
from translation.objectives.style import sample_style, style_labels, style_mean

WEIGHTS = SHARED / "weights" / "vgg19_conv3_1.safetensors"


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_blend_takes_the_prediction_where_the_mask_is_open() -> None:
    prediction, source = torch.full((1, 3, 1, 2), 1.0), torch.full((1, 3, 1, 2), -1.0)
    mixed = objectives.blend(prediction, torch.tensor([[[[1.0, 0.25]]]]), source)
    assert mixed[0, 0, 0].tolist() == [1.0, -0.5]


def test_absolute_difference_is_a_mean_over_elements() -> None:
    assert objectives.absolute_difference(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 1.5


def test_least_squares_sum_over_scales() -> None:
    real, fake = [torch.tensor([1.0, 3.0]), torch.tensor([2.0])], [torch.tensor([0.0, 2.0]), torch.tensor([-1.0])]
    # (0 + 4)/2 + (0 + 4)/2 = 4, and 1 + 1 = 2
    assert objectives.adversarial_discriminator(real, fake).item() == pytest.approx(6.0)
    # (1 + 1)/2 = 1, and 4
    assert objectives.adversarial_generator(fake).item() == pytest.approx(5.0)


def test_the_gradient_penalty_is_the_squared_gradient_of_each_image() -> None:
    """D(x) = w · x with w = (1, 2, 3) a channel, on a map that is their mean: ∇ = w / 4 at each of 4 pixels."""
    images = torch.randn(5, 3, 2, 2, requires_grad=True)
    realness = (images * torch.tensor([1.0, 2.0, 3.0])[:, None, None]).sum(1, keepdim=True)
    penalty = objectives.gradient_penalty([realness], images)
    assert penalty.item() == pytest.approx(4 * (1 + 4 + 9) / 16)
    twice = objectives.gradient_penalty([realness, realness], images)
    assert twice.item() == pytest.approx(4 * penalty.item()), "scales are summed before the gradient is taken"


def test_domain_is_the_mean_over_known_bits() -> None:
    logits, labels = torch.tensor([[2.0, -1.0], [0.5, 100.0]]), torch.tensor([[1, 0], [0, -1]], dtype=torch.int8)
    wanted = (softplus(-2.0) + softplus(-1.0) + softplus(0.5)) / 3
    assert objectives.domain([logits], labels).item() == pytest.approx(wanted, rel=1e-6)
    assert objectives.domain([logits, logits], labels).item() == pytest.approx(wanted, rel=1e-6)


def test_domain_of_unknown_bits_has_no_gradient() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    objectives.domain([logits], torch.tensor([[1, -1], [-1, -1]])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] != 0
    assert logits.grad.flatten()[1:].tolist() == [0.0, 0.0, 0.0]
    assert objectives.domain([logits], torch.full((2, 2), -1)).item() == 0.0


def test_domain_by_softmax_within_a_group() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [9.0, 9.0, 9.0]])
    labels = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, -1]])  # the second: none of them; the third: two of them
    total = math.exp(1) + math.exp(2) + 1
    choices = (-math.log(math.exp(2) / total) - math.log(1 / total)) / 2
    bits = (softplus(-3.0) + softplus(3.0)) / 2
    wanted = choices * 2 / 3 + bits / 3
    assert objectives.domain([logits], labels, groups=[[0, 1]]).item() == pytest.approx(wanted, rel=1e-5)
    half_known = torch.tensor([[1, -1, -1]])
    assert objectives.domain([logits[:1]], half_known, groups=[[0, 1]]).item() == 0.0


def test_kl_sums_coordinates_and_averages_the_batch() -> None:
    prior = torch.full((2, 16), math.log(0.25))
    labels = torch.tensor([[1, 0], [1, 0]])
    at_component = style_mean(labels)
    assert objectives.kl_to_component(at_component, prior, labels).item() == pytest.approx(0, abs=1e-6)
    off = at_component.clone()
    off[0] += 0.5  # ½·(0.5/0.5)² a coordinate, 16 of them, in one of two rows
    assert objectives.kl_to_component(off, prior, labels).item() == pytest.approx(16 * 0.5 / 2, rel=1e-5)
    wide = torch.zeros(2, 16)  # σ = 1: ½(4 − 1 − ln 4) a coordinate
    wanted = 16 * 0.5 * (4 - 1 - math.log(4))
    assert objectives.kl_to_component(at_component, wide, labels).item() == pytest.approx(wanted, rel=1e-5)


def test_kl_leaves_unknown_bits_alone() -> None:
    mean = torch.full((1, 16), 3.0, requires_grad=True)
    objectives.kl_to_component(mean, torch.zeros(1, 16), torch.tensor([[1, -1]])).backward()
    assert mean.grad is not None
    assert (mean.grad[0, :8] != 0).all() and (mean.grad[0, 8:] == 0).all()


def test_isometry_compares_the_two_distances() -> None:
    first, second = torch.zeros(2, 4), torch.ones(2, 4)
    decoded = torch.tensor([[0.25] * 4, [2.0] * 4])
    # |1 − 0.25| and |1 − 2|
    assert objectives.isometry(first, second, torch.zeros(2, 4), decoded).item() == pytest.approx(0.875)


def test_perceptual_ignores_a_channels_mean_and_scale() -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert objectives.perceptual(x, 3 * x + 5).item() == pytest.approx(0, abs=1e-4)
    assert objectives.perceptual(x, -x).item() == pytest.approx(4, rel=1e-3)  # (z − (−z))² = 4z², mean of z² = 1


def test_styles_carry_their_labels() -> None:
    labels = torch.tensor([[1, 0, -1]], dtype=torch.int8)
    assert style_mean(labels)[0].tolist() == [1.0] * 8 + [-1.0] * 8 + [0.0] * 8
    many = torch.tensor([[1, 0]] * 500, dtype=torch.int8)
    style = sample_style(many, torch.Generator().manual_seed(0))
    assert style[:, :8].mean().item() == pytest.approx(1, abs=0.03)
    assert style[:, :8].std().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(style_labels(style), many)
    assert torch.equal(style, sample_style(many, torch.Generator().manual_seed(0)))


def test_vgg_of_the_file_pools_where_vgg19_does() -> None:
    if not WEIGHTS.exists():
        pytest.skip(f"no {WEIGHTS.name} beside the repository (shared/weights)")
    network = VGG(WEIGHTS)
    features = network(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert features.shape == (1, 256, 8, 8) and features.min() >= 0
    assert not any(True for _ in network.parameters()), "frozen: buffers only"


def _vgg(path: Path, colour: Tensor | None) -> VGG:
    generator = torch.Generator().manual_seed(0)
    layers = ([colour] if colour is not None else []) + [
        torch.randn(4, 3, 3, 3, generator=generator),
        torch.randn(4, 4, 3, 3, generator=generator),
        torch.randn(6, 4, 3, 3, generator=generator),
    ]
    tensors: dict[str, Tensor] = {}
    for i, kernel in enumerate(layers):
        tensors |= {f"{3 * i}.weight": kernel, f"{3 * i}.bias": torch.zeros(len(kernel))}
    save_file(tensors, path)
    return VGG(path)


def test_vgg_with_and_without_a_colour_transform(tmp_path: Path) -> None:
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    assert _vgg(tmp_path / "plain", None)(images).shape == (1, 6, 8, 8)  # one pool, after two convolutions
    assert _vgg(tmp_path / "colour", torch.eye(3).view(3, 3, 1, 1).contiguous())(images).shape == (1, 6, 8, 8)


def test_a_file_that_is_no_vgg_is_refused(tmp_path: Path) -> None:
    save_file({"0.weight": torch.zeros(4, 3, 5, 5), "0.bias": torch.zeros(4)}, tmp_path / "other")
    (tmp_path / "text").write_text("hello")
    for name in ("other", "text", "missing"):
        with pytest.raises(RgunitError, match=name):
            VGG(tmp_path / name)
