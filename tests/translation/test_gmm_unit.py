"""The traps of GMM-UNIT and RG-UNIT, one test each: who learns from what, and who must not."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small import USED, tiny
from torch import Tensor, nn

from index_store.workspace import Workspace
from translation.batches import Sampler
from translation.checkpoint import CHECKPOINT
from translation.gmm_unit import Batch, GmmUnit, build_networks, sampled
from translation.guidance import ConvolutionFusion
from translation.neighbours import Neighbours
from translation.networks import Generator
from translation.stages import open_retriever, train_guided
from translation.tasks import MASK_CLOSED, GuidedTask, TranslationTask
from translation.translator import Translator

A = 3
ENCODERS = ("content_encoder", "style_encoder")


def make_batch(size: int = 2, neighbours: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(3, size, 8 * A, generator=g)
    labels = torch.tensor([[1, 0, 0], [0, 1, -1]])[:size]
    target = torch.tensor([[0, 1, 1], [1, 0, 0]])[:size]
    images = torch.rand(size, 3, 32, 32, generator=g) * 2 - 1
    return Batch(images, labels, target, noise[0], noise[1], noise[2], neighbours, neighbours)


def make_method(*overrides: str, fusion: ConvolutionFusion | None = None, train_encoders: bool = True) -> GmmUnit:
    torch.manual_seed(0)
    config = tiny(*overrides)
    networks = build_networks(config, A)
    if fusion is not None:
        networks["fusion"] = fusion
    if not train_encoders:
        for name in ENCODERS:
            networks[name].requires_grad_(False)
    return GmmUnit(
        networks, config.translation, nullcontext, fusion=fusion, train_encoders=train_encoders, groups=[[0, 1]]
    )


def optimizers(method: GmmUnit, rate: float = 1e-3) -> dict[str, torch.optim.Optimizer]:
    """Plain descent, so that a network without gradient does not move."""
    ours = [p for name, n in method.networks.items() if name != "discriminator" for p in n.parameters()]
    theirs = list(method.networks["discriminator"].parameters())
    return {"generator": torch.optim.SGD(ours, rate), "discriminator": torch.optim.SGD(theirs, rate)}


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in network.parameters()])


def gradient(network: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None)


def forward(method: GmmUnit, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The generator's terms, and the mask."""
    content, mean, log_variance = method.encode(batch.images)
    own = sampled(mean, log_variance, batch.source_noise)
    generator = method.networks["generator"]
    prediction, mask = generator(method.generator_input(content, batch.neighbours), batch.style)
    fake = batch.images + mask * (prediction - batch.images)
    return method.generator_losses(batch, content, mean, log_variance, own, fake), mask


def close_mask(method: GmmUnit) -> None:
    generator = method.networks["generator"]
    assert isinstance(generator, Generator)
    with torch.no_grad():
        generator.mask.weight.zero_()
        assert generator.mask.bias is not None
        generator.mask.bias.fill_(-50.0)


def test_a_closed_mask_does_not_zero_reconstruction_and_cycle() -> None:
    method = make_method()
    close_mask(method)
    terms, mask = forward(method, make_batch())
    assert mask.max() < 1e-6
    assert terms["content"] < 1e-6, "the fake is the input itself"
    assert terms["reconstruction"] > 0.1 and terms["cycle"] > 0.1


def test_cycle_constrains_the_translation() -> None:
    """Its gradient goes back through x̂ to the target style, the mask and the prediction."""
    method = make_method()
    batch = make_batch()
    terms, _ = forward(method, batch)
    generator = method.networks["generator"]
    assert isinstance(generator, Generator)
    (to_mask,) = torch.autograd.grad(terms["cycle"], generator.mask.weight, retain_graph=True)
    assert to_mask.abs().sum() > 0, "only x̂ was blended by the mask"
    noise = batch.noise.clone().requires_grad_()
    terms, _ = forward(method, replace(batch, noise=noise))
    (to_style,) = torch.autograd.grad(terms["cycle"], noise)
    assert to_style.abs().sum() > 0


def test_reconstruction_does_not_touch_the_mask_head() -> None:
    method = make_method()
    terms, _ = forward(method, make_batch())
    generator = method.networks["generator"]
    assert isinstance(generator, Generator)
    (to_mask,) = torch.autograd.grad(terms["reconstruction"], generator.mask.weight, allow_unused=True)
    assert to_mask is None or to_mask.abs().sum() == 0


def test_the_discriminators_loss_reaches_nobody_else() -> None:
    method, batch = make_method(), make_batch()
    content, _, _ = method.encode(batch.images)
    prediction, mask = method.networks["generator"](content, batch.style)
    fake = batch.images + mask * (prediction - batch.images)
    terms = method.discriminator_losses(method.networks["discriminator"], batch, fake.detach())
    sum(terms.values(), torch.zeros(())).backward()
    assert gradient(method.networks["discriminator"]) > 0
    assert all(gradient(method.networks[name]) == 0 for name in (*ENCODERS, "generator"))


@pytest.mark.parametrize("frozen", ["discriminator", "generator"])
def test_each_step_moves_its_own_networks_only(frozen: str) -> None:
    """With a rate of 0 for one of the two, only the other's networks move; no gradient is left over in D."""
    method, batch = make_method(), make_batch()
    both = optimizers(method)
    for group in both[frozen].param_groups:
        group["lr"] = 0.0
    before = {name: weights(network) for name, network in method.networks.items()}
    method.step(batch, both, 0.1)
    moved = {name for name, network in method.networks.items() if not torch.equal(weights(network), before[name])}
    assert moved == ({"discriminator"} if frozen == "generator" else {*ENCODERS, "generator"})
    assert all(p.requires_grad for p in method.networks["discriminator"].parameters())


def test_the_discriminators_gradient_is_of_its_own_step_alone() -> None:
    method, batch = make_method(), make_batch()
    twin = copy.deepcopy(method)
    method.step(batch, optimizers(method), 0.1)
    content, _, _ = twin.encode(batch.images)
    prediction, mask = twin.networks["generator"](content, batch.style)
    fake = (batch.images + mask * (prediction - batch.images)).detach()
    terms = twin.discriminator_losses(twin.networks["discriminator"], batch, fake)
    weight = twin.stage.weights
    (weight.adversarial * terms["adversarial"] + weight.domain * terms["domain"]).backward()
    ours, theirs = method.networks["discriminator"].parameters(), twin.networks["discriminator"].parameters()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad, b.grad)


def test_the_style_encoder_learns_on_real_images_by_kl() -> None:
    method, batch = make_method(), make_batch()
    terms, _ = forward(method, batch)
    terms["kl"].backward()
    assert gradient(method.networks["style_encoder"]) > 0
    assert gradient(method.networks["generator"]) == 0


def test_the_style_term_asks_for_the_style_put_in() -> None:
    method, batch = make_method(), make_batch()
    terms, mask = forward(method, batch)
    content, _, _ = method.encode(batch.images)
    prediction, _ = method.networks["generator"](content, batch.style)
    fake = batch.images + mask * (prediction - batch.images)
    recovered, _ = method.networks["style_encoder"](fake)
    torch.testing.assert_close(terms["style"], (recovered - batch.style).abs().mean())
    terms["style"].backward()
    assert gradient(method.networks["generator"]) > 0


def test_a_weight_of_zero_leaves_the_term_out() -> None:
    method = make_method(
        "translation.weights.isometry=0.0", "translation.weights.cycle=0.0", "translation.weights.perceptual=0.0"
    )
    terms, _ = forward(method, make_batch())
    assert set(terms) == {"adversarial", "domain", "content", "style", "reconstruction", "kl"}


def test_warm_up_trains_everything_but_the_mask_and_translates_nothing() -> None:
    method, batch = make_method(), make_batch()
    before = {name: weights(network) for name, network in method.networks.items()}
    generator = method.networks["generator"]
    assert isinstance(generator, Generator)
    mask_before = generator.mask.weight.detach().clone()
    terms = method.warm_up(batch, optimizers(method), 0.1)
    assert all(not torch.equal(weights(network), before[name]) for name, network in method.networks.items())
    assert torch.equal(generator.mask.weight, mask_before)
    assert {"discriminator/domain", "generator/reconstruction", "generator/kl"} < set(terms)
    assert "generator/cycle" not in terms


def test_logged_terms_are_detached_and_on_one_device() -> None:
    """Read together in one go, they must all lie where the images lie."""
    method, batch = make_method(), make_batch()
    both = optimizers(method)
    for terms in (method.warm_up(batch, both, 0.1), method.step(batch, both, 0.1)):
        assert not any(term.requires_grad for term in terms.values())
        assert all(term.shape == () for term in terms.values())
        assert {term.device for term in terms.values()} == {batch.images.device}


# --- batches -------------------------------------------------------------------------------------------------


def test_targets_come_from_the_whole_set_even_at_batch_1(workspace: Workspace) -> None:
    sampler = Sampler(workspace, USED, batch=1, seed=0)
    draws = [sampler.draw(step) for step in range(len(sampler.ids))]
    assert sorted(int(draw.ids[0]) for draw in draws) == sorted(sampler.ids.tolist()), "an epoch sees each image once"
    more = [sampler.draw(step) for step in range(10 * len(sampler.ids))]
    assert len({tuple(draw.target[0]) for draw in more}) == len({tuple(row) for row in sampler.labels})
    changed = sum(tuple(draw.target[0]) != tuple(draw.labels[0]) for draw in draws)
    assert changed > len(draws) / 3


def test_a_draw_depends_on_seed_step_and_process_alone(workspace: Workspace) -> None:
    make = lambda **how: Sampler(workspace, USED, batch=4, **{"seed": 1, **how})  # noqa: E731
    one, again = make(), make()
    one.draw(0)
    first, second = one.draw(7), again.draw(7)
    assert first.ids.tolist() == second.ids.tolist() and torch.equal(first.noise, second.noise)
    assert (first.target == second.target).all() and (first.mirrored == second.mirrored).all()
    assert make(seed=2).draw(7).ids.tolist() != first.ids.tolist()
    ranks = [make(rank=rank, world=2).draw(3).ids for rank in (0, 1)]
    assert not set(ranks[0].tolist()) & set(ranks[1].tolist())
    whole = Sampler(workspace, USED, batch=8, seed=1).draw(3).ids
    assert [*ranks[0], *ranks[1]] == whole.tolist(), "two processes see what one with both batches sees"


def test_only_labelled_training_images_are_drawn(workspace: Workspace) -> None:
    table = workspace.images("split=train origin=real")
    assert set(Sampler(workspace, USED, batch=1, seed=0).ids.tolist()) == set(table.ids.tolist())


# --- stage 3 -------------------------------------------------------------------------------------------------


def test_identity_fusion_starts_as_stage_1_exactly() -> None:
    torch.manual_seed(0)
    fusion = ConvolutionFusion(16, 3)
    content, neighbours = torch.randn(2, 16, 8, 8), torch.randn(2, 3, 16, 8, 8)
    assert torch.equal(fusion(content, neighbours), content)
    assert fusion.neighbour_share() == 0


def test_paper_fusion_ends_in_a_relu_and_starts_at_random() -> None:
    torch.manual_seed(0)
    fusion = ConvolutionFusion(16, 3, "paper")
    content, neighbours = torch.randn(2, 16, 8, 8), torch.randn(2, 3, 16, 8, 8)
    fused = fusion(content, neighbours)
    assert fused.min() == 0 and fused.max() > 0
    assert fusion.neighbour_share() > 0.5


def test_fusion_learns_though_its_neighbours_are_given() -> None:
    """After one step the merge looks at the neighbours; after two the convolution over them has gradient too."""
    torch.manual_seed(0)
    fusion = ConvolutionFusion(16, 3)
    method = make_method(fusion=fusion, train_encoders=False)
    batch = make_batch(neighbours=torch.randn(2, 3, 16, 8, 8))
    both = optimizers(method)
    theirs = fusion.merge.weight[:, 16:]
    assert theirs.abs().sum() == 0
    terms = method.step(batch, both, 0.1)
    assert fusion.merge.weight.grad is not None and fusion.merge.weight.grad[:, 16:].abs().sum() > 0
    assert fusion.merge.weight[:, 16:].abs().sum() > 0
    assert terms["neighbour_share"] > 0
    gather = fusion.gather.weight.detach().clone()
    method.step(batch, both, 0.1)
    assert not torch.equal(fusion.gather.weight, gather)
    assert gradient(method.networks["content_encoder"]) == 0


def test_guidance_enters_the_generators_input_alone() -> None:
    """The content term asks for E_c(x), not c_total; the way back of the cycle takes E_c(x̂) as it is."""
    torch.manual_seed(0)
    fusion = ConvolutionFusion(16, 3, "paper")
    method = make_method(fusion=fusion, train_encoders=False)
    batch = make_batch(neighbours=torch.randn(2, 3, 16, 8, 8))
    seen: list[Tensor] = []
    hook = method.networks["generator"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    content, mean, log_variance = method.encode(batch.images)
    own = sampled(mean, log_variance, batch.source_noise)
    fused = method.generator_input(content, batch.neighbours)
    prediction, mask = method.networks["generator"](fused, batch.style)
    fake = batch.images + mask * (prediction - batch.images)
    terms = method.generator_losses(batch, content, mean, log_variance, own, fake)
    hook.remove()
    recovered = method.networks["content_encoder"](fake)
    torch.testing.assert_close(terms["content"], (recovered - content).abs().mean())
    forth, reconstruction, back, second = seen
    assert torch.equal(forth, fused) and torch.equal(second, fused)
    assert torch.equal(reconstruction, fused) and torch.equal(back, recovered)
    assert "kl" not in terms


def _guided(staged: Workspace, *overrides: str) -> tuple[GuidedTask, Translator]:
    config = tiny(*overrides)
    source = Translator.load(staged, "r1")
    retriever = open_retriever(staged, None, "cpu")
    discriminator = build_networks(config, len(USED))["discriminator"]
    guides = Neighbours(staged, source, retriever, k=config.guided.neighbours)
    return GuidedTask(staged, config, source, discriminator, guides), source


def test_stage_3_starts_as_stage_1_and_keeps_the_encoders_bit_for_bit(staged: Workspace) -> None:
    task, source = _guided(staged)
    batch, _, _ = task.prepare(0)
    assert batch.neighbours is not None and batch.neighbours.shape == (3, 3, 16, 8, 8)
    content = source.content(batch.images)
    unguided = source.translate(batch.images, content, batch.style)
    raw, mask = task.networks["generator"](task.method.generator_input(content, batch.neighbours), batch.style)
    assert torch.equal(raw, unguided.raw) and torch.equal(mask, unguided.mask)
    result = train_guided(staged, tiny(), device="cpu")
    saved, first = load_file(result.run.path / CHECKPOINT), load_file(staged.run("r1").path / CHECKPOINT)
    for name in first:
        if name.startswith(("average.content_encoder", "average.style_encoder")):
            assert torch.equal(saved[name], first[name])
            assert torch.equal(saved[name.replace("average", "networks")], first[name])
    assert not torch.equal(saved["networks.fusion.merge.weight"][:, 16:], torch.zeros(16, 16, 3, 3))
    assert not torch.equal(saved["networks.generator.image.weight"], first["average.generator.image.weight"])


def test_neighbours_are_other_real_training_images(staged: Workspace) -> None:
    source = Translator.load(staged, "r1")
    allowed = set(staged.images("split=train origin=real|unlabelled").ids.tolist())
    generated = set(staged.images("origin=generated").ids.tolist())
    assert generated and not generated & allowed
    own = staged.images("split=train origin=real").ids[:12]
    task, _ = _guided(staged)
    images = task.prepare(0)[0].images[:1].expand(len(own), -1, -1, -1)
    import numpy as np

    rng = np.random.default_rng(0)
    for retriever in (open_retriever(staged, None, "cpu"), None):
        neighbours = Neighbours(staged, source, retriever, k=5)
        found = neighbours.find(source.content(images), source.style(images), own, rng)
        assert found.shape == (12, 5)
        for image, row in zip(own, found, strict=True):
            assert len(set(row.tolist())) == 5
            assert int(image) not in row and set(row.tolist()) <= allowed


def test_an_images_own_embedding_does_not_find_it(staged: Workspace) -> None:
    """Searching with exactly the vector of x: everything but x comes back, nearest first."""
    import numpy as np

    from translation.translator import to_tensor

    source, retriever = Translator.load(staged, "r1"), open_retriever(staged, None, "cpu")
    neighbours = Neighbours(staged, source, retriever, k=3)
    own = neighbours.pool[:4]
    images = to_tensor(staged.load(own, 32))
    content, style = source.content(images), source.style(images)
    found = neighbours.find(content, style, own, np.random.default_rng(0))
    assert not (found == own[:, None]).any()
    foreign = neighbours.find(content, style, np.full(4, -1), np.random.default_rng(0))
    assert (foreign[:, 0] == own).all(), "asked as a foreign image, x itself is the nearest"


def test_content_maps_are_the_same_from_the_cache_and_without_one(staged: Workspace) -> None:
    source = Translator.load(staged, "r1")
    cached = Neighbours(staged, source, None, k=2)
    uncached = Neighbours(staged, source, None, k=2, cache_mib=0)
    ids = cached.pool[:6].reshape(3, 2)
    cached.content(ids[:1])
    maps = cached.content(ids)
    assert maps.shape == (3, 2, 16, 8, 8)
    assert torch.equal(maps, uncached.content(ids)) and torch.equal(maps, cached.content(ids))


def test_guidance_goes_from_unguided_to_guided(staged: Workspace) -> None:
    run = train_guided(staged, tiny("guided.fusion=paper"), device="cpu").run
    model = Translator.load(staged, run.id)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    content, style = model.content(images), model.style_mean(torch.tensor([[1, 0, 0], [0, 1, 1]]))
    neighbours = torch.randn(2, 3, 16, 8, 8)

    def image(guidance: float) -> Tensor:
        return model.translate(images, content, style, neighbour_content=neighbours, guidance=guidance).image

    assert torch.equal(image(0.0), model.translate(images, content, style).image)
    fused = model.networks["fusion"](content, neighbours)
    half, _ = model.networks["generator"]((content + fused) / 2, style)
    raw = model.translate(images, content, style, neighbour_content=neighbours, guidance=0.5).raw
    torch.testing.assert_close(raw, half, atol=1e-5, rtol=1e-4)
    assert torch.equal(model.translate(images, content, style, neighbour_content=neighbours).image, image(1.0))
    assert not torch.equal(image(0.0), image(1.0))


def test_inference_uses_the_moving_average(staged: Workspace) -> None:
    saved = load_file(staged.run("r1").path / CHECKPOINT)
    model = Translator.load(staged, "r1")
    weight = model.networks["generator"].image.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    assert torch.equal(weight, saved["average.generator.image.weight"])
    assert not torch.equal(weight, saved["networks.generator.image.weight"])
    assert not any(p.requires_grad for network in model.networks.values() for p in network.parameters())


def test_a_closed_mask_is_warned_of(workspace: Workspace) -> None:
    schema = workspace.schema.subset(USED)
    task = TranslationTask(workspace, tiny(), schema)
    warning = task.health({"mask_mean": MASK_CLOSED / 2})
    assert warning is not None and "mask has closed" in warning
    assert task.health({"mask_mean": 0.5}) is None
    assert task.health({"mask_mean": 0.99}) is not None
