"""The trainings of an experiment: each done once, noted in the ledger, and gone on with where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from index_store.workspace import RunRecord, Workspace
from translation.config import Config, load_config
from translation.evaluation.experiments.ledger import Ledger
from translation.evaluation.experiments.plan import NEIGHBOURS, Plan, places, variants
from translation.indexing import fill_index
from translation.progress import Progress
from translation.stages import train_guided, train_retrieval, train_translation
from translation.training.sessions import StageResult

STAGES: dict[str, Callable[..., StageResult]] = {
    "translation": train_translation,
    "retrieval": train_retrieval,
    "guided": train_guided,
}


@dataclass
class Trainer:
    """The trainings of one workspace (`place` names it in the ledger). KeyboardInterrupt where one was stopped."""

    place: str
    workspace: Workspace
    config: Config
    plan: Plan
    ledger: Ledger
    progress: Progress = field(default_factory=Progress)
    indexed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ledger.begin(self.place, self.workspace)

    def started(self, seed: int, stage: str) -> str | None:
        """The id of a run of stage 1 or 2 that is there: named by the plan's `start`, or trained before."""
        if self.place == "workspace" and (given := self.plan.start.get(seed, {}).get(stage)):
            return self.workspace.run(given).id
        done = self.ledger.done.get(f"{self.place}/{seed}/{stage}")
        return None if done is None else str(done["run"])

    def stages(self, seed: int) -> tuple[str, str]:
        """Stage 1, stage 2 and the index: the ids of the two runs."""
        plan, used = self.plan, self.attributes_used
        first = self.started(seed, "translation") or self._run(
            f"{seed}/translation", "translation", seed, attributes_used=used, minutes=plan.translation_minutes
        )
        second = self.started(seed, "retrieval") or self._run(
            f"{seed}/retrieval", "retrieval", seed, translation_run=first, minutes=plan.retrieval_minutes
        )
        if seed not in self.indexed:
            fill_index(self.workspace, self.config, run=second, generated=0, seed=seed, device=plan.device)
            self.indexed.add(seed)
        return first, second

    @property
    def attributes_used(self) -> list[str]:
        return [] if self.place == "drawn" else list(self.plan.attributes_used)

    def configured(self, settings: Sequence[str]) -> Config:
        """The base configuration with `settings` over it."""
        return load_config(self.config.preset, overrides=[*self.plan.settings, *settings])

    def key(self, seed: int, name: str, settings: Sequence[str] = ()) -> str:
        """An arm's place in the ledger; one for settings that the base configuration has anyway."""
        other = settings if self.configured(settings).guided != self.config.guided else ()
        return " ".join((f"{self.place}/{seed}/{name}", *other))

    def arm(self, seed: int, name: str, settings: Sequence[str] = ()) -> RunRecord:
        """A stage-3 run of this seed: `name` of NEIGHBOURS, with `settings` over the base configuration."""
        first, second = self.stages(seed)
        config, part = self.configured(settings), self.key(seed, name, settings).partition("/")[2]
        other = part != f"{seed}/{name}"
        steps = self.steps(seed) or self.plan.steps
        if steps is None and (other or name != "guided"):
            self.arm(seed, "guided")
            steps = self.steps(seed)
        given: dict[str, Any] = {"neighbours": NEIGHBOURS[name], "translation_run": first, "steps": steps}
        given |= {"retrieval_run": second} if name == "guided" else {}
        given |= {} if steps else {"minutes": self.plan.minutes}
        return self.workspace.run(self._run(part, "guided", seed, config, **given))

    def steps(self, seed: int) -> int | None:
        """The steps of every arm of this seed, None before the first was trained."""
        home = "drawn" if self.place == "drawn" else "workspace"
        guided = self.ledger.done.get(f"{home}/{seed}/guided")
        return None if guided is None else int(guided["steps"])

    def wanted(self, row: int) -> dict[str, tuple[str, tuple[str, ...]]]:
        """The arms of a row that are wanted: {name: (name of NEIGHBOURS, settings over the base configuration)}."""
        guided = variants(row, self.config.guided.neighbour_style) if row in (4, 5) else {}
        return {name: ("guided", guided[name]) if name in guided else (name, ()) for name in self.plan.arms_of(row)}

    def _run(self, part: str, stage: str, seed: int, config: Config | None = None, **given: Any) -> str:
        """The id of a run that is done, trained now where it is not; of runs that stopped, only own ones go on."""
        key, before = f"{self.place}/{part}", self.ledger.before[self.place]
        if key not in self.ledger.done:
            self.progress.note(f"training {key}")
            self.progress.stage(stage if "neighbours" not in given else f"{stage}:{given['neighbours']}")
            same = [r for r in self.workspace.runs(stage) if r.config.get("neighbours") == given.get("neighbours")]
            resume = "auto" if any(run.id not in before for run in same) else False
            given |= {"seed": seed, "device": self.plan.device, "resume": resume, "progress": self.progress}
            result = STAGES[stage](self.workspace, config or self.config, **given)
            if result.stopped:
                raise KeyboardInterrupt
            self.ledger.note(key, result)
        return str(self.ledger.done[key]["run"])


@dataclass(frozen=True)
class Need:
    """A training that is to be done: an arm (its key in the ledger, name and settings), or without one the stages."""

    trainer: Trainer
    seed: int
    rank: int = 0
    key: str = ""
    name: str = ""
    settings: tuple[str, ...] = ()


def needs(rows: Sequence[tuple[int, int]], trainers: Mapping[str, Trainer]) -> list[Need]:
    """The trainings of rows [(row, seed)] that are not done, those of earlier rows first; stages alone have no arm."""
    found: dict[tuple[str, str], Need] = {}
    for row, seed in rows:
        for place in places(row, seed).values():
            trainer = trainers[place]
            if not (trainer.started(seed, "translation") and trainer.started(seed, "retrieval")):
                found[place, f"{seed}"] = Need(trainer, seed)
            for name, settings in trainer.wanted(row).values() if trainer.plan.until != "stages" else ():
                key, rank = trainer.key(seed, name, settings), trainer.plan.rows.index(row)
                if key not in trainer.ledger.done:
                    found.setdefault((place, key), Need(trainer, seed, rank, key, name, settings))
    return list(found.values())
