"""What each part of a method brings: the ablations of the papers, restartable.

    init     INIT's Table 3: importance weights (also from the store), hops, both, on its own backbone
    weights  the same on another method: neither, both, weights from the store; for GMM-UNIT on photos
    sdit     SDIT's Table 6.1: without conditional norms, attention, the latent term; and guided by retrieval

Every row of a seed makes the same number of generator images, so many that the slowest takes the time given: the pace
of each row is measured first, in the warm-up (which has no hops) and after it. One row more of `init` and `weights` is
the plain method for as long as the slowest row took. What weights compare pictures by is the same for all rows and
seeds: named, or trained once for all of them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index_store.errors import RgunitError, UsageError
from index_store.lifetimes import end_with_parent
from index_store.whole import write_json
from index_store.workspace import Workspace
from retrieval.onnx import OnnxNetwork
from translation.config import Config, load_config
from translation.evaluation.arms import Arm, Arms, arms_of_run
from translation.evaluation.experiments.ledger import Ledger
from translation.evaluation.experiments.seeds import gaps, load_scores, save_scores, scores_of
from translation.evaluation.experiments.workspaces import source_workspace
from translation.evaluation.judging import evaluate_translation_runs
from translation.indexing import fill_index, open_retriever
from translation.progress import Progress
from translation.sections import STORE
from translation.stages import train_guided, train_retrieval, train_translation, translation_task
from translation.training.sessions import Session
from translation.translator import Translator

PACE = 6  # steps that a row's pace is measured over, after one to warm up
RETRIEVAL_MINUTES = 1.0  # of the retrieval that guides
GUIDED_SHARE = 0.25  # of a row's steps, which stage 3 takes on top
PHI = "{phi}"
AS_LONG = "neither, as long as the slowest"
MEASURES = ("accuracy_changed", "accuracy_kept", "fd_attr", "truth", "reverse", "diversity", "identity")


class Row(NamedTuple):
    """Settings over the table's; `made`: images of a source in a full step; `arm`: of stage 3, on row 1."""

    settings: tuple[str, ...] = ()
    made: int = 1
    arm: str = ""


def _weighed(phi: str = PHI) -> tuple[str, ...]:
    return "sampling.informative=true", f"sampling.embedding={phi}"


def _hops(n: int) -> tuple[str, ...]:
    return (f"sampling.hops={n}",)


BOTH, THREE = Row((*_weighed(), *_hops(2)), 3), Row((*_weighed(), *_hops(3)), 6)
TABLES: dict[str, dict[str, Row]] = {
    "init": {
        "neither": Row(),
        "weights": Row(_weighed()),
        "weights from the store": Row(_weighed(STORE + PHI)),
        "2 hops": Row(_hops(2), 3),
        "3 hops": Row(_hops(3), 6),
        "weights, 2 hops": BOTH,
        "weights, 3 hops": THREE,
        AS_LONG: Row(),
    },
    "weights": {
        "neither": Row(),
        "weights from the store": Row(_weighed(STORE + PHI)),
        "weights, 2 hops": BOTH,
        AS_LONG: Row(),
    },
    "sdit": {
        "full": Row(),
        "no conditional norms": Row(("networks.norms=false",)),
        "no attention": Row(("networks.attention=false",)),
        "no latent term": Row(("translation.weights.latent=0",)),
        "full, stage 3 unguided": Row(("guided.guidance=attention",), arm="none"),
        "full, stage 3 guided": Row(("guided.guidance=attention",), arm="retrieved"),
    },
}
PRESETS = {"init": "init", "weights": "celeba-64", "sdit": "sdit"}


@dataclass(frozen=True)
class Ablation:
    """What is asked for; `workspace` None: faces are drawn in `out`. `rows` of the table, empty: all."""

    table: str
    out: Path
    workspace: Path | None = None
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    minutes: float = 4.0
    preset: str = ""
    settings: tuple[str, ...] = ()
    attributes_used: tuple[str, ...] = ()
    embedding: str = ""
    embedding_minutes: float = 3.0
    drawn_images: int = 1500
    judge: Path | None = None
    judge_crop: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise UsageError(f"there is no table {self.table!r}: known are {', '.join(TABLES)}")
        known = TABLES[self.table]
        if strange := [name for name in self.rows if name not in known]:
            raise UsageError(f"table {self.table} has no row {strange[0]!r}: its rows are {'; '.join(known)}")
        if self.rows and next(iter(known)) not in self.rows:
            raise UsageError(f"--rows leaves out {next(iter(known))!r}, which the others are compared with")
        for row in self.chosen.values():
            self.config(row.settings)

    @property
    def chosen(self) -> dict[str, Row]:
        return {name: row for name, row in TABLES[self.table].items() if not self.rows or name in self.rows}

    def config(self, settings: Sequence[str] = (), phi: str = "") -> Config:
        """The table's preset with the plan's settings and a row's."""
        own = [setting.replace(PHI, phi) for setting in settings]
        return load_config(self.preset or PRESETS[self.table], overrides=[*self.settings, *own])


def run_ablation(plan: Ablation, progress: Progress | None = None) -> dict[str, Any]:
    """Train and judge what `plan.out` does not hold yet; {out, table, rows, seeds: [{seed, rows, …}]}.

    `rows` {row: {measure: its mean and deviation over seeds, against: differences from the first row}}.
    RgunitError where `out` was made with other settings; KeyboardInterrupt where a training was stopped: the same plan
    goes on.
    """
    end_with_parent()
    progress = progress or Progress()
    if plan.judge is not None:
        OnnxNetwork(plan.judge, plan.judge_crop)
    settings = {"table": plan.table, "config": plan.config().model_dump(mode="json"), "minutes": plan.minutes}
    settings |= {"attributes_used": list(plan.attributes_used), "embedding": plan.embedding}
    ledger = Ledger.open(plan.out, settings)
    with source_workspace(plan.workspace, plan.out, plan.drawn_images, plan.config().data.size) as workspace:
        trainer = _Trainer(plan, workspace, ledger, progress)
        for seed in plan.seeds:
            file = plan.out / f"seed-{seed}.json"
            if not file.exists() or set(plan.chosen) - set(json.loads(file.read_text())["rows"]):
                trainer.judge(seed, file)
    return _found(plan)


@dataclass
class _Trainer:
    plan: Ablation
    workspace: Workspace
    ledger: Ledger
    progress: Progress

    def __post_init__(self) -> None:
        self.ledger.begin("", self.workspace)

    @property
    def phi(self) -> str:
        """The embedding of all rows and seeds: as named, else a retrieval run trained for it, whose index is filled."""
        if self.plan.embedding or not any(PHI in s for row in self.plan.chosen.values() for s in row.settings):
            return self.plan.embedding
        own = load_config("demo" if self.plan.workspace is None else "celeba-64")
        used, minutes = {"attributes_used": self.plan.attributes_used}, self.plan.embedding_minutes
        first = self._run("embedding/translation", train_translation, own, 0, minutes=minutes, **used)
        second = self._run("embedding/retrieval", train_retrieval, own, 0, minutes=minutes / 3, translation_run=first)
        if "embedding/index" not in self.ledger.done:
            fill_index(self.workspace, own, run=second, generated=0, device=self.plan.device)
            self.ledger.done["embedding/index"] = {"run": second}
            self.ledger.save()
        return second

    @property
    def warmup(self) -> int:
        """Steps of stage 1 in which a row without hops and one with them make the same: one image of each source."""
        return int(getattr(self.plan.config().translation, "warmup", 0))

    def paces(self) -> dict[str, list[float]]:
        """Seconds of a step of each row of stage 1, in the warm-up and after it, measured once."""
        if "paces" not in self.ledger.done:
            phi = self.phi
            rows = {name: row for name, row in self.plan.chosen.items() if not row.arm and name != AS_LONG}
            self.ledger.done["paces"] = {name: self._pace(row, phi) for name, row in rows.items()}
            self.ledger.save()
        return self.ledger.done["paces"]

    def _pace(self, row: Row, phi: str) -> list[float]:
        session = Session(device=self.plan.device)
        config = self.plan.config(row.settings, phi)
        task, _, config = translation_task(self.workspace, config, session, self.plan.attributes_used)
        paces = []
        for start in (0, self.warmup):
            batches = {step: task.prepare(step) for step in range(start, start + 1 + PACE)}
            for step, batch in batches.items():
                if step == start + 1:
                    begun = time.monotonic()
                terms = task.step(step, batch)
                float(next(iter(terms.values())))  # waits for the device
            paces.append((time.monotonic() - begun) / PACE)
        return paces

    def images(self, row: Row, steps: float) -> float:
        """Generator images that a row makes in so many steps."""
        full = max(0.0, steps - self.warmup)
        return self.plan.config().translation.batch * (steps - full + row.made * full)

    def steps(self, row: Row) -> int:
        """As many as make the images that the slowest row makes in the time."""
        seconds, least = 60 * self.plan.minutes, math.inf
        for name, (warm, full) in self.paces().items():
            steps = min(seconds / warm, self.warmup) + max(0.0, seconds - self.warmup * warm) / full
            least = min(least, self.images(self.plan.chosen[name], steps))
        each = least / self.plan.config().translation.batch
        return max(1, round(min(each, self.warmup) + max(0.0, each - self.warmup) / row.made))

    def scheduled(self, row: Row, steps: int) -> Config:
        """A row's settings with its steps; where the mask comes in late, it does after as many images in each row."""
        config = self.plan.config(row.settings, self.phi)
        changed = {"steps": steps}
        if whole := getattr(config.translation, "mask_from", 0):
            changed["mask_from"] = max(1, round(whole / row.made))
        return config.model_copy(update={"translation": config.translation.model_copy(update=changed)})

    def train(self, seed: int, name: str, row: Row) -> dict[str, Any]:
        """The ledger's entry of a row, trained now where it is not there: {run, steps, seconds}."""
        key, used = f"{seed}/{name}", {"attributes_used": self.plan.attributes_used}
        if key not in self.ledger.done and row.arm:
            start = self.ledger.done[f"{seed}/{next(iter(self.plan.chosen))}"]
            config = self.plan.config(row.settings)
            given: dict[str, Any] = {"translation_run": start["run"], "minutes": RETRIEVAL_MINUTES}
            second = self._run(f"{seed}/retrieval", train_retrieval, config, seed, **given)
            fill_index(self.workspace, config, run=second, generated=0, seed=seed, device=self.plan.device)
            more: dict[str, Any] = {"retrieval_run": second} if row.arm == "retrieved" else {}
            steps = max(1, round(GUIDED_SHARE * start["steps"]))
            more |= {"neighbours": row.arm, "translation_run": start["run"], "steps": steps}
            self._run(key, train_guided, config, seed, **more)
        elif key not in self.ledger.done:
            minutes, steps = None, self.steps(row)
            if name == AS_LONG:
                others = [self.ledger.done[f"{seed}/{other}"]["seconds"] for other in self.plan.chosen if other != name]
                minutes, steps = max(1.0, *others) / 60, 10 * steps
            self._run(key, train_translation, self.scheduled(row, steps), seed, minutes=minutes, **used)
        return self.ledger.done[key]

    def _run(self, key: str, stage: Any, config: Config, seed: int, **given: Any) -> str:
        """The id of a run; of one that was stopped, which nothing else is known of, the training goes on."""
        known = {str(entry.get("run")) for entry in self.ledger.done.values()} | set(self.ledger.before[""])
        stopped = any(run.id not in known and not run.empty for run in self.workspace.runs())
        given |= {"seed": seed, "device": self.plan.device, "resume": "auto" if stopped else False}
        return self.ledger.trained(key, self.workspace, stage, config, self.progress, **given)

    def judge(self, seed: int, file: Path) -> None:
        """All rows of a seed on the same pairs."""
        rows = self.plan.chosen
        trained = {name: self.train(seed, name, row) for name, row in rows.items()}
        first = next(iter(rows))
        base, device = self.workspace.run(trained[first]["run"]), self.plan.device
        start = Translator.load(self.workspace, base.id, device)
        arms = {"stage1": Arm(self.workspace, start, None)}
        for name, row in rows.items():
            record = self.workspace.run(trained[name]["run"])
            if row.arm:
                retriever = open_retriever(self.workspace, self.ledger.done[f"{seed}/retrieval"]["run"], device)
                made = arms_of_run(self.workspace, start, record, retriever, device)
                arms[name] = made["guided" if row.arm == "retrieved" else "unguided"]
            elif name != first:
                arms[name] = Arm(self.workspace, Translator.load(self.workspace, record.id, device), None)
        found = evaluate_translation_runs(
            self.workspace,
            arms=Arms(base, arms, None),
            device=device,
            config=self.plan.config().evaluation,
            changes={"reverse": self.plan.table == "sdit"},
            judge=self.plan.judge,
            judge_crop=self.plan.judge_crop,
            progress=self.progress,
        )
        names = {"stage1": first}
        summary = {names.get(n, n): v for n, v in found.summary.items() if isinstance(v, dict) and v.get("n")}
        scores = scores_of("", ({names.get(n, n): s for n, s in found.scores.items()}, found.pairs))
        save_scores(file.with_suffix(".npz"), scores)
        images = {name: round(self.images(row, trained[name]["steps"])) for name, row in rows.items()}
        about = {name: {**summary[name], **trained[name], "images": images[name]} for name in rows}
        shown = {name: summary[name] for name in ("copy", "floor") if name in summary}
        write_json(file, {"seed": seed, "rows": about, **shown})
        self.progress.note(f"seed {seed} is judged: {file}")


def _found(plan: Ablation) -> dict[str, Any]:
    """What is there of the seeds asked for, with means, their spread and differences from the first row."""
    files = [plan.out / f"seed-{seed}.json" for seed in plan.seeds]
    seeds = [json.loads(file.read_text()) for file in files]
    rows: dict[str, Any] = {}
    first = next(iter(plan.chosen))
    arrays = [load_scores(file.with_suffix(".npz")) for file in files]
    for name in plan.chosen:
        rows[name] = {m: _spread([seed["rows"][name].get(m) for seed in seeds]) for m in ("steps", "images", "seconds")}
        rows[name] |= {m: _spread([seed["rows"][name].get(m) for seed in seeds]) for m in MEASURES}
        if name != first:
            try:
                rows[name]["against"] = gaps(arrays, ("",), name, first)
            except (ValueError, KeyError) as error:
                raise RgunitError(f"seeds were not judged on the same pairs ({error}): give another --out") from None
    return {"out": str(plan.out.absolute()), "table": plan.table, "rows": rows, "seeds": seeds}


def _spread(values: Sequence[Any]) -> dict[str, float] | None:
    """{mean, deviation} over seeds; None where it was not measured."""
    known = [float(v["value"] if isinstance(v, Mapping) else v) for v in values if v is not None]
    if not known or len(known) < len(values) or not all(map(math.isfinite, known)):
        return None
    return {"mean": float(np.mean(known)), "deviation": float(np.std(known, ddof=1)) if len(known) > 1 else 0.0}
