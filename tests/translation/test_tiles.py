"""Pictures of any size through CUT: in tiles as whole, guided or not, and back in the size they came in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from index_store.attributes import AttributeSchema
from translation.anysize import scaled, smallest_limit, translate_any_size
from translation.config import load_config
from translation.guidance import Guide, build_guidance, with_pixels
from translation.methods.cut import Cut
from translation.networks.blocks import InstanceNorm
from translation.tiles import HALO, least, plan
from translation.translator import Translator


def make(guidance: str = "none", size: int = 32, device: str = "cpu") -> Translator:
    """CUT with random weights that are large enough for an output of all grey levels."""
    settings = ("networks.width=0.0625", "networks.blocks=3", f"guided.guidance={guidance}", f"data.size={size}")
    config, schema = load_config("cut", overrides=settings), AttributeSchema(())
    method = Cut.build(config, schema, "guided", inference=True)
    torch.manual_seed(3)
    fusion = build_guidance(config.guided, method.content_channels)
    if fusion is not None:
        method.networks["fusion"] = fusion
    for network in method.networks.values():
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and not (network is fusion and module.kernel_size == (1, 1)):
                nn.init.kaiming_normal_(module.weight)
    return Translator(method, config=config, schema=schema, device=torch.device(device))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Smooth and noisy by turns, so that the norms' numbers differ from place to place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 40
    waves = np.stack([np.sin(y * a + x * b) for a, b in ((1, 2), (3, 1), (0.5, 0.2))], axis=2)
    noise = rng.normal(size=waves.shape) * (x[..., None] > 1)
    return (128 + 60 * waves + 25 * noise).clip(0, 255).astype(np.uint8)


def guide_of(translator: Translator, guidance: str) -> Guide | None:
    if guidance == "none":
        return None
    images = torch.from_numpy(np.stack([picture(translator.size, translator.size, seed) for seed in (1, 2)]))
    images = images.to(translator.device).permute(0, 3, 1, 2).float() / 127.5 - 1
    content = translator.content(images)
    return Guide((with_pixels(content, images) if translator.pixels else content)[None], 0.8)


@pytest.mark.parametrize(
    ("guidance", "size"), [("none", 32), ("attention", 32), ("patches", 32), ("patches", 256)], ids=str
)
def test_tiles_give_the_whole_but_for_rounding(guidance: str, size: int) -> None:
    translator = make(guidance, size)
    guide, pixels = guide_of(translator, guidance), picture(150, 213)
    whole = translate_any_size(translator, pixels, guide, most=10**6)
    tiled = translate_any_size(translator, pixels, guide, most=smallest_limit(translator))
    assert whole.shape == tiled.shape == pixels.shape and whole.std() > 20
    assert np.abs(whole.astype(int) - tiled).max() <= 2
    if guide is not None:
        assert np.abs(whole.astype(int) - translate_any_size(translator, pixels, None)).max() > 2
    assert all(
        m.instead is None for n in translator.networks.values() for m in n.modules() if isinstance(m, InstanceNorm)
    )


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 50), (61, 18), (64, 64)])
@pytest.mark.parametrize("guidance", ["none", "patches"])
def test_a_picture_comes_back_in_its_own_size(height: int, width: int, guidance: str) -> None:
    translator, pixels = make(guidance), picture(height, width)
    made = translate_any_size(translator, pixels, guide_of(translator, guidance))
    assert made.shape == pixels.shape and made.dtype == np.uint8
    right, below = -width % 4, -height % 4
    filled = translate_any_size(translator, np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="reflect"))
    if guidance == "none":
        assert (made == filled[:height, :width]).all(), "what is missing to a multiple of 4 is reflected"


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (30, 500), (101, 67), (2000, 5)])
def test_tiles_cover_a_map_once_and_see_enough(height: int, width: int, step: int) -> None:
    tiles = plan(height, width, least(step), step)
    covered = np.zeros((height, width), int)
    for tile in tiles:
        covered[tile.kept.slices()] += 1
        top, bottom, left, right = tile.seen
        assert (bottom - top) * (right - left) <= least(step)
        assert top % step == left % step == 0
        assert top <= max(0, tile.kept.top - HALO) and bottom >= min(height, tile.kept.bottom + HALO)
        assert left <= max(0, tile.kept.left - HALO) and right >= min(width, tile.kept.right + HALO)
    assert (covered == 1).all()
    assert len(plan(height, width, height * width, step)) == 1


def test_norms_are_given_back_when_a_pass_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    translator = make()
    monkeypatch.setattr("translation.anysize.to_pixels", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        translate_any_size(translator, picture(120, 120), most=9216)
    norms = [m for n in translator.networks.values() for m in n.modules() if isinstance(m, InstanceNorm)]
    assert len(norms) == 11 and all(norm.instead is None for norm in norms)


@pytest.mark.parametrize(("size", "wanted"), [((40, 100), (20, 50)), ((30, 20), (30, 20)), ((300, 21), (286, 20))])
def test_scaling_keeps_proportions(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert scaled(picture(*size), 20).shape[:2] == wanted
