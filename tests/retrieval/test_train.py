from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from retrieval.config import NEGATIVES, RetrievalConfig
from retrieval.domains import Domains
from retrieval.train import RetrievalTask, learning_rate
from tests.retrieval.colours import CONFIG, ColourEncoders, make_workspace, train


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 20))
def test_draws_are_of_another_domain_and_never_the_image_itself(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, 2)).astype(np.int8)
    labels[:4] = [[0, 0], [0, 0], [1, 1], [1, 1]]  # two domains of two images at least
    domains = Domains(labels)
    domain, avoid = rng.integers(len(domains), size=50), rng.integers(n, size=50)
    drawn = domains.draw_outside(rng, domain, not_image=avoid)
    assert (domains.of[drawn] != domain).all()
    assert (drawn != avoid).all()
    np.testing.assert_array_equal(domains.vectors[domains.of], labels)


def test_domains_are_drawn_as_often_as_images_have_them() -> None:
    labels = np.array([[0]] * 2 + [[1]] * 3 + [[2]] * 9, np.int8)
    domains = Domains(labels)
    drawn = domains.of[domains.draw_outside(np.random.default_rng(0), np.zeros(12_000, np.int64))]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 12_000, [0, 0.25, 0.75], atol=0.02)


def test_the_learning_rate_is_halved_as_a_function_of_the_step() -> None:
    config = RetrievalConfig()
    assert [learning_rate(config, step) for step in (0, 9_999, 10_000, 25_000)] == [0.01, 0.01, 0.005, 0.0025]


def test_a_batch_keeps_the_rules_of_its_triplets(workspace: Workspace) -> None:
    class Labels(ColourEncoders):  # the style says the labels without noise, so that they can be read
        def sample_style(self, labels, generator=None):
            return self.style_mean(labels)

    encoders = Labels()
    task = RetrievalTask(workspace, encoders, CONFIG, seed=5, mirror=False)

    def read(pixels: torch.Tensor) -> torch.Tensor:
        return (pixels[..., :2].float().mean(dim=(1, 2)) > 128).to(torch.int8)

    kinds = set()
    for step in range(12):
        batch = task.prepare(step)
        own, other = read(batch.images), read(batch.others)
        target = encoders.style_labels(batch.style_target)
        negative = encoders.style_labels(batch.style_negative)
        assert (target != own).any(dim=1).all()  # t ≠ i
        assert (other != target).any(dim=1).all()  # r ≠ t
        assert (batch.images != batch.others).flatten(1).any(dim=1).all()  # another image
        is_own = batch.kind == NEGATIVES.index("own_domain")
        assert (negative[is_own] == own[is_own]).all()
        assert (negative[~is_own] == other[~is_own]).all()
        kinds.update(batch.kind.tolist())
    assert kinds == {0, 1, 2, 3}


def test_only_the_configured_negatives_are_drawn(workspace: Workspace, encoders: ColourEncoders) -> None:
    task = RetrievalTask(workspace, encoders, CONFIG.model_copy(update={"negatives": ("medium", "hard")}))
    assert set(torch.cat([task.prepare(step).kind for step in range(5)]).tolist()) == {1, 2}
    told = task.step(0, task.prepare(0))
    assert {"loss_medium", "distance_hard"} <= set(told)
    assert "loss_easy" not in told


def test_a_batch_is_a_function_of_seed_and_step_alone(workspace: Workspace, encoders: ColourEncoders) -> None:
    one, two = (RetrievalTask(workspace, encoders, CONFIG, seed=3) for _ in range(2))
    one.prepare(0)
    torch.manual_seed(99)
    a, b, later = one.prepare(7), two.prepare(7), two.prepare(8)
    for name in ("images", "others", "style_target", "style_negative", "kind"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert not torch.equal(a.style_target, later.style_target)
    other_rank = RetrievalTask(workspace, encoders, CONFIG, seed=3, rank=1)
    assert not torch.equal(other_rank.prepare(7).style_target, a.style_target)
    for p, q in zip(one.network.parameters(), other_rank.network.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_embedding_learns_and_the_encoders_stay(workspace: Workspace) -> None:
    encoders = ColourEncoders()
    before = [p.detach().clone() for p in encoders.parameters()]
    task = RetrievalTask(workspace, encoders, CONFIG, seed=0)
    start = [p.detach().clone() for p in task.network.parameters()]
    told = train(task, 60)
    assert all(p.grad is None for p in encoders.parameters())
    assert all(torch.equal(p, q) for p, q in zip(encoders.parameters(), before, strict=True))
    moved = [not torch.equal(p, q) for p, q in zip(task.network.parameters(), start, strict=True)]
    weights = [name for (name, _), m in zip(task.network.named_parameters(), moved, strict=True) if m]
    assert {"convolutions.0.weight", "mlp.0.weight", "mlp.5.weight"} <= set(weights)
    assert np.mean([t["loss"] for t in told[-10:]]) < 0.6 * np.mean([t["loss"] for t in told[:10]])
    assert all(np.isfinite(list(t.values())).all() for t in told)  # also for a kind that a batch lacks
    assert set(told[0]) == {"loss", "active", "distance_positive", "distance_negative"} | {
        f"{what}_{kind}" for what in ("loss", "distance") for kind in NEGATIVES
    }


def test_training_goes_on_bit_for_bit_from_weights_and_momentum(workspace: Workspace, encoders: ColourEncoders) -> None:
    whole = RetrievalTask(workspace, encoders, CONFIG, seed=1)
    train(whole, 6)
    half = RetrievalTask(workspace, encoders, CONFIG, seed=1)
    train(half, 3)
    rest = RetrievalTask(workspace, encoders, CONFIG, seed=1)
    rest.network.load_state_dict(half.network.state_dict())
    rest.optimizers["embedding"].load_state_dict(half.optimizers["embedding"].state_dict())
    train(rest, 6, first=3)
    assert all(torch.equal(p, q) for p, q in zip(whole.network.parameters(), rest.network.parameters(), strict=True))


def test_unlabelled_images_are_left_out_and_unknown_bits_read_off_the_style(tmp_path: Path) -> None:
    with make_workspace(tmp_path, count=40, unlabelled=10) as workspace:
        task = RetrievalTask(workspace, ColourEncoders(), CONFIG)
        table = workspace.images("split=train origin=real")
        labels = table.labels[:, workspace.schema.indices(["Red", "Green"])]
        assert task.ids.tolist() == table.ids[(labels >= 0).all(axis=1)].tolist()
        # Half-known: an attribute more than the pictures' labels tell.
        half = ColourEncoders()
        half.schema = workspace.schema.subset(["Red", "Tall"])
        labels = table.labels[:, workspace.schema.indices(["Red", "Tall"])]
        task = RetrievalTask(workspace, half, CONFIG)
        assert len(task.ids) == len(table)  # Tall is known of every one
        known = labels >= 0
        np.testing.assert_array_equal(task.labels[known], labels[known])
        images = workspace.load(table.ids, 32)
        red = (images[..., 0].mean(axis=(1, 2)) > 128).astype(np.int8)
        np.testing.assert_array_equal(task.labels[:, 0], red)


@pytest.mark.parametrize(("count", "unlabelled"), [(1, 0), (12, 11)])
def test_too_few_domains_are_refused_with_the_remedy(tmp_path: Path, count: int, unlabelled: int) -> None:
    made = make_workspace(tmp_path, count=count, unlabelled=unlabelled)
    with made as workspace, pytest.raises(RgunitError, match=r"two label vectors or more.*add images"):
        RetrievalTask(workspace, ColourEncoders(), CONFIG)


def test_the_sample_grid_shows_rows_of_pictures(workspace: Workspace, encoders: ColourEncoders) -> None:
    task = RetrievalTask(workspace, encoders, CONFIG)
    grid = task.sample_grid({})
    assert grid.shape == (6 * 32, 7 * 32, 3)
    assert grid.dtype == np.uint8
    np.testing.assert_array_equal(grid, task.sample_grid({}))


@pytest.mark.parametrize(
    "wrong", [{"negatives": ["harder"]}, {"negatives": []}, {"negatives": ["easy", "easy"]}, {"margn": 0.3}, {"dim": 0}]
)
def test_a_wrong_setting_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RetrievalConfig.model_validate(wrong)
