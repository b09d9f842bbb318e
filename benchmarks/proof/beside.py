"""Trainings beside each other. A workspace has one writer, so each trains in a copy, and its run comes home after.

A GPU is not filled by one small training. Each is a start of `prove_guidance.py` of its own. A seed of a place has a
folder: `base` after stage 1, 2 and the index, and one for each arm, made from it; they are gone when all is done.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from proof.copies import adopt_run, copy_workspace

if TYPE_CHECKING:
    from prove_guidance import Trainer

SCRIPT = Path(__file__).parents[1] / "prove_guidance.py"
STAGES = ("translation", "retrieval")
Entry = dict[str, Any]  # of a ledger: run, steps, seconds


@dataclass(frozen=True)
class Need:
    """A training that is to be done: an arm (its key in the ledger, name and settings), or without one the stages."""

    trainer: Trainer
    seed: int
    rank: int = 0
    key: str = ""
    name: str = ""
    settings: tuple[str, ...] = ()


def train_beside(folder: Path, needs: Sequence[Need], options: argparse.Namespace) -> None:
    """All of it, `options.jobs` at once, arms of a low rank first; the runs are in their workspaces and ledgers then.

    RgunitError where one failed, KeyboardInterrupt after Ctrl-C: what was trained until then stays in `folder` and is
    gone on with.
    """
    children = Children(options.jobs)
    guard = threading.Lock()
    starts: dict[tuple[str, int], Start] = {}
    for need in needs:
        place = need.trainer.place, need.seed
        path = folder / need.trainer.place / str(need.seed)
        start = starts.setdefault(place, Start(path, need.trainer, need.seed, options, children, guard))
        if need.key:
            start.arms.append(need)
    jobs = [Job((-1, place != "workspace", seed), start.stages) for (place, seed), start in starts.items()]
    work_off(jobs, options.jobs, children.interrupt)
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Start:
    """A seed of a workspace: its stages 1 and 2, and the arms that start from them."""

    folder: Path
    trainer: Trainer
    seed: int
    options: argparse.Namespace
    children: Children
    guard: threading.Lock
    arms: list[Need] = field(default_factory=list)

    def stages(self) -> list[Job]:
        """Stage 1, 2 and the index in `base`, as far as they are not done; then there are the arms."""
        trainer, base = self.trainer, self.folder / "base"
        told = base / "start.json"  # what was there before `base`, whose runs have other ids than those at home
        if not told.exists():
            base.mkdir(parents=True, exist_ok=True)
            known = [run for stage in STAGES if (run := trainer.started(self.seed, stage))]
            told.write_text(json.dumps(known))
        known = json.loads(told.read_text())
        copy_workspace(trainer.workspace.path, base / "workspace", known)
        done = self._child(base, known, ["--until", "stages"])
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
        settings = [word for setting in need.settings for word in ("--set", setting)]
        done = self._child(folder, runs, ["--arms", need.name, "--until", "arms", *settings])
        starts = home if need.name == "guided" else {"translation_run": home["translation_run"]}
        self._adopt(folder, need.key, done[need.name], starts)
        shutil.rmtree(folder)
        return []

    def _child(self, folder: Path, runs: Sequence[str], words: Sequence[str]) -> dict[str, Entry]:
        """Row 1 of the script in a folder's workspace, from `runs`: {stage or arm: what it noted of it}."""
        options, trainer, out = self.options, self.trainer, folder / "out"
        said: list[Any] = [SCRIPT, "--out", out, "--workspace", folder / "workspace", "--rows", 1, "--seeds", self.seed]
        said += ["--steps", options.steps, "--preset", trainer.config.preset, "--device", options.device]
        said += ["--translation-minutes", options.translation_minutes]
        said += ["--retrieval-minutes", options.retrieval_minutes]
        said += ["--start", f"{self.seed}={','.join(runs)}"] if runs else []
        said += ["--attributes-used", ",".join(trainer.attributes_used)] if trainer.attributes_used else []
        said += [word for setting in options.settings for word in ("--set", setting)]
        self.children.run([*map(str, said), *words], folder / "log.txt")
        done = json.loads((out / "ledger.json").read_text())["done"]
        return {key.rpartition("/")[2]: entry for key, entry in done.items()}

    def _adopt(self, folder: Path, key: str, done: Entry, starts: Mapping[str, str]) -> None:
        """A run that was trained in a folder's workspace comes home and into the ledger."""
        with self.guard, Workspace.open(folder / "workspace") as theirs:
            run = adopt_run(self.trainer.workspace, theirs.run(done["run"]), **starts)
            self.trainer.ledger.done[key] = {**done, "run": run.id}
            self.trainer.ledger.save()
            print(f"{key}: run {run.id}, {done['steps']} steps, {done['seconds']:.0f} s", file=sys.stderr, flush=True)


@dataclass(order=True)
class Job:
    """What is to be done, the smallest `priority` first; it returns the jobs that it makes possible."""

    priority: tuple[int, ...]
    work: Callable[[], Iterable[Job]] = field(compare=False)


def work_off(jobs: Iterable[Job], at_once: int, interrupt: Callable[[], None]) -> None:
    """Do all jobs. After an error no other is begun, and it is raised when those under way have ended.

    Ctrl-C calls `interrupt`, which is to end them.
    """
    waiting, running = list(jobs), set[Future[Iterable[Job]]]()
    heapq.heapify(waiting)
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.add(pool.submit(heapq.heappop(waiting).work))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    for job in future.result():
                        heapq.heappush(waiting, job)
        except KeyboardInterrupt:
            interrupt()
            raise


class Children:
    """Processes of this Python, each with a log and its share of the cores."""

    def __init__(self, at_once: int) -> None:
        self.cores = max(1, (os.cpu_count() or 1) // at_once)
        self.alive: set[subprocess.Popen[bytes]] = set()
        self.guard = threading.Lock()
        self.stopped = False

    def run(self, words: Sequence[str], log: Path) -> None:
        """Wait for a process to end; RgunitError gives the last line that it wrote, where it failed.

        KeyboardInterrupt after `interrupt`: a copy may have been made meanwhile, no training is begun in it.
        """
        environment = {"OMP_NUM_THREADS": str(self.cores), **os.environ}
        with log.open("ab") as lines, self.guard:
            if self.stopped:
                raise KeyboardInterrupt
            child = subprocess.Popen(
                [sys.executable, *words], stdout=lines, stderr=lines, env=environment, process_group=0
            )
            self.alive.add(child)
        status = child.wait()
        with self.guard:
            self.alive.discard(child)
        if status:
            said = log.read_text(errors="replace").strip().splitlines() or [f"it ended with status {status}"]
            raise RgunitError(f"{said[-1].removeprefix('error: ')} ({log})")

    def interrupt(self) -> None:
        """Ask all to stop: a training keeps a checkpoint to go on from."""
        with self.guard:
            self.stopped = True
            for child in self.alive:
                child.send_signal(signal.SIGINT)
