"""Drawn faces of 32 px in a workspace and networks a tenth as wide as the paper's: real training in milliseconds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small import USED, filled, tiny

from index_store.workspace import Workspace
from translation.drawings import make_dataset


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 labelled faces (every fifth for testing) and 12 unlabelled ones as files."""
    folder = tmp_path_factory.mktemp("drawn")
    make_dataset(folder, images=80, size=32, seed=3)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, drawn: Path) -> Iterator[Workspace]:
    """A workspace with the faces and nothing trained."""
    filled(tmp_path / "workspace", drawn)
    with Workspace.open(tmp_path / "workspace") as workspace:
        yield workspace


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, drawn: Path) -> Path:
    """A workspace after stages 1 and 2 with its index filled, a few steps each; to be copied."""
    from translation.stages import fill_index, train_retrieval, train_translation

    path = tmp_path_factory.mktemp("template") / "workspace"
    filled(path, drawn)
    with Workspace.open(path) as workspace:
        train_translation(workspace, tiny(), attributes_used=USED, device="cpu")
        train_retrieval(workspace, tiny(), device="cpu")
        fill_index(workspace, tiny(), device="cpu")
    return path


@pytest.fixture
def staged(tmp_path: Path, template: Path) -> Iterator[Workspace]:
    """A copy of the template that a test may change: runs r1 (translation) and r2 (retrieval), all embedded."""
    shutil.copytree(template, tmp_path / "staged")
    with Workspace.open(tmp_path / "staged") as workspace:
        yield workspace
