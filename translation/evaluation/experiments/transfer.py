"""Generators for a domain of few images: from scratch, transferred, mined, mined and fine-tuned (thesis, 2 and 3).

    scratch                 WGAN-GP on the target's few images
    transfer                the same, generator and critic started from the source's (TransferGAN); one for each source
    miner                   miners before the sources' generators, which stay (MineGAN without fine-tuning)
    miner and fine-tuning   the same, the generators released in the second half

All of a seed start from the same sources. A row counts only where the sources learned: the table says so. Of two
sources and a target mixed of two domains the selector's probabilities are told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from index_store.errors import RgunitError, UsageError
from index_store.images import write_image
from index_store.whole import write_json
from index_store.workspace import Workspace
from translation.config import Config, load_config
from translation.evaluation.distances import Z95, interval
from translation.evaluation.experiments.ledger import Ledger, results_folder
from translation.evaluation.experiments.rows import spread
from translation.evaluation.experiments.workspaces import source_workspace
from translation.evaluation.generator import drawn, evaluate_generator
from translation.generator import ImageGenerator
from translation.generator_stages import train_generator, train_miner
from translation.progress import Progress
from translation.training.sessions import StageResult

ROWS = ("scratch", "transfer", "miner", "miner and fine-tuning")
MEASURES = ("fd_attr", "kmmd", "diversity", "nearest", "copies")
PLACE = "workspace"
SHEET = 4, 8  # rows and columns of a picture


class TransferPlan(BaseModel):
    """What is to be trained and judged. UsageError where it cannot be meant.

    `sources` are filters of the sources' images, `targets` one or as many of the target's, of which `images` are drawn
    in all, by `mix` (shares that sum to 1). Without a `workspace` faces are drawn. `steps` or `minutes` are those of
    every row, `source_steps` or `source_minutes` of every source. `rate`: the share of the learning rate at which
    networks that were trained before go on. `out` None: nothing is done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path | None = None
    workspace: Path | None = None
    rows: tuple[str, ...] = ROWS
    seeds: tuple[int, ...] = (0,)
    sources: tuple[str, ...] = ("-Blond_Hair",)
    targets: tuple[str, ...] = ("+Blond_Hair",)
    mix: tuple[float, ...] = (1.0,)
    images: int = 100
    source_minutes: float = 15.0
    minutes: float = 4.0
    source_steps: int | None = None
    steps: int | None = None
    rate: float = 0.1
    count: int = 1000
    preset: str = "wgan-gp"
    drawn_images: int = 3000
    settings: tuple[str, ...] = ()
    device: str = "auto"

    def model_post_init(self, _: Any) -> None:
        if strange := [row for row in self.rows if row not in ROWS]:
            raise UsageError(f"no row is called {strange[0]!r}: --rows takes some of {', '.join(ROWS)}")
        if not self.sources or not self.targets or not self.rows or not self.seeds:
            raise UsageError("an experiment needs --source, --target, --rows and --seeds")
        if len(self.mix) != len(self.targets) or abs(sum(self.mix) - 1) > 1e-6 or min(self.mix) <= 0:
            raise UsageError(f"--mix takes a share for each --target that sum to 1, not {self.mix}")
        if self.images < 2:
            raise UsageError("a target needs at least 2 images: --images")

    def config(self, *settings: str) -> Config:
        """The settings of a training. UsageError for bad ones."""
        return load_config(self.preset, overrides=[*self.settings, *settings])

    def cost(self) -> dict[str, Any]:
        """{seeds, sources, rows, minutes}: trainings of a seed, and minutes of all at most, without evaluations."""
        rows = len(self.rows) + ("transfer" in self.rows) * (len(self.sources) - 1)
        each = 0.0 if self.source_steps else len(self.sources) * self.source_minutes
        each += 0.0 if self.steps else rows * self.minutes
        return {
            "seeds": len(self.seeds),
            "sources": len(self.sources),
            "rows": rows,
            "minutes": len(self.seeds) * each,
        }


def run_transfer(plan: TransferPlan, progress: Progress | None = None) -> dict[str, Any]:
    """Train and judge what `plan` asks for and `plan.out` does not hold yet; what it holds then.

    Returns {out, runs, seeds: [{seed, sources, rows}], over_seeds: {row: {measure: {mean, low, high}}}}; a picture of
    each row's images is beside the results. RgunitError where `out` was made with other settings or a training failed,
    KeyboardInterrupt where one was stopped: the same plan goes on.
    """
    progress = progress or Progress()
    out, config = results_folder(plan.out), plan.config()
    ledger = Ledger.open(out, _settings(plan, config))
    with source_workspace(plan.workspace, out, plan.drawn_images, config.data.size) as workspace:
        work = _Work(plan, workspace, ledger, progress)
        judged = [work.seed(seed) for seed in plan.seeds]
    return {
        "out": str(out.absolute()),
        "runs": ledger.done,
        "seeds": judged,
        "over_seeds": _over_seeds(judged),
    }


def _settings(plan: TransferPlan, config: Config) -> dict[str, Any]:
    told = plan.model_dump(mode="json", exclude={"out", "workspace", "rows", "seeds", "settings", "device", "preset"})
    return {"config": config.model_dump(mode="json"), **told}


class _Work:
    """The trainings and judgements of one plan, each done once."""

    def __init__(self, plan: TransferPlan, workspace: Workspace, ledger: Ledger, progress: Progress) -> None:
        self.plan, self.workspace, self.ledger, self.progress = plan, workspace, ledger, progress
        ledger.begin(PLACE, workspace)
        # The same images for all rows and seeds, and test images in the same mixture to judge them by.
        self.target = _mixture(workspace, "train", plan.targets, plan.mix, plan.images)
        self.judges = _mixture(workspace, "test", plan.targets, plan.mix, None)

    def seed(self, seed: int) -> dict[str, Any]:
        """All rows of a seed: the contents of its file."""
        assert self.plan.out is not None
        path = self.plan.out / f"seed-{seed}.json"
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        found: dict[str, Any] = {"seed": seed, "sources": kept.get("sources", {}), "rows": kept.get("rows", {})}
        sources = [self.source(seed, number) for number in range(len(self.plan.sources))]
        for name, run in zip(self.plan.sources, sources, strict=True):
            self._judge(found["sources"], name, run, name, path, found)
        for row in self.plan.rows:
            for name, run in self.row(seed, row, sources):
                self._judge(found["rows"], name, run, self.judges, path, found)
        return found

    def source(self, seed: int, number: int) -> str:
        plan = self.plan
        settings = [f"generator.steps={plan.source_steps}"] if plan.source_steps else []
        return self._run(
            f"{seed}/source {number}",
            train_generator,
            plan.config(*settings),
            seed,
            minutes=None if plan.source_steps else plan.source_minutes,
            target=plan.sources[number],
        )

    def row(self, seed: int, row: str, sources: list[str]) -> list[tuple[str, str]]:
        """The runs of a row, and what they are called: of two sources there are two transferred ones."""
        plan, minutes = self.plan, None if self.plan.steps else self.plan.minutes
        given = {"minutes": minutes, "target": self.target}
        steps = [f"{stage}.steps={plan.steps}" for stage in ("generator", "miner") if plan.steps]
        if row == "scratch":
            return [(row, self._run(f"{seed}/{row}", train_generator, plan.config(*steps), seed, **given))]
        base: Any = plan.config()
        if row == "transfer":
            slower = f"generator.learning_rate={base.generator.learning_rate * plan.rate}"
            names = [row if len(sources) == 1 else f"{row} from {name}" for name in plan.sources]
            return [
                (
                    name,
                    self._run(
                        f"{seed}/{row} {number}",
                        train_generator,
                        plan.config(*steps, slower),
                        seed,
                        source_run=source,
                        **given,
                    ),
                )
                for number, (name, source) in enumerate(zip(names, sources, strict=True))
            ]
        mined = self._run(f"{seed}/miner", train_miner, plan.config(*steps), seed, sources=sources, **given)
        if row == "miner":
            return [(row, mined)]
        done = self.workspace.run(mined).steps  # as many, whatever the time
        released = (
            f"miner.steps={done}",
            f"miner.release={max(1, done // 2)}",
            f"miner.generator_learning_rate={base.miner.learning_rate * plan.rate}",
        )
        given = {**given, "minutes": None}
        return [(row, self._run(f"{seed}/{row}", train_miner, plan.config(*released), seed, sources=sources, **given))]

    def _run(self, key: str, train: Callable[..., StageResult], config: Config, seed: int, **given: Any) -> str:
        """The id of a run that is done, trained now where it is not; of runs that stopped, only own ones go on."""
        own = any(run.id not in self.ledger.before[PLACE] for run in self.workspace.runs())
        given |= {"seed": seed, "device": self.plan.device, "resume": "auto" if own else False}
        return self.ledger.trained(key, self.workspace, train, config, self.progress, **given)

    def _judge(self, rows: dict[str, Any], name: str, run: str, where: str, path: Path, every: dict[str, Any]) -> None:
        if name in rows:
            return
        plan = self.plan
        judged = evaluate_generator(
            self.workspace, run=run, count=plan.count, target=where, device=plan.device, progress=self.progress
        )
        judged.pop("target")
        rows[name] = judged | {"steps": self.workspace.run(run).steps}
        generator = ImageGenerator.load(self.workspace, run, plan.device)
        write_image(path.with_name(f"{path.stem} {name}.png"), _sheet(drawn(generator, SHEET[0] * SHEET[1], 0)))
        write_json(path, every)


def _mixture(
    workspace: Workspace, split: str, filters: tuple[str, ...], shares: tuple[float, ...], count: int | None
) -> str:
    """A filter of `count` images of a split (None: as many as there are), by shares of each filter's.

    RgunitError where a filter has too few.
    """
    found = [workspace.images(f"split={split} origin=real {where}").ids for where in filters]
    total = count or int(min(len(ids) / share for ids, share in zip(found, shares, strict=True)))
    rng, chosen = np.random.default_rng(0), list[NDArray[np.int64]]()
    for ids, share, where in zip(found, shares, filters, strict=True):
        wanted = round(total * share)
        if len(ids) < max(wanted, 2):
            raise RgunitError(f"{where} has {len(ids)} images of split {split}, and {max(wanted, 2)} are needed")
        chosen.append(rng.permutation(ids)[:wanted])
    return "id=" + "|".join(str(number) for number in np.sort(np.concatenate(chosen)))


def _sheet(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = SHEET
    _, h, w, _ = images.shape
    grid = images.reshape(rows, columns, h, w, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(grid.reshape(rows * h, columns * w, 3))


def _over_seeds(judged: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each row the mean, lowest and highest of its measures over the seeds, and of the selector's probabilities.

    FD-attr has a 95 % interval of the mean, from the images of each seed and from how the seeds differ. `counts`:
    whether all its sources learned, in every seed.
    """
    names = [name for name in judged[0]["rows"] if all(name in one["rows"] for one in judged)]
    counts = all(source["learned"] for one in judged for source in one["sources"].values())
    found: dict[str, Any] = {}
    for name in names:
        rows = [one["rows"][name] for one in judged]
        found[name] = {measure: spread([row[measure] for row in rows]) for measure in MEASURES}
        errors = [(high - row["fd_attr"]) / Z95 for row in rows for high in row["intervals"]["fd_attr"][1:]]
        values = [row["fd_attr"] for row in rows]
        variance = (np.square(errors).mean() + (np.var(values, ddof=1) if len(values) > 1 else 0.0)) / len(values)
        found[name]["fd_attr"]["interval"] = list(interval(float(np.mean(values)), float(np.sqrt(variance))))
        if rows[0]["selector"] is not None:
            found[name]["selector"] = [
                spread(list(each)) for each in zip(*(row["selector"] for row in rows), strict=True)
            ]
        found[name]["counts"] = counts or name == "scratch"
    return found


def alike(over_seeds: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs of rows that FD-attr does not tell apart: their intervals overlap."""
    limits = {name: row["fd_attr"]["interval"] for name, row in over_seeds.items()}
    return [(a, b) for a, b in combinations(limits, 2) if limits[a][0] < limits[b][1] and limits[b][0] < limits[a][1]]
