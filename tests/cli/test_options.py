"""Global options, help, version, and what becomes of errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from cli.drawing import span
from cli.settings import globals_first
from index_store.errors import UsageError

COMMANDS = (
    "add",
    "info",
    "demo",
    "run",
    "train",
    "query",
    "similar",
    "duplicates",
    "map",
    "translate",
    "index",
    "evaluate",
    "serve",
)


def test_global_options_may_stand_after_the_command() -> None:
    given = ["query", "a.png", "--to", "+Hat", "--json", "-w", "faces", "--seed=3"]
    assert globals_first(given) == ["--json", "-w", "faces", "--seed=3", "query", "a.png", "--to", "+Hat"]


def test_an_edit_that_looks_like_an_option_stays_an_edit() -> None:
    assert globals_first(["query", "a.png", "--to", "-w", "x"]) == ["query", "a.png", "--to", "-w", "x"]
    assert globals_first(["add", "--", "--json"]) == ["add", "--", "--json"]


def test_a_global_option_without_its_value_is_refused() -> None:
    with pytest.raises(UsageError, match="-w needs a value"):
        globals_first(["info", "-w"])


def test_help_names_every_command_of_the_contract(rgunit) -> None:
    answer = rgunit("--help")
    assert answer.status == 0
    named = [line.split()[0] for line in answer.out.split("Commands:")[1].splitlines() if line.startswith("  ")]
    assert set(COMMANDS) <= set(named)


def test_no_words_at_all_show_the_help(rgunit) -> None:
    monkey = sys.argv
    sys.argv = ["rgunit"]
    try:
        from cli.main import main

        assert main() == 0
    finally:
        sys.argv = monkey


@pytest.mark.parametrize("command", [*COMMANDS, "index build", "index remove", "evaluate translation"])
def test_every_command_explains_itself_with_an_example(rgunit, command: str) -> None:
    answer = rgunit(*command.split(), "--help")
    assert answer.status == 0
    assert "Example" in answer.out or command in ("index", "evaluate")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["qury"], "Did you mean 'query'?"),
        (["info", "--jsn"], "No such option: --jsn"),
        (["train"], "Missing argument 'STAGE'"),
        (["train", "everything"], "'everything' is not one of 'translation', 'retrieval', 'guided'"),
        (["index"], "Missing command"),
        (["--device", "tpu", "info"], "'tpu' is none of auto, cpu"),
        (["--seed", "-1", "info"], "'--seed'"),
        (["query", "a.png", "--to", "+Hat"], "'a.png' does not exist"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(rgunit, words: list[str], told: str) -> None:
    answer = rgunit(*words)
    assert answer.status == 2
    assert told in answer.error
    assert answer.out == ""


def test_wrong_usage_with_json_is_an_object_too(rgunit) -> None:
    answer = rgunit("info", "--jsn", "--json")
    assert answer.status == 2
    assert answer.json == {"error": answer.error}


def test_the_workspace_may_come_from_the_environment(rgunit, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RGUNIT_WORKSPACE", str(labelled))
    assert rgunit("info", "--json").json["images"] == 80


def test_info_tells_the_text_columns(rgunit, tmp_path: Path) -> None:
    for name in ("trainA/dog/0.png", "trainA/cat/1.png", "trainB/dog/2.png"):
        level = int(name[-5])
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (level, 0, 0)).save(tmp_path / "d" / name)
    assert rgunit("-w", tmp_path / "w", "add", tmp_path / "d").status == 0
    shown = rgunit("-w", tmp_path / "w", "info")
    row = next(line.split() for line in shown.out.splitlines() if line.startswith("folder"))
    assert row == ["folder", "2", "3", "dog,", "cat"]
    assert rgunit("-w", tmp_path / "w", "info", "--json").json["fields"] == ["folder"]


def test_an_unexpected_failure_names_its_type_and_hides_its_traceback(
    rgunit, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *words: object) -> None:
        raise ZeroDivisionError("of no use")

    monkeypatch.setattr("index_store.workspace.Workspace.runs", broken)
    answer = rgunit("-w", labelled, "info")
    assert answer.status == 1
    assert answer.error == "ZeroDivisionError: of no use (unexpected: run again with --debug for the traceback)"
    assert "Traceback" in rgunit("-w", labelled, "info", "--debug").err


def test_ctrl_c_outside_training_is_one_word(rgunit, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, *words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("index_store.workspace.Workspace.runs", interrupted)
    answer = rgunit("-w", labelled, "info", "--json")
    assert (answer.status, answer.err, answer.json) == (1, "stopped\n", {"error": "stopped"})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (59.6, "1 min 00 s"), (12, "12 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_times_are_told_in_words(seconds: float, words: str) -> None:
    assert span(seconds) == words
