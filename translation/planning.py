"""What a `run` would do in its minutes, by a few steps that are timed and thrown away: nothing is written."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from translation.budget import INDEX, LEAST_GENERATED, LEAST_PAIRS, POOL, WRITING, measured_pace
from translation.config import Config
from translation.evaluation.report.facts import peak_memory
from translation.evaluation.report.lengths import LEAST_STEPS
from translation.fitting import used_domains, used_schema
from translation.methods import find_method
from translation.runs import TRANSLATION
from translation.sampling import DomainSampler, LabelSampler
from translation.stages import translation_task
from translation.training.sessions import Session
from translation.translator import Translator

LEAST_TESTED = 11  # images of the split test: ten neighbours and the query
TIMED = 3  # steps, after a first one
GUIDED_STEP = 1.25  # of a guided step against one of stage 1, an image
ADAM = 4  # copies of the weights in a checkpoint: weights, average, two moments
CHECKPOINTS = 5  # runs that keep one
NEIGHBOURS = ("retrieval", "index", "guided")  # the stages of a method that takes them

_INSTEAD = {  # by what a method draws: why `run` is not for it, and what is
    "images": "makes images from noise and translates none: use `rgunit train generator`, `rgunit generate` and "
    "`rgunit evaluate generator`",
    "crops": "learns from two pictures, so there is nothing to retrieve or to evaluate: use `rgunit train translation "
    "--preset single-image --source PICTURE --target PICTURE`, then `rgunit translate`",
    "modalities": "translates between modalities, not between labels: use `rgunit evaluate modalities`, "
    "which trains and judges it",
}


def skipped(config: Config) -> str | None:
    """Why a run of this method has no stages retrieval, index and guided; None where it has them."""
    return None if find_method(config.method).about.guidance else f"{config.method} takes no neighbours"


@dataclass
class RunPlan:
    """`stages`: {name, minutes, steps} (without minutes for all of it those that the preset's steps take, None where
    that is not known; steps None: as many as fit), and `skipped`, the reason, of one that the method does not have.
    `least_minutes`: under which a part of the run cannot do what it must. Memory of this process so far, in MiB; disk
    of checkpoints and pool.
    """

    stages: list[dict[str, Any]] = field(default_factory=list)
    seconds_a_step: float = 0.0
    minutes: float | None = None
    least_minutes: float = 0.0
    memory_mib: float = 0.0
    disk_mib: float = 0.0

    def warning(self) -> str | None:
        """What cannot be done in the minutes, in one sentence."""
        if self.minutes is None or self.minutes >= self.least_minutes:
            return None
        steps = self.stages[0]["steps"]
        return (
            f"--minutes {self.minutes:g} is short: here at least {math.ceil(self.least_minutes)} are needed for every "
            f"stage to do something; as it is, stage 1 makes about {steps} steps"
        )


def check_run(workspace: Workspace, config: Config, attributes_used: Sequence[str] = ()) -> None:
    """Refuse what `run` cannot do, before its first stage.

    UsageError for a method that `run` has no stages for; RgunitError for batches of stage 3 that are larger than what
    there is, and for too few test images to evaluate on.
    """
    method = find_method(config.method)
    if instead := _INSTEAD.get(method.draws):
        raise UsageError(f"{config.method} {instead}")
    schema = used_schema(workspace, config, attributes_used)
    domains = used_domains(schema, config, None, None)
    batch = config.guided.batch
    if method.about.guidance and domains is not None:
        DomainSampler(workspace, schema.names, *domains, batch=batch, seed=0)
    elif method.about.guidance:
        LabelSampler(workspace, schema.names, batch=batch, seed=0, noise=(0, 0))
    there = len(workspace.images("split=test origin=real"))
    if there < LEAST_TESTED:
        raise RgunitError(
            f"the split test has {there} labelled images, and an evaluation needs {LEAST_TESTED}: add images with "
            "`rgunit add DIR --split test`, or train stage by stage (`rgunit train`)"
        )


def plan_run(
    workspace: Workspace,
    config: Config,
    *,
    attributes_used: Sequence[str] = (),
    minutes: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> RunPlan:
    """The plan of `run` with these settings on this machine. Raises what `train_translation` would."""
    check_run(workspace, config, attributes_used)
    session = Session(seed=seed, device=device)
    task, schema, config = translation_task(workspace, config, session, attributes_used)
    taken = []
    for step in range(TIMED + 1):
        begun = time.perf_counter()
        task.step(config.translation.steps, task.prepare(step))  # of the usual kind, not of a warm-up
        taken.append(time.perf_counter() - begun)
    seconds = statistics.median(taken[1:])
    method = find_method(config.method).build(config, schema, TRANSLATION, inference=True)
    pace = measured_pace(workspace, Translator(method, config=config, schema=schema, device=task.device))
    weights = sum(p.numel() for network in task.networks.values() for p in network.parameters())
    shares, found = config.shares, RunPlan(seconds_a_step=seconds, minutes=minutes)
    alone, rest = skipped(config), 1 - shares.translation - shares.retrieval - shares.guided
    share = shares.translation + (shares.retrieval + shares.guided if alone else 0.0)
    guided = seconds * GUIDED_STEP * config.guided.batch / config.translation.batch

    def stage(name: str, share: float, step: float | None, most: int | None) -> None:
        if alone and name in NEIGHBOURS:
            found.stages.append({"name": name, "minutes": 0.0, "steps": 0, "skipped": alone})
            return
        time_ = minutes * share if minutes is not None else None if step is None or most is None else most * step / 60
        fit = None if step is None or minutes is None else int(60 * minutes * share / step)
        steps = most if fit is None or (most is not None and most < fit) else fit
        found.stages.append({"name": name, "minutes": time_, "steps": None if step is None else steps})

    stage("translation", share, seconds, config.translation.steps)
    stage("retrieval", shares.retrieval + POOL * rest, None, None)
    stage("index", INDEX * rest, None, None)
    stage("guided", shares.guided, 3 * guided, config.guided.steps)
    stage("evaluate", (1 - POOL - INDEX) * rest, None, None)
    index = 0.0 if alone else pace.encode * len(workspace.images()) + LEAST_GENERATED * pace.translate
    judging = WRITING + (1 if alone else 3 * 5) * LEAST_PAIRS * pace.translate
    training = LEAST_STEPS["stage1"] * seconds / share
    fine_tuning = 0.0 if alone else 3 * LEAST_STEPS["guided"] * guided / shares.guided
    found.least_minutes = max(training, fine_tuning, (index + judging) / rest) / 60
    found.memory_mib = peak_memory() / 2**20
    found.disk_mib = (1 if alone else CHECKPOINTS) * ADAM * 4 * weights / 2**20
    found.disk_mib += 0.0 if alone else config.retrieval.pool * 1e9 / 2**20
    return found
