"""Guidance as a part: every kind starts where it should, learns, and never reaches where it must not."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from index_store.errors import RgunitError, UsageError
from tests.translation.small import tiny
from tests.translation.steps import forward, gradient, make_batch, make_method, optimizers, shown_to, step, weights
from translation import guidance
from translation.guidance import (
    AttentionFusion,
    ConvolutionFusion,
    Guidance,
    Guided,
    PatchGuidance,
    attend,
    build_guidance,
    places,
    with_pixels,
)
from translation.hiding import draw_hidden, draw_shown, hide
from translation.methods.gmm_unit import GmmUnit
from translation.neighbours import agreeing, use_of_neighbours
from translation.objectives.style import sampled, style_labels, style_mean
from translation.sampling import Batch, Guides

C = 16
KINDS = ("convolution", "attention", "patches")
ANY_NUMBER = ("attention", "patches")


def make(kind: str, start: float = 0.0) -> Guidance:
    torch.manual_seed(0)
    made = build_guidance(tiny(f"guided.guidance={kind}", f"guided.neighbour_start={start}").guided, C)
    assert made is not None
    return made


def maps(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, C, 8, 8, generator=torch.Generator().manual_seed(seed))


def seen(kind: str, n: int, k: int, side: int = 8) -> Tensor:
    """Maps [n, k, …] of neighbours as guidance of the kind takes them."""
    g = torch.Generator().manual_seed(2)
    content = torch.randn(n * k, C, side, side, generator=g)
    if kind == "patches":
        content = with_pixels(content, torch.rand(n * k, 3, 4 * side, 4 * side, generator=g) * 2 - 1)
    return content.view(n, k, *content.shape[1:])


def predict(method: GmmUnit, neighbours: Tensor | None, shown: Tensor | None = None, size: int = 2) -> Tensor:
    """x̃ and M of `make_batch`'s first images, as one tensor."""
    batch = make_batch(size)
    content, _, _ = method.encode(batch.images)
    if neighbours is not None:
        batch = shown_to(batch, neighbours, shown=shown)
    guided = method.generator_input(content, batch)
    prediction, mask = method.generate(guided, method.target_style(batch), batch.images)
    return torch.cat([prediction, mask], dim=1)


def guided_method(kind: str, start: float = 0.0) -> GmmUnit:
    return make_method(fusion=make(kind, start), train_encoders=False)


# --- the parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_at_gate_0_the_first_step_is_that_of_stage_1(kind: str) -> None:
    neighbours, shut, open_ = seen(kind, 2, 3), guided_method(kind), guided_method(kind, 0.3)
    assert shut.guidance is not None and shut.guidance.gate() == 0
    assert torch.equal(predict(shut, neighbours), predict(shut, None))
    assert open_.guidance is not None and open_.guidance.gate() > 0
    assert not torch.equal(predict(open_, neighbours), predict(open_, None))


@pytest.mark.parametrize("kind", ANY_NUMBER)
def test_a_gate_starts_where_it_is_told(kind: str) -> None:
    assert make(kind, 0.3).gate().item() == pytest.approx(0.3)


def test_paper_fusion_ends_in_a_relu_and_starts_at_random() -> None:
    torch.manual_seed(0)
    fusion = ConvolutionFusion(C, 3, paper=True)
    fused = fusion(maps(2), maps(2, 3)).content
    assert fused.min() == 0 and fused.max() > 0
    assert fusion.gate() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_shown_no_neighbours_are_as_without_bit_for_bit(kind: str) -> None:
    method, neighbours = guided_method(kind, 0.5), seen(kind, 2, 3)
    shown = torch.tensor([True, False])
    made, everywhere, alone = predict(method, neighbours, shown), predict(method, neighbours), predict(method, None)
    assert torch.equal(made[1], alone[1]) and torch.equal(made[0], everywhere[0])
    assert not torch.equal(made[0], alone[0]) and not torch.equal(everywhere[1], alone[1])
    assert torch.equal(predict(method, neighbours[:, :0]), alone), "k = 0"


@pytest.mark.parametrize("kind", ANY_NUMBER)
def test_any_number_in_any_order(kind: str) -> None:
    method, neighbours = guided_method(kind, 0.5), seen(kind, 2, 5)
    different = [predict(method, neighbours[:, :k]) for k in (1, 2, 5)]
    assert not torch.allclose(different[0], different[1]) and not torch.allclose(different[1], different[2])
    torch.testing.assert_close(predict(method, neighbours.flip(1)), different[2])
    again = predict(method, neighbours[:, [0, 0]])
    torch.testing.assert_close(again, different[0], msg="the same neighbour again says nothing new")


def test_a_convolution_refuses_another_number_in_one_line() -> None:
    with pytest.raises(RgunitError, match=r"takes the 3 neighbours .* not 5.*attention") as refused:
        make("convolution")(maps(2), maps(2, 5))
    assert "\n" not in str(refused.value)


@torch.no_grad()
def test_attention_first_looks_where_content_is_alike_and_near() -> None:
    """Shown a stranger and the source's own map, what it gathers is the source's, place by place."""
    torch.manual_seed(0)
    fusion, (content, stranger) = AttentionFusion(64, start=0.5), torch.randn(2, 1, 64, 8, 8)
    _, theirs = fusion.branches(content, torch.stack([stranger, content], 1))
    alike = F.cosine_similarity(theirs, content).mean()
    assert alike > 0.7
    assert alike > F.cosine_similarity(theirs, stranger).mean() + 0.5
    _, moved = fusion.branches(content, content.flip(3)[:, None])
    assert F.cosine_similarity(moved, content).mean() < alike, "a mirrored face is near in content, far in place"


def test_codes_of_places_know_the_offset_alone() -> None:
    codes = places(24, 8, 8)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(64))
    near = (codes @ codes.T).view(8, 8, 8, 8)
    torch.testing.assert_close(near[2, 2, 3, 5], near[4, 1, 5, 4])
    assert near[4, 4].argmax() == 4 * 8 + 4 and near[4, 4, 4, 4] > near[4, 4, 4, 5] > near[4, 4, 4, 7]
    assert places(2, 4, 4).shape == (16, 2), "too narrow for a code: none"


@torch.no_grad()
def test_large_maps_are_averaged_down_before_they_are_looked_at() -> None:
    fusion = make("attention", 0.5)
    content, neighbours = torch.randn(1, C, 32, 32), torch.randn(1, 2, C, 32, 32)
    pooled = F.avg_pool2d(neighbours[0], 2)[None]
    torch.testing.assert_close(fusion(content, neighbours).content, fusion(content, pooled).content)


# --- patches -------------------------------------------------------------------------------------------------


def smooth(n: int, side: int = 8, seed: int = 5) -> Tensor:
    """Images [n, 3, 4·side, 4·side] in [−1, 1] that change slowly."""
    small = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(small, size=(4 * side, 4 * side), mode="bilinear", align_corners=True)


def test_pixels_lie_under_their_position() -> None:
    images = smooth(2)
    both = with_pixels(maps(2), images)
    assert both.shape == (2, C + 48, 8, 8) and torch.equal(both[:, :C], maps(2))
    cell = both[1, C:, 2, 5].view(3, 4, 4)
    assert torch.equal(cell, images[1, :, 8:12, 20:24])


@torch.no_grad()
@pytest.mark.parametrize("side", [8, 16, 40])
def test_a_look_of_oneself_is_oneself(side: int) -> None:
    """Alone and beside a stranger: content and place say where each patch belongs."""
    g = torch.Generator().manual_seed(0)
    content, images = torch.randn(2, C, side, side, generator=g), smooth(2, side)
    both = with_pixels(content, images)
    fusion = make("patches")
    for neighbours in (both[:1, None], both[None, [1, 0]]):
        look = fusion.look(content[:1], neighbours)
        assert look is not None and look.shape == (1, 3, 4 * side, 4 * side)
        assert (look - images[:1]).abs().mean() < 0.05 < (images[1] - images[0]).abs().mean()


def test_sharp_attention_is_attention_without_faint_weights() -> None:
    """Products with weights so small are denormal numbers, which slow some CPUs down."""
    g = torch.Generator().manual_seed(0)
    exact = torch.float64
    queries, keys = (6 * torch.randn(2, n, 16, generator=g, dtype=exact) for n in (9, 30))
    values = torch.randn(2, 30, 4, generator=g, dtype=exact)
    queries.requires_grad_()
    found = attend(queries, keys, values)
    expected = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(out.square().sum(), queries)[0] for out in (found, expected))
    torch.testing.assert_close(*gradients)
    weights = attend(queries.float(), keys.float(), torch.eye(30).expand(2, -1, -1))
    plain = (queries.float() @ keys.float().transpose(1, 2)).softmax(2)
    assert ((plain > 0) & (plain < 1e-30)).any() and not ((weights > 0) & (weights < 1e-30)).any()


@torch.no_grad()
def test_a_large_map_is_looked_at_in_at_most_32_by_32_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 256 pixels all weights of an image and three neighbours would be 200 MB; they are 12."""
    sizes = []
    monkeypatch.setattr(
        guidance, "attend", lambda q, k, v: (sizes.append((q.shape[1], k.shape[1])), attend(q, k, v))[1]
    )
    for side, looked_in in ((32, 1024), (64, 1024), (40, 400)):
        neighbours = with_pixels(torch.randn(3, C, side, side), smooth(3, side))[None]
        look = make("patches").look(torch.randn(1, C, side, side), neighbours)
        assert look is not None and look.shape == (1, 3, 4 * side, 4 * side)
        assert sizes.pop() == (looked_in, 3 * looked_in)


@torch.no_grad()
def test_a_look_is_put_together_from_the_neighbours_pixels_alone() -> None:
    fusion, neighbours = make("patches"), seen("patches", 2, 3)
    look = fusion.look(maps(2), neighbours)
    assert look is not None and look.shape == (2, 3, 32, 32)
    own, theirs = look.flatten(1), neighbours[:, :, C:].flatten(1)
    assert (own.amin(1) >= theirs.amin(1) - 1e-5).all() and (own.amax(1) <= theirs.amax(1) + 1e-5).all()
    neighbours[:, :, C:] = 0.25
    constant = fusion.look(maps(2), neighbours)
    torch.testing.assert_close(constant, torch.full_like(look, 0.25))


@torch.no_grad()
def test_an_opened_gate_paints_between_prediction_and_look() -> None:
    """At first the same share of each pixel is replaced, everywhere."""
    prediction, look, mask = smooth(2), smooth(2, seed=6), torch.rand(2, 1, 32, 32)
    painted = make("patches", 0.3).paint(prediction, mask, Guided(maps(2), look), smooth(2, seed=7))
    torch.testing.assert_close(painted, torch.lerp(prediction, look, 0.3))


@torch.no_grad()
def test_a_look_in_half_precision_is_nearly_the_full_one() -> None:
    method, neighbours = guided_method("patches", 0.5), seen("patches", 2, 2)
    batch = make_batch(neighbours=neighbours)
    content, _, _ = method.encode(batch.images)
    full = method.generator_input(content, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = method.generator_input(content.bfloat16(), batch)
        prediction, _ = method.generate(half, method.target_style(batch), batch.images)
    assert full.look is not None and half.look is not None and half.look.dtype == torch.float32
    assert (half.look - full.look).abs().mean() < 0.05 and prediction.isfinite().all()
    exact, _ = method.generate(full, method.target_style(batch), batch.images)
    assert (prediction - exact).abs().mean() < 0.05


def test_patches_learn_from_the_last_layer_back() -> None:
    """From the painter's last layer back to query and key."""
    method = guided_method("patches")
    fusion = method.guidance
    assert isinstance(fusion, PatchGuidance)
    batch, both = shown_to(make_batch(), seen("patches", 2, 3), alone=True), optimizers(method, 0.1)
    moved = []
    for _ in range(3):
        before = {name: p.detach().clone() for name, p in fusion.named_parameters()}
        step(method, batch, both)
        moved.append({name for name, p in fusion.named_parameters() if not torch.equal(p, before[name])})
    assert moved[0] == {"painted.weight", "painted.bias"}
    assert moved[1] >= {"query.weight", "key.weight", "sharpness", "place", "painter.0.weight", "painter.2.weight"}
    assert moved[2] == set(dict(fusion.named_parameters()))
    assert all(gradient(method.networks[name]) == 0 for name in ("content_encoder", "style_encoder"))


def test_none_is_no_guidance_at_all() -> None:
    assert build_guidance(tiny("guided.guidance=none").guided, C) is None


def test_what_is_shown_and_hidden_follows_from_the_draw_alone() -> None:
    rng = lambda: np.random.default_rng(4)  # noqa: E731
    assert draw_shown(50, 0.0, rng()).all() and not draw_shown(50, 1.0, rng()).any()
    assert draw_shown(2000, 0.3, rng()).mean() == pytest.approx(0.7, abs=0.04)
    hidden = draw_hidden(300, 8, 0.25, rng())
    assert hidden.shape == (300, 1, 8, 8) and hidden.mean() == pytest.approx(0.25, abs=0.03)
    assert (hidden == draw_hidden(300, 8, 0.25, rng())).all()
    blocks = hidden.reshape(300, 4, 2, 4, 2)
    assert (blocks == blocks[:, :, :1, :, :1]).all(), "whole blocks of 2×2 positions"
    content = maps(300)
    dark = hide(content, torch.from_numpy(hidden))
    assert (dark.permute(0, 2, 3, 1)[torch.from_numpy(hidden[:, 0])] == 0).all()
    assert torch.equal(dark != 0, (content != 0) & ~torch.from_numpy(hidden))
    assert hide(content, None) is content


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (("guided.random_k=true",), "random_k needs guidance=attention or patches"),
        (("guided.guidance=patches", "guided.content_dropout=0.3"), "content_dropout has no meaning for guidance=pat"),
        (("guided.fusion=paper", "guided.neighbour_start=0.1"), "neighbour_start has no meaning for fusion=paper"),
        (("guided.guidance=attenion",), "guided.guidance"),
        (("guided.neighbour_dropout=1.5",), "guided.neighbour_dropout"),
        (("guided.content_dropout=1.0",), "guided.content_dropout"),
        (("guided.neighbour_dropot=0.5",), "did you mean neighbour_dropout"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(override: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        tiny(*override)
    assert "\n" not in str(refused.value)


def test_patches_go_with_random_k_and_without_the_convolutions_form() -> None:
    config = tiny("guided.guidance=patches", "guided.random_k=true", "guided.fusion=paper", "guided.neighbour_start=.1")
    made = build_guidance(config.guided, C)
    assert isinstance(made, PatchGuidance) and made.gate() == pytest.approx(0.1) and made.takes is None


# --- in a step -----------------------------------------------------------------------------------------------


def test_fusion_learns_though_its_neighbours_are_given() -> None:
    """After one step the merge looks at the neighbours; after two the convolution over them has gradient too."""
    method = guided_method("convolution")
    fusion = method.guidance
    assert isinstance(fusion, ConvolutionFusion)
    batch, both = make_batch(neighbours=maps(2, 3)), optimizers(method)
    assert fusion.merge.weight[:, C:].abs().sum() == 0
    step(method, batch, both)
    assert fusion.merge.weight.grad is not None and fusion.merge.weight.grad[:, C:].abs().sum() > 0
    assert fusion.gate() > 0
    gather = fusion.gather.weight.detach().clone()
    step(method, batch, both)
    assert not torch.equal(fusion.gather.weight, gather)
    assert gradient(method.networks["content_encoder"]) == 0


def test_attention_learns_the_gate_first_then_everything() -> None:
    method = guided_method("attention")
    fusion = method.guidance
    assert isinstance(fusion, AttentionFusion)
    batch, both = make_batch(neighbours=maps(2, 3)), optimizers(method, 0.1)
    step(method, batch, both)
    assert fusion.gate() != 0
    before = {name: p.detach().clone() for name, p in fusion.named_parameters()}
    step(method, batch, both)
    assert [name for name, p in fusion.named_parameters() if torch.equal(p, before[name])] == []
    assert all(gradient(method.networks[name]) == 0 for name in ("content_encoder", "style_encoder"))


@pytest.mark.parametrize("kind", KINDS)
def test_each_optimiser_moves_its_own_networks_alone(kind: str) -> None:
    """The fusion at a rate of its own; the encoders are frozen; D learns in its own step only."""
    batch = make_batch(neighbours=seen(kind, 2, 3))
    for mover in ("generator", "discriminator", "fusion"):
        method = guided_method(kind, 0.2)
        parts = {name: method.networks[name] for name in ("generator", "discriminator", "fusion")}
        each = {name: torch.optim.SGD(p.parameters(), 0.01 if name == mover else 0.0) for name, p in parts.items()}
        before = {name: weights(network) for name, network in method.networks.items()}
        step(method, batch, each)
        moved = {name for name, network in method.networks.items() if not torch.equal(weights(network), before[name])}
        assert moved == {mover}


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_that_nobody_is_shown_equal_no_guidance(kind: str) -> None:
    """Neighbour dropout 1: after a step every weight that both have is the same, bit for bit; the fusion's stay."""
    guided, plain = guided_method(kind, 0.5), make_method(train_encoders=False)
    for name, network in plain.networks.items():
        network.load_state_dict(guided.networks[name].state_dict())
    assert guided.guidance is not None
    before = weights(guided.guidance)
    batch = shown_to(make_batch(), seen(kind, 2, 3), shown=torch.zeros(2, dtype=torch.bool))
    ours = step(guided, batch, optimizers(guided))
    theirs = step(plain, make_batch(), optimizers(plain))
    for name, network in plain.networks.items():
        assert torch.equal(weights(network), weights(guided.networks[name]))
    assert torch.equal(weights(guided.guidance), before)
    assert {name: float(value) for name, value in ours.items()} == {name: float(v) for name, v in theirs.items()}


@pytest.mark.parametrize("kind", ["attention", "patches"])
def test_the_generator_learns_through_guidance(kind: str) -> None:
    method = guided_method(kind, 0.3)
    predict(method, seen(kind, 2, 3))[:, :3].sum().backward()
    assert gradient(method.networks["generator"]) > 0 and gradient(method.networks["fusion"]) > 0


def test_guidance_enters_the_generators_input_alone() -> None:
    """The content term asks for E_c(x), not c_total; the way back of the cycle takes E_c(x̂) as it is."""
    torch.manual_seed(0)
    method = make_method(fusion=ConvolutionFusion(C, 3, paper=True), train_encoders=False)
    batch = make_batch(neighbours=maps(2, 3))
    given: list[Tensor] = []
    hook = method.networks["generator"].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    terms, mask = forward(method, batch)
    hook.remove()
    content, _, _ = method.encode(batch.images)
    fused = method.generator_input(content, batch).content
    prediction, _ = method.networks["generator"](fused, method.target_style(batch))
    recovered = method.networks["content_encoder"](batch.images + mask * (prediction - batch.images))
    torch.testing.assert_close(terms["content"], (recovered - content).abs().mean())
    forth, reconstruction, back, second = given
    assert torch.equal(forth, fused) and torch.equal(second, fused)
    assert torch.equal(reconstruction, fused) and torch.equal(back, recovered)
    assert "kl" not in terms


def test_hidden_content_is_hidden_from_the_reconstruction_alone() -> None:
    """There the neighbours are what is left to look at; the content term still asks for all of E_c(x)."""
    method = guided_method("attention", 0.5)
    hidden = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    hidden[0] = True
    batch = shown_to(make_batch(), maps(2, 3), hidden=hidden)
    given: list[Tensor] = []
    hook = method.networks["generator"].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    terms, _ = forward(method, batch)
    hook.remove()
    content, _, _ = method.encode(batch.images)
    forth, reconstruction, _, _ = given
    torch.testing.assert_close(forth, method.generator_input(content, batch).content)
    assert method.guidance is not None
    expected = method.guidance(content.masked_fill(hidden, 0), batch.guides.maps[1]).content
    torch.testing.assert_close(reconstruction, expected)
    assert not torch.allclose(reconstruction[0], forth[0]) and torch.allclose(reconstruction[1], forth[1], atol=1e-5)
    (to_values,) = torch.autograd.grad(terms["reconstruction"], method.networks["fusion"].out.weight)  # type: ignore[union-attr, arg-type]
    assert to_values.abs().sum() > 0


def also_real(batch: Batch, images: Tensor, labels: Tensor) -> Batch:
    return replace(batch, guides=Guides(real=(images, labels)))


def test_neighbours_as_real_images_need_no_labels() -> None:
    """D's adversarial term counts them; where their labels are unknown, its classification does not."""
    method, batch = make_method(), make_batch()
    fake, more = torch.zeros_like(batch.images), batch.images.flip(0) * 0.5
    unknown = torch.full_like(batch.labels, -1)
    discriminator = method.networks["discriminator"]
    with torch.no_grad():
        for weight in discriminator.parameters():
            weight.mul_(20)  # as it starts, a narrow one gives next to nothing for any image
    plain = method.discriminator_losses(batch, fake)
    shown = method.discriminator_losses(also_real(batch, more, unknown), fake)
    torch.testing.assert_close(shown["domain"], plain["domain"])
    assert not torch.allclose(shown["adversarial"], plain["adversarial"])
    known = also_real(batch, batch.images, batch.labels)
    for name, value in method.discriminator_losses(known, fake).items():
        torch.testing.assert_close(value, plain[name], msg="the same images again change no mean")
    labelled = also_real(batch, more, batch.labels)
    assert not torch.allclose(method.discriminator_losses(labelled, fake)["domain"], plain["domain"])


# --- what is logged ------------------------------------------------------------------------------------------


def use_of(method: GmmUnit, batch: Batch) -> dict[str, Tensor]:
    return use_of_neighbours(method, replace(batch, encoded=method.encode(batch.images)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_watched_says_whether_neighbours_are_used(kind: str) -> None:
    batch, share = make_batch(neighbours=seen(kind, 2, 3)), kind != "patches"
    shut, open_ = guided_method(kind), guided_method(kind, 0.5)
    for method in (shut, open_):
        step(method, batch, optimizers(method, 0.0))
    before, after = use_of(shut, batch), use_of(open_, batch)
    assert before["neighbour_gate"] == before["neighbour_swap"] == 0
    assert ("neighbour_share" in before) == share, "patches have no part in the content"
    assert not share or before["neighbour_share"] == 0
    assert before["fusion_gradient"] > 0, "closed, but pulled at"
    for name in before:
        assert after[name] > 0 and after[name].shape == () and not after[name].requires_grad
    same = shown_to(batch, seen(kind, 1, 3).expand(2, -1, -1, -1, -1))
    assert use_of(open_, same)["neighbour_swap"] < 1e-6, "a neighbour swapped for the same one"


def test_the_share_is_that_of_the_parts_norms() -> None:
    method = guided_method("attention", 0.5)
    batch = make_batch(neighbours=maps(2, 3))
    content, _, _ = method.encode(batch.images)
    fused = method.generator_input(content, batch).content
    expected = (fused - content).norm() / content.norm()
    torch.testing.assert_close(use_of(method, batch)["neighbour_share"], expected)


def test_unguided_and_single_images_have_nothing_to_swap() -> None:
    assert use_of(make_method(), make_batch()) == {}
    one = make_batch(1, neighbours=maps(1, 3))
    assert set(use_of(guided_method("attention"), one)) == {"neighbour_gate", "neighbour_share", "fusion_gradient"}


def test_a_closed_mask_leaves_guidance_finite() -> None:
    from tests.translation.steps import close_mask

    method = guided_method("attention", 0.5)
    close_mask(method)
    batch = make_batch(neighbours=maps(2, 3))
    twin = copy.deepcopy(method)
    terms, mask = forward(twin, batch)
    assert mask.max() < 1e-6 and terms["reconstruction"] > 0.1
    terms["reconstruction"].backward()
    assert gradient(twin.networks["fusion"]) > 0, "the reconstruction is not blended: guidance learns all the same"
    assert all(value.isfinite() for value in use_of(method, batch).values())
    mean, log_variance = method.encode(batch.images)[1:]
    assert sampled(mean, log_variance, batch.noise[2]).isfinite().all()


# --- style ---------------------------------------------------------------------------------------------------


def test_a_neighbours_style_counts_where_it_has_the_attribute_as_asked() -> None:
    wanted = style_mean(torch.tensor([[1, 0]])) + 0.1
    one, other = style_mean(torch.tensor([[1, 1]])) * 2, style_mean(torch.tensor([[1, 1]])) * 4
    style = agreeing(torch.stack([one, other], 1), wanted, style_labels)
    assert torch.equal(style[0, :8], torch.full((8,), 3.0)), "both are true: their mean"
    assert torch.equal(style[0, 8:], wanted[0, 8:]), "none is false: as it was asked for"
    alone = agreeing(torch.stack([one, -one], 1), wanted, style_labels)
    assert torch.equal(alone[0], torch.cat([one[0, :8], -one[0, 8:]])), "of each the attribute that fits"


def test_the_gradient_penalty_reaches_the_discriminator_alone() -> None:
    batch = make_batch()
    plain, flat = make_method(), make_method("translation.weights.gradient_penalty=50")
    before = weights(flat.networks["discriminator"])
    rates = {name: torch.optim.SGD(o.param_groups[0]["params"], 0.0) for name, o in optimizers(flat).items()}
    terms = step(flat, batch, rates)
    assert terms["discriminator/gradient_penalty"] > 0
    assert torch.equal(weights(flat.networks["discriminator"]), before)
    assert "discriminator/gradient_penalty" not in step(plain, batch, optimizers(plain))
