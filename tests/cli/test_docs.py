"""The documents claim only what is there: commands that parse, links that lead somewhere, Python that runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.places import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """The `rgunit …` lines of the code blocks, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return re.findall(r"^ {4,}(?:\$ )?(rgunit .+)$", joined, re.MULTILINE)


def python_blocks(text: str) -> list[str]:
    """The fenced Python of a document."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def anchors(text: str) -> set[str]:
    """The names under which a document's headings can be linked."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_exists_with_its_options(rgunit, document: Path, tmp_path: Path) -> None:
    pictures = {"me.jpg", "me_too.jpg", "you.jpg", "photos", "more_photos", "labels.csv", "my.toml"}
    for line in commands(document.read_text()):
        words = []
        for word in shlex.split(line.replace(" …", ""))[1:]:
            if word in pictures or word.endswith(".png"):
                (tmp_path / Path(word).name).touch()
                word = str(tmp_path / Path(word).name)
            words.append(word)
        answer = rgunit(*words, "--help")
        assert answer.status == 0, f"{line}: {answer.err}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_the_readmes_store_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    block = python_blocks((ROOT / "README.md").read_text())[1]
    exec(compile(block, "README.md", "exec"), {})
    assert "rows" in capsys.readouterr().out


def test_every_preset_is_in_the_documents() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    for preset in (ROOT / "translation" / "presets").glob("*.toml"):
        assert f"| `{preset.stem}` |" in text
