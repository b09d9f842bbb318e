"""Mix-and-match networks: which pairs learn, joined networks in use, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from translation.config import Config, load_config
from translation.evaluation.arms import open_arms
from translation.evaluation.experiments.unseen import run_unseen
from translation.evaluation.judging import evaluate_translation_runs
from translation.inference import translate_images
from translation.methods import JOINING, METHODS, find_method
from translation.methods.mix_match import MixMatch
from translation.networks.mix_match import ModalDecoder, ModalEncoder
from translation.pairing import PairSampler, members, trained_pairs
from translation.progress import Progress
from translation.sampling import Batch
from translation.sharing.exporting import export_run
from translation.stages import train_translation
from translation.training.task import Engine
from translation.translator import Translator

HAIR = ("Black_Hair", "Blond_Hair", "Brown_Hair")
TINY = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.encoder_blocks=1"),
    *("networks.decoder_blocks=1", "translation.batch=2", "translation.steps=4", "training.tensorboard=false"),
    *("training.log_every=2", "training.sample_every=1000", "evaluation.classifier_epochs=1"),
    *("evaluation.diversity_inputs=2", "evaluation.bootstrap=100", "evaluation.pairs=12"),
)


def small(*overrides: str) -> Config:
    return load_config("mix-match", overrides=[*TINY, *overrides])


def test_the_methods_with_an_encoder_a_domain_are_those_that_join() -> None:
    assert tuple(name for name in METHODS if hasattr(find_method(name), "from_domains")) == JOINING


def make(workspace: Workspace, *overrides: str) -> MixMatch:
    torch.manual_seed(0)
    return MixMatch.build(small(*overrides), workspace.schema.subset(HAIR), "translation")


def moved_by(method: MixMatch, domains: tuple[int, int]) -> set[str]:
    """The networks that a step on a pair of domains changes."""
    g = torch.Generator().manual_seed(1)
    images, references = torch.rand(2, 2, 3, 32, 32, generator=g) * 2 - 1
    labels = torch.zeros(2, 3, dtype=torch.int8)
    batch = Batch(images, labels, labels, torch.zeros(0, 2, 0), references, domains)
    before = {name: torch.nn.utils.parameters_to_vector(n.parameters()) for name, n in method.networks.items()}
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD([p for n in player.networks for p in method.networks[n].parameters()], 1e-2)
        for name, player in method.players.items()
    }
    terms = Engine(optimizers).run(method.step(batch, 0))
    assert all(value.isfinite() for value in terms.values())
    return {
        name
        for name, network in method.networks.items()
        if not torch.equal(before[name], torch.nn.utils.parameters_to_vector(network.parameters()))
    }


def test_a_step_moves_the_networks_of_its_pair_alone(workspace: Workspace) -> None:
    parts = ("encoder", "decoder", "discriminator")
    assert moved_by(make(workspace), (2, 0)) == {f"{part}-{i}" for part in parts for i in (0, 2)}


@pytest.mark.parametrize("side", ["none", "pooling", "skip"])
def test_any_encoder_fits_any_decoder_whatever_is_told_beside(side: str) -> None:
    encoder, decoder = ModalEncoder(1, 0.0625, 1, 2, 3), ModalDecoder(3, 0.0625, 1, 2, 3, side=side)  # type: ignore[arg-type]
    latent = encoder(torch.rand(2, 1, 32, 32))
    assert latent.content.shape == (2, 8, 8, 8) and decoder(latent).shape == (2, 3, 32, 32)
    other = encoder(torch.rand(2, 1, 32, 32))._replace(content=latent.content)
    assert torch.equal(decoder(latent), decoder(other)) == (side == "none"), "only the latent map where nothing else is"


def test_pairs_grow_in_a_line_and_take_turns(workspace: Workspace) -> None:
    assert [len(trained_pairs(n, 0)) for n in (2, 5, 11)] == [1, 4, 10]
    assert [len(trained_pairs(n, 0, everything=True)) for n in (2, 5, 11)] == [1, 10, 55]
    draws = PairSampler(workspace, HAIR, trained_pairs(3, 1), batch=2, seed=0)
    seen = [draws.draw(step) for step in range(4)]
    assert [draw.domains for draw in seen] == [(0, 1), (2, 1), (0, 1), (2, 1)]
    for draw in seen:
        assert draw.references is not None and draw.domains is not None
        for ids, domain in zip((draw.ids, draw.references), draw.domains, strict=True):
            table = workspace.images(ids=np.unique(ids))
            assert (members(table.labels[:, workspace.schema.indices(HAIR)]) == domain).all()
    assert members(np.array([[1, 0], [1, 1], [0, -1], [-1, 1]], np.int8)).tolist() == [0, -1, -1, 1]


def test_it_trains_resumes_bit_for_bit_and_joins_what_never_met(workspace: Workspace, tmp_path: Path) -> None:
    def run(steps: int, resume: bool) -> Path:
        return train_translation(workspace, small(f"translation.steps={steps}"), device="cpu", resume=resume).run.path

    whole, half = run(4, False), run(2, False)
    assert run(4, True) == half
    a, b = load_file(whole / CHECKPOINT), load_file(half / CHECKPOINT)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []

    translator = Translator.load(workspace)
    table = workspace.images("split=test origin=real")
    domain = members(table.labels[:, workspace.schema.indices(HAIR)])
    blond, none = (
        Path(table.paths[np.flatnonzero(domain == 1)[0]]),
        Path(workspace.images("origin=unlabelled").paths[0]),
    )
    (row,) = translate_images(workspace, [blond], to="+Brown_Hair", out=tmp_path / "out", device="cpu")
    assert [row["target"][name] for name in HAIR] == [0, 0, 1]
    (said,) = translate_images(workspace, [none], to="+Brown_Hair", source="Blond_Hair", out=tmp_path / "out")
    assert Image.open(said["path"]).size == (32, 32)
    for given, told in (
        ({"to": "+Brown_Hair"}, "--source"),
        ({"to": "-Brown_Hair", "source": "Brown_Hair"}, "goes to one domain"),
        ({"to": "+Brown_Hair", "source": "Glasses"}, "cannot be edited"),
        ({"to": "+Brown_Hair", "source": "-Blond_Hair"}, "no domain"),
        ({"to": "+Brown_Hair", "source": "Blond_Hair", "samples": 2}, "leave --samples out"),
        ({"style_of": blond, "source": "Blond_Hair"}, "use --to"),
    ):
        with pytest.raises(RgunitError, match=told):
            translate_images(workspace, [none], out=tmp_path / "out", device="cpu", **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no ONNX form, since it has an encoder for each domain: take --format hub"):
        export_run(workspace, half.name.partition("-")[0], "onnx", tmp_path / "graphs")
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    with pytest.raises(RgunitError, match="--source"):
        translator.content(images)
    mixed = translator.told(torch.eye(3)[[2, 0, 2]])
    alone = translator.told(torch.eye(3)[[0]])
    torch.testing.assert_close(mixed.content(images)[1:2], alone.content(images[1:2]))

    arms = open_arms(workspace, device="cpu")
    evaluation = evaluate_translation_runs(workspace, arms=arms, device="cpu", unseen=True)
    assert set(np.unique(evaluation.pairs.target, axis=0).argmax(1)) <= {1, 2} and evaluation.summary["cascade"]["n"]
    source = np.flatnonzero(domain >= 0)[:4]
    target = np.eye(3, dtype=np.int8)[[0, 0, 0, 0]]
    direct, hopped = (arms.arms[name](table.ids[source], target, source) for name in ("stage1", "cascade"))
    own = domain[source] == 0
    assert np.array_equal(direct[~own], hopped[~own]), "to the anchor there is nothing between"


class Stops(Progress):
    """Ctrl-C where a stage begins, or at its first step."""

    def __init__(self, name: str, begun: bool) -> None:
        self.name, self.begun, self.now = name, begun, ""

    def stage(self, name: str) -> None:
        self.now = name
        if name == self.name and not self.begun:
            raise KeyboardInterrupt

    def step(self, done: int, total: int, seconds_left: float | None = None) -> None:
        if self.now == self.name:
            raise KeyboardInterrupt


def test_a_comparison_of_unseen_pairs_goes_on_wherever_it_was_stopped(workspace: Workspace, tmp_path: Path) -> None:
    config, out = small("translation.steps=2"), tmp_path / "out"
    for name, begun, runs in (("0/all", False, 1), ("0/all", True, 2), ("evaluate", False, 2)):
        with pytest.raises(KeyboardInterrupt):
            run_unseen(workspace, config, out, device="cpu", progress=Stops(name, begun))
        assert len(workspace.runs()) == runs
    trainings = run_unseen(workspace, config, out, device="cpu")["seeds"][0]["trainings"]
    assert [trainings[way]["run"] for way in ("anchor", "all")] == ["r1", "r2"] and len(workspace.runs()) == 2


def test_unseen_pairs_are_compared_and_nothing_is_done_twice(workspace: Workspace, tmp_path: Path) -> None:
    config = small("translation.steps=2")
    found = run_unseen(workspace, config, tmp_path / "out", device="cpu")
    assert {arm for arm, measures in found["arms"].items() if measures["truth"] is not None} == {
        *("stage1", "cascade", "trained", "copy")
    }
    assert [found["seeds"][0]["trainings"][way]["steps"] for way in ("anchor", "all")] == [2, 3], "equally often a pair"
    runs = len(workspace.runs())
    with pytest.raises(RgunitError, match="every pair of"):
        evaluate_translation_runs(workspace, run=workspace.runs()[-1].id, device="cpu", unseen=True)
    assert run_unseen(workspace, config, tmp_path / "out", device="cpu") == found and len(workspace.runs()) == runs
    with pytest.raises(RgunitError, match="other settings"):
        run_unseen(workspace, small("translation.steps=3"), tmp_path / "out", device="cpu")
    with pytest.raises(RgunitError, match="three domains"):
        run_unseen(workspace, config, tmp_path / "two", attributes_used=HAIR[:2], device="cpu")


@pytest.mark.parametrize(
    ("used", "settings", "told"),
    [
        (("Glasses", "Beard"), (), "--groups"),
        (HAIR[:1], (), "--groups"),
        ((*HAIR, "Glasses"), (), "Glasses is no domain"),
        (HAIR, ("translation.anchor=Red_Hair",), "anchor=Red_Hair is no domain"),
        (HAIR, ("translation.batch=60",), "training images of its own"),
    ],
)
def test_bad_input_is_named(workspace: Workspace, used: tuple[str, ...], settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(RgunitError, match=told):
        train_translation(workspace, small(*settings), attributes_used=used, device="cpu")
    assert not workspace.runs()


def test_pools_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="leaves 2 of 32 px"):
        small("networks.pools=4")
