"""What the tests of each folder may cost: seconds of CPU, towards which waiting for other work does not count."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.places import ROOT

# Of pytest and of the processes that it waits for, in the .venv of `make setup`: 13, 59, 27, 19 and 139 s were measured
# beside other work on 2 cores of an EPYC; the budgets are a third more. Since then 15 s: PostgreSQL (left
# out where it is not installed), export and import, the device; to translation: an index built in parts.
BUDGETS = {"benchmarks": 18, "cli": 115, "index_store": 54, "retrieval": 25, "translation": 192}


def test_every_folder_of_tests_has_a_budget() -> None:
    assert sorted(BUDGETS) == sorted(
        {path.relative_to(ROOT / "tests").parts[0] for path in ROOT.glob("tests/*/**/test_*.py")}
    )


@pytest.mark.slow
@pytest.mark.parametrize("folder", BUDGETS)
def test_the_tests_of_a_folder_keep_to_its_budget(folder: str) -> None:
    """In a process of their own, slow tests left out, as `make test` runs them."""
    before = os.times()
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{folder}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    budget = BUDGETS[folder]
    print(f"tests/{folder}: {seconds:.0f} s of CPU of {budget}")
    assert seconds <= budget, f"tests/{folder} took {seconds:.0f} s of CPU, over its budget of {budget} s"
