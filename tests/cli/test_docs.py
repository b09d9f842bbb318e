"""The documents claim only what is there: commands that parse, links that lead somewhere, Python that runs, messages
that are said."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.settings import globals_first
from tests.places import ROOT
from tests.scripts import load
from translation.methods import DEFAULT, METHODS, find_method

DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LOGS = {"architecture.md", "experiments.md", "performance.md", "results.md"}  # looked up, not read through
FOLDERS = {"photos", "more_photos", "PACS", "celeba", "horse2zebra", "hub", "scenes", "two"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The `rgunit …` commands of the code blocks, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(r"^ {4,}(?:\$ )?(rgunit .+)$", joined, re.MULTILINE)
    return [command for line in lines for command in re.split(r"; (?=rgunit )", line)]


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names under which a document's headings can be linked."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """What the site has beside the pages."""
    return load("docs/make_site.py")


@pytest.fixture(scope="module")
def command_line(site: ModuleType) -> Any:
    """The real command line, of which no command does anything."""
    tree = [command for command, _ in site.commands()]
    for command in tree:
        command.callback = None
    return tree[0]


def check(command_line: Any, text: str) -> int:
    """Every command of a text is one, and takes these options with these values. How many there are."""
    lines = commands(text)
    for line in lines:
        words = shlex.split(line.replace(" …", ""), comments=True)[1:]
        words = words[: words.index(">")] if ">" in words else words
        for word in words:  # what a command reads is there
            if word in FOLDERS:
                Path(word).mkdir(exist_ok=True)
            elif re.fullmatch(r"[^-=][^=]*\.[a-z0-9]+", word):
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                Path(word).touch()
        try:
            command_line(globals_first(words), prog_name="rgunit", standalone_mode=False)
        except Exception as error:
            pytest.fail(f"{line}: {error}")
    return len(lines)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_command_of_a_document_exists_with_its_options(
    command_line, document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(command_line, document.read_text())


def test_a_command_that_is_none_is_found(command_line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in (
        "rgunit ask me.jpg",
        "rgunit query me.jpg --too x",
        "rgunit query me.jpg -k few",
        "rgunit translate x",
    ):
        with pytest.raises(pytest.fail.Exception, match=line):
            check(command_line, f"    {line}\n")


def test_the_reference_has_every_command_and_its_examples_are_commands(
    site, command_line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = site.reference()
    assert check(command_line, text) > 40
    headings = re.findall(r"^## (rgunit .*)$", text, re.MULTILINE)
    assert {"rgunit add", "rgunit index build", "rgunit evaluate translation"} <= set(headings)
    assert "`--where FILTER`" in text.replace('<code class="option">', "`").replace("</code>", "`")
    table = (DOCS / "commands.md").read_text()
    for name in headings:
        assert f"`{' '.join(name.split()[:2])}`" in table, f"docs/commands.md does not say what {name} is for"


def test_the_reference_has_every_setting_of_every_preset(site) -> None:
    """Methods' own settings too: all of `gmm_unit`'s and, by its preset, each other one's."""
    shared, _, own = site.settings().partition("## What a method brings")
    parts = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", own, re.DOTALL | re.MULTILINE))
    assert set(parts) == set(METHODS)

    def keys(settings: dict[str, Any], path: str = "") -> Iterator[str]:
        for name, value in settings.items():
            if isinstance(value, dict):
                yield from keys(value, f"{path}{name}.")
            elif path:
                yield f"{path}{name}"

    for preset in (ROOT / "translation" / "presets").glob("*.toml"):
        settings = tomllib.loads(preset.read_text())
        told = shared + parts[settings.get("method", DEFAULT)]
        for key in keys(settings):  # stage 3 has stage 1's settings as well
            names = {key, key.replace("guided.", "translation.")}
            assert any(f">{name}</code>" in told for name in names), f"{preset.stem}: {key}"


def test_pages_as_the_site_shows_them(site) -> None:
    text = "[a](../rgunit.py) [b](../CHANGELOG.md#x) [c](data.md)\n\n- one\n\n      rgunit info\n"
    assert site.for_the_site(text) == "a [b](changes.md#x) [c](data.md)\n\n- one\n\n        rgunit info\n"
    assert site._plain("A_1 | `B|C` *") == r"A\_1 \| <code>B&#124;C</code> \*"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(document.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_a_page_answers_one_question(document: Path) -> None:
    lines = document.read_text().count("\n")
    assert lines <= 250 or document.name in LOGS, f"{lines} lines: make two pages of it"


def test_every_page_and_every_file_of_results_is_listed() -> None:
    order = (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert re.search(rf"\b{re.escape(str(page.relative_to(DOCS)))}$", order, re.MULTILINE), page
    listed = (DOCS / "results" / "README.md").read_text()
    for file in (DOCS / "results").rglob("*.json"):
        assert f"({file.relative_to(DOCS / 'results')})" in listed, file


def test_where_a_method_was_measured_is_a_place_in_the_documents() -> None:
    for name in METHODS:
        page, _, anchor = find_method(name).about.measured.partition("#")
        assert anchor in anchors((DOCS / page).read_text()), name


def test_the_page_of_methods_says_what_their_list_says() -> None:
    text, about = (DOCS / "methods.md").read_text(), {name: find_method(name).about for name in METHODS}

    def row(name: str) -> str:
        found = re.search(rf"^\| `{re.escape(name)}`.*", text, re.MULTILINE)
        assert found, name
        return found[0]

    for name, told in about.items():
        assert told.measured and f"({told.measured})" in row(name)
    takes = {
        "guided.guidance": {name for name, told in about.items() if told.guidance},
        "sampling.hops": {name for name, told in about.items() if "hops" in told.sampling},
        "semantic.weight": {name for name, told in about.items() if "semantic" in told.objectives},
    }
    for key, names in takes.items():
        assert set(re.findall(r"`(\w+)`", row(key).split("|")[3])) == names, key


def test_every_preset_is_in_the_documents() -> None:
    text = (DOCS / "training.md").read_text()
    for preset in (ROOT / "translation" / "presets").glob("*.toml"):
        assert f"| `{preset.stem}` |" in text


# What is said


@cache
def said() -> tuple[str, ...]:
    """Every text of the packages; what is put in at run time is `…`."""

    def texts(node: ast.AST) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(texts(part) for part in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return texts(node.left) + texts(node.right)
        return "…"

    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    return tuple(
        " ".join(texts(node).split())
        for package in ("index_store", "retrieval", "translation", "cli")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, kinds)
    )


def is_said(message: str) -> bool:
    """Whether some text has the fixed parts of a message, in their order."""
    parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
    wanted = re.compile(".*?".join(parts))
    return any(wanted.search(text) for text in said())


def messages() -> list[str]:
    """What docs/troubleshooting.md quotes: the code of the first columns."""
    rows = re.findall(r"^\| (`.*?`[^|]*) \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def test_every_message_that_the_documents_explain_is_said() -> None:
    found = [message for message in messages() if message != "step …: …"]
    assert len(found) >= 25
    unknown = [message for message in found if not is_said(message)]
    assert not unknown, "messages that no part of rgunit says"
    assert not is_said("… is no message of this program")


# Python of the pages


def run(code: str, name: str) -> None:
    exec(compile(code, name, "exec"), {"__name__": name})


def test_the_readmes_store_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    run(blocks((ROOT / "README.md").read_text(), "python")[1], "README.md")
    assert "rows" in capsys.readouterr().out


def test_the_store_alone_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks((DOCS / "store.md").read_text(), "python")
    run(code, "store.md")
    assert "exact scan of" in capsys.readouterr().out


def test_the_method_in_one_file_trains_and_translates(
    rgunit, labelled: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    (code,) = blocks((DOCS / "contributing.md").read_text(), "python")
    (tmp_path / "plain_method.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(METHODS, "plain", "plain_method:Plain")
    shutil.copytree(labelled, tmp_path / "faces")
    small = ("--set", "networks.width=0.0625", "--set", "translation.steps=2", "--set", "translation.batch=4")
    words = ("-w", tmp_path / "faces", "--device", "cpu")
    trained = rgunit(*words, "train", "translation", "--preset", "demo", "--method", "plain", *small, "--json")
    assert trained.json["steps"] == 2 and "generator/reconstruction" in trained.json["metrics"]
    made = rgunit(*words, "translate", faces / "labelled" / "000001.png", "--to", "+Glasses", "--json").json
    assert Path(made["outputs"][0]["path"]).is_file()
    sys.modules.pop("plain_method")


# The five formats


def formats() -> Iterator[tuple[str, str]]:
    """The sections of docs/data.md that show a layout, by their headings."""
    for section in re.split(r"^### ", (DOCS / "data.md").read_text(), flags=re.MULTILINE)[1:]:
        yield section.partition("\n")[0], section.partition("\n## ")[0]


@pytest.mark.parametrize(("name", "section"), list(formats()), ids=[name for name, _ in formats()])
def test_a_layout_is_read_as_the_page_says(
    rgunit, name: str, section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    (tree,) = blocks(section, "text")
    for place in map(Path, tree.split()):
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix == ".jpg":
            Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(place)
    told = re.findall(r'^```text title="(.+?)"\n(.*?)^```$', section, re.DOTALL | re.MULTILINE)
    assert {place for place, _ in told} == {line for line in tree.split() if not line.endswith(".jpg")}
    for place, text in told:
        Path(place).write_text(text)
    answer = rgunit(*shlex.split(commands(section)[0])[1:])
    assert answer.status == 0, answer.err
    (expected,) = re.findall(r"^says `(.+?)`", section, re.MULTILINE)
    assert " ".join(expected.split()) in " ".join(answer.out.split())


def test_there_are_five_formats() -> None:
    assert len(list(formats())) == 5
