"""The person's eye: pairs of translations shown blind, and how often one of two arms is preferred.

Papers ask strangers for it (Amazon Mechanical Turk). Here a page is written that works from the disk: it shows a
source, what is wanted, and two arms' pictures in random order, and gives the choices as a file. The page knows no arm:
which side was whose stands in `key.json` beside it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store import places
from index_store.errors import RgunitError, UsageError
from index_store.whole import write_json, write_text
from index_store.workspace import Workspace
from translation.evaluation.arms import Arms
from translation.evaluation.distances import Z95
from translation.evaluation.evaluate import ArmTranslator
from translation.evaluation.judging import compared_arms, judged_pairs
from translation.evaluation.protocol import Pairs
from translation.evaluation.report.examples import edit_words
from translation.progress import Progress

PAGE, KEY = "page.html", "key.json"
DEFAULTS = (("guided", "unguided"), ("stage1", "copy"))  # the first two that there are
SIDES = ("left", "right", "equal")
LARGEST = 16 * 2**20  # bytes of a key or of a file of choices
TEMPLATE = Path(__file__).with_name("preference.html")

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Preference:
    """What people preferred.

    `share` in [0, 1] of the pairs for the first of `arms` (a pair that several judged counts as their mean, “no
    difference” as a half), `interval` Wilson's at 95 % for the pairs judged: a pair's mean varies less than a coin, so
    it is not too narrow. `verdict`: better, worse or no difference, of the first arm. `equal`: answers “no difference”.
    """

    arms: tuple[str, str]
    share: float
    interval: tuple[float, float]
    verdict: str
    judged: int
    pairs: int
    judges: int
    equal: int


def choose_arms(known: Sequence[str], asked: Sequence[str] = ()) -> tuple[str, str]:
    """Two of the known arms: those asked for, else the first of DEFAULTS. UsageError names the known ones."""
    if not asked:
        return next((two for two in DEFAULTS if set(two) <= set(known)), ("stage1", "copy"))
    if len(asked) != 2 or asked[0] == asked[1]:
        raise UsageError(f"--arms takes two different arms, not {','.join(asked)}: choose of {', '.join(known)}")
    for name in asked:
        if name not in known:
            raise UsageError(f"there is no arm {name} here: choose two of {', '.join(known)}")
    return asked[0], asked[1]


def write_preference(
    workspace: Workspace,
    found: Arms,
    folder: Path,
    *,
    asked: Sequence[str] = (),
    split: str = "test",
    count: int = 60,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Path, tuple[str, str], int]:
    """Write `page.html` and `key.json` into a folder: (page, the two arms, how many pairs).

    The pairs are of the list on which arms are judged, at most `count`, one a person. RgunitError where the folder
    holds another comparison, whose choices could not be read any more.
    """
    progress = progress or Progress()
    compared = compared_arms(workspace, found, split)
    arms = choose_arms(list(compared), asked)
    workspace.leave_out_missing("origin=real|unlabelled", progress.note)
    translator = found.arms["stage1"].translator
    config = translator.config.evaluation
    pairs, _ = judged_pairs(workspace, found, split, config.pairs, seed, progress.note)
    rows = one_a_person(pairs, count, seed)
    pictures = [_make(compared[arm], pairs, rows, config.batch, progress, (i, len(arms))) for i, arm in enumerate(arms)]
    sources = workspace.load(pairs.source[rows], translator.size)
    first_left = _half(len(rows), seed)
    shown = []
    for place, row in enumerate(rows):
        left, right = (pictures[side][place] for side in ((0, 1) if first_left[place] else (1, 0)))
        shown.append(
            {
                "source": _png(sources[place]),
                "left": _png(left),
                "right": _png(right),
                "change": edit_words(pairs.before[row], pairs.target[row], pairs.attributes),
                "wanted": _wanted(pairs, int(row)),
            }
        )
    name = hashlib.sha256(json.dumps([shown, first_left.tolist()]).encode()).hexdigest()[:16]
    key = {
        "page": name,
        "arms": list(arms),
        "runs": {arm: run.id for arm in arms if arm in found.arms and (run := found.arms[arm].translator.run)},
        "split": split,
        "first_is_left": first_left.tolist(),
        "sources": pairs.source[rows].tolist(),
    }
    if (folder / KEY).exists() and _read(folder / KEY, "key").get("page") != name:
        raise RgunitError(f"{folder} holds another comparison, whose choices need its {KEY}: give another folder")
    text = TEMPLATE.read_text(encoding="utf-8")
    data = json.dumps({"page": name, "pairs": shown}, separators=(",", ":")).replace("<", "\\u003c")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / KEY, key)  # first: no page is ever there without its key
    write_text(folder / PAGE, text.replace("{{data}}", data))
    return folder / PAGE, arms, len(rows)


def one_a_person(pairs: Pairs, count: int, seed: int) -> NDArray[np.int64]:
    """Rows of at most `count` pairs in random order, no two of one person."""
    order = np.random.default_rng([seed, 11]).permutation(len(pairs))
    seen: dict[str, int] = {}
    for row in order:
        seen.setdefault(pairs.people[row], int(row))
    return np.array(list(seen.values())[:count], np.int64)


def read_preference(folder: Path, files: Sequence[Path]) -> Preference:
    """What files of choices, one a judge, say of the comparison in a folder. RgunitError names a file that is none."""
    key = _read(folder / KEY, "key")
    try:
        first, second = (str(name) for name in key["arms"])
        left = [bool(one) for one in key["first_is_left"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RgunitError(f"{folder / KEY} is no key of a comparison: write the page again (--ab)") from error
    points: dict[int, list[float]] = {}
    judges: dict[str, Path] = {}
    equal = 0
    for file in files:
        told = _read(file, "file of choices")
        if told.get("page") != key.get("page"):
            raise RgunitError(f"{file} was made with another page than {folder / PAGE}: give the --ab folder it is of")
        judge, choices = str(told.get("judge")), told.get("choices")
        if judge in judges:
            raise RgunitError(f"{judges[judge]} and {file} are of the same person: give the later one alone")
        if not isinstance(choices, dict) or not all(
            number.isdecimal() and int(number) < len(left) and side in SIDES for number, side in choices.items()
        ):
            raise RgunitError(f"{file} holds choices that its page cannot have made: save it from the page again")
        judges[judge] = file
        for number, side in choices.items():
            equal += side == "equal"
            point = 0.5 if side == "equal" else float((side == "left") == left[int(number)])
            points.setdefault(int(number), []).append(point)
    if not points:
        raise RgunitError(f"{', '.join(map(str, files))}: nothing was chosen yet")
    share = float(np.mean([np.mean(one) for one in points.values()]))
    low, high = wilson(share, len(points))
    verdict = "better" if low > 0.5 else "worse" if high < 0.5 else "no difference"
    return Preference((first, second), share, (low, high), verdict, len(points), len(left), len(judges), equal)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` (JASA 1927): sound for few, and for all or none."""
    z = Z95**2 / count
    middle, half = (share + z / 2) / (1 + z), math.sqrt(z * share * (1 - share) + z * z / 4) / (1 + z)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _make(
    arm: ArmTranslator, pairs: Pairs, rows: NDArray[np.int64], batch: int, progress: Progress, part: tuple[int, int]
) -> Images:
    """The arm's pictures of the pairs `rows` [n], uint8 [n, S, S, 3]; `part` of how many this is, for the progress."""
    made = []
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        made.append(arm(pairs.source[some], pairs.target[some], pairs.seeds[some]))
        progress.step(part[0] * len(rows) + start + len(some), part[1] * len(rows))
    return np.concatenate(made)


def _half(count: int, seed: int) -> NDArray[np.bool_]:
    """In which pairs the first arm is on the left: half of them, drawn."""
    return np.random.default_rng([seed, 13]).permutation(np.arange(count) % 2 == 0)


def _wanted(pairs: Pairs, row: int) -> list[list[Any]]:
    """The wanted labels as [name, 1 or 0, whether it is to change], those that are known."""
    bits = zip(pairs.attributes, pairs.target[row].tolist(), pairs.changed[row].tolist(), strict=True)
    return [[name.replace("_", " "), bit, changed] for name, bit, changed in bits if bit >= 0]


def _png(pixels: Images) -> str:
    """The pixels alone as base64 of a PNG: no texts, no times, one way to write for every arm."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=6)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _read(file: Path, what: str) -> Mapping[str, Any]:
    """A JSON object of a regular file."""
    try:
        told = json.loads(places.read_bytes(file, LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise RgunitError(f"{file} cannot be read as a {what} of `evaluate translation --ab`: {error}") from error
    if not isinstance(told, dict):
        raise RgunitError(f"{file} is no {what} of `evaluate translation --ab`")
    return told
