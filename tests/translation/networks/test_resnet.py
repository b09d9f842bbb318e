"""CUT's generator and discriminator: the released sizes, any picture's shape, blurred before places are dropped."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.errors import UsageError
from translation import objectives
from translation.networks.blocks import Blur, initialise, upsample
from translation.networks.resnet import PatchDiscriminator, ResnetDecoder, ResnetEncoder, fitting_layers

NARROW = 0.0625


def count(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def pair(width: float = NARROW, blocks: int = 1) -> tuple[ResnetEncoder, ResnetDecoder]:
    torch.manual_seed(0)
    encoder, decoder = ResnetEncoder(width), ResnetDecoder(width, blocks)
    for network in (encoder, decoder):
        initialise(network, "kaiming")
    return encoder, decoder


def test_parameters_are_as_many_as_released() -> None:
    """11.378 and 2.765 million, as the authors' code prints them."""
    assert count(ResnetEncoder(), ResnetDecoder()) == 11_378_179
    assert count(PatchDiscriminator()) == 2_764_737


@pytest.mark.parametrize("height, width", [(32, 32), (64, 64), (256, 256), (64, 96), (36, 100), (8, 12)])
@torch.no_grad()
def test_any_multiple_of_four_comes_back_in_its_own_shape(height: int, width: int) -> None:
    encoder, decoder = pair()
    content = encoder(torch.rand(2, 3, height, width) * 2 - 1)
    assert content.shape == (2, encoder.channels, height // encoder.factor, width // encoder.factor)
    image = decoder(content)
    assert image.shape == (2, 3, height, width)
    assert image.abs().max() <= 1


@pytest.mark.parametrize("size, answers, layers", [(256, 30, 3), (64, 6, 3), (32, 2, 3), (16, 2, 2), (8, 2, 1)])
@torch.no_grad()
def test_small_images_leave_out_halvings_of_the_discriminator(size: int, answers: int, layers: int) -> None:
    discriminator = PatchDiscriminator(NARROW, size=size)
    assert discriminator.layers == layers == fitting_layers(size, 3)
    assert discriminator(torch.rand(2, 3, size, size)).shape == (2, 1, answers, answers)


@torch.no_grad()
def test_the_discriminator_takes_other_shapes_than_squares() -> None:
    assert PatchDiscriminator(NARROW, size=64)(torch.rand(1, 3, 64, 100)).shape == (1, 1, 6, 10)


def test_images_too_small_for_patches_are_refused() -> None:
    with pytest.raises(UsageError, match="6 px"):
        PatchDiscriminator(NARROW, size=6)


def test_the_blur_is_the_released_filter() -> None:
    """[1, 2, 1] in both directions with reflection, every second place: by hand on the corner and inside."""
    x = torch.arange(30.0).view(1, 1, 5, 6).square()
    blurred = Blur((1, 2, 1), stride=2)(x)
    assert blurred.shape == (1, 1, 3, 3)
    line = torch.tensor([0.25, 0.5, 0.25])
    inside = x[0, 0, 1:4, 1:4]
    assert blurred[0, 0, 1, 1].item() == pytest.approx((line @ inside @ line).item())
    corner = torch.stack([x[0, 0, i, [1, 0, 1]] for i in (1, 0, 1)])
    assert blurred[0, 0, 0, 0].item() == pytest.approx((line @ corner @ line).item())


def test_upsampling_is_the_released_filter() -> None:
    """Bilinear ×2 = zeros put in between, then [1, 3, 3, 1] in both directions, edges repeated."""
    x = torch.randn(2, 3, 5, 7)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    kernel = (line[:, None] * line[None, :]).expand(3, 1, 4, 4)
    wide = F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, padding=3, groups=3)
    torch.testing.assert_close(upsample(x), wide)


class EverySecond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


def without_blur(network: nn.Module) -> nn.Module:
    plain = copy.deepcopy(network)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, Blur):
                setattr(module, name, EverySecond())
    return plain


@torch.no_grad()
def test_a_shifted_picture_is_translated_to_a_shifted_one() -> None:
    """By one pixel, which strides alone turn into another picture."""
    encoder, decoder = pair(0.125, 2)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def unlike(encoder: nn.Module) -> float:
        still, moved = decoder(encoder(images)), decoder(encoder(images.roll(1, 3)))
        inside = slice(12, -12)
        difference = (moved - still.roll(1, 3))[:, :, inside, inside]
        return float(difference.square().mean() / still[:, :, inside, inside].var())

    assert unlike(encoder) < 0.5 * unlike(without_blur(encoder))


@pytest.mark.parametrize("lies", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mixed", [False, True])
def test_gradients_reach_every_weight_and_are_finite(lies: torch.memory_format, mixed: bool) -> None:
    encoder, decoder = pair()
    discriminator = PatchDiscriminator(NARROW, size=32)
    networks = [encoder, decoder, discriminator]
    for network in networks:
        network.to(memory_format=lies)  # type: ignore[call-overload]
    images = (torch.rand(2, 3, 32, 32) * 2 - 1).to(memory_format=lies)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        loss = objectives.adversarial_generator([discriminator(decoder(encoder(images)))])
    loss.backward()
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if name.endswith("weight"):
                assert parameter.grad.abs().sum() > 0, name


def test_the_discriminator_has_second_derivatives() -> None:
    """What R1 needs, through blurs and norms."""
    discriminator = PatchDiscriminator(NARROW, size=32)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    objectives.gradient_penalty([discriminator(images)], images).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.isfinite().all() for p in discriminator.parameters())
    first = discriminator.body[0].weight.grad
    assert isinstance(first, Tensor) and first.abs().sum() > 0


@pytest.mark.parametrize("kind, deviation", [("normal", 0.02), ("xavier", 0.02 * (2 / (9 * 512)) ** 0.5)])
def test_first_weights_are_the_released_ones(kind: str, deviation: float) -> None:
    block = ResnetDecoder(1.0, 1).blocks[0]
    initialise(block, kind)  # type: ignore[arg-type]
    layers = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert layer.bias is not None and not layer.bias.any()
