"""Queries and translations of single pictures: a foreign one works like one that is in the workspace."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from index_store.errors import ImageRefused, RgunitError, UsageError
from index_store.workspace import Workspace
from retrieval import Results, Retriever
from tests.translation.small import USED, tiny
from translation import inference, work
from translation.config import load_config
from translation.evaluation.arms import open_arms
from translation.framing import Box, Framing
from translation.inference import translate_images
from translation.progress import Progress
from translation.runs import default_run, default_start
from translation.stages import train_guided, train_translation


@pytest.fixture
def guided(staged: Workspace) -> Workspace:
    """With a guided run, r3."""
    train_guided(staged, tiny(), device="cpu")
    return staged


@pytest.fixture
def inside(drawn: Path) -> Path:
    return drawn / "labelled" / "000001.png"


@pytest.fixture
def foreign(inside: Path, tmp_path: Path) -> Path:
    """Another size, grey with alpha: nothing that the workspace has."""
    path = tmp_path / "foreign.png"
    Image.open(inside).convert("LA").resize((70, 50)).save(path)
    return path


def query(workspace: Workspace, path: Path, **how: object) -> Results:
    return Retriever.open(workspace, device="cpu").search(path, **how)  # type: ignore[arg-type]


@pytest.fixture
def directed(workspace: Workspace) -> Workspace:
    """With one run, of CUT."""
    small = ("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.blocks=2", "data.size=32")
    config = load_config("cut", overrides=[*small, "translation.steps=1", "translation.batch=2"])
    train_translation(workspace, config, attributes_used=("Glasses",), device="cpu")
    return workspace


def pixels(path: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(path))


def test_a_known_picture_keeps_its_labels_and_is_not_its_own_neighbour(guided: Workspace, inside: Path) -> None:
    answer = query(guided, inside, edit="+Glasses", k=100, labels="ignore")
    own = guided.image_for_path(inside)
    assert own is not None
    known = guided.schema.describe(guided.images(ids=[own]).labels[0])
    assert answer.target == {name: known[name] for name in USED} | {"Glasses": 1}
    assert own not in [one.image_id for one in answer]
    assert {one.origin for one in answer} == {"real", "unlabelled"}
    assert len(answer) == 80 + 12 - 1
    distances = [one.distance for one in answer]
    assert distances == sorted(distances)


def test_a_copy_under_another_name_is_recognised_by_its_bytes(guided: Workspace, inside: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    shutil.copy(inside, copy)
    a, b = (query(guided, path, edit="+Glasses", k=5) for path in (inside, copy))
    assert a.neighbours == b.neighbours


def test_a_foreign_picture_works_like_one_inside(guided: Workspace, foreign: Path, tmp_path: Path) -> None:
    answer = query(guided, foreign, edit="+Blond_Hair", k=3)
    assert len(answer) == 3
    assert answer.target["Blond_Hair"] == 1 and answer.target["Black_Hair"] == 0
    assert set(answer.target.values()) <= {0, 1}
    [row] = translate_images(guided, [foreign], to="+Blond_Hair", out=tmp_path / "out", device="cpu")
    assert pixels(row["path"]).shape == (50, 70, 3) == pixels(row["mask"]).shape and row["box"] == [10, 0, 50, 50]
    assert len(row["neighbours"]) == 3 and row["source"] == str(foreign.absolute())


def test_seeds_and_samples(guided: Workspace, inside: Path, tmp_path: Path) -> None:
    def translate(out: str, **how: int) -> list[str]:
        rows = translate_images(guided, [inside], to="-Glasses", out=tmp_path / out, device="cpu", **how)  # type: ignore[arg-type]
        return [row["path"] for row in rows]

    first, again = translate("a", samples=2), translate("b", samples=2)
    assert [Path(path).name for path in first] == ["000001-0.png", "000001-1.png"]
    for one, two in zip(first, again, strict=True):
        assert (pixels(one) == pixels(two)).all()
    assert (pixels(first[0]) != pixels(first[1])).any()
    [alone] = translate("c")
    assert (pixels(alone) == pixels(first[0])).all(), "the first sample does not depend on how many follow"
    [other] = translate("d", seed=1)
    assert (pixels(other) != pixels(alone)).any()


def test_a_second_start_goes_on_where_the_first_stopped(
    guided: Workspace, inside: Path, foreign: Path, tmp_path: Path
) -> None:
    class Stops(Progress):
        def step(self, done: int, total: int, seconds_left: float | None = None) -> None:
            if done == 1:
                raise KeyboardInterrupt

    def translate(progress: Progress | None = None, **how: object) -> list[dict[str, object]]:
        given = {"to": "+Glasses", "samples": 2, "out": tmp_path / "out", "device": "cpu", **how}
        return translate_images(guided, [inside, foreign], progress=progress, **given)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        translate(Stops())
    file = tmp_path / "out" / "translations.csv"
    with file.open("a") as half:
        half.write("/a/half,wri")  # by a kill
    first = [file.stat().st_mtime_ns for file in sorted((tmp_path / "out").glob("000001*.png"))]
    rows = translate()
    assert [row["kept"] for row in rows] == [True, True, False, False]
    assert [file.stat().st_mtime_ns for file in sorted((tmp_path / "out").glob("000001*.png"))] == first
    again = translate()
    assert again == [{**row, "kept": True} for row in rows] and all(row["neighbours"] for row in again)
    with file.open(newline="") as table:
        listed = list(csv.DictReader(table))
    assert [row["picture"] for row in listed] == [row["path"] for row in rows]
    near = json.loads(listed[0]["neighbours"])
    assert [one["distance"] for one in near] == sorted(one["distance"] for one in near) and len(near) == 3
    assert "+Glasses" in listed[0]["target"]
    other = translate(to="-Glasses")
    assert [row["kept"] for row in other] == [False] * 4, "made for another target"
    assert len(list(csv.reader(file.open(newline="")))) == 1 + 4


def test_a_list_that_is_somebody_elses_stays(guided: Workspace, inside: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "translations.csv").write_text("my,own\n")
    with pytest.raises(RgunitError, match="is no list of translations: name another --out"):
        translate_images(guided, [inside], to="+Glasses", out=tmp_path / "out", device="cpu")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["translations.csv"]


def test_a_part_or_all_of_a_picture_passes_and_it_comes_back_whole(
    guided: Workspace, foreign: Path, tmp_path: Path
) -> None:
    source = np.asarray(Image.open(foreign).convert("RGB"))

    def translate(framing: Framing) -> tuple[np.ndarray, object]:  # type: ignore[type-arg]
        [row] = translate_images(guided, [foreign], to="+Glasses", framing=framing, out=tmp_path / "out", device="cpu")
        return pixels(row["path"]), row["box"]

    made, box = translate(Framing(Box(20, 10, 32, 32)))
    changed = (made != source).any(axis=2)
    assert box == [20, 10, 32, 32] and made.shape == source.shape and changed[10:42, 20:52].any()
    changed[10:42, 20:52] = False
    assert not changed.any(), "what is cut away is as it was"
    made, box = translate(Framing(fit=True))
    assert box is None and made.shape == source.shape and (made != source).any(axis=2).mean() > 0.9
    with pytest.raises(ImageRefused, match=r"--box 50,10,32,32 lies outside of its 70 x 50"):
        translate(Framing(Box(50, 10, 32, 32)))
    with pytest.raises(UsageError, match="give one of them"):
        translate(Framing(Box(0, 0, 32, 32), fit=True))


def test_a_seed_decides_a_translation_by_the_picture_and_not_by_its_place(
    guided: Workspace, inside: Path, foreign: Path, tmp_path: Path
) -> None:
    def translate(out: str, *paths: Path) -> list[str]:
        return [row["path"] for row in translate_images(guided, paths, to="+Glasses", out=tmp_path / out, device="cpu")]

    [alone] = translate("alone", inside)
    second, first = (translate(out, *paths) for out, paths in (("b", (foreign, inside)), ("a", (inside, foreign))))
    assert (pixels(alone) == pixels(second[1])).all() and (pixels(alone) == pixels(first[0])).all()
    shutil.copy(inside, tmp_path / "renamed.png")
    [renamed] = translate("renamed", tmp_path / "renamed.png")
    assert (pixels(renamed) == pixels(alone)).all()


def test_a_translation_overwrites_only_what_was_made_of_the_same_picture(
    guided: Workspace, inside: Path, foreign: Path, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    (album / "more").mkdir(parents=True)
    for name, source in (
        ("me.png", inside),
        ("me-0.png", foreign),
        ("me-2-0-mask.png", foreign),
        ("more/me.png", foreign),
    ):
        shutil.copy(source, album / name)
    before = {file: file.read_bytes() for file in album.rglob("*.png")}

    def translate(*names: str) -> list[str]:
        rows = translate_images(guided, [album / name for name in names], to="+Glasses", out=album, device="cpu")
        return [Path(row["path"]).name for row in rows]

    assert translate("me.png", "me-0.png") == ["me-3-0.png", "me-0-0.png"]
    assert translate("me.png") == ["me-3-0.png"]  # its own, made again
    assert translate("more/me.png") == ["me-4-0.png"]  # another picture of that name
    assert translate("me.png", "me-3-0.png")[0] == "me-5-0.png"  # an earlier result that is an input now stays
    assert all(file.read_bytes() == data for file, data in before.items())


def test_style_of_takes_that_pictures_labels(guided: Workspace, inside: Path, drawn: Path, tmp_path: Path) -> None:
    table = guided.images("origin=real")
    columns = guided.schema.indices(USED)
    mine = table.labels[table.ids == guided.image_for_path(inside)][0, columns]
    row = int(np.flatnonzero((table.labels[:, columns] != mine).any(axis=1))[0])
    other = Path(table.paths[row])
    answer = query(guided, inside, style_of=other, k=2)
    assert list(answer.target.values()) == table.labels[row, columns].tolist()
    [made] = translate_images(guided, [inside], style_of=other, out=tmp_path, device="cpu")
    assert made["target"] == answer.target
    both = query(guided, inside, style_of=other, edit="+Glasses", k=2)
    assert both.target == answer.target | {"Glasses": 1}


def test_pictures_of_one_name_do_not_overwrite_each_other(guided: Workspace, inside: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(inside, tmp_path / "more" / inside.name)
    paths = [inside, tmp_path / "more" / inside.name]
    rows = translate_images(guided, paths, to="+Glasses", out=tmp_path / "out", device="cpu")
    assert len({row["path"] for row in rows} | {row["mask"] for row in rows}) == 4


def test_guidance_of_zero_needs_no_neighbours(guided: Workspace, inside: Path, tmp_path: Path) -> None:
    [row] = translate_images(guided, [inside], to="+Glasses", guidance=0.0, out=tmp_path, device="cpu")
    assert row["neighbours"] == []


def test_unguided_and_random_runs_translate_too(staged: Workspace, inside: Path, tmp_path: Path) -> None:
    for arm, count in (("none", 0), ("random", 2)):
        run = train_guided(staged, tiny("guided.neighbours=2"), neighbours=arm, device="cpu").run  # type: ignore[arg-type]
        out = tmp_path / arm
        [row] = translate_images(staged, [inside], to="+Glasses", run=run.id, out=out, device="cpu")
        assert len(row["neighbours"]) == count
    assert default_run(staged).id == "r1", "by default neither of the control arms is used"


def test_arms_use_as_many_neighbours_as_they_were_trained_with(staged: Workspace) -> None:
    """Stage 1's own configuration says three."""
    for arm in ("retrieved", "random", "none"):
        train_guided(staged, tiny("guided.neighbours=2"), neighbours=arm, device="cpu")  # type: ignore[arg-type]
    found = open_arms(staged, device="cpu")
    assert set(found.arms) == {"stage1", "probe", "guided", "random", "unguided", "swapped"}
    source = staged.images("split=test").ids[:2]
    target, seeds = np.array([[1, 0, 0], [0, 1, 1]], np.int8), np.array([5, 6])
    ids = {
        name: arm.translate(source, target, seeds)[1].shape[1] for name, arm in found.arms.items() if name != "probe"
    }
    assert ids == {"stage1": 0, "guided": 2, "random": 2, "unguided": 0, "swapped": 2}
    assert found.top_hit(source, target, seeds).shape == (2,)


def test_what_cannot_be_done_is_said_in_one_line(guided: Workspace, inside: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def translate(**how: object) -> None:
        translate_images(guided, [inside], out=out, device="cpu", **how)  # type: ignore[arg-type]

    for error, words, how in (
        (UsageError, "needs an edit", {}),
        (UsageError, "--samples must be at least 1", {"to": "+Glasses", "samples": 0}),
        (UsageError, "--samples must be 1", {"style_of": inside, "samples": 2}),
        (UsageError, "--guidance must lie in", {"to": "+Glasses", "guidance": 1.5}),
        (UsageError, "Glasses", {"to": "+Glases"}),
        (UsageError, "", {"to": "+Glasses -Glasses"}),
        (RgunitError, "without neighbours", {"to": "+Glasses", "run": "r1", "guidance": 0.5}),
        (RgunitError, "stage retrieval", {"to": "+Glasses", "run": "r2"}),
        (RgunitError, "r9", {"to": "+Glasses", "run": "r9"}),
    ):
        with pytest.raises(RgunitError) as refused:
            translate(**how)
        assert words in str(refused.value) and "\n" not in str(refused.value)
        if words != "Glasses":
            assert isinstance(refused.value, error)
    with pytest.raises(RgunitError):
        translate_images(guided, [inside, tmp_path / "missing.png"], to="+Glasses", out=out, device="cpu")
    assert not out.exists() or not list(out.iterdir()), "nothing is written before all pictures are read"


def test_without_a_translator_the_remedy_is_named(workspace: Workspace, inside: Path, tmp_path: Path) -> None:
    with pytest.raises(RgunitError, match="rgunit"):
        translate_images(workspace, [inside], to="+Glasses", out=tmp_path / "out", device="cpu")


def test_the_newest_run_is_of_the_method_trained_last(staged: Workspace) -> None:
    """A later CUT comes before an older guided GMM-UNIT; a further step of GMM-UNIT brings that back."""
    guided = train_guided(staged, tiny(), device="cpu").run
    assert default_run(staged).id == guided.id and default_start(staged).id == "r1"
    small = ("networks.width=0.0625", "networks.discriminator_width=0.0625", "networks.blocks=2", "data.size=32")
    config = load_config("cut", overrides=[*small, "translation.steps=1", "translation.batch=2"])
    cut = train_translation(staged, config, attributes_used=("Glasses",), device="cpu").run
    assert default_run(staged).id == cut.id == default_start(staged).id
    again = train_guided(staged, tiny(), translation_run="r1", device="cpu").run
    assert default_run(staged).id == again.id and default_start(staged).id == "r1"


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "1", "I;16", "P"])
def test_without_a_style_a_picture_comes_back_in_its_own_size(directed: Workspace, tmp_path: Path, mode: str) -> None:
    """Of any mode, as RGB; in tiles as whole."""
    ramp = np.add.outer(np.arange(101), np.arange(123)).astype(np.uint16)
    picture = Image.fromarray(ramp * 290) if mode == "I;16" else Image.fromarray(ramp.astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "grey.png")
    names = {"whole": {}, "tiled": {"max_pixels": 9216}, "small": {"size": 20}}
    made = {}
    for name, how in names.items():
        rows = translate_images(directed, [tmp_path / "grey.png"], out=tmp_path / name, device="cpu", **how)
        made[name] = Image.open(rows[0]["path"])
        assert made[name].mode == "RGB" and rows[0]["target"] == {"Glasses": 1} and rows[0]["mask"] is None
    assert made["whole"].size == made["tiled"].size == (123, 101) and made["small"].size == (24, 20)
    whole, tiled = (np.asarray(made[name]).astype(int) for name in ("whole", "tiled"))
    assert np.abs(whole - tiled).max() <= 2


def test_a_folder_is_read_one_picture_at_a_time(
    directed: Workspace, inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is decoded once and written before the next is; what is none takes no name and is told."""
    folder, out, log = tmp_path / "in", tmp_path / "in" / "out", list[str]()
    for name in ("a/one.png", "one.png", "two.png", ".hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(inside, folder / name)
    (folder / "one.csv").write_text("no picture")
    (folder / "a" / "loop").symlink_to(folder, target_is_directory=True)

    def watch(place: ModuleType, what: str) -> None:
        original = getattr(place, what)

        def watched(path: Path, *rest: object, **named: object) -> object:
            log.append(f"{what[0]} {path.name}")
            return original(path, *rest, **named)

        monkeypatch.setattr(place, what, watched)

    watch(work, "read_image")
    watch(inference, "write_image")
    rejected: list[str] = []
    for seed in range(2):  # what lies in `out` is not translated
        log.clear()
        rows = translate_images(
            directed,
            [folder],
            out=out,
            seed=seed,
            device="cpu",
            reject=lambda path, reason: rejected.append(f"{path.name} {reason}"),
        )
    assert [Path(row["path"]).relative_to(out).as_posix() for row in rows] == ["one-0.png", "two-0.png", "a/one-0.png"]
    assert log == ["r one.csv", "r one.png", "w one-0.png", "r two.png", "w two-0.png", "r one.png", "w one-0.png"]
    assert len(rejected) == 2 and "one.csv" in rejected[0] and "not an image" in rejected[0]


def test_named_files_are_refused_before_anything_is_written(directed: Workspace, inside: Path, tmp_path: Path) -> None:
    damaged, small, out = tmp_path / "damaged.png", tmp_path / "small.png", tmp_path / "out"
    damaged.write_bytes(inside.read_bytes()[:-300])
    Image.new("RGB", (12, 40)).save(small)
    for file, said in ((damaged, "damaged"), (small, "12 x 40 is too small"), (tmp_path / "missing.png", "cannot be")):
        for paths in ([file], [inside, file]):
            with pytest.raises(RgunitError, match=said) as refused:
                translate_images(directed, paths, out=out, device="cpu")
            assert file.name in str(refused.value) and not out.exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "text").write_text("no picture")
    for folder in ("empty", "none"):
        with pytest.raises(RgunitError, match="holds no image that can be read"):
            translate_images(directed, [tmp_path / folder], out=out, device="cpu")
    with pytest.raises(UsageError, match="name another"):
        translate_images(directed, [tmp_path], out=tmp_path, device="cpu")


def test_an_output_never_overwrites_a_picture_that_is_translated(
    directed: Workspace, inside: Path, tmp_path: Path
) -> None:
    me, other = tmp_path / "me.png", tmp_path / "me-0.png"
    shutil.copy(inside, me)
    shutil.copy(inside, other)
    rows = translate_images(directed, [me, other], out=tmp_path, device="cpu")
    assert [Path(row["path"]).name for row in rows] == ["me-2-0.png", "me-0-0.png"]
    assert other.read_bytes() == inside.read_bytes()


def test_sizes_are_for_runs_without_a_style(guided: Workspace, inside: Path, tmp_path: Path) -> None:
    for how in ({"size": 40}, {"max_pixels": 10_000}):
        with pytest.raises(UsageError, match=r"run r3 \(gmm_unit\) translates squares of 32 pixels.*leave it out"):
            translate_images(guided, [inside], to="+Glasses", out=tmp_path / "out", device="cpu", **how)  # type: ignore[arg-type]


def test_sizes_that_cannot_be_meant_are_refused(directed: Workspace, inside: Path, tmp_path: Path) -> None:
    for how, said in (({"size": 15}, "at least 16"), ({"max_pixels": 9000}, "at least 9216 for run r1, not 9000")):
        with pytest.raises(UsageError, match=said):
            translate_images(directed, [inside], out=tmp_path / "out", device="cpu", **how)  # type: ignore[arg-type]
    with pytest.raises(RgunitError, match=r"1\.png: --size 9000 would make it 9000 x 9000, and at most 64 mega"):
        translate_images(directed, [inside], size=9000, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
