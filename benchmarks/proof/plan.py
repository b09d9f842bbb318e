"""What `prove_guidance.py` would do: its rows, their arms, and the options that choose among them."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TITLES = {
    1: "Table 2: guided against unguided",
    2: "Drawn faces: distance to the truth",
    3: "Table 3: share of the labels",
    4: "Kind of guidance",
    5: "Table 4: number of neighbours",
}
DROPOUT = 0.3
KINDS = {"guided": "retrieved", "random": "random", "unguided": "none"}  # the slowest first: its steps are the others'
UNTIL = ("stages", "arms", "judged")


def variants(row: int, share: float) -> dict[str, tuple[str, ...]]:
    """The guided arms of rows 4 and 5: what differs from the base configuration, whose `neighbour_style` is `share`."""
    if row == 5:
        return {f"k = {k}": (f"guided.neighbours={k}",) for k in (1, 3, 10)}
    bare = ("guided.random_k=false", "guided.neighbour_style=false")
    styled = f"guided.neighbour_style={share or 1.0}"
    return {
        "convolution": ("guided.guidance=convolution", "guided.neighbour_start=0", *bare),
        "attention": ("guided.guidance=attention", *bare),
        "patches": ("guided.guidance=patches", *bare),
        "style": ("guided.guidance=none", "guided.random_k=false", styled),
        "patches and style": ("guided.guidance=patches", styled),
        "patches and style with dropout": ("guided.guidance=patches", styled, f"guided.neighbour_dropout={DROPOUT}"),
    }


def names_of(row: int) -> list[str]:
    """The arms of a row, in the order in which they are trained: its guided ones first."""
    if row in (4, 5):
        return [*variants(row, 1.0), "unguided"]
    return [name for name in KINDS if row != 3 or name != "random"]


def arms_wanted(row: int, options: argparse.Namespace) -> list[str]:
    """The arms of a row that `--arms` leaves."""
    return [name for name in names_of(row) if options.arms is None or name in options.arms]


def places(row: int, seed: int) -> dict[str, str]:
    """The workspaces of a row of one seed: {part of its results: place}."""
    quarter = {"all labels": "workspace", "25 % of the labels": f"quarter-{seed}"}
    return quarter if row == 3 else {"": "drawn" if row == 2 else "workspace"}


def plan(options: argparse.Namespace) -> str:
    """What the chosen rows and seeds would train, and for how long."""
    lines, total = [], 0.0
    new, seeds = {"workspace": False, "drawn": False}, len(options.seeds)
    for row in options.rows:
        arms = len(arms_wanted(row, options)) * (2 if row == 3 else 1)
        place = "drawn" if row == 2 else "workspace"
        starts = (0 if new[place] else 1) + (row == 3)
        new[place] = True
        minutes = seeds * (starts * (options.translation_minutes + options.retrieval_minutes) + arms * options.minutes)
        lines.append(f"{row}  {TITLES[row]:38} {seeds} × ({starts} starts + {arms} arms)  {minutes:6.0f} min at most")
        total += minutes
    lines.append(f"   {total / 60:.1f} hours at most, without the evaluations; arms that rows share are trained once")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None, description: str | None = None) -> argparse.Namespace:
    """The options; exits with status 2 where they cannot be meant."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results; without it the plan is told and nothing done")
    parser.add_argument("--workspace", type=Path, help="labelled images (rows 1, 3, 4, 5)")
    parser.add_argument("--rows", type=_numbers, default=[1, 2, 3, 4, 5], help="which, in this order: 1,2,3,4,5")
    parser.add_argument("--seeds", type=_numbers, default=[0], help="such as 0,1,2")
    parser.add_argument("--arms", type=lambda text: text.split(","), help="some arms of the rows; default: all of them")
    parser.add_argument("--until", choices=UNTIL, default="judged", help="stop after stage 1 and 2, or before judging")
    parser.add_argument("--jobs", type=int, default=1, help="trainings beside each other, in copies of the workspace")
    parser.add_argument("--minutes", type=float, default=15.0, help="of a seed's first arm; the others take its steps")
    parser.add_argument("--steps", type=int, help="steps of every arm instead")
    parser.add_argument("--translation-minutes", type=float, default=45.0, help="stage 1 of a seed")
    parser.add_argument("--retrieval-minutes", type=float, default=3.0, help="stage 2 of a seed")
    parser.add_argument(
        "--start", type=_start, action="append", default=[], metavar="SEED=RUN[,RUN]", help="stages that are there"
    )
    parser.add_argument("--preset", default="celeba-64")
    parser.add_argument("--drawn-preset", default="demo")
    parser.add_argument("--drawn-images", type=int, default=1500)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    parser.add_argument(
        "--use", type=_use, action="append", default=[], metavar="KEY=VALUE,…", help="judge the guided arm so as well"
    )
    parser.add_argument("--attributes-used", type=lambda text: text.split(","), default=[])
    parser.add_argument("--exchange", action="store_true", help="judge with the halves of the people exchanged as well")
    parser.add_argument("--judge", type=Path, metavar="FILE.onnx")
    parser.add_argument("--judge-crop", metavar="L,T,W,H@SIDE")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(arguments)
    if not options.rows or not set(options.rows) <= set(TITLES):
        parser.error("--rows takes some of 1,2,3,4,5")
    known = dict.fromkeys(name for row in TITLES for name in names_of(row))
    if options.arms is not None and not set(options.arms) <= set(known):
        parser.error(f"--arms takes some of {','.join(known)}")
    if bare := [str(row) for row in options.rows if not arms_wanted(row, options)]:
        parser.error(f"--arms leaves nothing to do in row {','.join(bare)}")
    if options.jobs < 1 or (options.jobs > 1 and options.steps is None):
        parser.error("--jobs takes 1, or more together with --steps: no arm can wait for another's steps")
    if options.out is not None and options.workspace is None and set(options.rows) != {2}:
        parser.error("rows 1, 3, 4 and 5 need --workspace DIR (row 2 draws its own)")
    options.start = dict(options.start)
    return options


def _start(text: str) -> tuple[int, dict[str, str]]:
    seed, runs = text.split("=")  # else argparse refuses
    return int(seed), dict(zip(("translation", "retrieval"), runs.split(","), strict=False))


def _use(text: str) -> dict[str, Any]:
    pairs = [part.split("=") for part in text.split(",")]
    return {key.strip(): tomllib.loads(f"value = {value}")["value"] for key, value in pairs}  # else argparse refuses


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
