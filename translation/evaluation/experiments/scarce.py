"""A domain of few images: does filling the store with mined ones help retrieval and guided translation? (MineGAN)

Of the training images that have `wanted` only `images` stay. A generator of all others is mined for these few; what it
draws goes into the store. Then, each judged by a classifier that half of the training people teach, who are in nothing
else:

    retrieval   test images without `wanted` ask for their content with it, among real, generated and all images
    stage 3     unguided, and guided by each of the three pools, in equal steps from one stage 1 and one retrieval

Each seed has a workspace of its own, since the pools grow. Trainings are noted in the ledger, judgements in a file for
each seed: the same call goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from index_store.errors import RgunitError, UsageError
from index_store.lifetimes import end_with_parent
from index_store.names import quoted
from index_store.whole import write_json
from index_store.workspace import ImageTable, Workspace
from retrieval.loading import resolve_device
from translation.config import Config, load_config
from translation.evaluation.arms import Arm, arms_of_run
from translation.evaluation.classifier import AttributeClassifier, train_classifier
from translation.evaluation.distances import frechet, pixel_distance
from translation.evaluation.experiments.ledger import Ledger, results_folder
from translation.evaluation.experiments.rows import side_by_side
from translation.evaluation.experiments.scarcescores import Scores, listed, summary_of
from translation.evaluation.experiments.workspaces import part_workspace, source_workspace
from translation.evaluation.protocol import halves, people_of
from translation.evaluation.truth import Goal, truth_of
from translation.fitting import used_schema
from translation.generator import generate_images
from translation.generator_stages import train_generator, train_miner
from translation.guides import Pool
from translation.indexing import fill_index, open_retriever
from translation.methods import find_method
from translation.neighbours import Neighbours
from translation.progress import Progress
from translation.runs import target_of
from translation.stages import train_guided, train_retrieval, train_translation
from translation.translator import Translator

POOLS: dict[str, Pool] = {"real": "real", "mined": "generated", "real and mined": "both"}
UNGUIDED, STAGE1 = "unguided", "stage 1"
ARMS = (*reversed(POOLS), UNGUIDED)  # the slowest first: others take its steps
K = 10  # of retrieval
RATE = 0.1  # of the learning rate, for a generator that was trained before: the thesis'
SHOWN = 8  # sources on the picture

Images = NDArray[np.uint8]


class ScarcePlan(BaseModel):
    """What is to be trained and judged. `out` None: nothing is done. UsageError where it cannot be meant.

    `minutes` are those of the first arm of the first seed, whose steps all others take; or `guided_steps` are theirs.
    `steps` are those of stage 1 instead of its minutes, `generator_steps` of generator and miner. `release`: from that
    step of the miner on its generator learns too, which never drew what is wanted; 0: never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path | None = None
    workspace: Path | None = None
    wanted: str = "Blond_Hair"
    images: int = Field(40, ge=2)
    mined: int = 400
    seeds: tuple[int, ...] = (0,)
    preset: str = "demo"
    generator_preset: str = "wgan-gp"
    settings: tuple[str, ...] = ()
    attributes_used: tuple[str, ...] = ()
    translation_minutes: float = 4.0
    retrieval_minutes: float = 0.5
    source_minutes: float = 10.0
    miner_minutes: float = 4.0
    release: int = Field(200, ge=0)
    minutes: float = 1.5
    steps: int | None = None
    generator_steps: int | None = None
    guided_steps: int | None = None
    drawn_images: int = 3000
    device: str = "auto"

    def model_post_init(self, _: Any) -> None:
        if not self.seeds:
            raise UsageError("--seeds needs at least one")
        if self.mined <= K:
            raise UsageError(
                f"--mined {self.mined} is too few, since {K} neighbours are looked up among them: give {K + 1} or more"
            )
        about = find_method(self.config().method)
        if not about.about.guidance or about.draws == "domains":
            raise UsageError(f"the arms need a method of attributes that takes guidance, and {about.name} is none")
        own, theirs = self.generator_config().data.size, self.config().data.size
        if own != theirs:
            raise UsageError(
                f"{self.generator_preset} makes images of {own} px, {self.preset} translates such of {theirs}: give "
                "presets of one size"
            )

    def config(self, *more: str) -> Config:
        """The settings of translation, retrieval and guidance."""
        return load_config(self.preset, overrides=[*self.settings, *more])

    def generator_config(self) -> Config:
        """The settings of generator and miner; a released generator learns at RATE of the miner's learning rate."""
        more = [f"{stage}.steps={self.generator_steps}" for stage in ("generator", "miner") if self.generator_steps]
        if self.release:
            base: Any = load_config(self.generator_preset)
            rate = RATE * base.miner.learning_rate
            more += [f"miner.release={self.release}", f"miner.generator_learning_rate={rate}"]
        return load_config(self.generator_preset, overrides=more)

    def cost(self) -> dict[str, Any]:
        """{trainings, minutes} at most, without evaluation; what is given in steps is not counted."""
        each = (0.0 if self.steps else self.translation_minutes) + self.retrieval_minutes
        each += 0.0 if self.generator_steps else self.source_minutes + self.miner_minutes
        each += 0.0 if self.guided_steps else len(ARMS) * self.minutes
        return {"trainings": len(self.seeds) * (4 + len(ARMS)), "minutes": round(len(self.seeds) * each, 1)}


def run_scarce(plan: ScarcePlan, progress: Progress | None = None) -> dict[str, Any]:
    """Train and judge what `plan.out` does not hold yet; {out, runs, judge, seeds: [...], table}.

    KeyboardInterrupt where a training was stopped: the same plan goes on. RgunitError where `out` was made with other
    settings, or the collection has too few images.
    """
    end_with_parent()
    progress = progress or Progress()
    out, config = results_folder(plan.out), plan.config()
    told = plan.model_dump(mode="json", exclude={"out", "workspace", "seeds", "settings", "device"})
    ledger = Ledger.open(out, {"config": config.model_dump(mode="json"), "plan": told})
    with source_workspace(plan.workspace, out, plan.drawn_images, config.data.size) as source:
        used = used_schema(source, config, plan.attributes_used).names
        if plan.wanted not in used:
            raise UsageError(f"{quoted(plan.wanted)} is none of the attributes used ({', '.join(used)})")
        taught, scarce = _parts(source, plan)
        with part_workspace(out / "taught", taught) as judging:
            progress.stage("classifier")
            device = str(resolve_device(plan.device))
            judge = train_classifier(
                judging, config.data.size, config.evaluation, device=device, progress=progress.step
            )
        judged = []
        for seed in plan.seeds:
            with part_workspace(out / f"seed-{seed}", scarce) as workspace:
                judged.append(_Seed(plan, workspace, judge, ledger, seed, progress).judged())
    found = {
        "out": str(out.absolute()),
        "runs": ledger.done,
        "judge": judge.per_attribute,
        "seeds": [{name: value for name, value in one.items() if name != "scores"} for one in judged],
        "table": summary_of(judged),
    }
    write_json(out / "table.json", found)
    return found


def _parts(source: Workspace, plan: ScarcePlan) -> tuple[ImageTable, ImageTable]:
    """The images that teach the judge, and the collection: the other half of the training people and all test images,
    of whose training images with `wanted` only so many stay. RgunitError where there are fewer."""
    column = source.schema.index(plan.wanted)
    table = source.images("split=train|test origin=real")
    table = table.select(np.flatnonzero(table.labels[:, column] >= 0))
    training = table.split.astype(str) == "train"
    taught = halves(people_of(table), 0) & training
    rare = np.flatnonzero(training & ~taught & (table.labels[:, column] == 1))
    if len(rare) < plan.images:
        raise RgunitError(
            f"{quoted(plan.wanted)} has {len(rare)} training images beside those that teach the judge, and "
            f"{plan.images} are asked for: give --images {len(rare)} or fewer"
        )
    test = table.labels[~training, column]
    if min(np.sum(test == 0), np.sum(test == 1)) < 2:
        raise RgunitError(f"the test images need two with and two without {quoted(plan.wanted)}")
    left_out = np.random.default_rng(0).permutation(rare)[plan.images :]
    return table.select(np.flatnonzero(taught | ~training)), table.select(
        np.setdiff1d(np.flatnonzero(~taught), left_out)
    )


class _Seed:
    """The trainings and judgements of one seed, each done once."""

    def __init__(
        self,
        plan: ScarcePlan,
        workspace: Workspace,
        judge: AttributeClassifier,
        ledger: Ledger,
        seed: int,
        progress: Progress,
    ) -> None:
        assert plan.out is not None
        self.plan, self.workspace, self.judge, self.ledger = plan, workspace, judge, ledger
        self.seed, self.progress = seed, progress
        self.file = plan.out / f"seed-{seed}.json"

    def judged(self) -> dict[str, Any]:
        """What the seed's file says, made now where it is not there."""
        if self.file.exists():
            kept: dict[str, Any] = json.loads(self.file.read_text())
            return kept
        first, second = self._start()
        mined, drawn = self._mined(second)
        arms = {name: self._arm(name, first, second) for name in ARMS}
        bench = _Bench(self.workspace, self.plan, self.judge, first, second)
        scores: dict[str, dict[str, Scores]] = {"retrieval": {}, "translation": {}}
        for name, pool in POOLS.items():
            self.progress.stage(f"judge retrieval, {name}")
            scores["retrieval"][name] = bench.retrieval(pool)
        shown: dict[str, Images] = {}
        distances: dict[str, float] = {}
        for name, run in {STAGE1: first, **dict(reversed(arms.items()))}.items():
            self.progress.stage(f"judge {name}")
            arm = self._opened(run, first, second)
            scores["translation"][name], distances[name], shown[name] = bench.translation(arm, self.progress)
        scores["translation"]["copy"], distances["copy"], _ = bench.scored(bench.images)
        bench.draw(shown, self.file.with_suffix(".png"))
        found = {
            "seed": self.seed,
            "run": mined,
            "mined": drawn,
            "mined_read": bench.share_with_wanted(mined),
            "fd_attr": distances,
            "people": bench.people,
            "scores": scores,
        }
        write_json(self.file, found)
        return found

    def _start(self) -> tuple[str, str]:
        """Stage 1, stage 2 and the index: the ids of the two runs."""
        plan = self.plan
        steps = [f"translation.steps={plan.steps}"] if plan.steps else []
        minutes = None if plan.steps else plan.translation_minutes
        config, used = plan.config(*steps), {"attributes_used": plan.attributes_used}
        first = self._run("translation", train_translation, config, minutes=minutes, **used)
        second = self._run("retrieval", train_retrieval, config, minutes=plan.retrieval_minutes, translation_run=first)
        self.progress.stage("index")
        fill_index(self.workspace, config, run=second, generated=0, seed=self.seed, device=plan.device)
        return first, second

    def _mined(self, retrieval: str) -> tuple[str, int]:
        """A generator of all images without `wanted`, mined for the few with it; its run, and how many it drew."""
        plan, config, wanted = self.plan, self.plan.generator_config(), quoted(self.plan.wanted)
        minutes: dict[str, float | None] = {"source": plan.source_minutes, "miner": plan.miner_minutes}
        if plan.generator_steps:
            minutes = dict.fromkeys(minutes)
        source = self._run("source", train_generator, config, minutes=minutes["source"], target=f"-{wanted}")
        miner = self._run("miner", train_miner, config, minutes=minutes["miner"], sources=[source], target=f"+{wanted}")
        there = len(self.workspace.images("origin=generated"))
        if there < plan.mined:  # the next ones, where a call was stopped
            self.progress.stage("generate")
            more = plan.mined - there
            generate_images(self.workspace, miner, more, seed=self.seed, device=plan.device, progress=self.progress)
        fill_index(self.workspace, plan.config(), run=retrieval, generated=0, seed=self.seed, device=plan.device)
        return miner, plan.mined

    def _arm(self, name: str, first: str, second: str) -> str:
        """A run of stage 3."""
        done = [one for key, one in self.ledger.done.items() if "/arm " in key]
        steps = self.plan.guided_steps or (int(done[0]["steps"]) if done else None)
        given: dict[str, Any] = {"neighbours": "none" if name == UNGUIDED else "retrieved", "translation_run": first}
        given |= {} if name == UNGUIDED else {"retrieval_run": second}
        given |= {"steps": steps} if steps else {"minutes": self.plan.minutes}
        more = [] if name == UNGUIDED else [f"guided.pool={POOLS[name]}"]
        return self._run(f"arm {name}", train_guided, self.plan.config(*more), **given)

    def _opened(self, run: str, first: str, second: str) -> Arm:
        record, start = self.workspace.run(run), Translator.load(self.workspace, first, self.plan.device)
        if run == first:
            return Arm(self.workspace, start, None)
        retriever = open_retriever(self.workspace, second, self.plan.device)
        made = arms_of_run(self.workspace, start, record, retriever, self.plan.device)
        return made["unguided" if record.config["neighbours"] == "none" else "guided"]

    def _run(self, part: str, train: Any, config: Config, **given: Any) -> str:
        given |= {"seed": self.seed, "device": self.plan.device}
        return self.ledger.trained(f"{self.seed}/{part}", self.workspace, train, config, self.progress, **given)


class _Bench:
    """What everything is judged on: test images without `wanted`, which are to get it."""

    def __init__(
        self, workspace: Workspace, plan: ScarcePlan, judge: AttributeClassifier, first: str, second: str
    ) -> None:
        self.workspace, self.plan, self.judge = workspace, plan, judge
        self.translator = Translator.load(workspace, first, plan.device)
        self.retriever = open_retriever(workspace, second, plan.device)
        self.where = target_of(workspace.run(first))
        schema = workspace.schema
        table = workspace.images("split=test origin=real")
        column = schema.index(plan.wanted)
        sources = table.select(np.flatnonzero(table.labels[:, column] == 0))
        self.source, self.people = sources.ids, people_of(sources)
        self.goal = schema.edit(f"+{quoted(plan.wanted)}").apply(sources.labels)
        self.target = self.goal[:, schema.indices(self.translator.schema.names)]
        self.seeds = np.random.default_rng(0).integers(0, 2**31, len(self.source))
        self.images = workspace.load(self.source, judge.size)
        self.columns = schema.indices(judge.names)
        self.place = judge.names.index(plan.wanted)
        self.kept = (self.goal == sources.labels) & (self.goal >= 0)  # what must stay, of what is known
        self.truth = None
        if (truth := truth_of(workspace, self.translator.schema.names, judge.size)) is not None:
            self.truth = Goal.of(truth, self.source, self.target)
        real = table.ids[table.labels[:, column] == 1]
        self.real = judge.read(workspace.load(real, judge.size)).features

    def retrieval(self, pool: Pool) -> Scores:
        """Of the K images that are found for each source: the share with `wanted`, the share of its other labels that
        they have, and how far they are from the true translation; as the judge reads them, whatever their labels."""
        neighbours = Neighbours(self.workspace, self.translator, self.retriever, k=K, where=self.where, origins=pool)
        arm = Arm(self.workspace, self.translator, neighbours)
        found = [arm.looked_up(self.source[part], self.target[part], self.seeds[part]) for part in self._batches()]
        ids = np.concatenate(found)
        every = np.unique(ids)
        images = self.workspace.load(every, self.judge.size)
        rows = np.searchsorted(every, ids)
        bits = self.judge.read(images).bits[rows]  # [n, K, A]
        goal, kept = self.goal[:, self.columns], self.kept[:, self.columns]
        agree = ((bits == goal[:, None]) & kept[:, None]).sum(2) / np.maximum(kept.sum(1), 1)[:, None]
        told = {"changed": bits[:, :, self.place].mean(1), "kept": agree.mean(1)}
        if self.truth is not None:
            far = [pixel_distance(images[rows[:, k]], self.truth.images) for k in range(K)]
            told["truth"] = np.mean(far, axis=0)
        return listed(told)

    def translation(self, arm: Arm, progress: Progress) -> tuple[Scores, float, Images]:
        """`scored` of an arm's translations."""
        made = []
        for part in self._batches():
            made.append(arm(self.source[part], self.target[part], self.seeds[part]))
            progress.step(part.stop, len(self.source))
        return self.scored(np.concatenate(made))

    def scored(self, images: Images) -> tuple[Scores, float, Images]:
        """What the judge reads in translations, image by image, their FD-attr to real images with `wanted`, and
        themselves."""
        read = self.judge.read(images)
        goal, kept = self.goal[:, self.columns], self.kept[:, self.columns]
        right = (read.bits == goal) & kept
        told = {
            "changed": read.bits[:, self.place].astype(float),
            "kept": right.sum(1) / np.maximum(kept.sum(1), 1),
        }
        if self.truth is not None:
            told["truth"] = pixel_distance(images, self.truth.images)
            told["truth_edit"] = pixel_distance(images, self.truth.images, self.truth.edited)
        return listed(told), frechet(read.features, self.real).distance, images

    def share_with_wanted(self, run: str) -> float:
        """The share of the images that a run drew in which the judge reads `wanted`."""
        table = self.workspace.images("origin=generated")
        ids = table.ids[table.run.astype(str) == run]
        return float(self.judge.read(self.workspace.load(ids, self.judge.size)).bits[:, self.place].mean())

    def draw(self, shown: Mapping[str, Images], path: Path) -> None:
        """Some sources, a row each: as they are, by each arm, and where it is known the truth."""
        rows = np.linspace(0, len(self.source) - 1, min(SHOWN, len(self.source))).astype(int)
        columns = [self.images, *shown.values()] + ([] if self.truth is None else [self.truth.images])
        side_by_side([column[rows] for column in columns], path)

    def _batches(self) -> list[slice]:
        batch = self.plan.config().evaluation.batch
        return [slice(i, min(i + batch, len(self.source))) for i in range(0, len(self.source), batch)]
