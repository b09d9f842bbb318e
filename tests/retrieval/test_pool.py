from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from retrieval.config import NEGATIVES, RetrievalConfig
from retrieval.evaluation import RetrievalProtocol, evaluate_queries
from retrieval.network import PartsNetwork
from retrieval.objectives import InfoNCE, Views, labels_loss, make_objective
from retrieval.pool import FIRST, ITSELF, OWN, SECOND, SLOTS, PoolSampler, TripletPool, changed_view, open_pool
from retrieval.retriever import Retriever
from retrieval.sources import PoolBatch
from retrieval.tensors import to_tensor
from retrieval.train import RetrievalTask
from tests.retrieval.colours import CONFIG, ColourEncoders, make_workspace, save_run, train

POOLED = CONFIG.model_copy(update={"pool": 1.0})
ADAM = {"optimizer": "adam", "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("pool"))


def labelled(workspace: Workspace) -> tuple[np.ndarray, np.ndarray]:
    table = workspace.images("split=train")
    return table.ids, table.labels[:, workspace.schema.indices(["Red", "Green"])]


def test_every_slot_holds_what_the_translator_makes_of_the_image(own: Workspace) -> None:
    encoders = ColourEncoders()
    ids, labels = labelled(own)
    pool = open_pool(own, encoders, ids, labels)
    assert pool.content.shape == (len(ids), SLOTS, 4, 8, 8)
    images = to_tensor(own.load(ids, 32), "cpu")
    with torch.no_grad():
        content = encoders.content(images)
        for slot in (OWN, FIRST, SECOND):
            made = encoders.translate(images, content, torch.from_numpy(pool.given[:, slot])).image
            # half precision in the translator and in the pool
            np.testing.assert_allclose(pool.style[:, slot], encoders.style(made).numpy(), atol=0.03)
            np.testing.assert_allclose(pool.content[:, slot], encoders.content(made).numpy(), atol=0.2)
    np.testing.assert_allclose(pool.content[:, ITSELF], content.numpy(), atol=0.2)
    drawn = encoders.style_labels(torch.from_numpy(pool.given[:, FIRST])).numpy()
    np.testing.assert_array_equal(drawn, pool.vectors[pool.domain[:, FIRST]])
    # Four domains: itself and its own translation, and two others that differ.
    np.testing.assert_array_equal(pool.vectors[pool.domain[:, ITSELF]], labels)
    np.testing.assert_array_equal(pool.domain[:, OWN], pool.domain[:, ITSELF])
    assert (pool.domain[:, FIRST] != pool.domain[:, OWN]).all()
    assert (pool.domain[:, SECOND] != pool.domain[:, OWN]).all()
    assert (pool.domain[:, SECOND] != pool.domain[:, FIRST]).all()


def test_chosen_triplets_keep_the_rules_of_made_ones(own: Workspace) -> None:
    pool = open_pool(own, ColourEncoders(), *labelled(own))
    sampler, rng = PoolSampler(pool), np.random.default_rng(0)
    for _ in range(20):
        c = sampler.draw(rng, 32)
        target = pool.domain[c.image, c.target]
        assert (target != pool.domain[c.image, ITSELF]).all()
        assert (pool.domain[c.easy, ITSELF] != target).all()
        assert (c.easy != c.image).all()
        assert (c.medium != c.image).all()
        assert (pool.domain[c.medium, c.medium_slot] == target).all()
        assert (pool.domain[c.image, c.hard] != target).all()


def test_a_second_call_encodes_nothing_and_a_stopped_one_is_gone_on_with(own: Workspace) -> None:
    encoders = ColourEncoders(size=64)
    ids, labels = labelled(own)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        open_pool(own, encoders, ids, labels, kept=True, progress=stop)
    first = sum(encoders.painted)
    pool = open_pool(own, encoders, ids, labels, kept=True)
    assert sum(encoders.painted) <= 3 * len(ids) + 3 * 32  # at most the chunks that were being made came twice
    assert first > 0
    before = len(encoders.encoded)
    again = open_pool(own, encoders, ids, labels, kept=True)
    assert len(encoders.encoded) == before
    np.testing.assert_array_equal(pool.content, again.content)


def test_a_pool_keeps_to_its_size_and_another_translator_s_is_deleted(tmp_path: Path) -> None:
    with make_workspace(tmp_path) as workspace:
        ids, labels = labelled(workspace)
        encoders = ColourEncoders()
        small = open_pool(workspace, encoders, ids, labels, gigabytes=20 * 2 * SLOTS * 4 * 8 * 8 / 1e9)
        assert len(small) == 20
        other = ColourEncoders()
        other.fingerprint = "f" * 64
        open_pool(workspace, other, ids, labels)
        assert [path.name[:3] for path in (workspace.path / "cache" / "pools").iterdir()] == ["fff"]


def test_two_domains_are_enough(own: Workspace) -> None:
    ids, labels = labelled(own)
    labels = labels * np.array([1, 0], np.int8)  # nothing is green
    sampler = PoolSampler(open_pool(own, ColourEncoders(), ids, labels, kept=True))
    pool, c = sampler.pool, sampler.draw(np.random.default_rng(0), 64)
    assert (pool.domain[c.image, c.target] != pool.domain[c.image, ITSELF]).all()
    assert (pool.domain[c.image, c.hard] != pool.domain[c.image, c.target]).all()  # then it is the own domain


def test_a_batch_is_a_function_of_seed_and_step(own: Workspace) -> None:
    one, two = (RetrievalTask(own, ColourEncoders(), POOLED, seed=3) for _ in range(2))
    one.prepare(0)
    a, b, later = one.prepare(7), two.prepare(7), two.prepare(8)
    assert isinstance(a, PoolBatch) and isinstance(b, PoolBatch) and isinstance(later, PoolBatch)
    assert torch.equal(a.content, b.content) and torch.equal(a.style, b.style)
    assert not torch.equal(a.style, later.style)


def test_the_kind_of_a_negative_decides_its_content_and_style(own: Workspace) -> None:
    task = RetrievalTask(own, ColourEncoders(), POOLED.model_copy(update={"objective": "info_nce"}))
    batch = task.prepare(0)
    assert isinstance(batch, PoolBatch) and batch.kind is None
    assert batch.content.shape[0] == 2 + len(NEGATIVES)
    anchor, positive, easy, medium, hard, own_domain = batch.content.float()
    # One content, other colours: the pattern stays in what is made of the image, and not in other images.
    near = [(anchor - part).abs().mean() for part in (positive, hard, own_domain)]
    far = [(anchor - part).abs().mean() for part in (easy, medium)]
    assert max(near) < 0.5 * min(far)
    assert torch.equal(batch.style[3], batch.style[1])  # the medium negative has the positive's style
    assert not torch.equal(batch.style[4], batch.style[1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": "semihard"},
        {"objective": "multi_similarity", "normalize": True, "memory": 256, **ADAM},
        {"objective": "info_nce", "normalize": True, **ADAM},
        {"objective": "info_nce", **ADAM},
        {"objective": "parts", "components": 32, "content_teacher": "views", **ADAM},
        {"objective": "parts", "components": 32, "content_teacher": "labels", **ADAM},
    ],
)
def test_every_objective_learns_and_leaves_the_encoders_alone(own: Workspace, settings: dict[str, object]) -> None:
    encoders = ColourEncoders()
    before = [p.detach().clone() for p in encoders.parameters()]
    config = RetrievalConfig.model_validate({**POOLED.model_dump(), **settings})
    task = RetrievalTask(own, encoders, config)
    start = [p.detach().clone() for p in task.network.parameters() if p.requires_grad]
    told = train(task, 60)
    moved = [p for p in task.network.parameters() if p.requires_grad]
    assert sum(not torch.equal(p, q) for p, q in zip(moved, start, strict=True)) >= 4

    if task.config.objective not in ("semihard", "multi_similarity"):  # those look at the hardest pairs that are left
        assert np.mean([t["loss"] for t in told[-10:]]) < 0.9 * np.mean([t["loss"] for t in told[:10]])
    assert all(torch.equal(p, q) for p, q in zip(encoders.parameters(), before, strict=True))
    assert all(np.isfinite(list(t.values())).all() for t in told)
    assert task.health(told[-1]) is None


def test_a_network_of_parts_is_late_fusion_and_is_loaded_as_it_was_saved(own: Workspace) -> None:
    encoders = ColourEncoders()
    changed = {"objective": "parts", "components": 32, "content_teacher": "labels", "content_weight": 0.3, **ADAM}
    config = RetrievalConfig.model_validate({**POOLED.model_dump(), **changed})
    task = RetrievalTask(own, encoders, config)
    train(task, 40)
    retriever = Retriever.open(own, save_run(own, task, encoders, config), encoders=encoders)
    network = task.network.eval()
    assert isinstance(network, PartsNetwork)
    images = to_tensor(own.load(own.images("split=test").ids[:9], 32), "cpu")
    with torch.no_grad():
        content, style = encoders.content(images), encoders.style(images)
        embedded = network(content, style)
        assert torch.equal(embedded, retriever.embed(content, style))
        parts = network.content_vector(content), network.style_vector(style)
    gaps = [torch.cdist(part, part).square() for part in parts]
    torch.testing.assert_close(
        torch.cdist(embedded, embedded).square(), 0.3 * gaps[0] + 0.7 * gaps[1], atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(parts[0].norm(dim=1), torch.ones(9))


def test_labels_of_training_images_teach_content(own: Workspace) -> None:
    encoders = ColourEncoders()
    changed = {"objective": "parts", "components": 8, "content_teacher": "labels", "content_weight": 0.5}
    changed |= {"optimizer": "adam", "learning_rate": 1e-2}
    config = RetrievalConfig.model_validate({**POOLED.model_dump(), **changed})
    task = RetrievalTask(own, encoders, config)
    train(task, 150)
    retriever = Retriever.open(own, save_run(own, task, encoders, config), encoders=encoders)
    found = evaluate_queries(own, retriever, RetrievalProtocol(k=3)).summary
    assert found["content"] > found["random"]["content"] + 0.2
    assert found["attributes"] > 0.9


def test_content_cannot_be_taught_without_other_attributes(tmp_path: Path) -> None:
    with make_workspace(tmp_path, count=40) as workspace:
        encoders = ColourEncoders(("Red", "Green", "Tall", "Third"))
        encoders.schema = workspace.schema
        config = POOLED.model_copy(update={"objective": "parts", "content_teacher": "labels"})
        with pytest.raises(RgunitError, match="content_teacher=labels needs attributes beside"):
            RetrievalTask(workspace, encoders, config)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"objective": "info_nce"}, "needs a pool"),
        ({"pool": 1.0, "memory": 9}, "memory is for"),
        ({"pool": 1.0, "memory": 9, "objective": "semihard"}, "at least 192"),
        ({"objective": "nce"}, "objective"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RetrievalConfig.model_validate(wrong)


def test_whitened_content_has_no_correlation() -> None:
    rng = torch.Generator().manual_seed(0)
    content = torch.randn(400, 3, 8, 8, generator=rng) @ torch.randn(8, 8, generator=rng)
    network = PartsNetwork(3, 8, 16, components=20)
    network.fit([content], torch.randn(400, 16, generator=rng), torch.zeros((400, 0), dtype=torch.int8))
    white = network.whiten(network.pooled(content))
    torch.testing.assert_close(white.T @ white / 400, torch.eye(20), atol=0.06, rtol=0)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(20), atol=1e-3, rtol=0)


def test_info_nce_by_hand() -> None:
    anchor = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positive, negative = anchor.clone(), torch.tensor([[[-1.0, 0.0], [0.0, -1.0]]])
    # cosines of anchor 0 with (p0, p1, n0, n1): 1, 0, −1, 0
    expected = -np.log(np.e / (np.e + 1 + 1 / np.e + 1))
    assert float(InfoNCE(1.0, squared=False)(anchor, positive, negative)) == pytest.approx(expected)
    # minus squared distances: 0, −2, −4, −2
    expected = -np.log(1 / (1 + 2 * np.exp(-2) + np.exp(-4)))
    assert float(InfoNCE(1.0, squared=True)(anchor, positive, negative)) == pytest.approx(expected)


def test_an_image_s_own_views_are_no_negatives_of_it() -> None:
    anchor = torch.eye(2)
    views = torch.stack([anchor, anchor])
    others = -anchor[None]
    # near 1; against others: −1, 0; against both views of the other image: 0, 0
    expected = -np.log(np.e / (np.e + 1 / np.e + 1 + 2))
    assert float(Views(1.0)(anchor, views, others)) == pytest.approx(expected)


def test_unknown_labels_teach_nothing() -> None:
    logits = torch.tensor([[0.0, 5.0], [2.0, -3.0]])
    loss = labels_loss(logits, torch.tensor([[1, -1], [-1, 0]], dtype=torch.int8))
    assert float(loss) == pytest.approx((np.log(2) + np.log1p(np.exp(-3))) / 2)
    assert float(labels_loss(logits, torch.full((2, 2), -1, dtype=torch.int8))) == 0


def test_mined_triplets_of_a_memory_never_confuse_two_batches() -> None:
    config = RetrievalConfig(pool=1.0, objective="multi_similarity", memory=64, normalize=True, batch=5)
    objective = make_objective(config, 4)
    for step in range(3):
        torch.manual_seed(step)
        anchor, positive = torch.randn(2, 5, 4, requires_grad=True).unbind()
        loss = objective(anchor, positive, torch.randn(4, 5, 4))
        assert torch.isfinite(loss)
    assert objective.seen == 3 * 25


def test_a_changed_view_stays_a_picture_and_differs() -> None:
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    view = changed_view(images, np.random.default_rng(0))
    assert view.shape == images.shape
    assert view.abs().max() <= 1
    assert all((a - b).abs().mean() > 0.05 for a, b in zip(images, view, strict=True))
    assert torch.equal(view, changed_view(images, np.random.default_rng(0)))


def test_a_medium_negative_that_nobody_else_has_is_another_image_s_translation() -> None:
    vectors = np.array([[0, 0], [0, 1], [1, 1]], np.int8)
    pool = TripletPool(
        ids=np.arange(4),
        vectors=vectors,
        domain=np.array([[0, 0, 1, 2, 0], [2, 2, 0, 0, 2], [2, 2, 0, 0, 2], [1, 1, 2, 0, 1]]),
        content=np.zeros((4, SLOTS, 1, 4, 4), np.float16),
        style=np.zeros((4, SLOTS, 16), np.float32),
        given=np.zeros((4, SLOTS, 16), np.float32),
    )
    sampler, alone = PoolSampler(pool), 0
    for seed in range(10):
        c = sampler.draw(np.random.default_rng(seed), 4)
        assert (c.medium != c.image).all()
        alone += int((pool.domain[c.medium, c.medium_slot] != pool.domain[c.image, c.target]).sum())
    assert alone  # only the first image was translated to the second domain


@pytest.mark.parametrize("harm", ["cut", "empty", "rubbish", "cut while it says ready", "half a line", "other shape"])
def test_a_pool_that_a_kill_left_half_made_is_made_anew(own: Workspace, harm: str) -> None:
    encoders = ColourEncoders()
    ids, labels = labelled(own)
    shutil.rmtree(own.path / "cache" / "pools", ignore_errors=True)
    whole = np.array(open_pool(own, encoders, ids, labels).content)
    folder = next((own.path / "cache" / "pools").iterdir())
    array, log = folder / "content.npy", folder / "done.txt"
    data = array.read_bytes()
    if harm != "cut while it says ready":
        (folder / "ready.json").unlink()
    if harm.startswith("cut"):
        array.write_bytes(data[: len(data) // 2])
    elif harm == "half a line":
        log.write_text("0\n1")  # of the line of chunk 1, or 12, or 100
        np.lib.format.open_memmap(array, mode="r+")[32:] = 0
    elif harm == "other shape":
        np.save(array, np.zeros(3))
    else:
        array.write_bytes(b"rubbish" if harm == "rubbish" else b"")
    again = open_pool(own, encoders, ids, labels)
    np.testing.assert_array_equal(again.content, whole)
    assert (folder / "ready.json").is_file()
