"""A workspace of painted pictures, and a retrieval run trained on them: made once, read by many tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from index_store.workspace import Workspace
from retrieval.train import RetrievalTask
from tests.retrieval.colours import CONFIG, STEPS, ColourEncoders, make_workspace, save_run, train


@pytest.fixture(scope="session")
def encoders() -> ColourEncoders:
    return ColourEncoders()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Pictures and nothing trained; tests only read it."""
    with make_workspace(tmp_path_factory.mktemp("pictures")) as made:
        yield made


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, encoders: ColourEncoders) -> Iterator[tuple[Workspace, str]]:
    """A workspace with a trained retrieval run, nothing indexed yet, and that run's id."""
    with make_workspace(tmp_path_factory.mktemp("trained")) as made:
        task = RetrievalTask(made, encoders, CONFIG, seed=0)
        train(task, STEPS)
        yield made, save_run(made, task, encoders, CONFIG)
