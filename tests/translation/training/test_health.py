"""Trainings that are made to go wrong say so while they run, and one that does not says nothing."""

from __future__ import annotations

import re

import pytest

from index_store.attributes import AttributeSchema
from index_store.workspace import Workspace
from tests.translation.methods.test_init import small as init
from tests.translation.methods.test_sdit import small as sdit
from tests.translation.small import USED, Notes, tiny
from tests.translation.steps import make_method
from translation.config import Config, load_config
from translation.methods import find_method
from translation.stages import train_translation
from translation.training.health import PATIENCE, Health

RATE, JUDGE = "translation.learning_rate=", "translation.discriminator_learning_rate="
NO_MASK, NO_PENALTY = "networks.mask=false", "translation.weights.gradient_penalty=0"

FAILING = {
    "a discriminator that has won": (
        init(
            *(NO_MASK, NO_PENALTY, f"{RATE}1e-9", f"{JUDGE}2e-3", "networks.discriminator_width=0.25"),
            *("data.mirror=false", "translation.batch=16", "translation.weights.mismatch=0"),
            *("translation.steps=32", "training.log_every=4"),
        ),
        r"the discriminator has won \(its loss 0\.0.*translation\.discriminator_learning_rate, or raise "
        r"translation\.weights\.gradient_penalty",
    ),
    "outputs that are all the same": (
        init(NO_MASK, f"{RATE}0.3", f"{JUDGE}1e-3", "translation.steps=12", "training.log_every=2"),
        r"the outputs have collapsed \(they differ by 0\.",
    ),
    "draws that are all the same, and no gradient": (
        sdit(NO_MASK, f"{RATE}0.3", f"{JUDGE}1e-3", "translation.steps=8", "training.log_every=2"),
        r"no gradient reaches the generator .*every draw gives the same picture .*translation\.weights\.latent",
    ),
    "copies of the input": (
        init("translation.weights.reconstruction=0", f"{RATE}1e-9", "translation.steps=6", "training.log_every=2"),
        r"the input is copied \(changed by 0\.\d+% .*or raise translation\.weights\.mismatch",
    ),
    "a part that diverges": (
        sdit(
            *("translation.adversarial=wgan", "translation.weights.gradient_penalty=1e-6", f"{JUDGE}3e-3"),
            *("translation.steps=28", "training.log_every=1"),
        ),
        r"discriminator/gradient_penalty is \d+ times what it was: the training diverges; lower translation\.",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_training_that_is_made_to_fail_says_so(
    workspace: Workspace, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, told = FAILING[case]
    if case == "copies of the input":  # as one that was led there: what it starts with is nearly closed
        monkeypatch.setattr("translation.networks.conditional.MASK_OPEN", -8.0)
    notes = Notes()
    train_translation(workspace, config, attributes_used=USED, device="cpu", progress=notes)
    assert any(re.search(told, note) for note in notes.told), notes.told


def test_a_batch_of_one_image_is_compared_with_that_of_the_log_before(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("translation.networks.conditional.MASK_OPEN", -8.0)
    given = ("translation.batch=1", "translation.steps=8", "training.log_every=2")
    notes = Notes()
    config = init("translation.weights.reconstruction=0", f"{RATE}1e-9", *given)
    result = train_translation(workspace, config, attributes_used=USED, device="cpu", progress=notes)
    assert any("the input is copied" in note for note in notes.told), notes.told
    assert 0.5 < result.metrics["made_diversity"] < 2


@pytest.mark.parametrize(
    "config", [tiny("translation.steps=10"), init("translation.steps=10"), sdit("translation.steps=10")]
)
def test_one_that_begins_well_says_nothing(workspace: Workspace, config: Config) -> None:
    notes = Notes()
    train_translation(workspace, config, attributes_used=USED, device="cpu", progress=notes)
    assert [note for note in notes.told if note.startswith("step ")] == []


@pytest.mark.parametrize("preset", ["munit", "mix-match"])
def test_a_discriminator_has_won_after_some_logs_with_every_method(preset: str) -> None:
    config = load_config(preset, overrides=["networks.width=0.0625", "networks.discriminator_width=0.0625"])
    method = find_method(config.method).build(config, AttributeSchema(("A", "B"), (("A", "B"),)), "translation")
    won = {"discriminator/adversarial": 0.001, "generator/adversarial": 9.0}
    for stage, name in ((config.translation, "translation"), (config.guided, "guided")):
        health = Health(method, stage, name)
        *early, told = (health.judge(won) for _ in range(PATIENCE))
        assert early == [None] * (PATIENCE - 1)
        assert told is not None and f"lower {name}.discriminator_learning_rate" in told


def test_it_is_told_after_some_logs_and_then_seldom() -> None:
    health = Health(make_method(), tiny().translation, "translation")
    copied = {"made_change": 0.0, "made_diversity": 1.0, "mask_mean": 0.5}
    told = [step for step in range(1, 40) if health.judge(copied) is not None]
    assert told == [PATIENCE, 10 * PATIENCE]
    assert health.judge({**copied, "made_change": 0.5}) is None
    assert health.judge(copied) is None, "it counts anew"
