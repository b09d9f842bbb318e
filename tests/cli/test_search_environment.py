"""The environment of a machine that only searches, made afresh as the guide says: small, without torch, answering."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.places import ROOT

MOST = 400e6
"""Bytes on the disk, all told."""
UNREACHED = (
    "No matching distribution",
    "Could not find a version",
    "Connection",
    "Temporary failure",
    "Read timed out",
)

pytestmark = pytest.mark.slow


def call(*command: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name not in ("PYTHONPATH", "RGUNIT_WORKSPACE")}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=1500, env=environment, cwd="/"
    )
    if done.returncode != expect and any(told in done.stderr for told in UNREACHED):
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == expect, done.stderr
    return done


@pytest.fixture(scope="module")
def rgunit_there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of the new environment."""
    place = tmp_path_factory.mktemp("search") / "env"
    call(sys.executable, "-m", "venv", place)
    install = (place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    call(*install, "--require-hashes", "-r", ROOT / "requirements" / "search.txt")
    call(*install, "--no-deps", ROOT)
    return place / "bin" / "rgunit"


def test_it_is_small_and_has_nothing_of_torchs(rgunit_there: Path) -> None:
    place = rgunit_there.parent.parent
    files = {(at.st_ino, at.st_dev): at.st_size for file in place.rglob("*") if (at := file.lstat()).st_nlink}
    assert sum(files.values()) <= MOST, f"{sum(files.values()) / 1e6:.0f} MB"
    for module in ("torch", "torchvision", "sklearn", "nvidia"):
        call(rgunit_there.with_name("python"), "-c", f"import {module}", expect=1)


def test_it_answers_and_says_what_it_cannot(rgunit_there: Path, template: Path) -> None:
    if not any(template.glob("runs/*/graphs/graphs.json")):
        pytest.skip("onnx is not installed, so no graphs were written: make setup")
    told = json.loads(call(rgunit_there, "-w", template, "info", "--json").stdout)
    assert told["images"] > 0
    picture = json.loads(call(rgunit_there, "-w", template, "similar", ROOT / "docs/images/demo.png", "--json").stdout)
    found = [one["path"] for one in picture["neighbours"]]
    asked = json.loads(call(rgunit_there, "-w", template, "query", found[0], "--to", "+Glasses", "--json").stdout)
    assert len(found) == len(asked["neighbours"]) == 10
    for words in (("translate", found[0], "--to", "+Glasses"), ("train", "retrieval"), ("index", "build")):
        refused = call(rgunit_there, "-w", template, *words, expect=1)
        assert "not installed here: install requirements/run.txt" in refused.stderr, words
        assert "Traceback" not in refused.stderr and len(refused.stderr.strip().splitlines()) == 1


def test_it_serves(rgunit_there: Path, template: Path) -> None:
    command = [str(rgunit_there), "-w", str(template), "--json", "serve", "--port", "0"]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd="/") as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            until = time.monotonic() + 60
            while not json.load(urllib.request.urlopen(f"{url}/healthz"))["ready"] and time.monotonic() < until:
                time.sleep(0.2)
            body = json.dumps({"image_id": 3, "to": "+Glasses", "k": 4}).encode()
            headers = {"Content-Type": "application/json"}
            asked = urllib.request.Request(f"{url}/api/query", body, headers)
            assert len(json.load(urllib.request.urlopen(asked, timeout=60))["neighbours"]) == 4
        finally:
            server.terminate()
