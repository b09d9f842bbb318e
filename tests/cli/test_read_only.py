"""A workspace that may only be read answers, and what would write says that it may not."""

import shutil
from pathlib import Path

from tests.cli.conftest import Command
from tests.reading import reading_only


def test_a_workspace_that_may_only_be_read_answers(
    rgunit: Command, template: Path, drawn: Path, tmp_path: Path
) -> None:
    path, picture = tmp_path / "w", drawn / "labelled" / "000001.png"
    shutil.copytree(template, path)
    with reading_only(path):
        assert rgunit("-w", path, "info", "--json").json["images"] > 90
        assert rgunit("-w", path, "index", "verify", "--json").json["ok"]
        assert len(rgunit("-w", path, "query", picture, "--to", "+Glasses", "--json").json["neighbours"]) == 10
        words = ("translate", picture, "--to", "+Glasses", "--run", "r1", "--out", tmp_path / "out", "--json")
        assert Path(rgunit("-w", path, *words).json["outputs"][0]["path"]).is_file()
        for words in (
            ("add", drawn / "unlabelled", "--origin", "unlabelled"),
            ("index", "build", "--generated", "9"),
            ("index", "rebuild"),
            ("index", "compact"),
            ("index", "remove", "--id", "1"),
            ("train", "translation", "--preset", "demo"),
        ):
            answer = rgunit("-w", path, *words)
            assert answer.status == 1 and "may only be read" in answer.error, answer
