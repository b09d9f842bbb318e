"""A session of a run: opened anew or found to go on with, trained, and recorded however it ends.

Of several processes the first opens and records; the others are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from index_store.errors import RgunitError, UsageError
from index_store.learned import keep_learned
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from translation.config import Config, parse_config
from translation.progress import Progress
from translation.runs import EXTRACTOR, GENERATOR, GUIDED, MINER, RETRIEVAL, TRANSLATION, extractors, trained
from translation.sections import STORE, TrainingConfig
from translation.training.checkpoints import read_state, restore
from translation.training.loop import Task, train
from translation.training.memory import within_memory
from translation.training.precision import faster_precision
from translation.training.processes import first_then_others, from_first, process_rank

COLLECTION = "origin=real|unlabelled"  # the filter of what a run may look at, but where it needs labels

Resume = bool | Literal["auto", "changed"]
"""False: a new run. True: the newest of its kind, refused if its settings differ. "changed": the newest with other
settings, which it keeps; refused if they are of another network or other data. "auto": the newest if its settings
are the same (not trained again if it is done), else a new one. With `start`, a kept checkpoint's name (`best` or a
step), the resumed run goes on from that one instead of the last."""


@dataclass(frozen=True)
class StageResult:
    """`stopped`: by Ctrl-C, with a checkpoint that `resume` goes on from. `metrics` are the last ones logged."""

    run: RunRecord
    steps: int
    seconds: float
    metrics: dict[str, float]
    stopped: bool


def settled(
    workspace: Workspace, stage: str, config: Config, session: Session, neighbours: str | None = None
) -> Config:
    """The configuration with what it leaves open decided: by the run that is gone on with, else by what is there now.

    These are a precision `auto`, the device's faster one, the embedding of `sampling.informative`, the newest retrieval
    run, and the extractor of `semantic.weight`, the newest.
    """
    runs = _runs(workspace, stage, neighbours) if session.resume else []
    before = runs[-1].config["config"] if runs else {}
    if config.training.precision == "auto":
        found = str(before["training"]["precision"]) if before else faster_precision(session.device)
        config = config.model_copy(update={"training": config.training.model_copy(update={"precision": found})})
    if config.sampling.informative and config.sampling.embedding in ("", STORE):
        there, kind = trained(workspace, RETRIEVAL), config.sampling.embedding
        earlier = str(before.get("sampling", {}).get("embedding", ""))
        name = earlier if earlier.startswith(STORE) == bool(kind) else ""
        name = name or kind + (there[-1].id if there else "")
        config = config.model_copy(update={"sampling": config.sampling.model_copy(update={"embedding": name})})
    if config.semantic.weight and not config.semantic.extractor:
        there = extractors(workspace)
        name = before.get("semantic", {}).get("extractor") or (there[-1].id if there else "")
        config = config.model_copy(update={"semantic": config.semantic.model_copy(update={"extractor": name})})
    return config


def _runs(workspace: Workspace, stage: str, neighbours: str | None) -> list[RunRecord]:
    """The runs of a stage and arm that there is anything of, the newest last."""
    return [run for run in workspace.runs(stage) if run.config.get("neighbours") == neighbours and not run.empty]


def _find_run(
    workspace: Workspace, stage: str, settings: Mapping[str, Any], resume: Resume, progress: Progress
) -> tuple[RunRecord | None, str]:
    """The run to go on with, as `resume` says: the newest of the stage and arm, or None for a new one.

    And what its settings are to change in, empty where they are the same. Nothing is changed here.
    """
    runs = _runs(workspace, stage, settings.get("neighbours")) if resume else []
    if not runs:
        if resume and resume != "auto":
            progress.note(f"nothing to resume: no run of stage {stage} yet, starting one")
        return None, ""
    run = runs[-1]
    different = _differences(_filled(run.config), settings, stage)
    told = "; ".join(f"{name}: was {old}, now {new}" for name, (old, new) in different.items())
    if not different:
        return run, ""
    if resume == "auto":
        return None, ""
    if resume is True:
        raise RgunitError(
            f"run {run.id} cannot be resumed with other settings ({told}): "
            "start a new one without --resume, give the old settings, or add --allow-changes"
        )
    if fixed := [name for name in different if name.startswith(_FIXED) and name != _MOVABLE]:
        raise RgunitError(
            f"run {run.id} cannot go on with another {', '.join(fixed)} ({told}): start a new one without --resume"
        )
    return run, told


# What may change between the sessions of a run: how long, how often to log, where, and what other stages do.
_FREE = ("config.shares", "config.demo", "config.training.", "config.preset", "config.evaluation", "config.index")
_STAGES = (TRANSLATION, RETRIEVAL, GUIDED, GENERATOR, MINER, EXTRACTOR)

_UNREAD = {
    EXTRACTOR: ("config.method", "config.networks", "config.sampling", "config.semantic"),
    RETRIEVAL: ("config.semantic",),
}
"""Settings beside the stages' own that a stage does not look at."""


# What no change is allowed to: the networks would be others, or learned from others.
_FIXED = (
    *("networks", "data", "attributes_used", "protect", "source", "target", "translation_run", "encoders_fingerprint"),
    *("from", "transfer", "generator.conditional", "miner.layers"),
    *("guided.guidance", "guided.fusion", "guided.neighbours", "guided.pool", "drawn_by"),
    *(f"retrieval.{key}" for key in ("objective", "widths", "hidden", "dim", "norm")),
)
_MOVABLE = "networks.perceptual_weights"  # the place of a file


def _filled(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A run's settings with the defaults of those that came after it."""
    try:
        return {**settings, "config": parse_config(settings["config"]).model_dump(mode="json")}
    except UsageError:  # it has some that are gone: told as differences
        return settings


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], stage: str, prefix: str = ""
) -> dict[str, tuple[object, object]]:
    """{setting: (was, is now)} of those that make another run of a stage."""
    free = (*_FREE, *(f"config.{other}." for other in _STAGES if other != stage), *_UNREAD.get(stage, ()))
    found: dict[str, tuple[object, object]] = {}
    for key in sorted({*old, *new}):
        name = f"{prefix}{key}"
        if name.startswith(free) and name != "config.training.precision":
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= _differences(a, b, stage, f"{name}.")
        elif a != b and not name.endswith(".steps"):
            found[name.removeprefix("config.")] = (a, b)
    return found


class Options(TypedDict, total=False):
    """What every stage may be told, by name; see `Session`."""

    seed: int
    device: str
    minutes: float | None
    resume: Resume
    start: str | None
    progress: Progress | None


@dataclass(frozen=True)
class Session:
    """How one call of a stage trains: made of `Options`.

    `seed` of every draw; `device` auto, cpu or cuda; `minutes` end the run before its steps do; `resume` and `start` as
    in `Resume`; `progress` is told how far it is (None: nobody is).
    """

    seed: int = 0
    device: str = "auto"
    minutes: float | None = None
    resume: Resume = False
    start: str | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError(f"minutes must be a positive number, not {self.minutes}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise UsageError(f"a seed must be a whole number from 0 up, not {self.seed!r}")

    @property
    def told(self) -> Progress:
        """The one who is told, who may be nobody."""
        return self.progress or Progress()


def train_run(
    workspace: Workspace,
    stage: str,
    config: Config,
    about: Mapping[str, Any],
    make: Callable[[], Task],
    session: Session,
    *,
    training: TrainingConfig | None = None,
    exactly: int | None = None,
    images: str = COLLECTION,
) -> StageResult:
    """Find the run to go on with or make a new one, and train it; its row says how it ended, whatever happens.

    Only when its task is made a new one is, or another's settings and checkpoint are changed: what is refused leaves
    everything as it was. Steps are those of the stage's section, or `exactly` so many; `training` is by default the
    configuration's. With `resume="auto"` a run that --minutes ended counts as done, unless more time, more steps than
    it was planned for, or exactly so many are asked for. `images` is the filter of what may be looked at: those that
    are gone are left out, and told; "" asks for none.
    """
    section = getattr(config, stage)
    steps, minutes, progress = exactly or section.steps, session.minutes, session.told
    settings = {"config": config.model_dump(mode="json"), **about}
    found, changes = from_first(lambda: _find_run(workspace, stage, settings, session.resume, progress))
    if session.resume == "auto" and exactly is not None and found is not None and found.steps > exactly:
        found, changes = None, ""  # arms are compared at equal steps: a run cannot unlearn
    if found is not None:
        enough = found.steps >= steps
        if minutes is not None:
            enough = enough or found.seconds >= 0.9 * 60 * minutes
        elif exactly is None:
            enough = enough or steps <= int(found.config["config"][found.stage]["steps"])
        if session.resume == "auto" and found.status == "done" and enough:
            return StageResult(found, found.steps, found.seconds, found.summary.get("metrics", {}), stopped=False)
    if session.start is not None and found is None:
        raise RgunitError(f"there is no run of stage {stage} to go on with from {session.start}: leave --resume-at out")
    if images:
        workspace.leave_out_missing(images, progress.note)
    with within_memory(f"a run of stage {stage} with these settings", session.device):
        task = first_then_others(make)

    def opened() -> RunRecord:
        if found is None:
            return workspace.add_run(stage, config.preset, settings)
        with workspace.taken(found.id):
            if session.start is not None:
                restore(found.path, session.start)
            if changes:
                workspace.update_run(found.id, config={**found.config, **settings})
                progress.note(f"run {found.id} goes on with other settings ({changes})")
            return workspace.run(found.id)

    def keep() -> None:
        keep_learned(run.path, getattr(task, "learned", ()))

    run = from_first(opened)
    try:
        from_first(keep)
        with within_memory(f"run {run.id} with these settings", session.device):
            trained = train(
                task,
                folder=run.path,
                training=training or config.training,
                steps=steps,
                minutes=minutes,
                seed=session.seed,
                warmup=getattr(section, "warmup", 0),
                resume=bool(session.resume),
                description={"run": run.id, "stage": run.stage, **run.config},
                progress=progress,
            )
    except BaseException as error:
        if process_rank() == 0:
            status, kept = "failed" if isinstance(error, Exception) else "stopped", _kept(run)
            if found is not None and found.status == "done" and kept.get("steps") == found.steps:
                status = "done"  # it was, and nothing has come of the attempt to go on
            workspace.update_run(run.id, status=status, **kept)
        raise

    def record() -> RunRecord:
        status = "stopped" if trained.stopped else "done"
        summary = {"metrics": trained.metrics}
        workspace.update_run(run.id, steps=trained.steps, seconds=trained.seconds, status=status, summary=summary)
        return workspace.run(run.id)

    return StageResult(from_first(record), trained.steps, trained.seconds, trained.metrics, trained.stopped)


def _kept(run: RunRecord) -> dict[str, Any]:
    """Steps and seconds of a run's checkpoint, nothing where it has none that can be read."""
    with suppress(RgunitError):
        if (run.path / CHECKPOINT).exists():
            state = read_state(run.path / CHECKPOINT)
            return {"steps": int(state["step"]), "seconds": float(state["seconds"])}
    return {}
