"""SDIT: who learns what, that noise is read and seen, the ablations of Table 6.1, from training to a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from index_store.errors import UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from retrieval.reading import GraphSearcher, open_searcher
from retrieval.retriever import Retriever
from tests.translation.resume import same_after_a_stop
from tests.translation.small import USED
from translation.config import Config, load_config
from translation.indexing import fill_index
from translation.inference import translate_images
from translation.methods.sdit import Sdit
from translation.networks.conditional import ConditionalGenerator, LabelledEncoder, initialise_painting
from translation.networks.sdit import AttentiveGenerator, ReadingDiscriminator
from translation.objectives import gradient_penalty
from translation.sampling import Batch
from translation.stages import train_guided, train_retrieval, train_translation
from translation.training.sessions import StageResult
from translation.training.task import Engine
from translation.translator import Translator

TINY = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.encoder_blocks=1"),
    *("networks.generator_blocks=1", "translation.batch=4", "translation.steps=4"),
    *("training.tensorboard=false", "training.log_every=2", "training.sample_every=1000"),
)
A, Z = 3, 8


def small(*overrides: str) -> Config:
    return load_config("sdit", overrides=[*TINY, *overrides])


def make(workspace: Workspace, *overrides: str) -> Sdit:
    torch.manual_seed(0)
    return Sdit.build(small(*overrides), workspace.schema.subset(USED), "translation")


def batch() -> Batch:
    g = torch.Generator().manual_seed(1)
    labels, target = torch.randint(0, 2, (2, 4, A), generator=g)
    return Batch(torch.rand(4, 3, 32, 32, generator=g) * 2 - 1, labels, target, torch.randn(2, 4, Z, generator=g))


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("kind", ["wgan", "logistic"])
@pytest.mark.parametrize("mover", ["generator", "discriminator"])
def test_each_loss_moves_its_own_networks_alone(workspace: Workspace, kind: str, mover: str) -> None:
    method = make(workspace, f"translation.adversarial={kind}")
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD(
            [p for n in player.networks for p in method.networks[n].parameters()], 1e-2 if name == mover else 0.0
        )
        for name, player in method.players.items()
    }
    before = {name: weights(network) for name, network in method.networks.items()}
    terms = Engine(optimizers).run(method.step(batch(), 0))
    moved = {name for name, network in method.networks.items() if not torch.equal(weights(network), before[name])}
    assert moved == set(method.players[mover].networks)
    assert {"discriminator/latent", "generator/latent", "generator/reconstruction", "attention_mean"} < set(terms)
    assert all(value.isfinite() for value in terms.values())


def test_the_head_that_reads_the_noise_is_trained(workspace: Workspace) -> None:
    """In the released code it is not (`methods.md`, section 6)."""
    method = make(workspace)
    discriminator = method.networks["discriminator"]
    assert isinstance(discriminator, ReadingDiscriminator)
    before = weights(discriminator.noise)
    optimizers = {
        name: torch.optim.SGD([p for n in player.networks for p in method.networks[n].parameters()], 1.0)
        for name, player in method.players.items()
    }
    Engine(optimizers).run(method.step(batch(), 0))
    assert not torch.equal(weights(discriminator.noise), before)


def test_a_made_source_is_not_led_back_to_labels_that_nobody_knows(workspace: Workspace) -> None:
    given = batch()
    hop = replace(given, real=(given.images, given.labels), labels=torch.full_like(given.labels, -1))
    for one, expected in ((given, True), (hop, False)):
        _, generator, _ = make(workspace).step(one, 0)
        assert ("reconstruction" in generator.terms) == expected


def test_the_generator_learns_every_fifth_step(workspace: Workspace) -> None:
    method = make(workspace, "translation.critic_steps=5")
    losses = [len([loss for loss in method.step(batch(), t) if loss.players]) for t in range(10)]
    assert losses == [1, 1, 1, 1, 2] * 2


def test_norms_have_numbers_of_their_own_and_ablations_leave_parts_out() -> None:
    torch.manual_seed(0)
    content = torch.randn(1, 16, 8, 8)
    full = AttentiveGenerator(Z, 0.0625, 2)
    last = full.mlp[-1]
    assert isinstance(last, nn.Linear) and last.out_features == 2 * 2 * 2 * 16, "a pair for each of four norms"
    for options in ({}, {"norms": False}, {"attention": False}):
        network = AttentiveGenerator(Z, 0.0625, 2, **options)
        one, mask, attention = network(content, torch.zeros(1, Z))
        other, *_ = network(content, torch.ones(1, Z))
        assert one.shape == (1, 3, 32, 32) and mask is None
        assert (one - other).abs().max() > 0.01, "noise changes the picture"
        assert (attention == 1).all() == ("attention" in options)


def test_labels_change_the_picture() -> None:
    """An instance norm right behind the planes would take them out, whatever is learned."""
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    for network in (LabelledEncoder(A, 0.0625, 1), ConditionalGenerator(A, 0.0625, 1)):
        initialise_painting(network)
        one, other = (network(images, sign * torch.ones(2, A)) for sign in (-1, 1))
        if isinstance(one, tuple):
            one, other = one[0], other[0]
        assert (one - other).abs().max() > 0.01


def test_a_share_of_the_images_is_translated_to_labels_that_nobody_is_told(workspace: Workspace) -> None:
    method = make(workspace, "translation.hidden=0.25")
    hidden = method._hidden(torch.ones(2000, A), torch.randn(2000, Z))
    rows = (hidden == -1).any(1)
    assert torch.equal(rows, (hidden == -1).all(1)) and 0.2 < rows.float().mean() < 0.3
    assert (make(workspace, "translation.hidden=0")._hidden(torch.ones(9, A), torch.randn(9, Z)) == 1).all()


def test_guided_it_keeps_what_searches_by_and_a_copy_of_its_discriminator_plays_on(workspace: Workspace) -> None:
    def config(*more: str) -> Config:
        short = ("retrieval.steps=2", "retrieval.batch=4", "guided.batch=4", "guided.steps=4", "guided.neighbours=2")
        return small(*short, "guided.guidance=attention", *more)

    first = train_translation(workspace, config(), attributes_used=USED, device="cpu").run
    train_retrieval(workspace, config(), device="cpu")
    fill_index(workspace, config(), generated=0, device="cpu")
    picture = Path(workspace.images("split=test").paths[0])
    graphs = open_searcher(workspace)
    assert isinstance(graphs, GraphSearcher), "asked without torch"
    ours, theirs = (one.search(picture, edit="+Glasses") for one in (graphs, Retriever.open(workspace)))
    assert [one.image_id for one in ours] == [one.image_id for one in theirs]

    def run(steps: int, resume: bool) -> StageResult:
        return train_guided(workspace, config(f"guided.steps={steps}"), device="cpu", resume=resume)

    saved, before = load_file(same_after_a_stop(run) / CHECKPOINT), load_file(first.path / CHECKPOINT)
    for name in (name for name in before if name.startswith(("average.encoder", "average.discriminator"))):
        assert saved[name].equal(before[name]) and saved[name.replace("average", "networks")].equal(before[name])
    critic = {name: saved[name] for name in saved if name.startswith("networks.critic")}
    assert critic and any(not t.equal(before[n.replace("critic", "discriminator")]) for n, t in critic.items())
    (row,) = translate_images(workspace, [picture], to="+Glasses", out=first.path / "out", device="cpu")
    assert len(row["neighbours"]) == 2
    for setting in ("neighbour_style=true", "neighbour_as_real=true", "content_dropout=0.5"):
        with pytest.raises(UsageError, match=f"guided.{setting.partition('=')[0]} is not for sdit"):
            small(f"guided.{setting}")


def test_a_closed_attention_gives_the_content_through() -> None:
    network = AttentiveGenerator(Z, 0.0625, 1)
    assert isinstance(network.attend, nn.Sequential)
    convolution = network.attend[2]
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias.fill_(-50.0)
    content = torch.randn(1, 16, 8, 8)
    one, _, attention = network(content, torch.zeros(1, Z))
    assert attention.max() < 1e-6
    torch.testing.assert_close(one, network(content, torch.ones(1, Z))[0])


def test_the_penalty_of_wgan_gp_is_worked_out_by_hand() -> None:
    """D(x) = 3·Σx over 4 numbers: its gradient is 3 everywhere, of length 6; (6 − 1)² = 25, and R1's is 36."""
    images = torch.zeros(2, 1, 2, 2, requires_grad=True)
    for wanted, expected in ((1.0, 25.0), (0.0, 36.0)):
        judged = 3 * images.sum(dim=(1, 2, 3), keepdim=True)
        assert gradient_penalty([judged], images, wanted).item() == pytest.approx(expected)


def test_it_trains_resumes_bit_for_bit_and_gives_another_picture_for_each_draw(
    workspace: Workspace, tmp_path: Path
) -> None:
    def run(steps: int, resume: bool) -> StageResult:
        config = small(f"translation.steps={steps}")
        return train_translation(workspace, config, attributes_used=USED, device="cpu", resume=resume)

    same_after_a_stop(run)
    picture = Path(workspace.images("split=test").paths[0])
    rows = translate_images(workspace, [picture], to="+Glasses", samples=2, out=tmp_path / "out", device="cpu")
    first, second = (np.asarray(Image.open(row["path"])) for row in rows)
    assert rows[0]["target"]["Glasses"] == 1 and not np.array_equal(first, second)
    translator = Translator.load(workspace)
    style = translator.style(torch.zeros(2, 3, 32, 32))
    assert style.shape == (2, A + Z) and translator.style_labels(style).shape == (2, A)
