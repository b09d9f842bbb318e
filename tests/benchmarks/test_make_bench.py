"""`make bench` starts what needs no arguments, and nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.scripts import load

NEEDS_MORE = {  # scripts that are not timed without: what their usage asks for
    "authors_step": "--code",
    "celeba128": "{pack,train,judge}",
    "guided_loop": "workspace",
    "milvus": "--url",
    "query": "workspace",
    "serve": "workspace",
    "truth_limit": "workspace",
}
ON_REQUEST = {  # that run bare, but not in minutes, or not on every machine
    "domains": "minutes a number of domains",
    "gpu": "a GPU that FAISS can use",
    "large": "an hour and 13 GB of disk",
}
MAKEFILE = (ROOT / "Makefile").read_text()
BENCH = re.search(r"^BENCH := (.+)$", MAKEFILE, re.MULTILINE)[1].split()


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_script_is_in_make_bench_or_asks_for_something(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit):
        load(f"benchmarks/{script}.py").main()
    usage = capsys.readouterr().out.partition("\n\n")[0]
    required = re.sub(r"\[[^][]*\]", "", usage.partition(".py")[2]).split()
    assert script in BENCH or script in ON_REQUEST or NEEDS_MORE[script] in usage
    assert [script in places for places in (BENCH, NEEDS_MORE, ON_REQUEST)].count(True) == 1
    if script in BENCH:
        assert not required, "it runs bare"


def test_make_help_names_what_is_run() -> None:
    (told,) = re.findall(r"^bench:.*## (.*)$", MAKEFILE, re.MULTILINE)
    assert all(name in told for name in BENCH) and all(
        Path(ROOT, "benchmarks", f"{name}.py").exists() for name in BENCH
    )
