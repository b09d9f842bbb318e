"""What a page says to type is typed, page by page, where small trained workspaces lie: whatever takes no training."""

from __future__ import annotations

import csv
import shlex
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.main import main
from tests.cli.conftest import GROUP, Command
from tests.cli.test_docs import DOCUMENTS, LOGS, commands, named
from tests.retrieval.textmodels import colour_model
from tests.translation.small import TINY

pytestmark = pytest.mark.slow
RENAMED = {"Beard": "Male", "Hat": "Young"}  # drawn faces, with names as of photographs
CUT = ("width=0.0625", "discriminator_width=0.0625", "blocks=2", "projection=8")
LEFT_OUT = {
    **dict.fromkeys(("run", "demo", "train", "evaluate guidance", "evaluate bias", "evaluate parts"), "trains"),
    **dict.fromkeys(("evaluate unseen", "evaluate modalities", "evaluate transfer", "evaluate scarce"), "trains"),
    **dict.fromkeys(("generate", "evaluate generator"), "needs a generator"),
    "evaluate judges": "needs trained classifiers",
    "serve": "does not end",
}
"""Commands, and words in them, of what is not run here."""
SIGNS = {
    "--catalog": "needs a server",
    "cuda": "needs a GPU",
    "--choices": "needs a person",
    **dict.fromkeys(("few", "scenes"), "needs a training in between"),
    **dict.fromkeys(("cartoon", "cartoon.png", "--unseen"), "needs a run of mix_match"),
    **dict.fromkeys(("hub", "celeba", "horse2zebra"), "is added by test_docs.py"),
}


def why_not(words: list[str]) -> str | None:
    """Why a command is not run here, if it is not."""
    values = ("-w", "--device", "--catalog")
    plain = [word for before, word in pairwise(["", *words]) if word[0] != "-" and before not in values]
    known = LEFT_OUT.get(plain[0]) or LEFT_OUT.get(" ".join(plain[:2]))
    return known or next((reason for word, reason in SIGNS.items() if word in words), None)


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    faces: Path,
    write_network: Callable[[Path, list[int | str]], Path],
) -> Path:
    """Pictures, tables, and the workspaces `faces` (three stages) and `pacs` (CUT), each trained shortly."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(faces / "labelled", folder / "photos")
    shutil.copytree(faces / "unlabelled", folder / "more_photos")
    with (folder / "photos" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    (folder / "photos" / "labels.csv").unlink()
    with (folder / "labels.csv").open("w") as file:
        table = csv.DictWriter(file, [*(RENAMED.get(name, name) for name in rows[0]), "identity"])
        table.writeheader()
        for number, row in enumerate(rows):
            table.writerow(
                {RENAMED.get(name, name): text for name, text in row.items()} | {"identity": f"p{number // 2}"}
            )
    pictures = sorted((folder / "photos").glob("*.png"))
    for name, picture in zip(("me.jpg", "me_too.jpg", "you.jpg"), pictures[1:], strict=False):
        Image.open(picture).convert("RGB").resize((64, 48)).save(folder / name)
    for number, picture in enumerate(pictures):
        domain = folder / "PACS" / ("photo", "sketch")[number % 2] / ("dog", "cat")[number // 2 % 2]
        domain.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, domain)
    write_network(folder / "mobilefacenet.onnx", ["n", 3, 16, 16])
    colour_model(folder / "clip-vit-base-patch32")
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32))
    (folder / "names.txt").write_text("".join(f"name {number}\n" for number in range(20)))

    def call(*words: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert main(words) == 0, words

    def sets(*settings: str) -> list[str]:
        return [word for setting in settings for word in ("--set", setting)]

    used = ("--attributes-used", "Black_Hair,Blond_Hair,Brown_Hair,Male,Young,Glasses")
    short = sets("evaluation.classifier_epochs=1", "evaluation.bootstrap=100")
    gmm = ("--preset", "demo", *sets(*TINY), *short)
    call("-w", "faces", "add", "photos", "--attributes", "labels.csv", "--groups", GROUP)
    call("-w", "faces", "add", "more_photos", "--origin", "unlabelled")
    call("-w", "faces", "train", "translation", *gmm, *used)
    call("-w", "faces", "train", "retrieval", *gmm)
    call("-w", "faces", "index", "build")
    for neighbours in ("retrieved", "random", "none"):
        call("-w", "faces", "train", "guided", "--neighbours", neighbours, *gmm)
    call("-w", "faces", "index", "build")
    cut = sets(*(f"networks.{one}" for one in CUT), "translation.steps=4", "translation.batch=3", "data.size=32")
    call("-w", "pacs", "add", "PACS")
    call("-w", "pacs", "train", "translation", "--preset", "cut", *cut, *sets("evaluation.classifier_epochs=1"))
    shutil.copytree(folder / "faces", folder / "workspace" / "demo")
    shutil.copytree(faces / "labelled", folder / "workspace" / "demo" / "images" / "drawn" / "labelled")
    return folder


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if one.name not in LOGS], ids=named)
def test_what_a_page_says_to_type_works(
    place: Path, document: Path, rgunit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = commands(document.read_text())
    asked = [line for line in lines if why_not(shlex.split(line, comments=True)[1:]) is None]
    if not asked:
        pytest.skip("no command, or none without training")
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    for line in asked:
        answer = rgunit(*shlex.split(line, comments=True)[1:])
        assert answer.status == 0, f"{line}: {answer.err}"
        print(f"{document.name}: {line}")


def test_most_commands_of_the_pages_are_run() -> None:
    every = [line for one in DOCUMENTS if one.name not in LOGS for line in commands(one.read_text())]
    asked = [line for line in every if why_not(shlex.split(line, comments=True)[1:]) is None]
    assert len(asked) > len(every) / 2
    assert why_not(["-w", "run", "query", "me.jpg"]) is None and why_not(["-w", "faces", "run"]) == "trains"
