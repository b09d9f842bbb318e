"""Networks of WGAN-GP: sizes, norms of each class, and what miners and the selector give."""

from __future__ import annotations

import pytest
import torch

from translation.networks.wgan import ClassNorm, Miner, Miners, ResNetCritic, ResNetGenerator


@pytest.mark.parametrize(("size", "blocks", "side"), [(32, 3, 4), (64, 4, 4), (128, 4, 8)])
def test_a_network_halves_down_to_four_places_at_most_four_times(size: int, blocks: int, side: int) -> None:
    generator, critic = ResNetGenerator(size, 8, 0.0625), ResNetCritic(size, 0.0625)
    assert len(generator.blocks) == len(critic.blocks) == blocks and generator.side == side
    images = generator(torch.randn(2, 8), torch.ones(2, 1))
    assert images.shape == (2, 3, size, size) and images.abs().max() <= 1
    value, classes = critic(images)
    assert value.shape == (2,) and classes is None


def test_the_thesis_widths_at_64_px() -> None:
    generator, critic = ResNetGenerator(64), ResNetCritic(64)
    assert [block.second.out_channels for block in generator.blocks] == [512, 256, 128, 64]
    assert [block.second.out_channels for block in critic.blocks] == [128, 256, 512, 512]
    assert generator.noise == 128 and critic.value.in_features == 512 * 16


def test_each_class_has_its_own_scale_and_shift() -> None:
    norm = ClassNorm(4, 3)
    with torch.no_grad():
        norm.weight[1], norm.bias[1] = 2.0, 5.0
    x = torch.randn(6, 4, 3, 3)
    plain, other = (norm(x, torch.eye(3)[torch.full((6,), kind)]) for kind in (0, 1))
    assert torch.allclose(other, 2 * plain + 5, atol=1e-5)


def test_a_miner_chooses_only_classes_that_its_generator_has_seen() -> None:
    miner = Miner(8, 16, classes=4, layers=2)
    miner.hide(torch.tensor([3, 0, 0, 1]))
    latent, classes = miner(torch.randn(5, 8))
    assert latent.shape == (5, 16)
    assert torch.allclose(classes.sum(1), torch.ones(5)) and (classes[:, 1:3] == 0).all() and (classes[:, 3] > 0).all()


def test_the_selector_averages_the_last_minibatches() -> None:
    miners = Miners([Miner(4, 4), Miner(4, 4)])
    assert miners.probabilities.tolist() == [0.5, 0.5]
    miners.record(torch.tensor([0, 1, 1, 1]), 0)
    miners.record(torch.tensor([1, 1, 1, 1]), 1)
    assert miners.probabilities.tolist() == [0.125, 0.875]
    miners.record(torch.tensor([0, 0, 0, 0]), 1000)  # takes the place of the first
    assert miners.probabilities.tolist() == [0.5, 0.5]
