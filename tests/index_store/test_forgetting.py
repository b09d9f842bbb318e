"""Forgotten pictures leave nothing in the workspace, and a killed call is ended by the same one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index_store import traces
from index_store.errors import RgunitError
from index_store.images import write_image
from index_store.learned import keep_learned
from index_store.workspace import GeneratedImage, Workspace

processes = multiprocessing.get_context("forkserver")
STEPS = ("noted", "rename", "commit", "removed", "swept", "compacted", "erased")
WHO = "somebody nobody else is"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six pictures of the workspace's own with who they show, vectors, two generated ones (5 -> 7 -> 8), and lists."""
    path = tmp_path / "w"
    rng = np.random.default_rng(0)
    with Workspace.create(path) as workspace:
        own = path / "images" / "own"
        own.mkdir()
        lines = ["image,Glasses,identity"]
        for number in range(6):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(own / f"é{number}.png")
            lines.append(f"é{number}.png,{number % 2},{WHO if number == 4 else 'one of many'}")
        (own / "labels.csv").write_text("\n".join(lines) + "\n")
        workspace.add_images(own, attributes=own / "labels.csv")
        target = np.array([1], np.int8)
        made = [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(2)]
        run = workspace.add_run("translation", "demo", {"config": {}})
        first = workspace.add_generated([GeneratedImage(made[0], 5, target, run.id)])
        workspace.add_generated([GeneratedImage(made[1], int(first[0]), target, run.id)])
        ids = workspace.images().ids
        workspace.put_vectors(ids, rng.normal(size=(len(ids), 12)), encoder="r2", fingerprint="a")
        (run.path / "checkpoint.safetensors").write_bytes(bytes(16))
        keep_learned(run.path, [1, 2, 5])
        write_image(run.path / "samples" / "000002.png", made[0], shows=[5])
        write_image(run.path / "samples" / "000004.png", made[0], shows=[1])
        (run.path / "pairs-test-9-0.jsonl").write_text(
            f'{{"half": "A", "source": 5, "person": "{WHO}"}}\n'
            '{"half": "A", "source": 2}\n{"half": "B", "image": 1}\n'
        )
        (path / "report.html").write_text("<img src='data:image/png'>")
        (path / "cache" / "pools").mkdir()
        (path / "cache" / "pools" / "x.npy").write_bytes(b"x")
    return path


def forget(path: Path, stop_at: str) -> None:
    with Workspace.open(path) as workspace:
        workspace.catalog.step = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == stop_at else None
        workspace.forget(ids=[5])


def holding(path: Path, secrets: list[bytes]) -> list[str]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return [file.name for file in files if any(secret in file.read_bytes() for secret in secrets)]


def secrets_of(path: Path) -> list[bytes]:
    with Workspace.open(path) as workspace:
        table, store = workspace.images(ids=[5, 7, 8]), workspace.store()
        places = [Path(one) for one in table.paths]
        names = ["é4.png".encode(), b"\\u00e94.png", *(place.name.encode() for place in places[1:])]
        vectors = [row.tobytes() for row in store.vectors([5, 7, 8], encoder="r2")]
        return [*(place.read_bytes() for place in places), *names, *vectors, WHO.encode()]


def test_nothing_of_it_is_left(path: Path) -> None:
    secrets = secrets_of(path)
    assert set(holding(path, secrets)) >= {"labels.csv", "pairs-test-9-0.jsonl", "é4.png"}
    with Workspace.open(path) as workspace:
        planned = workspace.forget(ids=[5], dry_run=True)
        assert len(workspace.images()) == 8 and (path / "report.html").exists()
        done = workspace.forget(ids=[5])
        assert (done.deleted, done.rewritten) == (planned.deleted, planned.rewritten)
        assert (done.removed, done.generated, done.learned, done.left, done.unsure) == (3, 2, ["r1"], [], [])
        assert "runs/r1-translation/samples/000002.png" in done.deleted and "cache/pools" in done.deleted
        assert (path / "runs/r1-translation/samples/000004.png").exists()
        assert np.load(path / "runs/r1-translation/learned.npy").tolist() == [1, 2]
        assert workspace.images().ids.tolist() == [1, 2, 3, 4, 6] and workspace.forgotten() == 1
        assert workspace.store().verify().ok and not workspace.check_images(every=True)
        assert len(workspace.store().search(np.zeros(12), k=9, encoder="r2").ids[0].nonzero()[0]) == 9
    assert holding(path, secrets) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_call_is_ended_by_the_same_one(path: Path, step: str) -> None:
    secrets = secrets_of(path)
    process = processes.Process(target=forget, args=(path, step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with Workspace.open(path) as workspace:
        noted = (path / "forgetting.json").exists()
        assert any("forgetting.json" in line for line in workspace.store().verify().problems) == noted
        done = workspace.forget(ids=[5])
        assert (done.removed, done.generated, done.learned) == (3, 2, ["r1"])
        assert workspace.store().verify().ok and workspace.images().ids.tolist() == [1, 2, 3, 4, 6]
    assert holding(path, secrets) == []


def test_what_is_not_the_workspaces_own_stays_and_is_told(tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    Image.new("RGB", (16, 16), "red").save(outside / "a.png")
    with Workspace.create(tmp_path / "w") as workspace:
        workspace.add_images(outside, origin="unlabelled")
        run = workspace.add_run("translation", "demo", {"config": {"source": str(outside / "a.png")}})
        (run.path / "checkpoint.safetensors").write_bytes(bytes(16))
        with pytest.raises(RgunitError, match="r1 is being trained, perhaps on them"):
            workspace.forget("split=train")
        workspace.update_run(run.id, status="done")
        Image.new("RGB", (16, 16)).save(tmp_path / "w" / "drawn by the user.png")
        (tmp_path / "w" / "found.csv.writing").touch()
        done = workspace.forget("split=train")
        assert done.outside == [str(outside / "a.png")] and (outside / "a.png").exists()
        assert done.learned == ["r1"]  # it does not say what it learned from
        assert done.left == ["runs/r1-translation/run.json"] and done.unsure == [
            "drawn by the user.png",
            "found.csv.writing",
        ]
        assert workspace.forget().removed == 0


def test_a_list_says_what_was_made_until_that_is_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, own = path / "out", path / "images" / "own"
    out.mkdir()
    for name in ("guided.png", "other.png"):
        Image.new("RGB", (8, 8)).save(out / name)
    near = '"[{""image_id"": 5}]"'
    (out / "translations.csv").write_text(
        f"source,target,picture,mask,neighbours\n/a.png,,{out}/guided.png,,{near}\n/b.png,,{out}/other.png,,\n"
    )
    (path / "images" / "translations.csv").write_text(  # would have another image of the workspace deleted
        f"source,target,picture,mask,neighbours\n{own}/é4.png,,{own}/é1.png,,\n"
    )
    with Workspace.open(path) as workspace:
        with monkeypatch.context() as patched:
            patched.setattr(traces, "_replace", lambda file, text: (_ for _ in ()).throw(OSError(28, "no space")))
            with pytest.raises(OSError):
                workspace.forget(ids=[5])
        done = workspace.forget(ids=[5])
    assert not (out / "guided.png").exists() and (out / "other.png").exists() and (own / "é1.png").exists()
    assert "guided" not in (out / "translations.csv").read_text() and "other" in (out / "translations.csv").read_text()
    assert done.unsure == ["out"]  # nobody notes what the other one shows


def test_a_damaged_workspace_is_refused_unchanged(path: Path) -> None:
    shard = min((path / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with Workspace.open(path) as workspace, pytest.raises(RgunitError, match=r"index rebuild.*nothing was forgotten"):
        workspace.forget(ids=[5])
    assert not (path / "forgetting.json").exists() and (path / "report.html").exists()


def test_what_lies_behind_a_link_and_lists_of_others_stay(path: Path, tmp_path: Path) -> None:
    disk, own, mine = tmp_path / "disk", path / "images" / "own", path / "mine"
    for folder in (disk, mine, path / "out"):
        folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(disk / "made.png")
    Image.new("RGB", (16, 16), "blue").save(mine / "holiday.png")
    (mine / "manifest.jsonl").write_text('{"path": "holiday.png", "text": "the sea"}\n')
    (path / "elsewhere").symlink_to(disk)
    (path / "packed.zip").write_bytes(b"PK")
    (path / "out" / "far").symlink_to(disk)
    (path / "out" / "near").symlink_to(own)
    rows = "".join(f"{own / 'é4.png'},+Glasses,{name},,\n" for name in ("far/made.png", "near/é0.png"))
    (path / "out" / "translations.csv").write_text("source,target,picture,mask,neighbours\n" + rows)
    with Workspace.open(path) as workspace:
        told = workspace.forget(ids=[5])
        assert not workspace.check_images(every=True)
    assert (disk / "made.png").exists() and (mine / "manifest.jsonl").exists() and (mine / "holiday.png").exists()
    assert told.unsure == ["elsewhere", "mine", "out/far", "out/near", "packed.zip"]
