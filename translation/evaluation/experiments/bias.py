"""Does what should stay stay, where the training set is biased? UDIT's table, and retrieval's answer to it.

Two domains (images without and with `wanted`), of which `share` have the protected attribute in one and lack it in the
other. Five arms of a seed, in equal steps, stage 1 and then stage 3:

    without              nothing holds the protected attribute
    semantic             an extractor's features are held in both stages (UDIT)
    guided               stage 3 with retrieved neighbours, whatever they have
    agree                stage 3 with neighbours that have the source's protected attribute
    semantic and agree   both

The extractor learns from the biased images alone; the judge (`biased.train_judge`) from others. Every training is noted
in the ledger, every seed's judgement is one JSON file: the same call goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from index_store.errors import UsageError
from index_store.lifetimes import end_with_parent
from index_store.names import quoted
from index_store.whole import write_json
from index_store.workspace import Workspace
from retrieval.loading import resolve_device
from retrieval.onnx import OnnxNetwork
from translation.config import Config, load_config
from translation.drawings import GROUPS, STYLE_ATTRIBUTES
from translation.evaluation.arms import Arm, arms_of_run
from translation.evaluation.classifier import AttributeClassifier
from translation.evaluation.distances import cosine_distance, pixel_distance
from translation.evaluation.experiments.biased import (
    COMBINATIONS,
    Bias,
    biased_workspace,
    chosen_sets,
    drawn_sets,
    train_judge,
)
from translation.evaluation.experiments.biasscores import Judged, summary_of
from translation.evaluation.experiments.ledger import Ledger, results_folder
from translation.evaluation.experiments.rows import side_by_side
from translation.evaluation.protocol import people_of, seeds_of_samples
from translation.evaluation.truth import truth_of
from translation.indexing import fill_index, open_retriever
from translation.methods import find_method
from translation.progress import Progress
from translation.stages import train_extractor, train_guided, train_retrieval, train_translation
from translation.translator import Translator

ARMS: dict[str, tuple[bool, bool, bool]] = {  # the slowest first: others take its steps
    "semantic and agree": (True, True, True),
    "semantic": (True, False, False),
    "agree": (False, True, True),
    "guided": (False, True, False),
    "without": (False, False, False),
}
"""Whether features are held, whether neighbours guide, and whether these agree with the source."""
CONTROL = "without"
SHOWN = 8  # sources on the picture
STYLES, INPUTS = 5, 30  # of the diversity


class BiasPlan(BaseModel):
    """What is to be trained and judged. `out` None: nothing is done. UsageError where it cannot be meant.

    `translation_minutes` and `minutes` are those of the slowest arm of the first seed, whose steps all others take;
    or `steps` and `guided_steps` are theirs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: Path | None = None
    collection: Literal["drawn", "workspace"] = "drawn"
    workspace: Path | None = None
    wanted: str = "Glasses"
    protected: str = "Beard"
    share: float = Field(0.95, gt=0.5, lt=1)
    negative: bool = False
    seeds: tuple[int, ...] = (0,)
    arms: tuple[str, ...] = tuple(ARMS)
    preset: str = "munit"
    method: str | None = None
    settings: tuple[str, ...] = ()
    weight: float = Field(1.0, gt=0)
    translation_minutes: float = 3.0
    retrieval_minutes: float = 0.5
    minutes: float = 1.0
    steps: int | None = None
    guided_steps: int | None = None
    per_domain: int = Field(600, ge=20)
    tested: int = Field(60, ge=2)
    taught: int = Field(400, ge=2)
    judge: Path | None = None
    judge_crop: str | None = None
    device: str = "auto"

    def model_post_init(self, _: Any) -> None:
        if strange := [name for name in self.arms if name not in ARMS]:
            raise UsageError(f"no arm is called {strange[0]!r}: --arms takes some of {', '.join(ARMS)}")
        if not self.seeds or not self.arms:
            raise UsageError("--seeds and --arms need at least one each")
        if self.collection == "workspace" and self.workspace is None:
            raise UsageError("--collection workspace needs a workspace: -w DIR")
        if self.wanted == self.protected:
            raise UsageError("--wanted and --protect are two attributes: one changes, one stays")
        if self.collection == "drawn":
            _check_drawn(self.wanted, self.protected)
        if not find_method(self.config().method).about.guidance:
            raise UsageError(f"the arms need a method that takes guidance, and {self.config().method} takes none")

    @property
    def bias(self) -> Bias:
        return Bias(self.wanted, self.protected, self.share, not self.negative)

    def config(self, *more: str) -> Config:
        """The settings of a training, with `more` over them."""
        bare = [f"data.attributes_used=[{json.dumps(self.wanted)}]", "retrieval.content_teacher=views"]
        overrides = [*bare, *self.settings, *more]
        return load_config(self.preset, method=self.method, overrides=overrides)

    def cost(self) -> dict[str, Any]:
        """{trainings, minutes} at most, without extractor and evaluation; minutes None where steps are given."""
        held = {ARMS[name][0] for name in self.arms}
        each = len(held) * (self.translation_minutes + self.retrieval_minutes) + len(self.arms) * self.minutes
        trainings = len(self.seeds) * (1 + 2 * len(held) + len(self.arms))
        return {"trainings": trainings, "minutes": None if self.steps else round(len(self.seeds) * each, 1)}


def _check_drawn(*names: str) -> None:
    """UsageError for attributes that faces cannot be drawn with as asked, or not with both."""
    for name in names:
        if name not in STYLE_ATTRIBUTES:
            raise UsageError(f"faces are drawn with or without {', '.join(STYLE_ATTRIBUTES)}, not {quoted(name)}")
    if any(set(names) <= set(group) for group in GROUPS):
        raise UsageError(f"no drawn face has both {' and '.join(names)}: --wanted and --protect of two kinds")


def run_bias(plan: BiasPlan, progress: Progress | None = None) -> dict[str, Any]:
    """Train and judge what `plan.out` does not hold yet; {out, runs, judge, seeds: [...], table}.

    KeyboardInterrupt where a training was stopped: the same plan goes on. RgunitError where `out` was made with other
    settings.
    """
    end_with_parent()
    progress = progress or Progress()
    out, config = results_folder(plan.out), plan.config()
    network = OnnxNetwork(plan.judge, plan.judge_crop) if plan.judge is not None else None
    told = plan.model_dump(mode="json", exclude={"out", "workspace", "seeds", "arms", "judge", "judge_crop", "device"})
    ledger = Ledger.open(out, {"config": config.model_dump(mode="json"), "plan": told})
    with ExitStack() as stack:
        if plan.collection == "drawn":
            sizes = {"per_domain": plan.per_domain, "tested": plan.tested, "taught": plan.taught}
            sets = drawn_sets(out / "drawn", plan.bias, size=config.data.size, **sizes)
        else:
            assert plan.workspace is not None
            with Workspace.open(plan.workspace) as source:
                sets = chosen_sets(source, plan.bias)
        workspace = stack.enter_context(biased_workspace(out / "biased", sets, plan.bias))
        progress.stage("judge")
        judge = train_judge(
            out / "judge.safetensors",
            sets["judge"],
            plan.bias,
            config.data.size,
            config.evaluation,
            device=str(resolve_device(plan.device)),
            progress=progress,
        )
        bench = _Bench(workspace, plan, judge, network)
        trainer = _Trainer(workspace, plan, ledger, progress)
        for seed in plan.seeds:
            _measure(bench, trainer, seed, out)
        judged = [json.loads(_file(out, seed).read_text()) for seed in plan.seeds]
        found = {
            "out": str(out.absolute()),
            "sets": {name: _counted(rows) for name, rows in sets.items()},
            "judge": bench.accuracies,
            "runs": ledger.done,
            "table": summary_of([{n: Judged(**a) for n, a in one["arms"].items()} for one in judged], CONTROL),
        }
    write_json(out / "table.json", found)
    return found


class _Trainer:
    """The trainings, each done once."""

    def __init__(self, workspace: Workspace, plan: BiasPlan, ledger: Ledger, progress: Progress) -> None:
        self.workspace, self.plan, self.ledger, self.progress = workspace, plan, ledger, progress
        self.indexed: set[str] = set()

    def extractor(self, seed: int) -> str:
        return self._run(seed, "extractor", train_extractor, self.plan.config(), protect=self.plan.protected)

    def stages(self, seed: int, held: bool) -> tuple[str, str]:
        """Stage 1, stage 2 and the index, with features held or not: the ids of the two runs."""
        plan, name = self.plan, " held" if held else ""
        config = self._config(seed, held)
        given: dict[str, Any] = {"attributes_used": [plan.wanted]}
        if find_method(config.method).draws == "domains":
            given |= {"source": f"-{quoted(plan.wanted)}", "target": f"+{quoted(plan.wanted)}"}
        steps = plan.steps or self._steps("translation")
        if steps is not None:
            config = plan.config(*self._settings(seed, held), f"translation.steps={steps}")
        minutes = None if steps else plan.translation_minutes
        first = self._run(seed, f"translation{name}", train_translation, config, minutes, **given)
        second = self._run(
            seed, f"retrieval{name}", train_retrieval, config, plan.retrieval_minutes, translation_run=first
        )
        if second not in self.indexed:
            self.progress.stage("index")
            fill_index(self.workspace, config, run=second, generated=0, seed=seed, device=plan.device)
            self.indexed.add(second)
        return first, second

    def arm(self, seed: int, name: str) -> str:
        """A run of stage 3."""
        held, guided, agree = ARMS[name]
        first, second = self.stages(seed, held)
        more = [f"guided.agree=[{json.dumps(self.plan.protected)}]"] if agree else []
        steps = self.plan.guided_steps or self._steps("arm")
        given: dict[str, Any] = {"neighbours": "retrieved" if guided else "none", "translation_run": first}
        given |= {"retrieval_run": second} if guided else {}
        given |= {"steps": steps} if steps else {}
        config = self.plan.config(*self._settings(seed, held), *more)
        return self._run(seed, f"arm {name}", train_guided, config, None if steps else self.plan.minutes, **given)

    def _settings(self, seed: int, held: bool) -> list[str]:
        if not held:
            return []
        return [f"semantic.weight={self.plan.weight}", f"semantic.extractor={self.extractor(seed)}"]

    def _config(self, seed: int, held: bool) -> Config:
        return self.plan.config(*self._settings(seed, held))

    def _steps(self, kind: str) -> int | None:
        """The steps of the first training of a kind, None before it is done."""
        done = [one for key, one in self.ledger.done.items() if key.partition("/")[2].startswith(kind)]
        return int(done[0]["steps"]) if done else None

    def _run(self, seed: int, part: str, train: Any, config: Config, minutes: float | None = None, **given: Any) -> str:
        given |= {"minutes": minutes, "seed": seed, "device": self.plan.device}
        return self.ledger.trained(f"{seed}/{part}", self.workspace, train, config, self.progress, **given)


class _Bench:
    """What all arms are judged on: test images that are to get the other value of the wanted attribute."""

    def __init__(
        self, workspace: Workspace, plan: BiasPlan, judge: AttributeClassifier, network: OnnxNetwork | None
    ) -> None:
        self.workspace, self.plan, self.judge, self.network = workspace, plan, judge, network
        table = workspace.images("origin=real")  # the judge learned from none of them
        columns = workspace.schema.indices((plan.wanted, plan.protected))
        read = judge.read(workspace.load(table.ids, judge.size))
        bits = table.labels[:, columns]
        self.accuracies = [
            {
                plan.wanted: wanted,
                plan.protected: protected,
                "n": int(there.sum()),
                "accuracy": {
                    name: float((read.bits[there, i] == bits[there, i]).mean()) if there.any() else None
                    for i, name in enumerate((plan.wanted, plan.protected))
                },
            }
            for wanted, protected in COMBINATIONS
            for there in [(bits == (wanted, protected)).all(axis=1)]
        ]
        one_way = find_method(plan.config().method).draws == "domains"
        kept = np.flatnonzero((table.split == "test") & ((bits[:, 0] == 0) | (not one_way)))
        self.source, self.bits = table.ids[kept], bits[kept]
        self.people = [people_of(table)[i] for i in kept]
        self.target = (1 - self.bits[:, :1]).astype(np.int8)
        self.seeds = np.random.default_rng(0).integers(0, 2**31, len(kept))
        self.confidence = self._confident(read.logits[kept])
        self.images = workspace.load(self.source, judge.size)
        self.identities = None if network is None else network.features(self.images)
        truth = truth_of(workspace, (plan.wanted,), judge.size)
        self.truth = None if truth is None else truth(self.source, self.target)
        usual = np.array([plan.bias.usual(int(bit)) for bit in self.bits[:, 0]])
        self.at_risk = self.bits[:, 1] == usual  # rare in the domain that they are translated to

    def _confident(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of each image's own protected label."""
        sign = np.where(self.bits[:, 1] == 1, 1.0, -1.0)
        found: NDArray[np.float64] = 1 / (1 + np.exp(-sign * logits[:, 1].astype(np.float64)))
        return found

    def judged(self, arm: Arm, progress: Progress) -> tuple[Judged, NDArray[np.uint8]]:
        """What the judge says of an arm's translations, image by image, and these."""
        made, batch = [], self.plan.config().evaluation.batch
        for start in range(0, len(self.source), batch):
            part = slice(start, start + batch)
            made.append(arm(self.source[part], self.target[part], self.seeds[part]))
            progress.step(min(start + batch, len(self.source)), len(self.source))
        images = np.concatenate(made)
        read = self.judge.read(images)
        identity = None
        if self.network is not None and self.identities is not None:
            identity = cosine_distance(self.network.features(images), self.identities).tolist()
        diversity = []
        for row in np.random.default_rng(1).permutation(len(self.source))[:INPUTS]:
            several = np.full(STYLES, row)
            seeds = seeds_of_samples(self.seeds[row], STYLES)
            diversity.append(self.judge.diversity(arm(self.source[several], self.target[several], seeds)))
        judged = Judged(
            people=self.people,
            added=(self.target[:, 0] == 1).tolist(),
            at_risk=self.at_risk.tolist(),
            misclassified=(read.bits[:, 1] != self.bits[:, 1]).tolist(),
            drop=(self.confidence - self._confident(read.logits)).tolist(),
            changed=(read.bits[:, 0] == self.target[:, 0]).tolist(),
            identity=identity,
            truth=None if self.truth is None else pixel_distance(images, self.truth).tolist(),
            diversity=float(np.mean(diversity)),
        )
        return judged, images


def _measure(bench: _Bench, trainer: _Trainer, seed: int, out: Path) -> None:
    """Train and judge the arms of a seed that its file does not have."""
    path, plan = _file(out, seed), trainer.plan
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"seed": seed, "arms": {}}
    shown: dict[str, NDArray[np.uint8]] = {}
    wanted = [name for name in ARMS if name in plan.arms]
    if all(name in kept["arms"] for name in wanted):
        return
    runs = {name: trainer.arm(seed, name) for name in wanted}
    for name, run in runs.items():
        trainer.progress.stage(f"judge {name}")
        judged, shown[name] = bench.judged(_open(trainer.workspace, run, plan.device), trainer.progress)
        kept["arms"][name] = judged.model_dump()
        write_json(path, kept)
    _draw(bench, shown, path.with_suffix(".png"))


def _open(workspace: Workspace, run: str, device: str) -> Arm:
    """A run of stage 3 as it is used."""
    record = workspace.run(run)
    first = Translator.load(workspace, str(record.config["translation_run"]), device)
    second = record.config.get("retrieval_run")
    retriever = open_retriever(workspace, str(second), device) if second else None
    arms = arms_of_run(workspace, first, record, retriever, device)
    return arms["guided" if second else "unguided"]


def _draw(bench: _Bench, shown: Mapping[str, NDArray[np.uint8]], path: Path) -> None:
    """Sources at risk, a row each: as they are, by each arm (without first), and where it is known the truth."""
    rows = np.flatnonzero(bench.at_risk)
    rows = rows[np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)]
    columns = [bench.images, *(shown[name] for name in reversed(ARMS) if name in shown)]
    columns += [] if bench.truth is None else [bench.truth]
    side_by_side([column[rows] for column in columns], path)


def _file(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}.json"


def _counted(rows: Any) -> list[dict[str, int]]:
    """How many images of a set there are of each combination."""
    pairs = [(row.wanted, row.protected) for row in rows]
    return [{"wanted": w, "protected": p, "n": pairs.count((w, p))} for w, p in COMBINATIONS]
