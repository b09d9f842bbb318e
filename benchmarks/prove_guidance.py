"""Does guidance help? The paper's tables, row by row, every arm of a seed from one stage-1 checkpoint, in equal steps.

    python benchmarks/prove_guidance.py  # says what would be done and its cost
    python benchmarks/prove_guidance.py --out proof --workspace faces --rows 1 --seeds 0,1,2
    python benchmarks/prove_guidance.py --out proof --rows 2 --seeds 0,1,2   # drawn faces: needs no workspace

    1  Table 2: unguided, random neighbours, guided (and its neighbours swapped at inference)
    2  the same arms on drawn faces, whose true translation is known
    3  Table 3: a quarter and all of the labels, all images to retrieve from
    4  kinds of guidance: convolution, attention, patches, style; neighbour dropout
    5  Table 4: k = 1, 3 and 10

A seed's stage 1 and 2 are trained once (or `--start SEED=RUN` names a stage-1 run of the workspace) and serve all
rows. The first guided arm of a seed ends by `--minutes`, all others take its steps. Each row of a seed ends in one
JSON file in `--out`, written part by part, with a picture of some pairs beside it; what is there is not done again, and
a run that was stopped is gone on with: start it again. All arms are judged on the same pairs (seed 0), so differences
have an interval over the seeds as well (`row-1-over-seeds.json`). Runs that the workspace has already are left alone.
`--exchange` judges also with the halves of the test people exchanged: with the mean of both ways everyone is source
and reference, so chance is smaller.
`--arms` names those that are wanted, of any row. `--jobs N` trains N at once, each in a copy of the workspace, whose
run then comes home: for a GPU that one small training does not fill. `--until arms` judges nothing, so that another
machine can do it (`proof/slim.py`).
`--use neighbour_style=0.75,neighbours=5` judges the guided and the random arm of rows 1 and 2 also as they are with
other settings in use than in training.
Row 3 makes a workspace of its own in `--out`, in which 3 in 4 training images come without labels; its pairs are those
of the workspace where people are named (text column `identity`), and one classifier, of all labels, judges both.
`docs/make_guidance.py` makes tables of the results.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proof.beside import Need, train_beside
from proof.plan import KINDS, TITLES, arms_wanted, parse, places, plan, variants
from proof.results import RowResult, write_json
from proof.seeds import EXCHANGED, Judged, beside, over_seeds
from proof.told import Told
from proof.workspaces import drawn_workspace, quarter_workspace

from index_store.errors import RgunitError, UsageError
from index_store.workspace import RunRecord, Workspace
from translation.config import Config, load_config
from translation.evaluation.arms import Arm, Arms, arms_of_run, evaluate_translation_runs, used_with
from translation.evaluation.report.sheet import draw_pairs
from translation.evaluation.scores import Draws, comparisons
from translation.neighbours import Neighbours
from translation.stages import fill_index, open_retriever, train_guided, train_retrieval, train_translation
from translation.training.sessions import StageResult
from translation.translator import Translator

STAGES = {"translation": train_translation, "retrieval": train_retrieval, "guided": train_guided}


@dataclass
class Ledger:
    """What is done, in `ledger.json`: {"place/seed/part": {run, steps, seconds}}, and what was there before."""

    path: Path
    settings: dict[str, Any]
    done: dict[str, dict[str, Any]]
    before: dict[str, list[str]]

    @staticmethod
    def open(folder: Path, settings: dict[str, Any]) -> Ledger:
        """The ledger in `folder`, new where there is none. RgunitError where it was made with other settings."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "ledger.json"
        there = json.loads(path.read_text()) if path.exists() else {"settings": settings, "done": {}, "before": {}}
        if other := [key for key in settings if settings[key] != there["settings"].get(key)]:
            raise RgunitError(f"{folder} holds rows made with other settings ({', '.join(other)}): give another --out")
        return Ledger(path, settings, there["done"], there["before"])

    def save(self) -> None:
        """Write it, whole."""
        write_json(self.path, {"settings": self.settings, "before": self.before, "done": self.done})

    def note(self, key: str, result: StageResult) -> None:
        """Record a finished training."""
        self.done[key] = {"run": result.run.id, "steps": result.steps, "seconds": round(result.seconds, 1)}
        self.save()


@dataclass
class Trainer:
    """The trainings of one workspace (`place` names it in the ledger), each done once."""

    place: str
    workspace: Workspace
    config: Config
    options: argparse.Namespace
    ledger: Ledger
    indexed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.place not in self.ledger.before:
            self.ledger.before[self.place] = [run.id for run in self.workspace.runs()]
            self.ledger.save()

    def started(self, seed: int, stage: str) -> str | None:
        """The id of a run of stage 1 or 2 that is there: named by `--start`, or trained before."""
        if self.place == "workspace" and (given := self.options.start.get(seed, {}).get(stage)):
            return self.workspace.run(given).id
        done = self.ledger.done.get(f"{self.place}/{seed}/{stage}")
        return None if done is None else str(done["run"])

    def stages(self, seed: int) -> tuple[str, str]:
        """Stage 1, stage 2 and the index: the ids of the two runs."""
        options, used = self.options, self.attributes_used
        first = self.started(seed, "translation") or self._run(
            f"{seed}/translation", "translation", seed, attributes_used=used, minutes=options.translation_minutes
        )
        second = self.started(seed, "retrieval") or self._run(
            f"{seed}/retrieval", "retrieval", seed, translation_run=first, minutes=options.retrieval_minutes
        )
        if seed not in self.indexed:
            fill_index(self.workspace, self.config, run=second, generated=0, seed=seed, device=options.device)
            self.indexed.add(seed)
        return first, second

    @property
    def attributes_used(self) -> list[str]:
        return [] if self.place == "drawn" else list(self.options.attributes_used)

    def configured(self, settings: Sequence[str]) -> Config:
        """The base configuration with `settings` over it."""
        return load_config(self.config.preset, overrides=[*self.options.settings, *settings])

    def key(self, seed: int, name: str, settings: Sequence[str] = ()) -> str:
        """An arm's place in the ledger; one for settings that the base configuration has anyway."""
        other = settings if self.configured(settings).guided != self.config.guided else ()
        return " ".join((f"{self.place}/{seed}/{name}", *other))

    def arm(self, seed: int, name: str, settings: Sequence[str] = ()) -> RunRecord:
        """A stage-3 run of this seed: `name` of KINDS, with `settings` over the base configuration."""
        first, second = self.stages(seed)
        config, part = self.configured(settings), self.key(seed, name, settings).partition("/")[2]
        other = part != f"{seed}/{name}"
        steps = self.steps(seed) or self.options.steps
        if steps is None and (other or name != "guided"):
            self.arm(seed, "guided")
            steps = self.steps(seed)
        given = {"neighbours": KINDS[name], "translation_run": first, "steps": steps}
        given |= {"retrieval_run": second} if name == "guided" else {}
        given |= {} if steps else {"minutes": self.options.minutes}
        return self.workspace.run(self._run(part, "guided", seed, config, **given))

    def steps(self, seed: int) -> int | None:
        """The steps of every arm of this seed, None before the first was trained."""
        home = "drawn" if self.place == "drawn" else "workspace"
        guided = self.ledger.done.get(f"{home}/{seed}/guided")
        return None if guided is None else int(guided["steps"])

    def _run(self, part: str, stage: str, seed: int, config: Config | None = None, **given: Any) -> str:
        """The id of a run that is done, trained now where it is not; of runs that stopped, only own ones go on."""
        key, before = f"{self.place}/{part}", self.ledger.before[self.place]
        if key not in self.ledger.done:
            print(key, file=sys.stderr, flush=True)
            same = [r for r in self.workspace.runs(stage) if r.config.get("neighbours") == given.get("neighbours")]
            resume = "auto" if any(run.id not in before for run in same) else False
            given |= {"seed": seed, "device": self.options.device, "resume": resume, "progress": Told()}
            result: StageResult = STAGES[stage](self.workspace, config or self.config, **given)
            if result.stopped:
                raise KeyboardInterrupt
            self.ledger.note(key, result)
        return str(self.ledger.done[key]["run"])


def judge(
    trainer: Trainer, seed: int, runs: Mapping[str, RunRecord], labelled: Workspace, exchanged: bool, sheet: Path
) -> tuple[dict[str, Any], Judged]:
    """The evaluation of stage-3 runs by name, each guided one also with its neighbours swapped for random ones.

    What judges is taught by the labels of `labelled`: one classifier for all. `sheet`: a PNG of some pairs.
    """
    workspace, options = trainer.workspace, trainer.options
    first, second = trainer.stages(seed)
    translator = Translator.load(workspace, first, options.device)
    retriever = open_retriever(workspace, second, options.device)
    guides = Neighbours(workspace, translator, retriever, k=1)
    arms = {"stage1": Arm(workspace, translator, None), "probe": Arm(workspace, translator, guides)}
    for name, record in runs.items():
        for kind, arm in arms_of_run(workspace, translator, record, retriever, options.device).items():
            arms[kind if name in KINDS else name if kind == "guided" else f"{name}, swapped"] = arm
    others: dict[str, Arm] = {}
    for use in options.use:
        told = ", ".join(f"{key} = {value}" for key, value in use.items())
        for name in runs.keys() & {"guided", "random"}:
            ways = arms_of_run(workspace, translator, runs[name], retriever, options.device, use)
            others |= {f"{kind}, {told}": arm for kind, arm in sorted(ways.items())}
    arms |= others
    compared = Arms(workspace.run(first), arms, retriever)
    found = evaluate_translation_runs(
        workspace,
        arms=compared,
        device=options.device,
        config=trainer.config.evaluation,
        judge=options.judge,
        judge_crop=options.judge_crop,
        exchanged=exchanged,
        labelled=labelled,
        progress=Told(),
    )
    draw_pairs(workspace, found, compared, sheet, shown=[*reversed(runs), "swapped"])
    summary = {key: value for key, value in found.summary.items() if not isinstance(value, dict) or value.get("n") != 0}
    if referee := summary["protocol"]["judge"]:  # results are passed on: no path of this machine
        summary["protocol"]["judge"] = {**referee, "path": Path(referee["path"]).name}
    draws = Draws.draw(found.pairs, trainer.config.evaluation.bootstrap, 0)
    which = [(name, other) for name in runs if name not in KINDS for other in ("unguided", f"{name}, swapped")]
    which += [(name, "unguided") for name in others]
    for name in (name for name in others if name.startswith("guided")):
        which += [(name, name.replace("guided", other, 1)) for other in ("random", "swapped")]
    summary["comparisons"] |= comparisons(found.scores, found.pairs, draws, which)
    return summary, (found.scores, found.pairs)


def wanted(row: int, trainer: Trainer) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The arms of a row that are wanted: {name: (name of KINDS, settings over the base configuration)}."""
    guided = variants(row, trainer.config.guided.neighbour_style) if row in (4, 5) else {}
    chosen = arms_wanted(row, trainer.options)
    return {name: ("guided", guided[name]) if name in guided else (name, ()) for name in chosen}


def measure(row: int, seed: int, trainers: Mapping[str, Trainer], options: argparse.Namespace) -> None:
    """Train what a row of one seed needs and judge it, a part at a time."""
    result, other = RowResult.open(options.out, row, seed), RowResult.open(options.out, 1, seed)
    for part, judged_part, exchanged in judgements(row, seed, options):
        trainer, arms = trainers[places(row, seed)[part]], arms_wanted(row, options)
        same = judged_part.removeprefix(part).removeprefix(", ")  # what row 1 calls it
        if result.has(judged_part, arms):
            continue
        if row == 3 and trainer.place == "workspace" and other.has(same, arms):
            result.take(judged_part, other, same)
        else:
            trainer.stages(seed)
            if options.until == "stages":
                continue
            runs = {name: trainer.arm(seed, *arm) for name, arm in wanted(row, trainer).items()}
            if options.until == "arms":
                continue
            begun, labelled = time.monotonic(), trainers["drawn" if row == 2 else "workspace"].workspace
            sheet = result.path.with_name(f"{result.path.stem}{' ' * bool(judged_part)}{judged_part}.png")
            judged = judge(trainer, seed, runs, labelled, exchanged, sheet)
            result.add(judged_part, *judged, time.monotonic() - begun)
        result.about["steps"] = trainer.steps(seed) or options.steps
        result.save()
        print(f"row {row}, seed {seed}{', ' * bool(judged_part)}{judged_part}: {result.path}", flush=True)


def judgements(row: int, seed: int, options: argparse.Namespace) -> list[tuple[str, str, bool]]:
    """[(part of a row, its name in the results, halves exchanged)]"""
    ways = (False, True) if options.exchange else (False,)
    return [(part, beside(part, EXCHANGED) if way else part, way) for part in places(row, seed) for way in ways]


def is_judged(row: int, seed: int, options: argparse.Namespace) -> bool:
    """Whether all of a row is there with every arm that is wanted."""
    result, arms = RowResult.open(options.out, row, seed), arms_wanted(row, options)
    return all(result.has(name, arms) for _, name, _ in judgements(row, seed, options))


def needs(rows: Sequence[tuple[int, int]], trainers: Mapping[str, Trainer]) -> list[Need]:
    """The trainings of rows [(row, seed)] that are not done, those of earlier rows first; stages alone have no arm."""
    found: dict[tuple[str, str], Need] = {}
    for row, seed in rows:
        for place in places(row, seed).values():
            trainer = trainers[place]
            if not (trainer.started(seed, "translation") and trainer.started(seed, "retrieval")):
                found[place, f"{seed}"] = Need(trainer, seed)
            for name, settings in wanted(row, trainer).values() if trainer.options.until != "stages" else ():
                key, rank = trainer.key(seed, name, settings), trainer.options.rows.index(row)
                if key not in trainer.ledger.done:
                    found.setdefault((place, key), Need(trainer, seed, rank, key, name, settings))
    return list(found.values())


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments, __doc__)
    if options.out is None:
        print(plan(options))
        print("\nGive --out DIR (and --workspace DIR) to do it.")
        return
    presets = {"workspace": options.preset, "drawn": options.drawn_preset}
    configs = {place: load_config(preset, overrides=options.settings) for place, preset in presets.items()}
    settings = {place: config.model_dump(mode="json") for place, config in configs.items()}
    settings |= {"steps": options.steps, "minutes": options.minutes, "attributes_used": options.attributes_used}
    settings |= {"use": options.use} if options.use else {}
    for use in options.use:  # refused before anything is trained
        for config in configs.values():
            used_with(config, use)
    ledger = Ledger.open(options.out, settings)
    rows = [(row, seed) for row in options.rows for seed in options.seeds]
    rows = [(row, seed) for row, seed in rows if not is_judged(row, seed, options)]
    with ExitStack() as stack:
        trainers: dict[str, Trainer] = {}

        def trainer(place: str, workspace: Workspace) -> None:
            config = configs["drawn" if place == "drawn" else "workspace"]
            trainers[place] = Trainer(place, stack.enter_context(workspace), config, options, ledger)

        if any(row != 2 for row, _ in rows):
            trainer("workspace", Workspace.open(options.workspace))
        if any(row == 2 for row, _ in rows):
            size = configs["drawn"].data.size
            trainer("drawn", drawn_workspace(options.out / "drawn", options.drawn_images, size))
        for seed in (seed for row, seed in rows if row == 3):
            name = f"quarter-{seed}"
            trainer(name, quarter_workspace(options.out / name, trainers["workspace"].workspace))
        if options.jobs > 1:
            train_beside(options.out / "beside", needs(rows, trainers), options)
            rows = rows if options.until == "judged" else []
        for row, seed in rows:
            measure(row, seed, trainers, options)
    for row in options.rows if options.until == "judged" else ():
        kept = {seed: RowResult.open(options.out, row, seed).scores for seed in options.seeds}
        kept = {seed: scores for seed, scores in kept.items() if scores}
        if len(kept) > 1 or options.exchange:
            about = {"row": row, "title": TITLES[row], "seeds": list(kept), "parts": over_seeds(list(kept.values()))}
            write_json(options.out / f"row-{row}-over-seeds.json", about)
    if options.until == "judged":
        print(f"tables: python docs/make_guidance.py {options.out}")


if __name__ == "__main__":
    try:
        main()
    except (RgunitError, UsageError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: start it again with the same options to go on")
