"""Drawn faces of 32 px in a workspace and networks a tenth as wide as the paper's: real training in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from index_store.workspace import Workspace
from tests.translation.small import filled


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def workspace(tmp_path: Path, drawn: Path) -> Iterator[Workspace]:
    """A workspace with the faces and nothing trained."""
    filled(tmp_path / "workspace", drawn)
    with Workspace.open(tmp_path / "workspace") as workspace:
        yield workspace
