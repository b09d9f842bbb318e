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
JSON file in `--out`, made whole; what is there is not done again, and a run that was stopped is gone on with: start
it again. All arms are judged on the same pairs (seed 0). Runs that the workspace has already are left as they are.
`--use neighbour_style=0.75,neighbours=5` judges the guided and the random arm of rows 1 and 2 also as they are with
other settings in use than in training.
Row 3 makes a workspace of its own in `--out`, in which 3 in 4 training images come without labels until its arms are
trained; its pairs are those of the workspace where people are named (text column `identity`). `docs/make_guidance.py`
makes tables of the results.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workspaces import drawn_workspace, give_labels_back, quarter_workspace

from index_store.errors import RgunitError, UsageError
from index_store.workspace import RunRecord, Workspace
from translation.arms import Arm, Arms, arms_of_run, evaluate_translation_runs, used_with
from translation.config import Config, load_config
from translation.evaluation.scores import Draws, comparisons
from translation.neighbours import Neighbours
from translation.progress import Progress
from translation.sessions import StageResult
from translation.stages import fill_index, open_retriever, train_guided, train_retrieval, train_translation
from translation.translator import Translator

TITLES = {
    1: "Table 2: guided against unguided",
    2: "Drawn faces: distance to the truth",
    3: "Table 3: share of the labels",
    4: "Kind of guidance",
    5: "Table 4: number of neighbours",
}
DROPOUT = 0.3
BARE = ("guided.random_k=false", "guided.neighbour_style=false")
VARIANTS: dict[int, dict[str, tuple[str, ...]]] = {  # rows 4 and 5: what differs from the base configuration
    4: {
        "convolution": ("guided.guidance=convolution", "guided.neighbour_start=0", *BARE),
        "attention": ("guided.guidance=attention", *BARE),
        "patches": ("guided.guidance=patches", *BARE),
        "style": ("guided.guidance=none", "guided.random_k=false", "guided.neighbour_style=true"),
        "patches and style": ("guided.guidance=patches", "guided.neighbour_style=true"),
        "patches and style, dropout": (
            *("guided.guidance=patches", "guided.neighbour_style=true"),
            f"guided.neighbour_dropout={DROPOUT}",
        ),
    },
    5: {f"k = {k}": (f"guided.neighbours={k}",) for k in (1, 3, 10)},
}
KINDS = {"guided": "retrieved", "random": "random", "unguided": "none"}  # the slowest first: its steps are the others'
STAGES = {"translation": train_translation, "retrieval": train_retrieval, "guided": train_guided}


class Told(Progress):
    """Stages and notes, a line each, on stderr."""

    def stage(self, name: str) -> None:
        print(f"  {name}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"  note: {text}", file=sys.stderr, flush=True)


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

    def stages(self, seed: int) -> tuple[str, str]:
        """Stage 1, stage 2 and the index: the ids of the two runs."""
        options, used = self.options, [] if self.place == "drawn" else self.options.attributes_used
        start = options.start.get(seed) if self.place == "workspace" else None
        first = self.workspace.run(start).id if start else None
        minutes = {"minutes": options.translation_minutes}
        first = first or self._run(f"{seed}/translation", "translation", seed, attributes_used=used, **minutes)
        minutes = {"minutes": options.retrieval_minutes}
        second = self._run(f"{seed}/retrieval", "retrieval", seed, translation_run=first, **minutes)
        if seed not in self.indexed:
            fill_index(self.workspace, self.config, run=second, generated=0, seed=seed, device=options.device)
            self.indexed.add(seed)
        return first, second

    def arm(self, seed: int, name: str, settings: Sequence[str] = ()) -> RunRecord:
        """A stage-3 run of this seed: `name` of KINDS, with `settings` over the base configuration."""
        first, second = self.stages(seed)
        config = load_config(self.config.preset, overrides=[*self.options.settings, *settings])
        other = settings if config.guided != self.config.guided else ()
        steps = self.steps(seed) or self.options.steps
        if steps is None and (name, other) != ("guided", ()):
            self.arm(seed, "guided")
            steps = self.steps(seed)
        given = {"neighbours": KINDS[name], "translation_run": first, "steps": steps}
        given |= {"retrieval_run": second} if name == "guided" else {}
        given |= {} if steps else {"minutes": self.options.minutes}
        key = " ".join((f"{seed}/{name}", *other))
        return self.workspace.run(self._run(key, "guided", seed, config, **given))

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


def judge(trainer: Trainer, seed: int, runs: Mapping[str, RunRecord]) -> dict[str, Any]:
    """The evaluation of stage-3 runs by name, each guided one also with its neighbours swapped for random ones."""
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
    found = evaluate_translation_runs(
        workspace,
        arms=Arms(workspace.run(first), arms, retriever),
        device=options.device,
        config=trainer.config.evaluation,
        judge=options.judge,
        judge_crop=options.judge_crop,
        progress=Told(),
    )
    summary = {key: value for key, value in found.summary.items() if not isinstance(value, dict) or value.get("n") != 0}
    if referee := summary["protocol"]["judge"]:  # results are passed on: no path of this machine
        summary["protocol"]["judge"] = {**referee, "path": Path(referee["path"]).name}
    draws = Draws.draw(found.pairs, trainer.config.evaluation.bootstrap, 0)
    which = [(name, other) for name in runs if name not in KINDS for other in ("unguided", f"{name}, swapped")]
    which += [(name, "unguided") for name in others]
    for name in (name for name in others if name.startswith("guided")):
        which += [(name, name.replace("guided", other, 1)) for other in ("random", "swapped")]
    summary["comparisons"] |= comparisons(found.scores, found.pairs, draws, which)
    return summary


def measure(row: int, seed: int, trainers: Mapping[str, Trainer]) -> dict[str, Any]:
    """Train what a row of one seed needs and judge it: {part: evaluation}, row 3 has two parts."""
    if row == 3:
        parts = {}
        for part, place in (("all labels", "workspace"), ("25 % of the labels", f"quarter-{seed}")):
            trainer = trainers[place]
            runs = {name: trainer.arm(seed, name) for name in ("guided", "unguided")}
            if place != "workspace":
                give_labels_back(trainer.workspace)
            parts[part] = judge(trainer, seed, runs)
        return parts
    trainer = trainers["drawn" if row == 2 else "workspace"]
    if row in VARIANTS:
        runs = {name: trainer.arm(seed, "guided", settings) for name, settings in VARIANTS[row].items()}
        runs["unguided"] = trainer.arm(seed, "unguided")
    else:
        runs = {name: trainer.arm(seed, name) for name in KINDS if name in trainer.options.arms}
    return {"": judge(trainer, seed, runs)}


def plan(options: argparse.Namespace) -> str:
    """What the chosen rows and seeds would train, and for how long."""
    lines, total = [], 0.0
    new, seeds = {"workspace": False, "drawn": False}, len(options.seeds)
    for row in options.rows:
        arms = {1: len(options.arms), 2: len(options.arms), 3: 4, 4: 7, 5: 4}[row]
        place = "drawn" if row == 2 else "workspace"
        starts = (0 if new[place] else 1) + (row == 3)
        new[place] = True
        minutes = seeds * (starts * (options.translation_minutes + options.retrieval_minutes) + arms * options.minutes)
        lines.append(f"{row}  {TITLES[row]:38} {seeds} × ({starts} starts + {arms} arms)  {minutes:6.0f} min at most")
        total += minutes
    lines.append(f"   {total / 60:.1f} hours at most, without the evaluations; arms that rows share are trained once")
    return "\n".join(lines)


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; exits with status 2 where they cannot be meant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results; without it the plan is told and nothing done")
    parser.add_argument("--workspace", type=Path, help="labelled images (rows 1, 3, 4, 5)")
    parser.add_argument("--rows", type=_numbers, default=[1, 2, 3, 4, 5], help="which, in this order: 1,2,3,4,5")
    parser.add_argument("--seeds", type=_numbers, default=[0], help="such as 0,1,2")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(KINDS), help="of rows 1 and 2")
    parser.add_argument("--minutes", type=float, default=15.0, help="of a seed's first arm; the others take its steps")
    parser.add_argument("--steps", type=int, help="steps of every arm instead")
    parser.add_argument("--translation-minutes", type=float, default=45.0, help="stage 1 of a seed")
    parser.add_argument("--retrieval-minutes", type=float, default=3.0, help="stage 2 of a seed")
    parser.add_argument("--start", action="append", default=[], metavar="SEED=RUN", help="a stage-1 run that is there")
    parser.add_argument("--preset", default="celeba-64")
    parser.add_argument("--drawn-preset", default="demo")
    parser.add_argument("--drawn-images", type=int, default=1500)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    parser.add_argument(
        "--use", type=_use, action="append", default=[], metavar="KEY=VALUE,…", help="judge the guided arm so as well"
    )
    parser.add_argument("--attributes-used", type=lambda text: text.split(","), default=[])
    parser.add_argument("--judge", type=Path, metavar="FILE.onnx")
    parser.add_argument("--judge-crop", metavar="L,T,W,H@SIDE")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(arguments)
    if not options.rows or not set(options.rows) <= set(TITLES):
        parser.error("--rows takes some of 1,2,3,4,5")
    if not options.arms or not set(options.arms) <= set(KINDS):
        parser.error(f"--arms takes some of {','.join(KINDS)}")
    if options.out is not None and options.workspace is None and set(options.rows) != {2}:
        parser.error("rows 1, 3, 4 and 5 need --workspace DIR (row 2 draws its own)")
    try:
        options.start = {int(seed): run for seed, run in (text.split("=") for text in options.start)}
    except ValueError:
        parser.error("--start takes SEED=RUN, such as 0=r1")
    return options


def _use(text: str) -> dict[str, Any]:
    pairs = [part.split("=") for part in text.split(",")]
    return {key.strip(): tomllib.loads(f"value = {value}")["value"] for key, value in pairs}  # else argparse refuses


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.out is None:
        print(plan(options))
        print("\nGive --out DIR (and --workspace DIR) to do it.")
        return
    presets = {"workspace": options.preset, "drawn": options.drawn_preset}
    configs = {place: load_config(preset, overrides=options.settings) for place, preset in presets.items()}
    settings = {place: config.model_dump(mode="json") for place, config in configs.items()}
    settings |= {"steps": options.steps, "minutes": options.minutes, "attributes_used": options.attributes_used}
    settings |= {"arms": options.arms, **({"use": options.use} if options.use else {})}
    for use in options.use:  # refused before anything is trained
        for config in configs.values():
            used_with(config, use)
    ledger = Ledger.open(options.out, settings)
    with ExitStack() as stack:
        trainers: dict[str, Trainer] = {}

        def trainer(place: str, workspace: Workspace) -> None:
            config = configs["drawn" if place == "drawn" else "workspace"]
            trainers[place] = Trainer(place, stack.enter_context(workspace), config, options, ledger)

        for row in options.rows:
            if row == 2 and "drawn" not in trainers:
                size = configs["drawn"].data.size
                trainer("drawn", drawn_workspace(options.out / "drawn", options.drawn_images, size))
            elif row != 2 and "workspace" not in trainers:
                trainer("workspace", Workspace.open(options.workspace))
            for seed in options.seeds:
                path = options.out / f"row-{row}-seed-{seed}.json"
                if path.exists():
                    continue
                if row == 3:
                    name = f"quarter-{seed}"
                    trainer(name, quarter_workspace(options.out / name, trainers["workspace"].workspace))
                begun = time.monotonic()
                parts, home = measure(row, seed, trainers), trainers["drawn" if row == 2 else "workspace"]
                about = {"row": row, "title": TITLES[row], "seed": seed, "steps": home.steps(seed)}
                write_json(path, {**about, "seconds": round(time.monotonic() - begun, 1), "parts": parts})
                print(f"row {row}, seed {seed}: {path}", flush=True)
    print(f"tables: python docs/make_guidance.py {options.out}")


if __name__ == "__main__":
    try:
        main()
    except (RgunitError, UsageError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: start it again with the same options to go on")
