"""Stage 3 end to end: whose content guides, what is trained and kept, and that it can be used afterwards."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cli.choices import configuration
from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from retrieval.tensors import first_weights, to_tensor
from tests.translation.resume import same_after_a_stop
from tests.translation.small import GROUP, USED, Notes, tiny
from translation import stages
from translation.config import load_config
from translation.evaluation.arms import open_arms
from translation.evaluation.judging import evaluate_translation_runs
from translation.guidance import AttentionFusion, ConvolutionFusion, Guidance, Guide, PatchGuidance, with_pixels
from translation.indexing import fill_index, open_retriever
from translation.inference import translate_images
from translation.methods.gmm_unit import GmmUnit
from translation.neighbours import Guiding, Neighbours
from translation.objectives.style import style_labels
from translation.sampling import LabelSampler
from translation.stages import train_guided, train_retrieval, train_translation
from translation.training.metrics import read_metrics
from translation.training.sessions import StageResult
from translation.training.task import MethodTask
from translation.translator import Translator

EVERYTHING = (
    "guided.guidance=attention",
    "guided.neighbour_start=0.1",
    "guided.fusion_learning_rate=1e-2",
    "guided.neighbour_dropout=0.3",
    "guided.random_k=true",
    "guided.content_dropout=0.3",
    "guided.neighbour_as_real=true",
)
PATCHES = ("guided.guidance=patches", "guided.content_dropout=0")
EXPECTED = {"convolution": ConvolutionFusion, "attention": AttentionFusion, "patches": PatchGuidance}


def guided_task(staged: Workspace, *overrides: str, at_random: bool = False) -> tuple[MethodTask, Translator]:
    config = tiny(*overrides)
    source = Translator.load(staged, "r1")
    retriever = None if at_random else open_retriever(staged, None, "cpu")
    patches = config.guided.guidance == "patches"
    guides = Neighbours(staged, source, retriever, k=config.guided.neighbours, pixels=patches)
    run = staged.run("r1")
    method = first_weights(0, lambda: stages._guided_method(config, source, run, guided=True))
    assert isinstance(method, GmmUnit)
    guiding = Guiding(method, guides, config.guided, fused=True)
    groups = [source.schema.indices(group) for group in source.schema.groups]
    draws = LabelSampler(
        staged,
        USED,
        batch=config.guided.batch,
        seed=0,
        noise=method.noise,
        groups=groups,
        mirror=config.data.mirror,
    )
    parts = {"stage": config.guided, "data": config.data, "training": config.training}
    return MethodTask(staged, source.schema, method, draws, guiding=guiding, **parts), source  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", EXPECTED)
def test_stage_3_starts_as_stage_1_and_keeps_the_encoders_bit_for_bit(staged: Workspace, kind: str) -> None:
    task, source = guided_task(staged, f"guided.guidance={kind}")
    batch = task.prepare(0)
    method, maps = task.method, batch.guides.maps
    assert isinstance(method, GmmUnit) and maps[0].shape == (3, 3, 64 if kind == "patches" else 16, 8, 8)
    assert len(maps) == (1 if kind == "patches" else 2), "another's pixels do not reconstruct one's own"
    content = source.content(batch.images)
    unguided = source.translate(batch.images, content, method.target_style(batch))
    guided = method.generator_input(content, batch)
    raw, mask = method.generate(guided, method.target_style(batch), batch.images)
    assert torch.equal(raw, unguided.raw) and torch.equal(mask, unguided.mask)
    result = train_guided(staged, tiny(f"guided.guidance={kind}"), device="cpu")
    saved, first = load_file(result.run.path / CHECKPOINT), load_file(staged.run("r1").path / CHECKPOINT)
    for name in first:
        if name.startswith(("average.content_encoder", "average.style_encoder")):
            assert torch.equal(saved[name], first[name])
            assert torch.equal(saved[name.replace("average", "networks")], first[name])
    assert not torch.equal(saved["networks.generator.image.weight"], first["average.generator.image.weight"])
    opened = {"convolution": "merge.weight", "attention": "openness", "patches": "painted.bias"}[kind]
    moved = saved[f"networks.fusion.{opened}"]
    assert (moved[:, 16:] if kind == "convolution" else moved).abs().sum() > 0
    model = Translator.load(staged, result.run.id)
    assert isinstance(model.networks["fusion"], EXPECTED[kind]), "the run's own configuration says which"


def test_what_the_step_is_given_is_what_the_encoders_give(staged: Workspace) -> None:
    """Encoded once, for the search and for the step; a step that encodes itself does the same."""
    steps = []
    for encoded in (True, False):
        task, _ = guided_task(staged)
        batch = task.prepare(0)
        assert batch.encoded is not None
        assert isinstance(task.method, GmmUnit)
        content, mean, _ = task.method.encode(batch.images)
        assert torch.equal(batch.encoded[0], content) and torch.equal(batch.encoded[1], mean)
        steps.append(task.engine.run(task.method.step(batch if encoded else replace(batch, encoded=None), 0)))
    assert {k: float(v) for k, v in steps[0].items()} == {k: float(v) for k, v in steps[1].items()}


@pytest.mark.parametrize("options", [EVERYTHING, (*EVERYTHING, *PATCHES)], ids=["attention", "patches"])
def test_a_run_with_every_option_resumes_bit_for_bit(staged: Workspace, options: tuple[str, ...]) -> None:
    def run(steps: int, resume: bool) -> StageResult:
        return train_guided(staged, tiny(*options, f"guided.steps={steps}"), device="cpu", resume=resume)

    rows = read_metrics(same_after_a_stop(run, 12))
    for row in rows:
        assert {"neighbour_gate", "neighbour_swap", "fusion_gradient"} < set(row)
        assert ("neighbour_share" in row) == (options == EVERYTHING)
        assert row["lr/fusion"] == pytest.approx(1e-2) and row["lr/generator"] == pytest.approx(2e-4)


def test_what_a_step_shows_is_drawn_from_seed_and_step(staged: Workspace) -> None:
    task, _ = guided_task(staged, *EVERYTHING)
    again, _ = guided_task(staged, *EVERYTHING)
    seen = []
    for step in range(12):
        batch, same = task.prepare(step), again.prepare(step)
        one, other = batch.guides, same.guides
        assert one.shown is not None and one.hidden is not None
        assert other.shown is not None and other.hidden is not None
        assert torch.equal(one.maps[0], other.maps[0]) and torch.equal(one.shown, other.shown)
        assert torch.equal(one.hidden, other.hidden)
        assert not (one.hidden & ~one.shown[:, None, None, None]).any(), "no neighbours: all of the source"
        assert one.real is not None
        assert one.real[0].shape == batch.images.shape and one.real[1].shape == batch.labels.shape
        seen.append((one.maps[0].shape[1], int(one.shown.sum()), bool(one.hidden.any())))
    assert {k for k, _, _ in seen} == {1, 2, 3}
    assert len({shown for _, shown, _ in seen}) > 1 and any(hidden for *_, hidden in seen)
    plain, _ = guided_task(staged)
    guides = plain.prepare(0).guides
    assert guides.shown is guides.hidden is guides.real is None


# --- whose content -------------------------------------------------------------------------------------------


def test_neighbours_are_other_real_training_images(staged: Workspace) -> None:
    source = Translator.load(staged, "r1")
    allowed = set(staged.images("split=train origin=real|unlabelled").ids.tolist())
    generated = set(staged.images("origin=generated").ids.tolist())
    assert generated and not generated & allowed
    own = staged.images("split=train origin=real").ids[:12]
    images = to_tensor(staged.load(own[:1], 32)).expand(len(own), -1, -1, -1)
    for retriever in (open_retriever(staged, None, "cpu"), None):
        neighbours = Neighbours(staged, source, retriever, k=5)
        found = neighbours.find(source.content(images), source.style(images), own, repeat(np.random.default_rng(0)))
        assert found.shape == (12, 5)
        for image, row in zip(own, found, strict=True):
            assert len(set(row.tolist())) == 5
            assert int(image) not in row and set(row.tolist()) <= allowed


def test_an_images_own_embedding_does_not_find_it(staged: Workspace) -> None:
    """Searching with exactly the vector of x: everything but x comes back, nearest first."""
    source, retriever = Translator.load(staged, "r1"), open_retriever(staged, None, "cpu")
    neighbours = Neighbours(staged, source, retriever, k=3)
    own = neighbours.pool[:4]
    images = to_tensor(staged.load(own, 32))
    content, style = source.content(images), source.style(images)
    found = neighbours.find(content, style, own, repeat(np.random.default_rng(0)))
    assert not (found == own[:, None]).any()
    foreign = neighbours.find(content, style, np.full(4, -1), repeat(np.random.default_rng(0)))
    assert (foreign[:, 0] == own).all(), "asked as a foreign image, x itself is the nearest"


def test_neighbours_are_drawn_from_a_pool_of_the_nearest_by_each_images_own_generator(staged: Workspace) -> None:
    source, retriever = Translator.load(staged, "r1"), open_retriever(staged, None, "cpu")
    images = to_tensor(staged.load(staged.images("split=test").ids[:1], 32)).expand(40, -1, -1, -1)
    asked = source.content(images), source.style(images), np.full(40, -1)

    def found(pool: int) -> NDArray[np.int64]:
        neighbours = Neighbours(staged, source, retriever, k=3, pool=pool)
        return neighbours.find(*asked, [np.random.default_rng(seed) for seed in range(40)])

    nearest = found(0)
    assert (nearest == nearest[0]).all() and np.array_equal(found(3), nearest)
    ten = Neighbours(staged, source, retriever, k=10).find(*asked, repeat(np.random.default_rng(0)))[0].tolist()
    drawn = found(10)
    assert set(drawn.ravel().tolist()) == set(ten), "all of the ten are drawn now and then, and nothing else"
    for row in drawn:
        places = [ten.index(image) for image in row]
        assert places == sorted(set(places)), "different ones, the nearest first"
    assert np.array_equal(drawn, found(10)), "the same seeds, the same neighbours"
    with pytest.raises(UsageError, match="neighbour_pool=2 is too few to draw 3 neighbours from"):
        tiny("guided.neighbour_pool=2")
    everything = Neighbours(staged, source, retriever, k=3, pool=10**6)
    assert everything.find(*asked, repeat(np.random.default_rng(0))).shape == (40, 3), "as many as there are"


def test_an_unlabelled_image_guides_where_it_is_the_nearest(staged: Workspace, tmp_path: Path) -> None:
    """The paper's Table 3: images without labels are no sources and no targets, but neighbours like any other."""
    labelled = staged.images("split=train origin=real")
    image = int(labelled.ids[0])
    pixels = staged.load([image], 32)[0]
    twin = tmp_path / "more" / "twin.png"
    twin.parent.mkdir()
    Image.fromarray(np.clip(pixels.astype(int) + 1, 0, 255).astype(np.uint8)).save(twin)
    assert staged.add_images(twin.parent, origin="unlabelled").added == 1
    near = staged.image_for_path(twin)
    assert near is not None
    fill_index(staged, tiny(), generated=0, device="cpu")
    task, source = guided_task(staged, "guided.neighbour_as_real=true", "data.mirror=false", "guided.batch=8")
    step = next(s for s in range(99) if image in task.draws.draw(s).ids)
    draw, batch = task.draws.draw(step), task.prepare(step)
    place = draw.ids.tolist().index(image)
    guiding = task.guiding
    assert isinstance(guiding, Guiding) and guiding.neighbours is not None
    assert torch.equal(batch.guides.maps[1][place, 0], guiding.neighbours.content(np.array([near]))[0])
    neighbours = Neighbours(staged, source, open_retriever(staged, None, "cpu"), k=1)
    shown, labels = neighbours.real(np.array([near, image]))
    assert (labels[0] == -1).all(), "as a real image for D its labels count as unknown"
    assert labels[1].tolist() == labelled.labels[0, staged.schema.indices(USED)].tolist()
    torch.testing.assert_close(shown, to_tensor(staged.load([near, image], 32)))
    assert near not in LabelSampler(staged, USED, batch=1, seed=0, noise=(0, 0)).ids
    assert near in Neighbours(staged, source, None, k=1).at_random(
        np.repeat(image, 400), repeat(np.random.default_rng(0))
    )


def test_a_quarter_of_the_labels_is_two_adds_of_the_same_folder(tmp_path: Path, drawn: Path) -> None:
    """As the guide says: with the labels that are kept, again as unlabelled, and for the evaluation with all."""
    rows = (drawn / "labelled" / "labels.csv").read_text().splitlines()
    columns = rows[0].split(",")
    split = columns.index("split")
    train = [row for row in rows[1:] if row.split(",")[split] == "train"]
    kept = [row for row in rows[1:] if row not in train or train.index(row) % 4 == 0]
    table = tmp_path / "quarter.csv"
    table.write_text("\n".join([rows[0], *kept]) + "\n")
    with Workspace.ensure(tmp_path / "quarter") as workspace:
        first = workspace.add_images(drawn / "labelled", attributes=table, groups=[GROUP])
        second = workspace.add_images(drawn / "labelled", origin="unlabelled")
        assert first.added == len(kept) and second.added == len(rows) - 1 - len(kept)
        sampler = LabelSampler(workspace, USED, batch=1, seed=0, noise=(0, 0))
        assert len(sampler.ids) == len([row for row in kept if row in train])
        pool = workspace.images("split=train origin=real|unlabelled")
        assert len(pool) == len(train), "all training images can be looked up"
        hidden = pool.select(pool.origin == "unlabelled")
        assert (hidden.labels == -1).all()
        workspace.add_images(drawn / "labelled", attributes=drawn / "labelled" / "labels.csv")
        known = workspace.images(ids=hidden.ids)
        assert (known.labels >= 0).all() and (known.origin == "real").all() and (known.split == "train").all()
        assert len(workspace.images()) == len(rows) - 1, "the same images, by the same ids"


def test_content_maps_are_the_same_from_the_cache_and_without_one(staged: Workspace) -> None:
    source = Translator.load(staged, "r1")
    cached = Neighbours(staged, source, None, k=2)
    uncached = Neighbours(staged, source, None, k=2, cache_mib=0)
    ids = cached.pool[:6].reshape(3, 2)
    cached.content(ids[:1])
    maps = cached.content(ids)
    assert maps.shape == (3, 2, 16, 8, 8)
    assert torch.equal(maps, uncached.content(ids)) and torch.equal(maps, cached.content(ids))


def test_with_pixels_an_image_lies_behind_its_content(staged: Workspace) -> None:
    source = Translator.load(staged, "r1")
    cached = Neighbours(staged, source, None, k=2, pixels=True)
    ids = cached.pool[:4].reshape(2, 2)
    images = to_tensor(staged.load(ids.reshape(-1), 32))
    expected = with_pixels(source.content(images), images).bfloat16().float().view(2, 2, 64, 8, 8)
    assert torch.equal(cached.content(ids), expected) and torch.equal(cached.content(ids), expected), "made, and kept"
    assert torch.equal(Neighbours(staged, source, None, k=2, pixels=True, cache_mib=0).content(ids), expected)


# --- in use --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["guided.fusion=paper", "guided.guidance=attention", "guided.guidance=patches"])
def test_guidance_goes_from_unguided_to_guided(staged: Workspace, option: str) -> None:
    start = () if option == "guided.fusion=paper" else ("guided.neighbour_start=0.5",)
    run = train_guided(staged, tiny(option, *start), device="cpu").run
    model = Translator.load(staged, run.id)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    content, style = model.content(images), model.style_mean(torch.tensor([[1, 0, 0], [0, 1, 1]]))
    neighbours = torch.randn(2, 3, 64 if model.pixels else 16, 8, 8).clamp(-1, 1)

    def image(guidance: float) -> Tensor:
        return model.translate(images, content, style, guide=Guide(neighbours, guidance)).image

    assert torch.equal(image(0.0), model.translate(images, content, style).image)
    fusion = model.networks["fusion"]
    assert isinstance(fusion, Guidance)
    guided = fusion(content, neighbours)
    plain, mask = model.networks["generator"]((content + guided.content) / 2, style)
    half = (plain + fusion.paint(plain, mask, guided, images)) / 2
    raw = model.translate(images, content, style, guide=Guide(neighbours, 0.5)).raw
    torch.testing.assert_close(raw, half, atol=1e-5, rtol=1e-4)
    assert torch.equal(model.translate(images, content, style, guide=Guide(neighbours)).image, image(1.0))
    assert not torch.equal(image(0.0), image(1.0))
    full = image(0.5)
    with torch.autocast("cpu", torch.bfloat16):  # as on a GPU
        content = model.content(images)
        assert (image(0.5) - full).abs().mean() < 0.02


@pytest.mark.parametrize("kind", ["attention", "patches"])
def test_it_translates_with_any_number_of_neighbours(staged: Workspace, drawn: Path, tmp_path: Path, kind: str) -> None:
    picture = drawn / "labelled" / "000001.png"
    flexible = train_guided(staged, tiny(f"guided.guidance={kind}", "guided.neighbours=2"), device="cpu").run.id
    for k, count in ((None, 2), (1, 1), (5, 5)):
        [row] = translate_images(
            staged, [picture], to="+Glasses", k=k, run=flexible, out=tmp_path / str(k), device="cpu"
        )
        assert len(row["neighbours"]) == count
    if kind == "patches":
        return
    fixed = train_guided(staged, tiny("guided.neighbours=2"), device="cpu").run.id
    [row] = translate_images(staged, [picture], to="+Glasses", k=2, run=fixed, out=tmp_path / "fixed", device="cpu")
    assert len(row["neighbours"]) == 2
    for words, how in (
        (f"run {fixed} is guided by exactly 2 neighbours, not 3", {"k": 3, "run": fixed}),
        ("-k must be at least 1", {"k": 0, "run": fixed}),
        ("run r1 was trained without neighbours: leave -k out", {"k": 2, "run": "r1"}),
        ("--guidance is 0: leave -k out", {"k": 2, "run": flexible, "guidance": 0.0}),
    ):
        with pytest.raises(UsageError, match=words) as refused:
            translate_images(staged, [picture], to="+Glasses", out=tmp_path / "no", device="cpu", **how)  # type: ignore[arg-type]
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "no").exists()


def test_without_guidance_neighbours_still_serve_the_discriminator(
    staged: Workspace, drawn: Path, tmp_path: Path
) -> None:
    result = train_guided(staged, tiny("guided.guidance=none", "guided.neighbour_as_real=true"), device="cpu")
    assert not any(name.startswith("networks.fusion") for name in load_file(result.run.path / CHECKPOINT))
    assert Translator.load(staged, result.run.id).neighbours == 0
    picture = drawn / "labelled" / "000001.png"
    [row] = translate_images(staged, [picture], to="+Glasses", run=result.run.id, out=tmp_path, device="cpu")
    assert row["neighbours"] == []
    arms = open_arms(staged, device="cpu").arms
    assert "swapped" not in arms
    source, target = staged.images("split=test").ids[:1], np.array([[0, 1, 1]], np.int8)
    assert arms["guided"].translate(source, target, np.array([3]))[1].shape == (1, 0)


def test_style_alone_guides_too(staged: Workspace, drawn: Path, tmp_path: Path) -> None:
    """Without a fusion: the neighbours' style, asked for by --guidance, and nothing else of them."""
    run = train_guided(staged, tiny("guided.guidance=none", "guided.neighbour_style=true"), device="cpu").run
    model = Translator.load(staged, run.id)
    assert model.neighbours == 3 and "fusion" not in model.networks and model.takes is None
    guides = Neighbours(staged, model, None, k=3)
    ids = guides.pool[:6].reshape(2, 3)
    wanted = model.style_mean(torch.tensor([[1, 0, 0], [0, 1, 1]]))
    content, style = guides.guide(model, ids, wanted)
    assert content is None and torch.equal(model.style_labels(style), model.style_labels(wanted))
    assert torch.equal(guides.guide(model, ids, wanted, 0.0)[1], wanted) and not torch.equal(style, wanted)
    picture = drawn / "labelled" / "000001.png"
    made = [
        translate_images(staged, [picture], out=tmp_path / str(g), to="+Glasses", run=run.id, guidance=g, seed=1)[0]
        for g in (0.0, 1.0)
    ]
    assert made[1]["neighbours"]
    pixels = [np.asarray(Image.open(str(row["path"]))) for row in made]
    assert (pixels[0] != pixels[1]).any()


def style_of(task: MethodTask) -> Tensor:
    """What the first step's translations are to have."""
    assert isinstance(task.method, GmmUnit)
    return task.method.target_style(task.prepare(0))


def test_a_share_of_the_way_to_the_neighbours_style(staged: Workspace) -> None:
    drawn, half, whole = (
        style_of(guided_task(staged, f"guided.neighbour_style={share}")[0]) for share in (0, 0.5, "true")
    )
    torch.testing.assert_close(half, (drawn + whole) / 2)
    assert not torch.equal(drawn, whole)
    run = train_guided(staged, tiny("guided.guidance=none", "guided.neighbour_style=0.5"), device="cpu").run
    model = Translator.load(staged, run.id)
    guides = Neighbours(staged, model, None, k=3)
    ids, wanted = guides.pool[:3].reshape(1, 3), model.style_mean(torch.tensor([[1, 0, 0]]))
    _, used = guides.guide(model, ids, wanted)  # as far in use as in training
    torch.testing.assert_close(used, (wanted + guides.style(ids, wanted)) / 2)


def test_images_that_only_fill_a_batch_change_nothing(staged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU images are encoded in batches of few sizes."""
    source = Translator.load(staged, "r1")
    ids, wanted = np.array([[5, 9], [9, 2]]), source.style_mean(torch.tensor([[1, 0, 0], [0, 1, 0]]))
    plain = Neighbours(staged, source, None, k=2, pixels=True)
    content, style = plain.content(ids), plain.style(ids, wanted)
    whole = Neighbours._images
    monkeypatch.setattr(Neighbours, "_images", lambda self, ids: whole(self, np.resize(ids, 8)))
    filled = Neighbours(staged, source, None, k=2, pixels=True)
    torch.testing.assert_close(filled.content(ids), content)
    torch.testing.assert_close(filled.style(ids, wanted), style)
    assert len(filled._cache) == len(filled._styles) == 3


def test_neighbour_dropout_leaves_the_drawn_style_too(staged: Workspace) -> None:
    task, _ = guided_task(staged, "guided.neighbour_style=true", "guided.neighbour_dropout=1")
    plain, _ = guided_task(staged)
    assert torch.equal(style_of(task), style_of(plain))
    task, _ = guided_task(staged, "guided.neighbour_style=true")
    assert not torch.equal(style_of(task), style_of(plain))
    assert torch.equal(style_labels(style_of(task)), style_labels(style_of(plain)))


def test_a_training_that_fails_says_why_and_is_marked(staged: Workspace) -> None:
    with pytest.raises(RgunitError, match="not finite"):
        train_guided(staged, tiny("guided.learning_rate=1e30", "guided.steps=8"), device="cpu")
    assert staged.runs("guided")[-1].status == "failed"


def test_settings_that_came_later_do_not_keep_a_run_from_being_resumed(staged: Workspace) -> None:
    run = train_guided(staged, tiny("guided.steps=1"), device="cpu").run
    older = {**run.config["config"], "guided": dict(run.config["config"]["guided"])}
    del older["guided"]["neighbour_style"]
    staged.update_run(run.id, config={**run.config, "config": older})
    assert "neighbour_style" not in staged.run(run.id).config["config"]["guided"]
    again = train_guided(staged, tiny("guided.steps=2"), device="cpu", resume=True)
    assert (again.run.id, again.steps) == (run.id, 2)
    with pytest.raises(RgunitError, match=r"neighbour_style: was 0\.0, now 1\.0"):
        train_guided(staged, tiny("guided.steps=3", "guided.neighbour_style=true"), device="cpu", resume=True)


def test_a_judge_that_had_no_time_to_learn_is_told(staged: Workspace) -> None:
    notes = Notes()
    changes = {"classifier_epochs": 100.0, "classifier_minutes": 0.001, "classifier_batch": 8, "diversity_inputs": 0}
    found = evaluate_translation_runs(staged, run="r1", device="cpu", changes=changes, progress=notes).summary
    about = found["classifier"]
    assert 0 < about["steps"] < about["planned_steps"] / 2
    told = f"had time for {about['steps']} of {about['planned_steps']} steps, so its figures are rough"
    assert any(told in note and "--classifier-minutes" in note for note in notes.told)


def test_settings_for_another_size_are_refused_by_later_stages_and_other_networks_are_told(staged: Workspace) -> None:
    paper, told = (
        load_config("paper-celeba-128"),
        r"run r1 translates at 32 px and the settings, preset paper-celeba-128,",
    )
    with pytest.raises(RgunitError, match=told):
        train_retrieval(staged, paper, device="cpu")
    with pytest.raises(RgunitError, match=told):
        train_guided(staged, paper, neighbours="none", device="cpu")
    assert len(staged.runs()) == 2
    notes = Notes()
    others = tiny("networks.width=0.125", "guided.steps=1", "sampling.hops=2")
    done = train_guided(staged, others, neighbours="none", device="cpu", progress=notes)
    assert "as run r1 was trained: networks.width 0.0625, not 0.125" in notes.told
    assert any("perceptual term is off" in note for note in notes.told)
    assert any("sampling.hops is of stage 1" in note for note in notes.told)
    assert done.run.config["config"]["networks"]["width"] == 0.0625


def test_images_that_are_enlarged_are_told(workspace: Workspace) -> None:
    notes, larger = Notes(), tiny("data.size=64", "translation.steps=1")
    train_translation(workspace, larger, attributes_used=USED, device="cpu", progress=notes)
    assert any("of 32 px, are enlarged to 64 px" in note for note in notes.told)


def test_settings_without_a_preset_are_laid_over_those_of_the_run(staged: Workspace) -> None:
    chosen = configuration(staged, None, None, ["guided.steps=7"])
    assert chosen == tiny("guided.steps=7"), "all others are the newest run's"
    assert configuration(staged, "demo", None, ["guided.steps=7"]).networks.width != 0.0625
    other = tiny("guided.steps=1", "translation.batch=5", "guided.weights.kl=0.2")
    train_guided(staged, other, neighbours="none", device="cpu")
    assert configuration(staged, None, None, ["guided.steps=7"]).guided.weights.kl == 0.2
    resumed = configuration(staged, None, None, ["translation.learning_rate=1e-5"], ("translation", None))
    assert resumed == tiny("translation.learning_rate=1e-5"), "of the run that goes on, not of the newest"


def test_images_that_guidance_looks_up_are_not_judged(staged: Workspace, tmp_path: Path) -> None:
    with pytest.raises(RgunitError, match="split train is where guidance looks things up"):
        evaluate_translation_runs(staged, split="train", device="cpu", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_arm_of_fewer_steps_than_there_are_is_another_run(staged: Workspace) -> None:
    """Arms are compared at equal steps, and a run cannot unlearn."""
    long = train_guided(staged, tiny(), neighbours="none", steps=4, device="cpu", resume="auto")
    same = train_guided(staged, tiny(), neighbours="none", steps=4, device="cpu", resume="auto")
    short = train_guided(staged, tiny(), neighbours="none", steps=2, device="cpu", resume="auto")
    assert same.run.id == long.run.id != short.run.id and (long.steps, short.steps) == (4, 2)
