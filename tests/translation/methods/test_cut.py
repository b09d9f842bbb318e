"""CUT on drawn faces: who learns from what, what is drawn, how it goes on, what it translates and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.translation.resume import same_after_a_stop
from tests.translation.small import USED
from tests.translation.steps import weights
from translation.config import Config, load_config, parse_config
from translation.evaluation.arms import open_arms
from translation.evaluation.protocol import make_pairs
from translation.guidance import build_guidance
from translation.inference import translate_images
from translation.methods.cut import Cut, CutConfig
from translation.networks.patches import features
from translation.objectives.patch_nce import patch_nce_over_layers
from translation.sampling import Batch, DomainSampler, Guides
from translation.stages import train_guided, train_translation
from translation.training.sessions import StageResult
from translation.training.task import Engine, held_out, with_networks
from translation.translator import Translator

TINY = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.blocks=2", "networks.projection=8"),
    *("translation.batch=3", "translation.steps=4", "translation.patches=16"),
    *("training.tensorboard=false", "training.log_every=2", "training.sample_every=1000"),
)


def tiny(*overrides: str, preset: str = "cut") -> Config:
    return load_config(preset, overrides=[*TINY, "data.size=32", *overrides])


def make(workspace: Workspace, *overrides: str) -> Cut:
    torch.manual_seed(0)
    return Cut.build(tiny(*overrides), workspace.schema.subset(USED), "translation")


def batch() -> Batch:
    g = torch.Generator().manual_seed(1)
    images, target = torch.rand(2, 3, 3, 32, 32, generator=g) * 2 - 1
    none = torch.zeros(3, 3, dtype=torch.int8)
    return Batch(images, none, none, torch.zeros(0, 3, 0), references=target)


@pytest.mark.parametrize("mover", ["generator", "discriminator"])
def test_each_loss_moves_its_own_networks_alone(workspace: Workspace, mover: str) -> None:
    method = make(workspace)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD(
            [p for n in player.networks for p in method.networks[n].parameters()], 1.0 if name == mover else 0.0
        )
        for name, player in method.players.items()
    }
    before = {name: weights(network) for name, network in method.networks.items()}
    terms = Engine(optimizers).run(method.step(batch(), 0))
    moved = {name for name, network in method.networks.items() if not torch.equal(weights(network), before[name])}
    assert moved == set(method.players[mover].networks)
    assert set(terms) == {
        "discriminator/adversarial",
        "generator/adversarial",
        "generator/nce",
        "generator/identity",
    }
    assert all(value.isfinite() and not value.requires_grad for value in terms.values())


def test_fastcut_mirrors_and_has_no_identity_term(workspace: Workspace) -> None:
    config = load_config("fastcut")
    assert isinstance(config.translation, CutConfig) and config.translation.flip
    assert (config.translation.weights.nce, config.translation.weights.identity) == (10, 0)
    options = ("translation.flip=true", "translation.weights.identity=0", "translation.patches=4096")
    method, given, seen = make(workspace, *options), batch(), set()
    encoder, decoder, projector = (method.networks[name] for name in ("encoder", "decoder", "projector"))
    for seed in range(16):
        torch.manual_seed(seed << 7)
        steps, losses = method.step(given, 0), []
        try:
            while True:
                losses.append(next(steps))
        except StopIteration as end:
            fake = end.value
        mirrored = bool(seed & 1)
        seen.add(mirrored)
        source = given.images.flip(3) if mirrored else given.images
        torch.testing.assert_close(fake, decoder(encoder(source)))
        assert set(losses[1].terms) == {"adversarial", "nce"}
        keys, queries = (features((encoder, decoder), x, method.layers) for x in (given.images, fake))  # type: ignore[arg-type]
        own = [q.flip(3) if mirrored else q for q in queries]  # of each place, in the places of the source
        read = [projector([map_.flatten(2).transpose(1, 2) for map_ in maps]) for maps in (own, keys)]
        torch.testing.assert_close(losses[1].terms["nce"], patch_nce_over_layers(*read))
    assert seen == {True, False}


def test_a_draw_is_of_both_domains_and_of_seed_step_and_process_alone(workspace: Workspace) -> None:
    def sampler(**how: int) -> DomainSampler:
        return DomainSampler(workspace, USED, "-Glasses", "+Glasses", **{"batch": 4, "seed": 1, **how})  # type: ignore[arg-type]

    one, again = sampler(), sampler()
    one.draw(0)
    first, second = one.draw(9), again.draw(9)
    assert first.references is not None and second.references is not None
    assert first.ids.tolist() == second.ids.tolist() and first.references.tolist() == second.references.tolist()
    without, having = (set(workspace.images(f"split=train {w}Glasses").ids.tolist()) for w in "-+")
    assert set(first.ids.tolist()) <= without and set(first.references.tolist()) <= having
    ranks = [sampler(rank=rank, world=2).draw(3).ids for rank in (0, 1)]
    assert np.concatenate(ranks).tolist() == sampler(batch=8).draw(3).ids.tolist()


@pytest.mark.parametrize(
    ("source", "target", "batch", "said"),
    [
        ("+Glasses", "+Hat", 3, "are in both domains"),
        ("-Glasses", "split=train id_", 3, "unknown attribute 'id_': did you mean id?"),
        ("-Glasses", "id=99999", 3, "the target domain 'id=99999' has 0 training images"),
        ("-Glasses", "+Glasses", 999, "a batch takes 999"),
    ],
)
def test_domains_that_cannot_be_meant_are_refused_in_one_line(
    workspace: Workspace, source: str, target: str, batch: int, said: str
) -> None:
    with pytest.raises((RgunitError, UsageError)) as refused:
        train_translation(workspace, tiny(f"translation.batch={batch}"), source=source, target=target, device="cpu")
    assert "\n" not in str(refused.value)
    assert said in str(refused.value)
    assert workspace.runs() == []


def test_it_trains_resumes_bit_for_bit_and_translates_its_one_direction(workspace: Workspace, tmp_path: Path) -> None:
    def run(steps: int, resume: bool) -> StageResult:
        config = tiny(f"translation.steps={steps}", "translation.constant=1")
        return train_translation(workspace, config, attributes_used=("Glasses",), device="cpu", resume=resume)

    same_after_a_stop(run)
    record = workspace.runs()[-1]
    assert (record.config["source"], record.config["target"]) == ("-Glasses", "+Glasses")
    assert parse_config(record.config["config"]).method == "cut"

    picture = Path(workspace.images("-Glasses").paths[0])
    (row,) = translate_images(workspace, [picture], out=tmp_path / "out", device="cpu")
    assert np.asarray(Image.open(row["path"])).shape == (32, 32, 3)
    assert row["target"] == {"Glasses": 1} and row["mask"] is None and row["neighbours"] == []
    with pytest.raises(UsageError, match=r"translates '-Glasses' to '\+Glasses' and nothing else"):
        translate_images(workspace, [picture], to="-Glasses", out=tmp_path / "no", device="cpu")
    assert not (tmp_path / "no").exists()
    translator = Translator.load(workspace)
    assert translator.style(torch.zeros(2, 3, 32, 32)).shape == (2, 0)
    pairs = make_pairs(workspace, translator.schema, direction=("-Glasses", "+Glasses"))
    assert (pairs.before == 0).all() and (pairs.target == 1).all()


@pytest.mark.parametrize("kind", ["patches", "attention"])
def test_it_is_guided_by_another_methods_retrieval_within_the_target_domain(
    staged: Workspace, tmp_path: Path, kind: str
) -> None:
    """`staged` has GMM-UNIT's translator r1 and retrieval r2; CUT's own encoder reads the neighbours."""
    stage1 = train_translation(staged, tiny(), attributes_used=("Glasses",), device="cpu").run
    having = set(staged.images("split=train +Glasses").ids.tolist())
    guided = tiny(
        f"guided.guidance={kind}", "guided.steps=4", "guided.batch=3", "guided.patches=16", "guided.average=0"
    )
    run = train_guided(staged, guided, translation_run=stage1.id, retrieval_run="r2", device="cpu").run
    assert run.config["retrieval_run"] == "r2"
    before, after = (load_file(record.path / CHECKPOINT) for record in (stage1, run))
    for name, weight in before.items():
        if name.startswith("average.encoder"):
            assert torch.equal(after[name], weight), "the encoder is frozen"
    assert any(not torch.equal(after[n], w) for n, w in before.items() if n.startswith("average.decoder"))
    picture = Path(staged.images("split=test -Glasses").paths[0])
    out = {g: translate_images(staged, [picture], run=run.id, guidance=g, out=tmp_path / str(g)) for g in (0.0, 1.0)}
    assert {near["image_id"] for near in out[1.0][0]["neighbours"]} <= having and out[1.0][0]["neighbours"]
    pixels = [np.asarray(Image.open(rows[0]["path"])).astype(int) for rows in out.values()]
    assert (pixels[0] != pixels[1]).any()
    assert "guided" in open_arms(staged, run.id, "cpu").arms


def test_without_neighbours_guided_cut_is_plain_cut(workspace: Workspace) -> None:
    """The same step with and without a guidance that is shown nothing: the same terms, bit for bit."""
    torch.manual_seed(0)
    plain = Cut.build(tiny(), workspace.schema.subset(USED), "guided")
    fusion = build_guidance(plain.stage, plain.content_channels)  # type: ignore[arg-type]
    assert fusion is not None
    found = []
    for extra in ({}, {"fusion": fusion}):
        method = with_networks(plain, extra)
        given = batch()
        given = replace(given, encoded=method.encode(given.images))
        if extra:
            maps = torch.randn(3, 2, method.content_channels + 48, 8, 8)
            shown = torch.zeros(3, dtype=torch.bool)
            given = replace(given, guides=Guides(maps=(maps,), shown=shown))
        torch.manual_seed(5)
        steps = method.step(given, 0)
        terms = {**next(steps).terms, **next(steps).terms}
        found.append({name: float(value.detach()) for name, value in terms.items()})
    assert found[0] == found[1]


def test_a_source_domain_without_labels_in_use_is_trained_on(workspace: Workspace) -> None:
    table = workspace.images("split=test origin=real +Hat")
    columns = workspace.schema.indices(["Hat"])
    ids, labels = held_out(workspace, workspace.schema.subset(("Hat",)), "+Hat")
    assert ids.tolist() == table.ids.tolist() and (labels == table.labels[:, columns]).all()
    unlabelled = workspace.schema.extend([]).subset(())
    ids, labels = held_out(workspace, unlabelled, "+Hat")
    assert ids.tolist() == table.ids.tolist() and labels.shape == (len(ids), 0)


def test_the_rate_is_constant_and_then_falls_to_nothing(workspace: Workspace) -> None:
    decay = make(workspace, "translation.steps=100").players["generator"].decay
    assert [decay(step) for step in (0, 50, 75, 100)] == [1, 1, 0.5, 0]


def test_any_preset_trains_it_with_its_own_rates_and_losses() -> None:
    config = load_config("demo", method="cut")
    assert (config.method, config.data.size, config.translation.batch) == ("cut", 32, 8)
    assert config.translation.learning_rate == 2e-4 and config.networks.width == 0.25  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"unknown setting translation\.kl_warmup"):
        load_config("demo", method="cut", overrides=["translation.kl_warmup=3"])
    with pytest.raises(UsageError, match="unknown method 'kut': did you mean cut"):
        load_config("demo", method="kut")


def test_source_and_target_are_for_methods_of_one_direction(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="gmm_unit learns all"):
        train_translation(workspace, load_config("demo"), source="-Hat", target="+Hat", device="cpu")
    with pytest.raises(UsageError, match="give both"):
        train_translation(workspace, tiny(), source="-Hat", device="cpu")
