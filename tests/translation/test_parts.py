"""An index built in parts: each process embeds its own images, and the catalog has all of them."""

import multiprocessing
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from index_store.errors import Locked, UsageError
from index_store.workspace import Workspace
from retrieval.indexing import WHOLE, part_of
from tests.translation.small import tiny
from translation.indexing import fill_index

NEW = 9
processes = multiprocessing.get_context("forkserver")


def add_pictures(workspace: Workspace, folder: Path) -> None:
    """Pictures that no encoder has seen yet."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(NEW):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    assert workspace.add_images(folder, origin="unlabelled").added == NEW


def build(path: Path, part: str, catalog: str | None = None) -> int:
    with Workspace.open(path, catalog=catalog) as workspace:
        return fill_index(workspace, tiny(), part=part, device="cpu").added


def missing(workspace: Workspace) -> list[int]:
    """How many images lack a vector, of each encoder."""
    return [len(workspace.missing_vectors(one.name, one.fingerprint)) for one in workspace.store().encoders()]


def test_parts_are_disjoint_and_together_all_one_after_the_other_on_sqlite(staged: Workspace, tmp_path: Path) -> None:
    add_pictures(staged, tmp_path / "new")
    with pytest.raises(Locked, match="is being written by"):  # before anything is embedded
        build(staged.path, "1/2")
    assert max(missing(staged)) == NEW
    staged.close()
    added = [build(staged.path, f"{part}/2") for part in (1, 2, 1)]
    assert added[2] == 0 and sorted(added[:2]) == [NEW // 2, NEW - NEW // 2]
    with Workspace.open(staged.path) as whole:
        assert max(missing(whole)) == 0 and whole.store().verify().ok
        with pytest.raises(UsageError, match="without --part"):
            fill_index(whole, tiny(), part="1/2", generated=3, device="cpu")


def test_two_processes_build_at_once_on_postgresql(staged: Workspace, tmp_path: Path, postgres: str) -> None:
    staged.close()
    for file in staged.path.glob("catalog.db*"):
        file.unlink()
    with Workspace.open(staged.path, catalog=postgres) as workspace:
        workspace.store().rebuild()
        add_pictures(workspace, tmp_path / "new")
        before = len(list((staged.path / "shards").iterdir()))
        builders = [processes.Process(target=build, args=(staged.path, f"{i}/2", postgres)) for i in (1, 2)]
        for builder in builders:
            builder.start()
        for builder in builders:
            builder.join()
            assert builder.exitcode == 0
        assert max(missing(workspace)) == 0 and workspace.store().verify().ok
        assert len(list((staged.path / "shards").iterdir())) >= before + 6  # three encoders, two processes
    shutil.rmtree(staged.path)


def test_what_the_other_parts_have_still_to_do_is_said(staged: Workspace, tmp_path: Path) -> None:
    add_pictures(staged, tmp_path / "new")
    told: list[str] = []
    progress = Mock(note=told.append)
    for part in ("1/2", "2/2", "1000/1000"):
        fill_index(staged, tiny(), part=part, device="cpu", progress=progress)
    assert len(told) == 1 and re.fullmatch(r"images without a vector of run r2 yet: [45]; build the other.*", told[0])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", "1/99999"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="I/N"):
        part_of(text)


def test_no_part_is_all() -> None:
    assert part_of(None) == WHOLE and part_of("2/4") == (2, 4)
