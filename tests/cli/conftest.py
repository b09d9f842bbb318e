"""Drawn faces in a workspace, and the command called in this process or as one of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from tests.places import ROOT
from translation.drawings import make_dataset

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
GROUP = "Black_Hair|Blond_Hair|Brown_Hair"


@dataclass(frozen=True)
class Answer:
    """What a command left behind: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        answer = json.loads(self.out)
        assert isinstance(answer, dict)
        return answer

    @property
    def error(self) -> str:
        """The one line of a failure."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


Command = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _no_workspace_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RGUNIT_WORKSPACE", raising=False)


@pytest.fixture
def rgunit(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def call(*words: object) -> Answer:
        capsys.readouterr()
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def process() -> Command:
    """Run a command as a user does, in a process of its own."""

    def call(*words: object, cwd: Path | None = None) -> Answer:
        command = [sys.executable, "-m", "cli", *(str(word) for word in words)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("RGUNIT_WORKSPACE", None)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=environment)
        return Answer(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 labelled drawn faces of 32 pixels under `labelled`, with labels.csv, and 12 under `unlabelled`."""
    folder = tmp_path_factory.mktemp("faces")
    make_dataset(folder, images=80, size=32, seed=1)
    return folder


@pytest.fixture(scope="session")
def labelled(faces: Path, tmp_path_factory: pytest.TempPathFactory, process: Command) -> Iterator[Path]:
    """A workspace with the faces and nothing trained; tests only read it."""
    path = tmp_path_factory.mktemp("filled") / "workspace"
    table = faces / "labelled" / "labels.csv"
    done = process("-w", path, "add", faces / "labelled", "--attributes", table, "--groups", GROUP)
    assert done.status == 0, done.err
    yield path


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: `make setup` installs it")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()
