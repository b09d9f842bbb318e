"""The semantic extractor: the narrowest width, from a run to features; what methods hold; neighbours that agree."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from retrieval.tensors import to_tensor
from tests.translation.small import TINY, USED, Notes, filled, tiny
from translation.agreement import check_agreed, open_agreement
from translation.config import Config, load_config
from translation.evaluation.protocol import people_of
from translation.extractor import ExtractorTask, extractor_of, open_extractor
from translation.inference import translate_images
from translation.neighbours import Neighbours
from translation.objectives import semantic
from translation.stages import train_extractor, train_guided, train_translation
from translation.translator import Translator

EXTRACTOR = ("extractor.steps=40", "extractor.widths=[1,4]", "extractor.network_width=0.25", "extractor.batch=16")


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """The template with an extractor of hats, r3."""
    path = tmp_path_factory.mktemp("extractor") / "workspace"
    shutil.copytree(template, path)
    with Workspace.open(path) as workspace:
        train_extractor(workspace, tiny(*EXTRACTOR), protect="Bright_Background", device="cpu")
    return path


@pytest.fixture
def having(tmp_path: Path, read: Path) -> Iterator[Workspace]:
    shutil.copytree(read, tmp_path / "having")
    with Workspace.open(tmp_path / "having") as workspace:
        yield workspace


def test_the_term_is_a_mean_of_absolute_differences_without_gradient_to_the_source() -> None:
    source = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
    made = torch.tensor([[[[0.0, 5.0]]]], requires_grad=True)
    term = semantic(source, made)
    assert term.item() == pytest.approx(2.0)
    term.backward()  # type: ignore[no-untyped-call]
    assert source.grad is None and made.grad is not None and made.grad.tolist() == [[[[-0.5, 0.5]]]]


def test_it_reads_its_attribute_and_keeps_the_narrowest_width_that_does(having: Workspace) -> None:
    run = having.run("r3")
    assert (run.stage, run.config["protect"]) == ("extractor", "Bright_Background")
    curve = {point["width"]: point["accuracy"] for point in run.summary["curve"]}
    assert list(curve) == [1, 4] and run.summary["width"] == min(
        w for w in curve if curve[w] >= max(curve.values()) - 0.01
    )
    found = open_extractor(having, "", 32, "cpu")
    table = having.images("split=test origin=real")
    images = to_tensor(having.load(table.ids, 32), torch.device("cpu")).requires_grad_()
    right = found.bits(images) == table.labels[:, having.schema.index("Bright_Background")]
    assert right.mean() > 0.9, "a background is easily told"
    features = found(images)
    assert features.shape == (len(table), run.summary["width"], 4, 4) and 0.3 < float(features.detach().std()) < 3
    features.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert not any(weight.requires_grad for weight in found.network.parameters())


def test_it_resumes_bit_for_bit_and_judges_by_images_it_did_not_learn(workspace: Workspace) -> None:
    def run(steps: int, resume: bool) -> Path:
        config = tiny("extractor.steps=4", "extractor.widths=[2]", "extractor.network_width=0.125")
        if steps == 2:  # ended early
            task = ExtractorTask(workspace, config, "Beard")
            assert not set(task.aside) & {int(i) for ids in task.by_value for i in ids}
        return train_extractor(workspace, config, protect="Beard", device="cpu", resume=resume).run.path

    whole = run(4, False)
    again = run(2, False)
    a, b = load_file(whole / CHECKPOINT), load_file(again / CHECKPOINT)
    assert [name for name in a if not torch.equal(a[name], b[name])] == [], "a run depends on the seed alone"


def test_what_cannot_be_read_is_told(having: Workspace, workspace: Workspace) -> None:
    with pytest.raises(RgunitError, match="there is none: `rgunit train extractor --protect NAME`"):
        train_translation(workspace, tiny("semantic.weight=1"), attributes_used=USED, device="cpu")
    assert workspace.runs() == [], "nothing half-made"
    with pytest.raises(RgunitError, match="is of stage translation, not an extractor"):
        open_extractor(having, "r1", 32, "cpu")
    with pytest.raises(RgunitError, match="reads images of 32 px"):
        open_extractor(having, "r3", 64, "cpu")
    with pytest.raises(UsageError, match="holds nothing without a weight"):
        tiny("semantic.extractor=r3")
    with pytest.raises(UsageError, match=r"guided\.agree is not for init"):
        load_config("init", overrides=["guided.agree=['Beard']"])
    with pytest.raises(UsageError, match=r"semantic\.weight is not for single_image"):
        load_config("single-image", overrides=["semantic.weight=1"])
    with pytest.raises(UsageError, match="widths are different numbers"):
        tiny("extractor.widths=[0,2]")


def test_what_translation_changes_cannot_be_held(having: Workspace) -> None:
    runs = len(having.runs())
    having.update_run("r3", config={**having.run("r3").config, "protect": USED[0]})
    told = r"semantic\.weight would hold .*, an attribute in use, .*: leave it out of --attributes-used"
    with pytest.raises(UsageError, match=told):
        train_translation(having, tiny("semantic.weight=1"), attributes_used=USED, device="cpu")
    with pytest.raises(UsageError, match=told):
        train_guided(having, tiny("semantic.weight=1"), device="cpu")
    assert len(having.runs()) == runs, "nothing half-made"


METHODS: dict[str, tuple[str, ...]] = {
    "gmm_unit": ("translation.warmup=0",),
    "cut": ("networks.blocks=1", "networks.projection=8", "translation.patches=8"),
    "munit": (),
    "init": ("networks.blocks=1",),
    "sdit": ("networks.encoder_blocks=1", "networks.generator_blocks=1", "translation.critic_steps=1"),
}


def method_config(method: str, *more: str) -> Config:
    known = [
        one
        for one in TINY
        if one.startswith(("training", "networks.width", "networks.discriminator_width", "translation.batch"))
    ]
    return load_config("demo", method=method, overrides=[*known, *METHODS[method], "translation.steps=2", *more])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_holds_the_features(having: Workspace, method: str) -> None:
    config = method_config(method, "semantic.weight=2")
    result = train_translation(having, config, attributes_used=USED, device="cpu")
    assert result.metrics["generator/semantic"] > 0
    assert result.run.config["config"]["semantic"] == {"extractor": "r3", "weight": 2.0}, "the run that it refers to"


def test_neighbours_agree_with_the_sources_label_else_with_what_is_read(having: Workspace, tmp_path: Path) -> None:
    config = tiny("guided.agree=['Bright_Background']", "guided.guidance=patches")
    agreement = open_agreement(having, config, "cpu")
    assert agreement is not None and agreement.runs == ("r3",)
    column = having.schema.index("Bright_Background")
    table = having.images("split=test origin=real")
    images = to_tensor(having.load(table.ids, 32), torch.device("cpu"))
    assert (agreement.bits(table.ids, None)[:, 0] == table.labels[:, column]).all()
    read = agreement.bits(np.full(len(table), -1), images)[:, 0]
    assert (read == table.labels[:, column]).mean() > 0.9, "of a foreign picture the extractor's reading"

    result = train_guided(having, config, device="cpu")
    assert result.run.config["agreement_runs"] == ["r3"]
    translator = Translator.load(having, result.run.id)
    for retriever in (None, "r2"):
        from translation.indexing import open_retriever

        found_by = None if retriever is None else open_retriever(having, retriever, "cpu")
        guides = Neighbours(having, translator, found_by, k=3, agreement=agreement)
        style = translator.sample_style(torch.zeros(len(table), 3, dtype=torch.int8), torch.Generator().manual_seed(0))
        rngs = (np.random.default_rng(i) for i in range(len(table)))
        ids = guides.find(translator.content(images), style, table.ids, rngs, images)
        theirs = having.images(ids=np.unique(ids))
        labels = theirs.labels[theirs.places(ids.reshape(-1)), column].reshape(ids.shape)
        assert (labels == table.labels[:, column, None]).all()
    (row,) = translate_images(
        having, [Path(table.paths[0])], to="+Glasses", run=result.run.id, out=tmp_path / "out", device="cpu"
    )
    ids = np.array([one["image_id"] for one in row["neighbours"]])
    theirs = having.images(ids=np.unique(ids))
    assert (theirs.labels[:, column] == table.labels[0, column]).all()


def test_agreement_that_nothing_can_tell_is_refused(having: Workspace) -> None:
    agreement = open_agreement(having, tiny("guided.agree=['Smiling']"), "cpu")
    assert agreement is not None and extractor_of(having, "Smiling", 32, "cpu") is None
    with pytest.raises(RgunitError, match="no extractor reads it: `rgunit train extractor --protect Smiling`"):
        agreement.bits(np.array([-1]), torch.zeros(1, 3, 32, 32))
    with pytest.raises(RgunitError, match=r"training images are known to be .*Smiling"):
        agreement.require(agreement.agreeing(having.images("split=train").ids, np.array([1], np.int8)), 3)
    with pytest.raises(UsageError, match="which translation changes"):
        check_agreed(["Glasses"], having.schema.subset(USED))


def labelled(path: Path, drawn: Path, people: list[str]) -> None:
    """A workspace of 24 training images, half with A; the i-th of each half shows the person people[i % n]."""
    pictures = sorted((drawn / "labelled").glob("*.png"))[:24]
    folder = path.with_name("few")
    folder.mkdir()
    lines = ["image,A,identity"]
    for i, picture in enumerate(pictures):
        shutil.copy(picture, folder)
        lines.append(f"{picture.name},{i % 2},{people[i // 2 % len(people)]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    with Workspace.create(path) as workspace:
        workspace.add_images(folder, attributes=folder / "labels.csv", split="train")


@pytest.mark.parametrize("people", [["one", "two"], ["one", "two", "three"], [""]])
def test_few_people_are_on_both_sides_whatever_the_seed(tmp_path: Path, drawn: Path, people: list[str]) -> None:
    labelled(tmp_path / "workspace", drawn, people)
    with Workspace.open(tmp_path / "workspace") as workspace:
        who = dict(zip((table := workspace.images()).ids.tolist(), people_of(table), strict=True))
        for seed in range(20):
            task = ExtractorTask(workspace, tiny(*EXTRACTOR), "A", seed=seed)
            assert all(len(ids) for ids in task.by_value) and set(task.aside_bits) == {0, 1}
            learned = {who[int(i)] for ids in task.by_value for i in ids}
            assert learned and not learned & {who[int(i)] for i in task.aside}


def test_what_reads_no_better_than_chance_is_told_then_and_in_use(tmp_path: Path, drawn: Path) -> None:
    labelled(tmp_path / "workspace", drawn, [""])  # every second picture has A: there is nothing to read
    with Workspace.open(tmp_path / "workspace") as workspace:
        trained, used = Notes(), Notes()
        config = tiny(*EXTRACTOR, "extractor.steps=2")
        run = train_extractor(workspace, config, protect="A", device="cpu", progress=trained).run
        open_extractor(workspace, "", 32, "cpu", used)
        assert run.summary["doubt"] in trained.told[-1] and used.told == [trained.told[-1]]
        assert re.match(r"the extractor of A, run r1, reads no better than chance: .*extractor\.steps", used.told[0])


def test_images_of_one_person_are_refused(tmp_path: Path, drawn: Path) -> None:
    labelled(tmp_path / "workspace", drawn, ["one"])
    with (
        Workspace.open(tmp_path / "workspace") as workspace,
        pytest.raises(RgunitError, match="of one person: add"),
    ):
        ExtractorTask(workspace, tiny(*EXTRACTOR), "A")


def test_too_few_images_of_one_kind_are_told(tmp_path: Path, drawn: Path) -> None:
    filled(tmp_path / "few", drawn)
    with Workspace.open(tmp_path / "few") as workspace:
        table = workspace.images("split=train origin=real +Beard")
        workspace.store().remove(table.ids[5:])
        with pytest.raises(RgunitError, match=r"an extractor of Beard needs 10 training images or more .* have it"):
            train_extractor(workspace, tiny(*EXTRACTOR), protect="Beard", device="cpu")
