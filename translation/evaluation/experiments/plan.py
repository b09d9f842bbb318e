"""What `rgunit evaluate guidance` is asked for: rows, seeds and arms, and what they cost.

A row is a table of the paper or a question beside it. An arm is a stage-3 run that is compared with others;
`NEIGHBOURS` says which neighbours it is trained with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from index_store.errors import UsageError
from translation.config import Config, load_config

TITLES = {
    1: "Table 2: guided against unguided",
    2: "Drawn faces: distance to the truth",
    3: "Table 3: share of the labels",
    4: "Kind of guidance",
    5: "Table 4: number of neighbours",
}
DROPOUT = 0.3
NEIGHBOURS = {"guided": "retrieved", "random": "random", "unguided": "none"}  # the slowest first: others take its steps

Until = Literal["stages", "arms", "judged"]


class Plan(BaseModel):
    """What is to be trained and judged, and where. UsageError where it cannot be meant.

    `start` {seed: {stage: run}} names runs of stage 1 and 2 of the workspace to start from; `use` are settings of
    `guided` to judge the guided arms with as well. `out` None: nothing is done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path | None = None
    workspace: Path | None = None
    rows: tuple[int, ...] = tuple(TITLES)
    seeds: tuple[int, ...] = (0,)
    arms: tuple[str, ...] | None = None
    until: Until = "judged"
    jobs: int = 1
    minutes: float = 15.0
    steps: int | None = None
    translation_minutes: float = 45.0
    retrieval_minutes: float = 3.0
    start: dict[int, dict[str, str]] = {}
    preset: str = "celeba-64"
    drawn_preset: str = "demo"
    drawn_images: int = 1500
    settings: tuple[str, ...] = ()
    use: tuple[dict[str, Any], ...] = ()
    attributes_used: tuple[str, ...] = ()
    both_ways: bool = False
    judge: Path | None = None
    judge_crop: str | None = None
    carry: Path | None = None
    device: str = "auto"

    def model_post_init(self, _: Any) -> None:
        if not self.rows or not set(self.rows) <= set(TITLES):
            raise UsageError(f"--rows takes some of {','.join(map(str, TITLES))}")
        if not self.seeds:
            raise UsageError("--seeds takes numbers such as 0,1,2")
        known = dict.fromkeys(name for row in TITLES for name in names_of(row))
        if self.arms is not None and (strange := [name for name in self.arms if name not in known]):
            raise UsageError(f"no arm is called {strange[0]!r}: --arms takes some of {','.join(known)}")
        if bare := [str(row) for row in self.rows if not self.arms_of(row)]:
            raise UsageError(f"--arms leaves nothing to do in row {','.join(bare)}")
        if self.jobs > 1 and self.steps is None:
            raise UsageError("--jobs needs --steps: an arm cannot wait for the steps of another one")
        if self.carry is not None and (self.until != "arms" or set(self.rows) == {2}):
            raise UsageError(
                "--carry copies a workspace whose arms are trained: add --until arms, and a row other than 2"
            )
        if self.carry is not None and self.carry.exists():
            raise UsageError(f"{self.carry} is there already: --carry makes a new folder")

    def arms_of(self, row: int) -> list[str]:
        """The arms of a row that are wanted, in the order in which they are trained."""
        return [name for name in names_of(row) if self.arms is None or name in self.arms]

    def configs(self) -> dict[str, Config]:
        """The configuration of each place: the workspace and the drawn faces. UsageError for bad settings."""
        presets = {"workspace": self.preset, "drawn": self.drawn_preset}
        return {place: load_config(preset, overrides=self.settings) for place, preset in presets.items()}

    def cost(self) -> list[dict[str, Any]]:
        """For each row {row, title, seeds, starts, arms, minutes}: trainings a seed, and minutes of all at most.

        A start is stage 1 and 2 of a seed. Arms that rows share are counted in each, though trained once; evaluations
        are not counted, nor are the minutes of arms that have a number of steps.
        """
        found, new = [], {"workspace": True, "drawn": True}
        for row in self.rows:
            arms = len(self.arms_of(row)) * (2 if row == 3 else 1)
            place = "drawn" if row == 2 else "workspace"
            starts = new[place] + (row == 3)
            new[place] = False
            each = starts * (self.translation_minutes + self.retrieval_minutes) + arms * (
                0 if self.steps else self.minutes
            )
            about = {"row": row, "title": TITLES[row], "seeds": len(self.seeds), "starts": starts, "arms": arms}
            found.append({**about, "minutes": len(self.seeds) * each})
        return found


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
    return [name for name in NEIGHBOURS if row != 3 or name != "random"]


def places(row: int, seed: int) -> dict[str, str]:
    """The workspaces of a row of one seed: {part of its results: place}."""
    quarter = {"all labels": "workspace", "25 % of the labels": f"quarter-{seed}"}
    return quarter if row == 3 else {"": "drawn" if row == 2 else "workspace"}


def told_as(row: int, seed: int, part: str) -> str:
    """How a row of a seed, or a part of it, is named to people."""
    return ", ".join([f"row {row}, seed {seed}", *([part] if part else [])])
