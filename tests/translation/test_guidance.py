"""Guidance as a part: every kind starts where it should, learns, and never reaches where it must not."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import tiny
from steps import forward, gradient, make_batch, make_method, optimizers, weights
from torch import Tensor
from torch.nn import functional as F

from index_store.errors import RgunitError, UsageError
from translation.gmm_unit import GmmUnit, sampled
from translation.guidance import (
    AttentionFusion,
    ConvolutionFusion,
    Guidance,
    build_guidance,
    draw_hidden,
    draw_shown,
    hide,
    places,
)

C = 16
KINDS = ("convolution", "attention")


def make(kind: str, start: float = 0.0) -> Guidance:
    torch.manual_seed(0)
    made = build_guidance(tiny(f"guided.guidance={kind}", f"guided.neighbour_start={start}").guided, C)
    assert made is not None
    return made


def maps(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, C, 8, 8, generator=torch.Generator().manual_seed(seed))


def guided_method(kind: str, start: float = 0.0) -> GmmUnit:
    return make_method(fusion=make(kind, start), train_encoders=False)


# --- the parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_at_gate_0_the_first_step_is_that_of_stage_1(kind: str) -> None:
    fusion, content, neighbours = make(kind), maps(2), maps(2, 3)
    assert fusion.gate() == 0
    assert torch.equal(fusion(content, neighbours), content)
    open_ = make(kind, 0.3)
    assert open_.gate() > 0 and not torch.equal(open_(content, neighbours), content)


def test_attentions_gate_starts_where_it_is_told() -> None:
    assert make("attention", 0.3).gate().item() == pytest.approx(0.3)


def test_paper_fusion_ends_in_a_relu_and_starts_at_random() -> None:
    torch.manual_seed(0)
    fusion = ConvolutionFusion(C, 3, paper=True)
    fused = fusion(maps(2), maps(2, 3))
    assert fused.min() == 0 and fused.max() > 0
    assert fusion.gate() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_shown_no_neighbours_keep_their_content_bit_for_bit(kind: str) -> None:
    fusion, content, neighbours = make(kind, 0.5), maps(3), maps(3, 3)
    shown = torch.tensor([True, False, True])
    fused = fusion(content, neighbours, shown)
    everywhere = fusion(content, neighbours)
    assert torch.equal(fused[1], content[1]) and torch.equal(fused[shown], everywhere[shown])
    assert not torch.equal(fused[0], content[0])
    assert torch.equal(fusion(content, neighbours[:, :0]), content), "k = 0"


def test_attention_takes_any_number_in_any_order() -> None:
    fusion, content, neighbours = make("attention", 0.5), maps(2), maps(2, 5)
    for k in (1, 2, 5):
        fused = fusion(content, neighbours[:, :k])
        assert fused.shape == content.shape
        turned = fusion(content, neighbours[:, :k].flip(1))
        torch.testing.assert_close(fused, turned)
    twice = fusion(content, neighbours[:, [0, 0]])
    torch.testing.assert_close(twice, fusion(content, neighbours[:, :1])), "the same neighbour again says nothing new"


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
    torch.testing.assert_close(fusion(content, neighbours), fusion(content, pooled))


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
        (("guided.random_k=true",), "random_k needs guidance=attention"),
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


# --- in a step -----------------------------------------------------------------------------------------------


def test_fusion_learns_though_its_neighbours_are_given() -> None:
    """After one step the merge looks at the neighbours; after two the convolution over them has gradient too."""
    method = guided_method("convolution")
    fusion = method.fusion
    assert isinstance(fusion, ConvolutionFusion)
    batch, both = make_batch(neighbours=maps(2, 3)), optimizers(method)
    assert fusion.merge.weight[:, C:].abs().sum() == 0
    method.step(batch, both, 0.1)
    assert fusion.merge.weight.grad is not None and fusion.merge.weight.grad[:, C:].abs().sum() > 0
    assert fusion.gate() > 0
    gather = fusion.gather.weight.detach().clone()
    method.step(batch, both, 0.1)
    assert not torch.equal(fusion.gather.weight, gather)
    assert gradient(method.networks["content_encoder"]) == 0


def test_attention_learns_the_gate_first_then_everything() -> None:
    method = guided_method("attention")
    fusion = method.fusion
    assert isinstance(fusion, AttentionFusion)
    batch, both = make_batch(neighbours=maps(2, 3)), optimizers(method, 0.1)
    method.step(batch, both, 0.1)
    assert fusion.gate() != 0
    before = {name: p.detach().clone() for name, p in fusion.named_parameters()}
    method.step(batch, both, 0.1)
    assert [name for name, p in fusion.named_parameters() if torch.equal(p, before[name])] == []
    assert all(gradient(method.networks[name]) == 0 for name in ("content_encoder", "style_encoder"))


@pytest.mark.parametrize("kind", KINDS)
def test_each_optimiser_moves_its_own_networks_alone(kind: str) -> None:
    """The fusion at a rate of its own; the encoders are frozen; D learns in its own step only."""
    batch = make_batch(neighbours=maps(2, 3))
    for mover in ("generator", "discriminator", "fusion"):
        method = guided_method(kind, 0.2)
        parts = {name: method.networks[name] for name in ("generator", "discriminator", "fusion")}
        each = {name: torch.optim.SGD(p.parameters(), 0.01 if name == mover else 0.0) for name, p in parts.items()}
        before = {name: weights(network) for name, network in method.networks.items()}
        method.step(batch, each, 0.1)
        moved = {name for name, network in method.networks.items() if not torch.equal(weights(network), before[name])}
        assert moved == {mover}


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_that_nobody_is_shown_equal_no_guidance(kind: str) -> None:
    """Neighbour dropout 1: after a step every weight that both have is the same, bit for bit; the fusion's stay."""
    guided, plain = guided_method(kind, 0.5), make_method(train_encoders=False)
    for name, network in plain.networks.items():
        network.load_state_dict(guided.networks[name].state_dict())
    assert guided.fusion is not None
    before = weights(guided.fusion)
    batch = replace(make_batch(neighbours=maps(2, 3)), shown=torch.zeros(2, dtype=torch.bool))
    ours = guided.step(batch, optimizers(guided), 0.1)
    theirs = plain.step(make_batch(), optimizers(plain), 0.1)
    for name, network in plain.networks.items():
        assert torch.equal(weights(network), weights(guided.networks[name]))
    assert torch.equal(weights(guided.fusion), before)
    assert {name: float(value) for name, value in ours.items()} == {name: float(v) for name, v in theirs.items()}


def test_guidance_enters_the_generators_input_alone() -> None:
    """The content term asks for E_c(x), not c_total; the way back of the cycle takes E_c(x̂) as it is."""
    torch.manual_seed(0)
    method = make_method(fusion=ConvolutionFusion(C, 3, paper=True), train_encoders=False)
    batch = make_batch(neighbours=maps(2, 3))
    seen: list[Tensor] = []
    hook = method.networks["generator"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    terms, mask = forward(method, batch)
    hook.remove()
    content, _, _ = method.encode(batch.images)
    fused = method.generator_input(content, batch.neighbours)
    prediction, _ = method.networks["generator"](fused, batch.style)
    recovered = method.networks["content_encoder"](batch.images + mask * (prediction - batch.images))
    torch.testing.assert_close(terms["content"], (recovered - content).abs().mean())
    forth, reconstruction, back, second = seen
    assert torch.equal(forth, fused) and torch.equal(second, fused)
    assert torch.equal(reconstruction, fused) and torch.equal(back, recovered)
    assert "kl" not in terms


def test_hidden_content_is_hidden_from_the_reconstruction_alone() -> None:
    """There the neighbours are what is left to look at; the content term still asks for all of E_c(x)."""
    method = guided_method("attention", 0.5)
    hidden = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    hidden[0] = True
    batch = replace(make_batch(neighbours=maps(2, 3)), hidden=hidden)
    seen: list[Tensor] = []
    hook = method.networks["generator"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    terms, _ = forward(method, batch)
    hook.remove()
    content, _, _ = method.encode(batch.images)
    forth, reconstruction, _, _ = seen
    assert batch.source_neighbours is not None
    torch.testing.assert_close(forth, method.generator_input(content, batch.neighbours))
    assert method.fusion is not None
    expected = method.fusion(content.masked_fill(hidden, 0), batch.source_neighbours)
    torch.testing.assert_close(reconstruction, expected)
    assert not torch.allclose(reconstruction[0], forth[0]) and torch.allclose(reconstruction[1], forth[1], atol=1e-5)
    (to_values,) = torch.autograd.grad(terms["reconstruction"], method.networks["fusion"].out.weight)  # type: ignore[union-attr, arg-type]
    assert to_values.abs().sum() > 0


def test_neighbours_as_real_images_need_no_labels() -> None:
    """D's adversarial term counts them; where their labels are unknown, its classification does not."""
    method, batch = make_method(), make_batch()
    fake, more = torch.zeros_like(batch.images), batch.images.flip(0) * 0.5
    unknown = torch.full_like(batch.labels, -1)
    discriminator = method.networks["discriminator"]
    with torch.no_grad():
        for weight in discriminator.parameters():
            weight.mul_(20)  # as it starts, a narrow one gives next to nothing for any image
    plain = method.discriminator_losses(discriminator, batch, fake)
    shown = method.discriminator_losses(discriminator, replace(batch, real_images=more, real_labels=unknown), fake)
    torch.testing.assert_close(shown["domain"], plain["domain"])
    assert not torch.allclose(shown["adversarial"], plain["adversarial"])
    known = replace(batch, real_images=batch.images, real_labels=batch.labels)
    for name, value in method.discriminator_losses(discriminator, known, fake).items():
        torch.testing.assert_close(value, plain[name], msg="the same images again change no mean")
    labelled = replace(batch, real_images=more, real_labels=batch.labels)
    assert not torch.allclose(method.discriminator_losses(discriminator, labelled, fake)["domain"], plain["domain"])


# --- what is logged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_watched_says_whether_neighbours_are_used(kind: str) -> None:
    batch = make_batch(neighbours=maps(2, 3))
    shut, open_ = guided_method(kind), guided_method(kind, 0.5)
    for method in (shut, open_):
        method.step(
            batch,
            {
                name: torch.optim.SGD(optimizer.param_groups[0]["params"], 0.0)
                for name, optimizer in optimizers(method).items()
            },
            0.1,
        )
    before, after = shut.watch(batch), open_.watch(batch)
    assert before["neighbour_gate"] == before["neighbour_share"] == before["neighbour_swap"] == 0
    assert before["fusion_gradient"] > 0, "closed, but pulled at"
    for name in ("neighbour_gate", "neighbour_share", "neighbour_swap", "fusion_gradient"):
        assert after[name] > 0 and after[name].shape == () and not after[name].requires_grad
    same = replace(batch, neighbours=maps(1, 3).expand(2, -1, -1, -1, -1))
    assert open_.watch(same)["neighbour_swap"] < 1e-6, "a neighbour swapped for the same one"


def test_the_share_is_that_of_the_parts_norms() -> None:
    method = guided_method("attention", 0.5)
    batch = make_batch(neighbours=maps(2, 3))
    content, _, _ = method.encode(batch.images)
    fused = method.generator_input(content, batch.neighbours)
    expected = (fused - content).norm() / content.norm()
    torch.testing.assert_close(method.watch(batch)["neighbour_share"], expected)


def test_unguided_and_single_images_have_nothing_to_swap() -> None:
    assert make_method().watch(make_batch()) == {}
    one = make_batch(1, neighbours=maps(1, 3))
    assert set(guided_method("attention").watch(one)) == {"neighbour_gate", "neighbour_share", "fusion_gradient"}


def test_a_closed_mask_leaves_guidance_finite() -> None:
    from steps import close_mask

    method = guided_method("attention", 0.5)
    close_mask(method)
    batch = make_batch(neighbours=maps(2, 3))
    twin = copy.deepcopy(method)
    terms, mask = forward(twin, batch)
    assert mask.max() < 1e-6 and terms["reconstruction"] > 0.1
    terms["reconstruction"].backward()
    assert gradient(twin.networks["fusion"]) > 0, "the reconstruction is not blended: guidance learns all the same"
    assert all(value.isfinite() for value in method.watch(batch).values())
    mean, log_variance = method.encode(batch.images)[1:]
    assert sampled(mean, log_variance, batch.source_noise).isfinite().all()
