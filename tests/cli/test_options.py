"""Global options, help, version, and what becomes of errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cli.drawing import span
from cli.progress import Bars
from cli.settings import globals_first
from index_store.errors import UsageError
from tests.places import ROOT

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
    "runs",
    "split",
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


@pytest.mark.parametrize("command", [*COMMANDS, "index build", "index remove", "evaluate translation", "runs delete"])
def test_every_command_explains_itself_with_an_example(rgunit, command: str) -> None:
    answer = rgunit(*command.split(), "--help")
    assert answer.status == 0
    assert "Example" in answer.out


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["add"], "rgunit add [OPTIONS] PATH..."),
        (["query"], "rgunit query [OPTIONS] [IMAGE|FOLDER]..."),
        (["runs"], "rgunit runs [OPTIONS] [COMMAND] [ARGS]..."),
        (["runs", "rename"], "rgunit runs rename [OPTIONS] RUN NAME"),
        (["train"], "rgunit train [OPTIONS] STAGE"),
    ],
)
def test_help_spells_arguments_plainly(rgunit, words: list[str], usage: str) -> None:
    shown = rgunit(*words, "--help").out
    assert shown.splitlines()[0] == f"Usage: {usage}"
    assert "<list" not in shown and "<str>" not in shown and "<path>" not in shown


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


def test_ctrl_c_says_how_to_go_on(rgunit, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, *words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("index_store.workspace.Workspace.runs", interrupted)
    answer = rgunit("-w", labelled, "info", "--json")
    told = f"stopped, what was done is kept: continue with the same command: rgunit -w {labelled} info --json"
    assert (answer.status, answer.err, answer.json) == (130, told + "\n", {"error": told})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (59.6, "1 min 00 s"), (12, "12 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_times_are_told_in_words(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(process, tmp_path: Path, shell: str) -> None:
    words = {"COMP_WORDS": "rgunit tran", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "rgunit tran"}
    environment = {**os.environ, **words, "_RGUNIT_COMPLETE": f"complete_{shell}", "PYTHONPATH": str(ROOT)}
    environment |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    program = "import sys; from cli.main import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "translate" in done.stdout and "train" not in done.stdout.replace("translate", ""), done.stderr


def test_add_says_what_it_read_and_that_nothing_is_left_to_test_on(rgunit, tmp_path: Path) -> None:
    for number, name in enumerate(("photo/dog", "photo/cat", "sketch/dog", "sketch/cat")):
        (tmp_path / "d" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "d" / "train" / name / "0.png")
    shown = rgunit("-w", tmp_path / "w", "add", tmp_path / "d").out
    assert "read as 2 domains: photo (2), sketch (2)" in shown
    assert "no image is in split test" in shown and "`rgunit split --test 0.2` draws some" in shown
    assert rgunit("-w", tmp_path / "w", "split", "--to", "test", "--where", "id=1", "--json").json == {
        "changed": 1,
        "by_split": {"test": 1, "train": 3},
        "learned": 0,
    }
    assert "labelled images" in rgunit("-w", tmp_path / "w", "split").out
    folders = [tmp_path / "d" / "train" / name for name in ("photo", "sketch")]
    asked = rgunit("-w", tmp_path / "v", "add", *folders)
    assert asked.status == 1 and "did you mean their parent?" in asked.error and not (tmp_path / "v").exists()
    named = rgunit("-w", tmp_path / "v", "add", *folders, "--domains", "photo,sketch", "--json").json
    assert named["added"] == 4 and named["understood"][0].startswith("2 domains: photo (2), sketch (2)")


def test_a_note_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        for _ in range(3):
            bars.note("the perceptual term is off")
    assert capsys.readouterr().err.count("perceptual") == 1


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("bias", "--out", "o", "--steps", 1, "--guided-steps", 1), "bias.run_bias"),
        (("parts", "init", "--minutes", 1, "--out", "o"), "parts.run_ablation"),
        (("scarce", "--minutes", 1, "--out", "o"), "scarce.run_scarce"),
        (("transfer", "--minutes", 1, "--source-minutes", 1, "--out", "o"), "transfer.run_transfer"),
    ],
)
def test_a_stopped_experiment_ends_as_every_command_does(
    rgunit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], place: str
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"translation.evaluation.experiments.{place}", interrupted)
    answer = rgunit("evaluate", *words)
    assert answer.status == 130 and "stopped, what was done is kept: continue with the same command" in answer.err
