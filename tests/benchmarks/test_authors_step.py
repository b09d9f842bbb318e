"""`benchmarks/authors_step.py` without the authors' code: one line that says what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.scripts import load

SCRIPT = "benchmarks/authors_step.py"


def test_a_folder_that_is_none_ends_in_one_line(tmp_path: Path) -> None:
    code = tmp_path / "nowhere"
    ended = subprocess.run(
        [sys.executable, str(ROOT / SCRIPT), "--code", str(code)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"authors_step.py: --code {code} ") and "is not a folder" in line


def test_a_folder_without_their_code_ends_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--code", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"it lacks core/basic_modules\.py") as ended:
        load(SCRIPT).main()
    (line,) = str(ended.value.code).splitlines()
    assert line.startswith(f"authors_step.py: --code {tmp_path} ")
    assert capsys.readouterr() == ("", ""), "Python prints that line and ends with status 1"
