"""The networks have the shapes and sizes of the paper's Table 8, at its size and at others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.translation.steps import networks_of
from translation.config import load_config
from translation.guidance import ConvolutionFusion
from translation.networks.blocks import adain, instance_norm, scaled
from translation.networks.gmm_unit import (
    ContentEncoder,
    Discriminator,
    Generator,
    Judged,
    StyleEncoder,
    initialise,
)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel * kernel + outputs


@pytest.fixture(scope="module")
def paper() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return networks_of(load_config("paper-celeba-128"), 5)


@torch.no_grad()
def test_the_papers_shapes_at_128_pixels(paper: dict[str, nn.Module]) -> None:
    images = torch.rand(1, 3, 128, 128) * 2 - 1
    content = paper["content_encoder"](images)
    assert content.shape == (1, 256, 32, 32)
    assert (content < 0).any(), "E_c(x) is signed"
    mean, log_variance = paper["style_encoder"](images)
    assert mean.shape == log_variance.shape == (1, 40)
    image, mask = paper["generator"](content, mean)
    assert image.shape == (1, 3, 128, 128)
    assert mask.shape == (1, 1, 128, 128)
    assert image.abs().max() <= 1 and mask.min() >= 0 and mask.max() <= 1
    assert mask.mean() > 0.7, "the mask starts open"
    [(realness, attributes, _)] = paper["discriminator"](image)
    assert realness.shape == (1, 1, 8, 8)
    assert attributes.shape == (1, 5)
    fused, _, _ = ConvolutionFusion(256, 3, paper=True)(content, content[:, None].expand(-1, 3, -1, -1, -1))
    assert fused.shape == content.shape and fused.min() >= 0


def test_the_papers_parameter_counts(paper: dict[str, nn.Module]) -> None:
    down = conv(3, 64, 7) + conv(64, 128, 4) + conv(128, 256, 4)
    assert count(paper["content_encoder"]) == down + 4 * 2 * conv(256, 256, 3)
    assert count(paper["style_encoder"]) == down + 2 * conv(256, 256, 4) + 2 * (256 * 40 + 40)
    mlp = (40 * 256 + 256) + (256 * 256 + 256) + (256 * 4096 + 4096)  # 4 blocks · 2 norms · (scale, shift) · 256
    up = conv(256, 128, 5) + 2 * 128 + conv(128, 64, 5) + 2 * 64
    heads = conv(64, 3, 7) + conv(64, 1, 7)
    assert count(paper["generator"]) == 4 * 2 * conv(256, 256, 3) + mlp + up + heads
    body = conv(3, 64, 4) + conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 512, 4)
    assert count(paper["discriminator"]) == body + conv(512, 1, 1) + conv(512, 5, 8)
    assert count(ConvolutionFusion(256, 3)) == conv(3 * 256, 256, 3) + conv(2 * 256, 256, 3)


@pytest.mark.parametrize("size", [32, 96, 160])
@torch.no_grad()
def test_any_multiple_of_32(size: int) -> None:
    images = torch.rand(2, 3, size, size)
    content = ContentEncoder(0.0625, 1)(images)
    assert content.shape == (2, 16, size // 4, size // 4)
    style, _ = StyleEncoder(3, 0.0625)(images)
    image, mask = Generator(3, 0.0625, 1)(content, style)
    assert image.shape == images.shape and mask.shape == (2, 1, size, size)
    [(realness, attributes, _)] = Discriminator(size, 3, 0.0625)(image)
    assert realness.shape == (2, 1, size // 16, size // 16) and attributes.shape == (2, 3)


@torch.no_grad()
def test_two_scales_judge_the_image_and_its_half() -> None:
    first, second = Discriminator(64, 2, 0.0625, scales=2)(torch.rand(1, 3, 64, 64))
    assert first[0].shape == (1, 1, 4, 4) and second[0].shape == (1, 1, 2, 2)
    assert first[1].shape == second[1].shape == (1, 2)


def test_widths_are_multiples_of_four() -> None:
    assert [scaled(64, w) for w in (1, 0.375, 0.0625, 0.001)] == [64, 24, 4, 4]


def test_adain_sets_deviation_and_mean() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 5 + 7
    scale, shift = torch.tensor([[1.0, 0.0, 2.0]] * 2), torch.tensor([[0.5, -1.0, 3.0]] * 2)
    styled = adain(x, scale, shift)
    torch.testing.assert_close(styled.mean((2, 3)), shift, atol=1e-4, rtol=0)
    torch.testing.assert_close(styled.std((2, 3), correction=0), 1 + scale, atol=1e-4, rtol=1e-4)


def test_the_style_moves_the_picture() -> None:
    torch.manual_seed(0)
    generator = Generator(2, 0.125, 2)
    initialise(generator, "kaiming")
    content = torch.randn(1, 32, 8, 8)
    first, _ = generator(content, torch.ones(1, 16))
    second, _ = generator(content, -torch.ones(1, 16))
    assert (first - second).abs().mean() > 1e-3


def test_first_weights_are_the_papers() -> None:
    torch.manual_seed(0)
    networks = networks_of(load_config("paper-celeba-128"), 5)
    for layer in networks["discriminator"].modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 10_000:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    block = networks["generator"].blocks[0].first.weight  # type: ignore[index, union-attr]
    assert block.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    deviation = (0.5 * networks["style_encoder"].log_variance.bias).exp()  # type: ignore[union-attr, operator, arg-type]
    torch.testing.assert_close(deviation, torch.full((40,), 0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("images", [1, 3])
def test_instance_norm_and_its_gradient_are_right_however_maps_lie(images: int) -> None:
    """Against the formula: torch's own is wrong for one image with a channels-last gradient."""

    def formula(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()

    weight = torch.randn(images, 4, 6, 6)
    for lies in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(images, 4, 6, 6).to(memory_format=lies).requires_grad_()
        ours, right = instance_norm(x), formula(x)
        torch.testing.assert_close(ours, right)
        assert ours.is_contiguous(memory_format=lies)
        for arrives in (torch.contiguous_format, torch.channels_last):
            given = weight.to(memory_format=arrives)
            (one,), (other,) = (torch.autograd.grad(y, x, given, retain_graph=True) for y in (ours, right))
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("images", [1, 2])
def test_the_gradient_does_not_depend_on_how_maps_lie(images: int) -> None:
    generator = Generator(3, 0.0625)
    initialise(generator, "kaiming")
    content, style = torch.randn(images, generator.channels, 8, 8), torch.randn(images, 24)
    target = torch.randn(images, 3, 32, 32)
    found = []
    for lies in (torch.contiguous_format, torch.channels_last):
        generator.to(memory_format=lies)
        prediction, _ = generator(content.to(memory_format=lies), style)
        found.append(torch.autograd.grad((prediction - target).square().mean(), list(generator.blocks.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_skips_bring_the_sources_pixels_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    content, style, image = torch.randn(1, 16, 8, 8), torch.ones(1, 16), torch.rand(1, 3, 32, 32)
    generator = Generator(2, 0.0625, 1, skips=True)
    dark, light = (generator(content, style, picture)[0] for picture in (-image, image))
    assert (dark - light).abs().mean() > 1e-3
    plain = Generator(2, 0.0625, 1)
    assert not [name for name in plain.state_dict() if "skips" in name], "runs made before keep opening"
    assert torch.equal(plain(content, style, image)[0], plain(content, style)[0])


def test_halved_the_source_keeps_what_is_finer() -> None:
    torch.manual_seed(0)
    encoder, generator = ContentEncoder(0.0625, 1, halvings=1), Generator(2, 0.0625, 1, skips=True, halvings=1)
    initialise(generator, "kaiming")
    images, style = torch.rand(2, 3, 64, 64) - 0.5, torch.ones(2, 16)
    content = encoder(images)
    assert content.shape == (2, 16, 16, 16), "as large as of a picture that is not halved"
    assert torch.equal(content, encoder(F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="nearest")))
    prediction, mask = generator(content, style, images)
    assert prediction.shape == (2, 3, 64, 64) and mask.shape == (2, 1, 64, 64)
    assert prediction.abs().max() <= 1

    def fine(pictures: torch.Tensor) -> torch.Tensor:
        """What is lost by halving."""
        return pictures - F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear")

    smooth = images - fine(images)
    assert (prediction - smooth).abs().mean() > 0.1, "it paints"
    left = (fine(prediction) * fine(images)).sum() / fine(images).square().sum()
    assert 0.8 < left < 1.2, "and the source's detail is in it"
    assert dict(encoder.stages(images))["down2"].shape == (2, 16, 8, 8), "what PatchNCE reads is not enlarged"


def test_d_judges_by_labels_as_a_projection() -> None:
    maps = torch.tensor([[[[1.0]], [[10.0]], [[100.0]], [[1000.0]]]])
    judged = Judged(torch.tensor([[[[0.5]]]]), torch.zeros(1, 4), maps)
    assert judged.under(torch.tensor([[1, 0, -1, 1]])).item() == pytest.approx(0.5 + (1 - 10 + 0 + 1000) / 2)
    assert judged._replace(matches=None).under(torch.tensor([[1, 0, -1, 1]])).item() == 0.5
    [found] = Discriminator(32, 4, 0.0625, labels=True)(torch.rand(3, 3, 32, 32))
    assert found.matches is not None and found.matches.shape == (3, 4, 2, 2)
    assert found.under(torch.ones(3, 4)).shape == (3, 1, 2, 2)
