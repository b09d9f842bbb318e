"""Images that a generator drew guide where `guided.pool` says so, in training, use and evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from index_store.errors import RgunitError
from index_store.learned import learned_from
from index_store.workspace import Workspace
from tests.translation.small import tiny
from translation.config import load_config
from translation.evaluation.arms import open_arms
from translation.generator import generate_images
from translation.generator_stages import train_generator
from translation.guides import not_drawn
from translation.stages import train_guided

GENERATOR = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.noise=8", "generator.batch=4"),
    *("generator.steps=2", "training.tensorboard=false", "training.log_every=1"),
)


def test_drawn_images_are_embedded_guide_and_what_their_generator_saw_is_barred(staged: Workspace) -> None:
    run = train_generator(staged, load_config("wgan-gp", overrides=GENERATOR), target="+Glasses", device="cpu").run
    with pytest.raises(RgunitError, match="make some by `rgunit generate`"):
        train_guided(staged, tiny("guided.pool=generated"), device="cpu")
    made = generate_images(staged, run.id, 8, device="cpu")
    assert made.vectors == 8, "embedded by the retrieval run that is there"
    guided = train_guided(staged, tiny("guided.pool=generated"), device="cpu").run
    assert guided.config["drawn_by"] == [run.id]
    shown = set(np.load(guided.path / "learned.npy").tolist()) - set(staged.images("origin=real").ids.tolist())
    assert shown == set(made.ids.tolist()), "its translations, which are in the store too, guide nothing"
    assert set(learned_from(staged, [run])) <= set(learned_from(staged, [guided]))
    arms = open_arms(staged, guided.id, "cpu")
    test = staged.images("split=test origin=real").ids[:4]
    target = np.zeros((4, 3), np.int8)
    _, ids = arms.arms["guided"].guided(test, target, np.arange(4))
    assert arms.pool == "generated" and np.isin(ids, made.ids).all()
    both = train_guided(staged, tiny("guided.pool=both"), neighbours="random", device="cpu").run
    seen = np.load(both.path / "learned.npy")
    assert np.isin(made.ids, seen).all() and not np.isin(not_drawn(staged), seen).any()
