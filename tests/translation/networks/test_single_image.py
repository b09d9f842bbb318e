"""Networks for two single pictures: sizes, shapes, and that what goes through keeps its size without any norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from index_store.errors import UsageError
from translation import objectives
from translation.networks.blocks import initialise
from translation.networks.single_image import (
    EqualisedConvolution,
    SingleImageDecoder,
    SingleImageDiscriminator,
    SingleImageEncoder,
    SkipBlock,
)

NARROW = 0.1


@pytest.mark.parametrize("height, width, halvings", [(64, 64, 1), (128, 128, 1), (64, 64, 2), (36, 52, 1)])
@torch.no_grad()
def test_pictures_come_back_in_their_own_shape(height: int, width: int, halvings: int) -> None:
    encoder, decoder = SingleImageEncoder(NARROW, halvings), SingleImageDecoder(NARROW, halvings, 2)
    content = encoder(torch.rand(2, 3, height, width) * 2 - 1)
    assert content.shape == (2, encoder.channels, height >> halvings, width >> halvings)
    assert encoder.channels == decoder.channels and encoder.factor == 2**halvings
    image = decoder(content)
    assert image.shape == (2, 3, height, width) and image.abs().max() <= 1


def test_channels_are_as_many_as_released_for_crops_of_64_pixels() -> None:
    encoder = SingleImageEncoder()
    assert encoder.first[0].weight.shape[0] == 80 and encoder.channels == 160  # type: ignore[union-attr, index]
    layers = [m.weight.shape[0] for m in SingleImageDiscriminator(64).layers if isinstance(m, EqualisedConvolution)]
    blocks = [m.body[3].weight.shape[0] for m in SingleImageDiscriminator(64).layers if isinstance(m, SkipBlock)]  # type: ignore[union-attr, index]
    assert layers == [32, 384] and blocks == [64, 128, 256, 384]


@pytest.mark.parametrize("size, last", [(64, 4), (96, 6), (128, 4), (8, 4)])
@torch.no_grad()
def test_the_discriminator_gives_one_answer_a_crop(size: int, last: int) -> None:
    discriminator = SingleImageDiscriminator(size, NARROW)
    crops = torch.rand(3, 3, size, size)
    assert discriminator.layers(crops).shape[2:] == (last, last)
    assert discriminator(crops).shape == (3, 1, 1, 1)


@pytest.mark.parametrize("size, told", [(100, "take 96 or 112 px"), (4, "8 px or more")])
def test_crops_that_cannot_be_halved_are_refused(size: int, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        SingleImageDiscriminator(size, NARROW)


def test_a_crop_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="64×64"):
        SingleImageDiscriminator(64, NARROW)(torch.rand(1, 3, 64, 32))


@torch.no_grad()
def test_signals_keep_about_their_size_through_many_blocks() -> None:
    """No norm holds them: not divided by √2 after each sum they would be 2⁶ times as strong."""
    torch.manual_seed(0)
    x = torch.randn(2, 32, 16, 16)
    through = nn.Sequential(*(SkipBlock(32, 32) for _ in range(6)))(x)
    assert 0.5 < through.square().mean().item() < 8


def test_weights_are_scaled_at_use_so_first_weights_stay_as_they_are() -> None:
    encoder = SingleImageEncoder(NARROW)
    before = [p.clone() for p in encoder.parameters()]
    initialise(encoder, "kaiming")
    assert all(torch.equal(one, other) for one, other in zip(before, encoder.parameters(), strict=True))
    layer = EqualisedConvolution(16, 64, 3)
    assert layer.weight.std().item() == pytest.approx(1, rel=0.03) and layer.scale == pytest.approx(1 / 12)


@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_reach_every_weight_and_are_finite(mixed: bool) -> None:
    torch.manual_seed(0)
    networks = [SingleImageEncoder(NARROW), SingleImageDecoder(NARROW, blocks=2), SingleImageDiscriminator(64, NARROW)]
    images = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        x = images
        for network in networks:
            x = network(x)
        loss = objectives.logistic_generator([x])
    loss.backward()
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_the_discriminator_has_second_derivatives() -> None:
    discriminator = SingleImageDiscriminator(16, NARROW)
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    objectives.gradient_penalty([discriminator(images)], images).backward()  # type: ignore[no-untyped-call]
    weights = [p for p in discriminator.parameters() if p.dim() > 1]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in weights)
