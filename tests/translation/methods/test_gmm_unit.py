"""The traps of GMM-UNIT, one test each: who learns from what, and who must not."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from index_store.errors import UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from retrieval.reading import GraphSearcher, open_searcher
from tests.translation.small import USED, tiny
from tests.translation.steps import (
    ENCODERS,
    close_mask,
    forward,
    gradient,
    make_batch,
    make_method,
    optimizers,
    step,
    warm_up,
    weights,
)
from translation.config import Config
from translation.indexing import fill_index
from translation.inference import translate_images
from translation.methods.gmm_unit import MASK_CLOSED, GmmUnit
from translation.networks.gmm_unit import FOLLOWED_RATE, Generator
from translation.sampling import LabelSampler
from translation.sharing.exporting import export_run
from translation.sharing.importing import import_model
from translation.stages import train_guided, train_retrieval, train_translation
from translation.training.task import Engine
from translation.translator import Translator


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
    assert to_style[0].abs().sum() > 0


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
    prediction, mask = method.networks["generator"](content, method.target_style(batch))
    fake = batch.images + mask * (prediction - batch.images)
    terms = method.discriminator_losses(batch, fake.detach())
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
    step(method, batch, both)
    moved = {name for name, network in method.networks.items() if not torch.equal(weights(network), before[name])}
    assert moved == ({"discriminator"} if frozen == "generator" else {*ENCODERS, "generator"})
    assert all(p.requires_grad for p in method.networks["discriminator"].parameters())


def test_the_discriminators_gradient_is_of_its_own_step_alone() -> None:
    method, batch = make_method(), make_batch()
    twin = copy.deepcopy(method)
    step(method, batch, optimizers(method))
    content, _, _ = twin.encode(batch.images)
    prediction, mask = twin.networks["generator"](content, method.target_style(batch))
    fake = (batch.images + mask * (prediction - batch.images)).detach()
    terms = twin.discriminator_losses(batch, fake)
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
    prediction, _ = method.networks["generator"](content, method.target_style(batch))
    fake = batch.images + mask * (prediction - batch.images)
    recovered, _ = method.networks["style_encoder"](fake)
    torch.testing.assert_close(terms["style"], (recovered - method.target_style(batch)).abs().mean())
    terms["style"].backward()
    assert gradient(method.networks["generator"]) > 0


def test_a_weight_of_zero_leaves_the_term_out() -> None:
    method = make_method(
        "translation.weights.isometry=0.0", "translation.weights.cycle=0.0", "translation.weights.perceptual=0.0"
    )
    terms, _ = forward(method, make_batch())
    assert set(terms) == {"adversarial", "domain", "content", "style", "reconstruction", "kl"}


def test_patch_nce_is_a_term_that_teaches_generator_and_projector(staged: Workspace) -> None:
    """Off it makes no network; on, stage 3 has it too, also on a stage 1 that had none."""
    config = tiny("translation.weights.patch_nce=1", "guided.weights.patch_nce=1")
    torch.manual_seed(0)
    method = GmmUnit.build(config, staged.schema.subset(USED), "translation")
    terms, _ = forward(method, make_batch())
    assert terms["patch_nce"] > 0
    terms["patch_nce"].backward()
    assert gradient(method.networks["generator"]) > 0 and gradient(method.networks["projector"]) > 0
    assert "projector" in method.players["generator"].networks and "projector" not in method.averaged
    assert "projector" not in GmmUnit.build(tiny(), staged.schema.subset(USED), "translation").networks
    assert "generator/patch_nce" in train_guided(staged, config, device="cpu").metrics
    run = train_translation(staged, config, attributes_used=USED, device="cpu").run
    assert (
        "generator/patch_nce"
        in train_guided(staged, config, translation_run=run.id, neighbours="none", device="cpu").metrics
    )


def test_warm_up_trains_everything_but_the_mask_and_translates_nothing() -> None:
    method, batch = make_method(), make_batch()
    before = {name: weights(network) for name, network in method.networks.items()}
    generator = method.networks["generator"]
    assert isinstance(generator, Generator)
    mask_before = generator.mask.weight.detach().clone()
    terms = warm_up(method, batch, optimizers(method))
    assert all(not torch.equal(weights(network), before[name]) for name, network in method.networks.items())
    assert torch.equal(generator.mask.weight, mask_before)
    assert {"discriminator/domain", "generator/reconstruction", "generator/kl"} < set(terms)
    assert "generator/cycle" not in terms


SHARP = ("networks.skips=true", "networks.discriminator_labels=true", "translation.weights.mask=1.0")


def test_the_mask_comes_in_late_and_has_a_price() -> None:
    method, batch = make_method(*SHARP, "translation.mask_from=2"), make_batch()
    close_mask(method)  # what it would blend is the input itself
    early, late = (Engine(optimizers(method, 0.0)).run(method.step(batch, t)) for t in (1, 2))
    assert "generator/mask" not in early and late["generator/mask"] < 1e-6
    assert early["generator/content"] > 1e-3, "M = 1: the whole picture is painted"
    assert late["generator/content"] < 1e-6
    assert early["mask_mean"] == early["mask_waits"] == 1 and late["mask_mean"] < 1e-6 and late["mask_waits"] == 0


WAITING = (*SHARP, "translation.mask_from=1", "translation.mask_followed=0.5")


def test_the_mask_waits_until_labels_are_followed_and_stays_when_it_has_come() -> None:
    method, batch = make_method(*WAITING), make_batch()
    close_mask(method)
    generator, engine = method.generator, Engine(optimizers(method, 0.0))
    for t in (0, 5):
        waiting = engine.run(method.step(batch, t))
        assert waiting["generator/content"] > 1e-3, "the whole picture is painted"
    assert waiting["generator/mask"] == 0, "and painting it has no price"
    assert waiting["mask_mean"] == waiting["mask_waits"] == 1 and "labels_followed" in waiting
    used = method.decode(method.content(batch.images), method.target_style(batch), batch.images)
    assert torch.allclose(used.image, used.raw, atol=1e-6), "in use as well, should training end here"
    generator.followed.fill_(0.6)
    assert engine.run(method.step(batch, 6))["generator/content"] < 1e-6, "now it copies"
    generator.followed.fill_(0.0)
    assert engine.run(method.step(batch, 7))["generator/content"] < 1e-6, "and goes on to"


def test_a_training_that_ends_before_the_mask_comes_paints_whole_pictures(workspace: Workspace) -> None:
    """Also without mask_from, and in the warm-up; stage 3 goes on waiting, or ends it."""
    images, target = make_batch().images, make_batch().target
    for settings in (
        ("translation.mask_followed=0.9",),
        ("translation.mask_from=9",),
        ("translation.mask_from=1", "translation.warmup=9"),
    ):
        run = train_translation(workspace, tiny(*SHARP, *settings), attributes_used=USED, device="cpu").run
        translator = Translator.load(workspace, run.id)
        made = translator.translate(images, translator.content(images), translator.style_mean(target))
        assert made.mask is not None and (made.mask == 1).all(), settings
    for enough in (0.9, 0.0):
        config = tiny(*SHARP, "guided.guidance=none", f"guided.mask_followed={enough}")
        arm = train_guided(workspace, config, translation_run=run.id, neighbours="none", device="cpu")
        assert (arm.metrics["mask_mean"] == 1) is bool(enough)


def test_what_is_followed_are_the_known_attributes_that_change_as_d_reads_them() -> None:
    method, batch = make_method(*WAITING), make_batch()
    # labels [1 0 0] [0 1 ?], wanted [0 1 1] [1 0 0]: five changes are known
    for says, share in (([-1.0, 1, 1], 3 / 5), ([1.0, 1, 1], 3 / 5), ([-1.0, -1, -1], 2 / 5)):
        head = method.networks["discriminator"].scales[0].attributes  # type: ignore[union-attr,index]
        head.weight.data.zero_()  # type: ignore[union-attr]
        head.bias.data.copy_(torch.tensor(says))  # type: ignore[union-attr]
        method.generator.followed.fill_(0.0)
        forward(method, batch)
        assert method.generator.followed == pytest.approx(FOLLOWED_RATE * share)
    method.generator.followed.fill_(0.3)
    forward(method, replace(batch, target=batch.labels))
    assert method.generator.followed == pytest.approx(0.3), "nothing is wanted: it tells nothing"


def test_a_run_made_before_the_mask_could_wait_opens_and_is_shared(workspace: Workspace, tmp_path: Path) -> None:
    run = train_translation(workspace, tiny(*SHARP), attributes_used=USED, device="cpu").run
    file = run.path / CHECKPOINT
    with safe_open(file, "pt") as old:
        kept, about = {key: old.get_tensor(key) for key in old.keys()}, old.metadata()  # noqa: SIM118
    new = [key for key in kept if key.endswith((".whole", ".followed"))]
    assert len(new) == 4
    save_file({key: tensor for key, tensor in kept.items() if key not in new}, file, about)
    images, target = make_batch().images, make_batch().target
    translator = Translator.load(workspace, run.id)
    made = translator.translate(images, translator.content(images), translator.style_mean(target))
    assert made.mask is not None and made.mask.min() < 1, "the mask is in use"
    shared = export_run(workspace, run.id, "torch", tmp_path / "shared.zip").out
    imported = import_model(tmp_path / "theirs", shared)
    with Workspace.open(tmp_path / "theirs") as theirs:
        again = Translator.load(theirs, imported.run)
        assert torch.equal(again.translate(images, again.content(images), again.style_mean(target)).image, made.image)


def test_d_that_judges_by_labels_wants_real_images_under_their_own() -> None:
    """At equal pixels the only thing to learn from is the labels: it finds the wrong ones."""
    method, batch = make_method(*SHARP, "networks.discriminator_width=0.25"), make_batch()
    batch = replace(batch, labels=torch.tensor([[1, 0, 0], [0, 1, 1]]))
    discriminator = method.networks["discriminator"]
    descent = torch.optim.Adam(discriminator.parameters(), 3e-3)
    for _ in range(60):
        terms = method.discriminator_losses(batch, torch.zeros_like(batch.images))
        descent.zero_grad()
        terms["adversarial"].backward()  # type: ignore[no-untyped-call]
        descent.step()
    with torch.no_grad():
        [found] = discriminator(batch.images)
        own, other = (found.under(labels).flatten(1).mean(1) for labels in (batch.labels, batch.target))
    assert (own > 0.7).all() and (other < 0.3).all(), (own, other)


def test_halved_it_trains_is_guided_and_is_asked_without_torch(workspace: Workspace) -> None:
    def config(*more: str) -> Config:
        short = ("retrieval.steps=2", "retrieval.batch=4", "guided.batch=4", "guided.steps=2", "guided.neighbours=2")
        return tiny(*SHARP, "data.size=64", "networks.halvings=1", "guided.guidance=patches", *short, *more)

    stage1 = train_translation(workspace, config(), attributes_used=USED, device="cpu").run
    train_retrieval(workspace, config(), device="cpu")
    fill_index(workspace, config(), generated=0, device="cpu")
    assert isinstance(open_searcher(workspace), GraphSearcher)
    train_guided(workspace, config(), device="cpu")
    picture = Path(workspace.images("split=test").paths[0])
    (row,) = translate_images(workspace, [picture], to="+Glasses", out=stage1.path / "out", device="cpu")
    assert len(row["neighbours"]) == 2
    with pytest.raises(UsageError, match=r"networks.halvings=1 leaves 16 of 32 pixels"):
        tiny("networks.halvings=1")


def test_the_skips_are_there_in_use_too(workspace: Workspace) -> None:
    result = train_translation(workspace, tiny(*SHARP, "translation.mask_from=2"), attributes_used=USED)
    translator = Translator.load(workspace, result.run.id)
    images = make_batch().images
    content, style = translator.content(images), translator.style_mean(make_batch().target)
    first, second = (translator.translate(seen, content, style).raw for seen in (images, -images))
    assert first is not None and second is not None
    assert (first - second).abs().mean() > 1e-3, "the source's pixels are seen beside its content"


def test_logged_terms_are_detached_and_on_one_device() -> None:
    """Read together in one go, they must all lie where the images lie."""
    method, batch = make_method(), make_batch()
    both = optimizers(method)
    for terms in (warm_up(method, batch, both), step(method, batch, both)):
        assert not any(term.requires_grad for term in terms.values())
        assert all(term.shape == () for term in terms.values())
        assert {term.device for term in terms.values()} == {batch.images.device}


def sampler_of(workspace: Workspace, **how: Any) -> LabelSampler:
    return LabelSampler(workspace, USED, noise=(3, 24), **how)


# --- batches -------------------------------------------------------------------------------------------------


def test_targets_come_from_the_whole_set_even_at_batch_1(workspace: Workspace) -> None:
    sampler = sampler_of(workspace, batch=1, seed=0)
    draws = [sampler.draw(step) for step in range(len(sampler.ids))]
    assert sorted(int(draw.ids[0]) for draw in draws) == sorted(sampler.ids.tolist()), "an epoch sees each image once"
    more = [sampler.draw(step) for step in range(10 * len(sampler.ids))]
    assert len({tuple(draw.target[0]) for draw in more}) == len({tuple(row) for row in sampler.labels})
    changed = sum(tuple(draw.target[0]) != tuple(draw.labels[0]) for draw in draws)
    assert changed > len(draws) / 3


def test_a_draw_depends_on_seed_step_and_process_alone(workspace: Workspace) -> None:
    make = lambda **how: sampler_of(workspace, batch=4, **{"seed": 1, **how})  # noqa: E731
    one, again = make(), make()
    one.draw(0)
    first, second = one.draw(7), again.draw(7)
    assert first.ids.tolist() == second.ids.tolist() and torch.equal(first.noise, second.noise)
    assert (first.target == second.target).all() and (first.mirrored == second.mirrored).all()
    assert make(seed=2).draw(7).ids.tolist() != first.ids.tolist()
    ranks = [make(rank=rank, world=2).draw(3).ids for rank in (0, 1)]
    assert not set(ranks[0].tolist()) & set(ranks[1].tolist())
    whole = sampler_of(workspace, batch=8, seed=1).draw(3).ids
    assert [*ranks[0], *ranks[1]] == whole.tolist(), "two processes see what one with both batches sees"


def test_only_labelled_training_images_are_drawn(workspace: Workspace) -> None:
    table = workspace.images("split=train origin=real")
    assert set(sampler_of(workspace, batch=1, seed=0).ids.tolist()) == set(table.ids.tolist())


# --- in use ---------------------------------------------------------------------------------------------------


def test_inference_uses_the_moving_average(staged: Workspace) -> None:
    saved = load_file(staged.run("r1").path / CHECKPOINT)
    model = Translator.load(staged, "r1")
    weight = model.networks["generator"].image.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    assert torch.equal(weight, saved["average.generator.image.weight"])
    assert not torch.equal(weight, saved["networks.generator.image.weight"])
    assert not any(p.requires_grad for network in model.networks.values() for p in network.parameters())


def test_a_closed_mask_is_warned_of() -> None:
    task = make_method()
    warning = task.health({"mask_mean": MASK_CLOSED / 2})
    assert warning is not None and "mask has closed" in warning and "a larger translation.warmup" in warning
    late = make_method(*SHARP, "translation.mask_from=2").health({"mask_mean": 0.0})
    assert late is not None and "start again with translation.mask_followed=0.4" in late
    waiting = make_method(*WAITING).health({"mask_mean": 0.0})
    assert waiting is not None and waiting.endswith("start again with a larger translation.mask_followed")
    assert task.health({"mask_mean": 0.5}) is None
    assert task.health({"mask_mean": 0.99}) is not None
    assert task.health({"mask_mean": 0.99, "mask_waits": 0.95}) is None, "it is not in use, at least not all the time"
