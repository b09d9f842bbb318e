"""WGAN-GP: who learns what, conditions, starts from other runs, the same images again, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.translation.small import Notes, filled
from translation.config import Config, load_config
from translation.evaluation.report.curves import charts_of
from translation.generator import ImageGenerator, generate_images
from translation.generator_stages import train_generator, train_miner
from translation.methods.wgan_gp import WganGp
from translation.sampling import Batch
from translation.training.health import FIRST, Health
from translation.training.task import Engine
from translation.transfer import start_from, stored_weights

TINY = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.noise=8"),
    *("generator.batch=4", "generator.steps=4", "miner.batch=4", "miner.steps=4", "miner.layers=2"),
    *("training.tensorboard=false", "training.log_every=2", "training.sample_every=1000"),
)
USED = ("Blond_Hair", "Glasses")
CONDITIONAL = "generator.conditional=true"


def small(*overrides: str) -> Config:
    return load_config("wgan-gp", overrides=[*TINY, *overrides])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """Runs r1 (a generator of all faces) and r2 (a conditional one of two attributes)."""
    path = tmp_path_factory.mktemp("generators") / "workspace"
    filled(path, drawn)
    with Workspace.open(path) as workspace:
        train_generator(workspace, small(), device="cpu")
        train_generator(workspace, small(CONDITIONAL), attributes_used=USED, device="cpu")
    return path


@pytest.fixture
def generators(tmp_path: Path, trained: Path) -> Iterator[Workspace]:
    """A copy of it that a test may change."""
    shutil.copytree(trained, tmp_path / "generators")
    with Workspace.open(tmp_path / "generators") as workspace:
        yield workspace


def make(workspace: Workspace, *overrides: str, used: tuple[str, ...] = USED) -> WganGp:
    torch.manual_seed(0)
    return WganGp.build(small(*overrides), workspace.schema.subset(used), "generator")


def batch(turns: int, attributes: int = 0) -> Batch:
    g = torch.Generator().manual_seed(1)
    labels, target = torch.randint(0, 2, (2, 4 * turns, attributes), generator=g, dtype=torch.int8)
    images = torch.rand(4 * turns, 3, 32, 32, generator=g) * 2 - 1
    return Batch(images, labels, target, torch.randn(2, 4 * turns, 8, generator=g))


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_critic_has_its_turns_with_images_of_its_own_and_then_the_generator_one(workspace: Workspace) -> None:
    method = make(workspace, "generator.critic_steps=5")
    steps = method.step(batch(5), 0)
    told = [next(steps) for _ in range(7)]
    assert [loss.players for loss in told] == [("discriminator",)] * 5 + [("generator",), ()]
    assert len({float(loss.terms["adversarial"].detach()) for loss in told[:5]}) == 5
    assert told[0].weights["gradient_penalty"] == 10


@pytest.mark.parametrize("mover", ["generator", "discriminator"])
def test_each_loss_moves_its_own_network_alone(workspace: Workspace, mover: str) -> None:
    method = make(workspace, CONDITIONAL)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD(method.networks[name].parameters(), 1e-2 if name == mover else 0.0)
        for name in method.players
    }
    before = {name: weights(network) for name, network in method.networks.items()}
    terms = Engine(optimizers).run(method.step(batch(2, 2), 0))
    assert {n for n, network in method.networks.items() if not torch.equal(weights(network), before[n])} == {mover}
    assert {"generator/domain", "discriminator/domain", "discriminator/gradient_penalty", "diversity"} <= terms.keys()


def test_a_conditional_generator_draws_only_what_it_has_seen(generators: Workspace) -> None:
    generator = ImageGenerator.load(generators, "r2", "cpu")
    labels = np.concatenate([shown for _, shown in generator.images(40, wanted=np.array([1, -1], np.int8))])
    assert (labels[:, 0] == 1).all() and set(labels[:, 1].tolist()) == {0, 1}
    generator.method.networks["generator"].seen[[1, 3]] = 0  # type: ignore[index,operator]
    with pytest.raises(RgunitError, match="trained with no image of Blond_Hair=1"):
        next(generator.images(1, wanted=np.array([1, -1], np.int8)))


def test_the_same_seed_draws_the_same_images_however_many(generators: Workspace) -> None:
    generator = ImageGenerator.load(generators, "r1", "cpu")
    many = np.concatenate([images for images, _ in generator.images(70, seed=3)])
    again = np.concatenate([images for images, _ in ImageGenerator.load(generators, "r1", "cpu").images(70, seed=3)])
    assert (many == again).all()
    few = np.concatenate([images for images, _ in generator.images(5, seed=3, first=60)]).astype(int)
    assert np.abs(few - many[60:65]).max() <= 1 and not (many[0] == many[1]).all()
    assert not (next(generator.images(1, seed=4))[0][0] == many[0]).all()


def test_training_resumed_equals_training_never_stopped(generators: Workspace) -> None:
    for stage, train, more in (("generator", train_generator, {}), ("miner", train_miner, {"sources": ["r1"]})):
        given = {"device": "cpu", "target": "+Glasses", **more}
        release = ("miner.release=3",)
        whole = train(generators, small(*release), **given)
        train(generators, small(*release, f"{stage}.steps=2"), **given)
        halves = train(generators, small(*release), resume=True, **given)
        assert (whole.run.path / CHECKPOINT).stat().st_size > 0 and halves.steps == 4
        for name in ("generator", "discriminator", *(["miner"] if stage == "miner" else [])):
            one, other = (stored_weights(result.run, name) for result in (whole, halves))
            assert all(torch.equal(one[key], other[key]) for key in one), name


@pytest.mark.parametrize("names", [(), ("generator",), ("discriminator",), ("generator", "discriminator")])
def test_the_four_combinations_of_a_transfer(generators: Workspace, names: tuple[str, ...]) -> None:
    method, source = make(generators), generators.run("r1")
    fresh = {name: weights(network) for name, network in method.networks.items()}
    start_from(method, names, source, small())
    theirs = {name: stored_weights(source, name) for name in fresh}
    for name, network in method.networks.items():
        state = network.state_dict()
        same = all(torch.equal(value, theirs[name][key]) for key, value in state.items() if key != "seen")
        assert same == (name in names) and torch.equal(weights(network), fresh[name]) == (name not in names)


def test_a_conditional_run_starts_every_class_with_the_norms_of_an_unconditional_one(generators: Workspace) -> None:
    started = train_generator(
        generators, small(CONDITIONAL, "generator.steps=1"), attributes_used=USED, source_run="r1", device="cpu"
    )
    assert started.run.config["from"] == ["r1"]
    method = make(generators, CONDITIONAL)
    start_from(method, ("generator", "discriminator"), generators.run("r1"), small(CONDITIONAL))
    assert method.generator.norm.weight.shape[0] == 4
    assert (method.generator.norm.weight == stored_weights(generators.run("r1"), "generator")["norm.weight"]).all()


def test_a_run_that_does_not_fit_is_refused_by_its_layers(generators: Workspace, template: Path) -> None:
    runs = generators.runs()
    with pytest.raises(
        RgunitError, match=r"wgan_gp, 32 px\) does not fit .* 64 px\): generator\.\S+ is .*: take a run"
    ):
        train_generator(generators, small("data.size=64"), source_run="r1", device="cpu")
    with pytest.raises(RgunitError, match=r"run r1 \(wgan_gp\) makes images of 32 px"):
        train_miner(generators, small("data.size=64"), sources=["r1"], device="cpu")
    with pytest.raises(UsageError, match="--transfer encoder: the networks are generator, discriminator"):
        train_generator(generators, small(), source_run="r1", transfer=["encoder"], device="cpu")
    with pytest.raises(UsageError, match="needs the generators to mine"):
        train_miner(generators, small(), device="cpu")
    told = "conditional generator: add --set generator.conditional=true --attributes-used Blond_Hair,Glasses"
    with pytest.raises(RgunitError, match=told):
        train_generator(generators, small(), source_run="r2", device="cpu")
    assert generators.runs() == runs, "what is refused leaves nothing"
    mined = train_miner(generators, small("miner.steps=1"), sources=["r1"], target="+Glasses", device="cpu").run.id
    with pytest.raises(RgunitError, match=r"a miner's networks are no generator: name its source \(r1\)"):
        train_generator(generators, small(), source_run=mined, device="cpu")
    with Workspace.open(template) as workspace:
        with pytest.raises(RgunitError, match=r"run r1 \(translation, gmm_unit, 32 px\) .* generator\.\S+ is not"):
            train_generator(workspace, small(), source_run="r1", device="cpu")
        with pytest.raises(RgunitError, match=r"run r1 is of stage translation \(gmm_unit\)"):
            train_miner(workspace, small(), sources=["r1"], device="cpu")


def test_fewer_images_than_a_batch_are_drawn_repeatedly_and_one_is_refused(generators: Workspace) -> None:
    two = "|".join(str(i) for i in generators.images("split=train").ids[:2])
    notes = Notes()
    assert train_generator(generators, small(), target=f"id={two}", device="cpu", progress=notes).steps == 4
    assert any("2 images to learn from are fewer than a batch of 4" in note for note in notes.told)
    with pytest.raises(RgunitError, match="needs at least 2 training images to learn from, and id=1 has"):
        train_generator(generators, small(), target="id=1", device="cpu")


def test_a_collapse_is_told_by_the_measured_diversity(workspace: Workspace) -> None:
    method = make(workspace)
    with torch.no_grad():
        method.generator.first.weight.zero_()  # whatever the noise
    terms = Engine({n: torch.optim.SGD(network.parameters(), 0.0) for n, network in method.networks.items()}).run(
        method.step(batch(2), 0)
    )
    told = method.health({name: float(value) for name, value in terms.items()})
    assert told is not None and "collapsed" in told and method.health({"diversity": 0.9}) is None


def test_warnings_name_settings_of_their_stage_and_let_a_critic_grow(
    generators: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = Health(make(generators), small().generator, "generator")  # type: ignore[attr-defined]
    values = [*[0.01] * FIRST, 60.0]
    assert [health.judge({"discriminator/adversarial": value}) for value in values] == [None] * 6
    monkeypatch.setattr("translation.training.health.GROWN", 0.0)
    for stage, train, more in (("generator", train_generator, {}), ("miner", train_miner, {"sources": ["r1"]})):
        notes = Notes()
        config = small(f"{stage}.steps={FIRST + 1}", "training.log_every=1")
        train(generators, config, device="cpu", progress=notes, **more)
        assert any(f"the training diverges; lower {stage}.learning_rate" in note for note in notes.told), notes.told


def test_drawn_images_have_the_labels_of_what_the_run_learned(generators: Workspace) -> None:
    blond = train_generator(generators, small(), target="+Blond_Hair", device="cpu").run.id
    with pytest.raises(UsageError, match=f"run {blond} takes no choice: it learned one domain; leave Glasses"):
        generate_images(generators, blond, 2, domain="+Glasses", device="cpu")
    made = generate_images(generators, blond, 3, device="cpu")
    assert made.vectors == 0
    table, names = generators.images(ids=made.ids), generators.schema.names
    assert set(table.origin) == {"generated"} and set(table.split) == {"train"} and (table.parent == -1).all()
    known = {name: bit for name, bit in zip(names, table.labels[0].tolist(), strict=True) if bit >= 0}
    assert known == {"Blond_Hair": 1, "Black_Hair": 0, "Brown_Hair": 0}
    more = generate_images(generators, blond, 3, device="cpu")
    paths = [*table.paths, *generators.images(ids=more.ids).paths]
    assert len({Path(path).read_bytes() for path in paths}) == 6, "a second call makes the next ones"
    asked = generators.images(ids=generate_images(generators, "r2", 4, domain="-Blond_Hair", device="cpu").ids)
    assert (asked.labels[:, list(names).index("Blond_Hair")] == 0).all()
    blonde = generators.images(ids=generate_images(generators, "r2", 2, domain="+Blond_Hair", device="cpu").ids)
    hair = [list(names).index(name) for name in ("Blond_Hair", "Black_Hair", "Brown_Hair")]
    assert (blonde.labels[:, hair] == [1, 0, 0]).all(), "the others of its group are not unknown"


def test_a_run_by_its_name_draws_what_it_draws_by_its_id(generators: Workspace) -> None:
    generators.rename_run("r1", "base")
    made = np.concatenate([generate_images(generators, name, 2, device="cpu").ids for name in ("base", "r1")])
    paths = [Path(path) for path in generators.images(ids=made).paths]
    assert {path.parent.name for path in paths} == {"r1"} and len({path.read_bytes() for path in paths}) == 4


def test_no_image_is_drawn_again_after_one_was_removed(generators: Workspace) -> None:
    first = generate_images(generators, "r1", 3, device="cpu").ids
    generators.forget(ids=first[:1])
    generate_images(generators, "r1", 2, device="cpu")
    paths = generators.images("origin=generated").paths
    assert len({Path(path).read_bytes() for path in paths}) == 4


def test_several_generators_are_mined_also_conditional_ones(generators: Workspace) -> None:
    mined = train_miner(generators, small(), sources=["r1", "r2"], target="+Glasses", device="cpu")
    generator = ImageGenerator.load(generators, mined.run.id, "cpu")
    assert generator.probabilities is not None and abs(sum(generator.probabilities) - 1) < 1e-3
    rows = [json.loads(line) for line in (mined.run.path / "metrics.jsonl").read_text().splitlines()]
    titles = {chart.title for chart in charts_of(rows, "wgan_gp")}
    assert titles >= {"Wasserstein estimate, negated", "Diversity", "Selector"}
    images, labels = next(generator.images(5))
    assert images.shape == (5, 32, 32, 3) and labels.shape == (5, 0)
    for number, source in enumerate(("r1", "r2")):
        kept = stored_weights(mined.run, "generator")
        own = ImageGenerator.load(generators, source, "cpu").method.networks["generator"].state_dict()
        assert all(torch.equal(kept[f"{number}.{key}"], own[key]) for key in own if "weight" in key), "never released"
