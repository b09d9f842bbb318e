"""MUNIT: who learns what, what is held, pooling indices, and from training to guided pictures of a target domain."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.errors import UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from retrieval.queries import compose
from retrieval.retriever import Retriever
from retrieval.tensors import to_tensor
from tests.translation.small import USED
from translation.config import Config, load_config
from translation.indexing import fill_index
from translation.inference import translate_images
from translation.methods import Loss
from translation.methods.munit import Munit
from translation.neighbours import Neighbours
from translation.networks.munit import DomainDecoder, PoolingEncoder
from translation.runs import direction_of
from translation.sampling import Batch
from translation.stages import train_guided, train_retrieval, train_translation
from translation.training.task import Engine
from translation.translator import Translator

TINY = (
    *("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.content_blocks=1"),
    *("networks.generator_blocks=1", "translation.batch=4", "translation.steps=4", "retrieval.steps=3"),
    *("retrieval.batch=4", "guided.batch=3", "guided.steps=2", "index.generated=0"),
    *("training.tensorboard=false", "training.log_every=2", "training.sample_every=1000"),
)
A, Z = 3, 8


def small(*overrides: str) -> Config:
    return load_config("munit", overrides=[*TINY, *overrides])


def make(workspace: Workspace, *overrides: str) -> Munit:
    torch.manual_seed(0)
    return Munit.build(small(*overrides), workspace.schema.subset(USED), "translation")


def batch() -> Batch:
    g = torch.Generator().manual_seed(1)
    labels, target = torch.randint(0, 2, (2, 4, A), generator=g)
    return Batch(torch.rand(4, 3, 32, 32, generator=g) * 2 - 1, labels, target, torch.randn(1, 4, Z, generator=g))


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def losses(method: Munit, given: Batch) -> list[Loss]:
    return list(method.step(given, 0))


@pytest.mark.parametrize("mover", ["generator", "discriminator"])
def test_each_loss_moves_its_own_networks_alone(workspace: Workspace, mover: str) -> None:
    method = make(workspace)
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
    assert all(value.isfinite() for value in terms.values())


def test_the_terms_are_the_papers_and_zero_weights_leave_them_out(workspace: Workspace) -> None:
    off = [f"translation.weights.{name}=0" for name in ("cycle", "gradient_penalty")]
    discriminator, generator = losses(make(workspace, *off), batch())
    assert set(discriminator.terms) == {"adversarial", "domain"}
    assert set(generator.terms) == {"adversarial", "domain", "content", "style", "reconstruction"}
    made = replace(batch(), real=(batch().images, batch().labels), labels=torch.full((4, A), -1))
    assert "reconstruction" not in losses(make(workspace), made)[1].terms, "a made source has no labels to go back to"


def test_what_is_held_is_a_term_with_its_weight_and_gradient_to_the_made_image(workspace: Workspace) -> None:
    method = make(workspace)
    method.features, method.semantic_weight = lambda images: F.avg_pool2d(images, 8), 2.5
    loss = losses(method, batch())[1]
    assert loss.weights["semantic"] == 2.5 and loss.terms["semantic"] > 0 and loss.terms["semantic"].requires_grad


def test_styles_are_planes_and_a_draw_and_say_nothing_of_the_domain(workspace: Workspace) -> None:
    method = make(workspace)
    labels = torch.tensor([[1, 0, 1], [0, 1, -1]])
    style = method.sample_style(labels, torch.Generator().manual_seed(0))
    assert style.shape == (2, A + Z) and torch.equal(method.style_labels(style), labels.to(torch.int8))
    drawn = method.sample_style(labels[:1].repeat(4000, 1), torch.Generator().manual_seed(0))[:, A:]
    assert abs(float(drawn.mean())) < 0.02 and abs(float(drawn.std()) - 1) < 0.02, "N(0, I)"


def test_unpooling_puts_what_was_pooled_back_where_it_was() -> None:
    torch.manual_seed(0)
    encoder, decoder = PoolingEncoder(0.0625, 1), DomainDecoder(A + Z, 0.0625, 1, pooling=True)
    images = torch.rand(2, 3, 32, 32)
    content, places = encoder.placed(images)
    assert content.shape == (2, encoder.channels, 8, 8) and [p.shape[-1] for p in places] == [16, 8]
    torch.testing.assert_close(encoder(images), content)
    style = torch.zeros(2, A + Z)
    one = decoder(content, style, places)
    other = decoder(content, style, encoder.placed(images.flip(3))[1])
    assert one.shape == images.shape and not torch.allclose(one, other), "the places are used"


def test_small_sizes_leave_scales_out_and_what_has_no_meaning_is_refused(workspace: Workspace) -> None:
    assert len(make(workspace).networks["discriminator"].scales) == 2  # type: ignore[arg-type]  # 32 and 16 px
    for setting in ("guided.neighbour_style=true", "guided.content_dropout=0.5"):
        with pytest.raises(UsageError, match="has no meaning for munit"):
            small(setting, "guided.guidance=attention")


@pytest.mark.parametrize("pooling", ["false", "true"])
def test_it_trains_resumes_bit_for_bit_and_gives_another_picture_for_each_draw(
    workspace: Workspace, tmp_path: Path, pooling: str
) -> None:
    def run(steps: int, resume: bool) -> Path:
        config = small(f"translation.steps={steps}", f"networks.pooling_indices={pooling}")
        return train_translation(workspace, config, attributes_used=USED, device="cpu", resume=resume).run.path

    whole, half = run(4, False), run(2, False)
    assert run(4, True) == half
    a, b = load_file(whole / CHECKPOINT), load_file(half / CHECKPOINT)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    picture = Path(workspace.images("split=test").paths[0])
    rows = translate_images(workspace, [picture], to="+Glasses", samples=2, out=tmp_path / "out", device="cpu")
    first, second = (np.asarray(Image.open(row["path"])) for row in rows)
    assert rows[0]["target"]["Glasses"] == 1 and not np.array_equal(first, second)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """A workspace after stages 1 and 2 of MUNIT with its index filled."""
    from tests.translation.small import filled

    path = tmp_path_factory.mktemp("munit") / "workspace"
    filled(path, drawn)
    with Workspace.open(path) as workspace:
        train_translation(workspace, small(), attributes_used=USED, device="cpu")
        train_retrieval(workspace, small(), device="cpu")
        fill_index(workspace, small(), device="cpu")
    return path


@pytest.fixture
def staged(tmp_path: Path, trained: Path) -> Workspace:
    shutil.copytree(trained, tmp_path / "munit")
    return Workspace.open(tmp_path / "munit")


def test_neighbours_are_of_the_target_domain_and_nearest_in_content(staged: Workspace) -> None:
    with staged as workspace:
        from translation.indexing import open_retriever

        translator = Translator.load(workspace, "r1")
        retriever = open_retriever(workspace, "r2", "cpu")
        assert retriever.style_dim == 0 and not translator.style_tells and direction_of(workspace.run("r1")) is None
        guides = Neighbours(workspace, translator, retriever, k=2)
        table = workspace.images("split=test origin=real")
        pixels = torch.from_numpy(workspace.load(table.ids, 32)).permute(0, 3, 1, 2).float() / 127.5 - 1
        columns = workspace.schema.indices(USED)
        target = np.tile(np.array([[0, 1, 0]], np.int8), (len(table), 1))
        style = translator.sample_style(torch.from_numpy(target))
        found = guides.find(translator.content(pixels), style, table.ids, iter(()), pixels)
        labels = workspace.images(ids=np.unique(found))
        rows = labels.labels[labels.places(found.reshape(-1))][:, columns]
        assert (rows == target[0]).all()
        # A domain with fewer than k images is filled up from the others: nobody goes without.
        rare = translator.sample_style(torch.from_numpy(np.array([[1, 1, 1]], np.int8)))
        more = guides.find(translator.content(pixels[:1]), rare, table.ids[:1], iter(()), pixels[:1])
        assert (more >= 0).all() and len(np.unique(more)) == 2


def test_a_query_is_content_among_images_of_the_labels_that_it_leads_to(staged: Workspace) -> None:
    with staged as workspace:
        retriever = Retriever.open(workspace, encoders=Translator.load(workspace, "r1"))
        table = workspace.images("split=train origin=real -Glasses")
        found = retriever.search(Path(table.paths[0]), edit="+Glasses", k=3)
        assert len(found) and all(one.attributes["Glasses"] == 1 for one in found)
        other = workspace.images("split=train origin=real +Glasses").paths[0]
        made = compose(
            retriever.encoders,
            workspace.load(table.ids[:1], 32)[0],
            edit=retriever.encoders.schema.edit("-Glasses"),
            style_of=workspace.read(other, size=32),
        )
        own = retriever.encoders.style(to_tensor(workspace.read(other, size=32)[None], torch.device("cpu")))
        assert made.target[2] == 0 and torch.equal(made.style[:, A:], own[:, A:]), "an edit leaves the drawn part"


@pytest.mark.parametrize("kind", ["patches", pytest.param("attention", marks=pytest.mark.slow), "convolution"])
def test_it_is_guided_by_each_kind_and_translates(staged: Workspace, tmp_path: Path, kind: str) -> None:
    with staged as workspace:
        more = ["guided.neighbour_start=0"] if kind == "convolution" else []
        result = train_guided(workspace, small(f"guided.guidance={kind}", *more), device="cpu")
        assert result.metrics["neighbour_swap"] >= 0 and result.run.config["retrieval_run"] == "r2"
        picture = Path(workspace.images("split=test").paths[0])
        (row,) = translate_images(workspace, [picture], to="+Glasses", out=tmp_path / "out", device="cpu")
        assert len(row["neighbours"]) == 3
