"""`benchmarks/authors_step.py` without the authors' code: one line that says what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

SCRIPT = ROOT / "benchmarks" / "authors_step.py"


@pytest.mark.parametrize(
    ("folder", "problem"), [("nowhere", "is not a folder"), (".", "it lacks core/basic_modules.py")]
)
def test_a_folder_without_their_code_ends_in_one_line(tmp_path: Path, folder: str, problem: str) -> None:
    code = tmp_path / folder
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), "--code", str(code)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"authors_step.py: --code {code} ") and problem in line
