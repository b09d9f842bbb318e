"""Trainings beside each other. A workspace has one writer, so each trains in a copy, and its run comes home after.

A GPU is not filled by one small training. Each is a process with a plan of its own (`__main__.py`). A seed of a place
has a folder: `base` after stage 1, 2 and the index, and one for each arm, made from it; they are gone when all is done.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from index_store.whole import write_json
from index_store.workspace import Workspace
from translation.evaluation.experiments.ledger import FILE as LEDGER
from translation.evaluation.experiments.plan import Plan
from translation.evaluation.experiments.trainings import Need, Trainer
from translation.evaluation.experiments.work import Children, Job, interruptible, work_off
from translation.evaluation.experiments.workspaces import adopt_run, copy_workspace
from translation.progress import Progress

CHILD = "translation.evaluation.experiments"  # python -m CHILD PLAN.json
STAGES = ("translation", "retrieval")
Entry = dict[str, Any]  # of a ledger: run, steps, seconds


def train_beside(folder: Path, needs: Sequence[Need], plan: Plan, progress: Progress) -> None:
    """All of it, `plan.jobs` at once, arms of a low rank first; the runs are in their workspaces and ledgers then.

    RgunitError where one failed, KeyboardInterrupt after Ctrl-C: what was trained until then stays in `folder` and is
    gone on with.
    """
    children = Children(plan.jobs)
    guard = threading.Lock()
    starts: dict[tuple[str, int], Start] = {}
    for need in needs:
        place = need.trainer.place, need.seed
        path = folder / need.trainer.place / str(need.seed)
        start = starts.setdefault(place, Start(path, need.trainer, need.seed, children, guard, progress))
        if need.key:
            start.arms.append(need)
    jobs = [Job((-1, place != "workspace", seed), start.stages) for (place, seed), start in starts.items()]
    with interruptible():
        work_off(jobs, plan.jobs, children.interrupt)
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Start:
    """A seed of a workspace: its stages 1 and 2, and the arms that start from them."""

    folder: Path
    trainer: Trainer
    seed: int
    children: Children
    guard: threading.Lock
    progress: Progress
    arms: list[Need] = field(default_factory=list)

    def stages(self) -> list[Job]:
        """Stage 1, 2 and the index in `base`, as far as they are not done; then there are the arms."""
        trainer, base = self.trainer, self.folder / "base"
        told = base / "start.json"  # what was there before `base`, whose runs have other ids than those at home
        if not told.exists():
            known = [run for stage in STAGES if (run := trainer.started(self.seed, stage))]
            write_json(told, known)
        known = json.loads(told.read_text())
        copy_workspace(trainer.workspace.path, base / "workspace", known)
        done = self._child(base, known, until="stages")
        runs = [*known, *(str(done[stage]["run"]) for stage in STAGES[len(known) :])]
        home: dict[str, str] = {}
        for stage in STAGES:
            if trainer.started(self.seed, stage) is None:
                self._adopt(base, f"{trainer.place}/{self.seed}/{stage}", done[stage], home)
            home[f"{stage}_run"] = str(trainer.started(self.seed, stage))
        return [Job((a.rank, i, self.seed), partial(self.arm, a, runs, home)) for i, a in enumerate(self.arms)]

    def arm(self, need: Need, runs: Sequence[str], home: Mapping[str, str]) -> list[Job]:
        """An arm from the stages `runs` of `base`, which are `home` in its own workspace."""
        folder = self.folder / re.sub(r"[^\w.=]+", "-", need.key.rpartition("/")[2])
        copy_workspace(self.folder / "base" / "workspace", folder / "workspace", runs)
        settings = (*self.trainer.plan.settings, *need.settings)
        done = self._child(folder, runs, until="arms", arms=(need.name,), settings=settings)
        starts = home if need.name == "guided" else {"translation_run": home["translation_run"]}
        self._adopt(folder, need.key, done[need.name], starts)
        shutil.rmtree(folder)
        return []

    def _child(self, folder: Path, runs: Sequence[str], **changes: Any) -> dict[str, Entry]:
        """Row 1 of this seed in a folder's workspace, from `runs`: {stage or arm: what it noted of it}."""
        own = {"out": folder / "out", "workspace": folder / "workspace", "rows": (1,), "seeds": (self.seed,), "jobs": 1}
        own |= {"start": {self.seed: dict(zip(STAGES, runs, strict=False))} if runs else {}}
        own |= {"preset": self.trainer.config.preset, "attributes_used": tuple(self.trainer.attributes_used)}
        own |= {"arms": None, "use": (), "both_ways": False, "carry": None}
        told = folder / "plan.json"
        told.write_text(self.trainer.plan.model_copy(update=own | changes).model_dump_json())
        self.children.run(["-m", CHILD, str(told)], folder / "log.txt")
        done = json.loads((folder / "out" / LEDGER).read_text())["done"]
        return {key.rpartition("/")[2]: entry for key, entry in done.items()}

    def _adopt(self, folder: Path, key: str, done: Entry, starts: Mapping[str, str]) -> None:
        """A run that was trained in a folder's workspace comes home and into the ledger."""
        with self.guard, Workspace.open(folder / "workspace") as theirs:
            run = adopt_run(self.trainer.workspace, theirs.run(done["run"]), **starts)
            self.trainer.ledger.done[key] = {**done, "run": run.id}
            self.trainer.ledger.save()
            self.progress.note(f"{key}: run {run.id}, {done['steps']} steps, {done['seconds']:.0f} s")
