"""INIT: weights and hops as options, and its conditional GAN from training to a translation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from retrieval.tensors import to_tensor
from tests.translation.resume import same_after_a_stop
from tests.translation.small import USED, tiny
from tests.translation.steps import task_of
from translation.config import Config, load_config
from translation.embeddings import Adversarial, Stored, open_importance
from translation.evaluation.arms import open_arms
from translation.inference import translate_images
from translation.methods.init import Init
from translation.methods.parts import planes
from translation.sampling import Batch, LabelSampler
from translation.stages import train_retrieval, train_translation
from translation.training.sessions import StageResult
from translation.training.task import Engine

TINY = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.blocks=1"),
    *("translation.batch=4", "translation.steps=4", "data.size=32"),
    *("training.tensorboard=false", "training.log_every=2", "training.sample_every=1000"),
)
A = 3


def small(*overrides: str) -> Config:
    return load_config("init", overrides=[*TINY, *overrides])


def batch() -> Batch:
    g = torch.Generator().manual_seed(1)
    labels, target = torch.randint(0, 2, (2, 4, A), generator=g)
    return Batch(torch.rand(4, 3, 32, 32, generator=g) * 2 - 1, labels, target, torch.randn(1, 4, A, generator=g))


def terms_of(method: Init, given: Batch) -> dict[str, Tensor]:
    steps, found = method.step(given, 0), {}
    for player in ("discriminator", "generator"):
        found |= {f"{player}/{name}": value.detach() for name, value in next(steps).terms.items()}
    return found


def make(workspace: Workspace, *overrides: str) -> Init:
    torch.manual_seed(0)
    return Init.build(small(*overrides), workspace.schema.subset(USED), "translation")


def test_each_loss_moves_its_own_network_alone(workspace: Workspace) -> None:
    for mover in ("generator", "discriminator"):
        method = make(workspace)
        optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.SGD(method.networks[name].parameters(), 1.0 if name == mover else 0.0)
            for name in method.players
        }
        before = {n: torch.cat([p.detach().flatten() for p in net.parameters()]) for n, net in method.networks.items()}
        Engine(optimizers).run(method.step(batch(), 0))
        after = {n: torch.cat([p.detach().flatten() for p in net.parameters()]) for n, net in method.networks.items()}
        assert {name for name in after if not torch.equal(after[name], before[name])} == {mover}


def test_the_papers_own_settings_leave_what_is_ours_out(workspace: Workspace) -> None:
    off = [f"translation.weights.{name}=0" for name in ("mismatch", "reconstruction", "gradient_penalty")]
    assert set(terms_of(make(workspace, *off), batch())) == {"discriminator/adversarial", "generator/adversarial"}


def test_weights_change_the_made_images_terms_and_another_embedding_changes_them_otherwise(
    workspace: Workspace,
) -> None:
    plain = terms_of(make(workspace), batch())
    found = []
    for place in (0, 16):
        method = make(workspace)
        method.importance = Adversarial(lambda images, place=place: images[:, :, place].flatten(1))  # type: ignore[misc]
        found.append(terms_of(method, batch()))
        assert method.weight is not None and method.weight.shape == (4,) and not method.weight.requires_grad
    for name in ("discriminator/adversarial", "generator/adversarial"):
        assert len({float(one[name]) for one in (plain, *found)}) == 3
    assert plain["generator/reconstruction"] == found[0]["generator/reconstruction"]


def test_planes_tell_true_false_and_unknown() -> None:
    told = planes(torch.tensor([[1, 0, -1]]))
    assert told.tolist() == [[1, -1, 0]]
    assert Init({}, small().translation, A).style_labels(told).tolist() == [[1, 0, -1]]  # type: ignore[arg-type]


def test_hidden_labels_are_told_to_neither_network(workspace: Workspace) -> None:
    method = make(workspace, "translation.hidden=0.5")
    told = torch.ones(2000, A)
    shown = method._hidden(told, torch.randn(1, 2000, A))
    assert set(shown.unique().tolist()) == {0, 1} and 0.45 < float(shown.mean()) < 0.55
    assert torch.equal(make(workspace, "translation.hidden=0")._hidden(told, torch.randn(1, 2000, A)), told)


def test_targets_on_the_way_differ_from_where_they_come_from_and_from_the_end(workspace: Workspace) -> None:
    def sampler(hops: int) -> LabelSampler:
        return LabelSampler(workspace, tuple(USED), batch=8, seed=1, noise=(1, A), hops=hops)

    plain, three = sampler(1), sampler(3)
    for step in range(12):
        one, many = plain.draw(step), three.draw(step)
        assert one.hops == () and np.array_equal(one.target, many.target) and torch.equal(one.noise, many.noise)
        assert [len(chain) for chain in many.hops] == [2, 3]
        for chain in many.hops:
            assert np.array_equal(chain[-1][0], many.target)
            for before, (between, noise) in zip(
                [many.labels, *(target for target, _ in chain)], chain[:-1], strict=False
            ):
                known = before >= 0
                assert ((between != before) & known).any(1).all() and (between != many.target).any(1).all()
                assert (between >= 0).all() and noise.shape == (1, 8, A)
                assert ((between != many.labels) & (many.labels >= 0)).any(1).all(), "nor do they lead back"


def test_one_hop_without_weights_is_the_plain_method_and_more_are_more_steps(workspace: Workspace) -> None:
    """Of GMM-UNIT: the same losses bit for bit; with two hops three updates a step, the first the same."""
    tasks = [task_of(workspace, tiny(*more)) for more in ((), ("sampling.hops=1", "sampling.informative=false"))]
    first, same = ({k: float(v) for k, v in task.step(0, task.prepare(0)).items()} for task in tasks)
    assert first == same
    config = tiny("sampling.hops=2")
    path = train_translation(workspace, config, attributes_used=USED, device="cpu").run.path
    plain = train_translation(workspace, tiny(), attributes_used=USED, device="cpu").run.path
    hopped, alone = (load_file(place / CHECKPOINT) for place in (path, plain))
    name = next(key for key in alone if key.startswith("optimizers.generator") and key.endswith("step"))
    assert float(hopped[name]) == 3 * float(alone[name])


def test_it_trains_resumes_bit_for_bit_translates_and_is_judged(workspace: Workspace, tmp_path: Path) -> None:
    def run(steps: int, resume: bool) -> StageResult:
        config = small(f"translation.steps={steps}", "sampling.hops=2")
        return train_translation(workspace, config, attributes_used=USED, device="cpu", resume=resume)

    same_after_a_stop(run)
    picture = Path(workspace.images("split=test").paths[0])
    (row,) = translate_images(workspace, [picture], to="+Glasses", out=tmp_path / "out", device="cpu")
    assert row["target"]["Glasses"] == 1 and Path(row["mask"]).exists()
    assert set(open_arms(workspace, device="cpu").arms) == {"stage1"}
    with pytest.raises(RgunitError, match="has no encoder to search by"):
        train_retrieval(workspace, small(), device="cpu")


def test_weights_by_an_earlier_run_and_what_is_refused(staged: Workspace) -> None:
    for name, kept in {"": "r2", "r1": "r1", "store:r2": "store:r2", "store:": "store:r2"}.items():
        config = small("sampling.informative=true", f"sampling.embedding={name}", "translation.steps=2")
        run = train_translation(staged, config, attributes_used=USED, device="cpu").run
        assert run.steps == 2 and run.config["config"]["sampling"]["embedding"] == kept
    train_retrieval(staged, tiny(), translation_run="r1", device="cpu")
    by_default = small("sampling.informative=true", "sampling.embedding=store:", "translation.steps=3")
    more = train_translation(staged, by_default, attributes_used=USED, device="cpu", resume="auto").run
    assert more.config["config"]["sampling"]["embedding"] == "store:r2", "the newest retrieval is another one by now"
    wrong = {
        "r99": "there is no run 'r99'",
        "store:r1": "r1 is no retrieval run",
        "store:r7": r"images have no vector of retrieval run r7 yet: run `rgunit index build --run r7`",
    }
    for name, told in wrong.items():
        with pytest.raises(RgunitError, match=told):
            train_translation(staged, small("sampling.informative=true", f"sampling.embedding={name}"), device="cpu")
    with pytest.raises(UsageError, match=r"sampling\.hops is not for cut"):
        load_config("cut", overrides=["sampling.hops=2"])


def test_weights_from_the_store_are_of_the_indexed_training_images(staged: Workspace) -> None:
    weigh = open_importance(staged, staged.schema.subset(USED), "store:r2", "cpu", 2)
    with pytest.raises(UsageError, match=r"images of a batch against each other, .* raise the stage's batch"):
        open_importance(staged, staged.schema.subset(USED), "store:r2", "cpu", 1)
    assert isinstance(weigh, Stored)
    images = staged.images("split=train origin=real")
    assert weigh.vectors.shape[0] == len(images) and weigh.labels.shape == (len(images), A)
    target = torch.from_numpy(images.labels[:4, staged.schema.indices(USED)])
    real = to_tensor(staged.load(images.ids[:4], 32))
    weights = weigh(real, real.flip(0), target, torch.zeros(4))
    assert weights.mean().item() == pytest.approx(1) and (weights > 0).all() and weights.std() > 0


def test_weights_without_anything_to_embed_by_say_what_to_name(workspace: Workspace) -> None:
    for name, told in {"": "train one, or name", "store:": "train one$"}.items():
        config = small("sampling.informative=true", f"sampling.embedding={name}")
        with pytest.raises(RgunitError, match=f"there is no retrieval run: {told}"):
            train_translation(workspace, config, attributes_used=USED, device="cpu")
    assert workspace.runs() == []
