"""The stages of methods that make images from noise: train a generator, and mine trained ones for a domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from index_store.errors import RgunitError, UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from retrieval.tensors import first_weights
from translation.config import Config
from translation.fitting import require_stage, tell_if_enlarged, used_schema
from translation.generator import open_method
from translation.imagesampling import ImageSampler
from translation.methods import Trains, find_method
from translation.progress import Progress
from translation.runs import GENERATOR, MINER, method_of
from translation.training.loop import make_fabric
from translation.training.sessions import Options, Session, StageResult, settled, train_run
from translation.training.task import MethodTask
from translation.transfer import start_from, transfer_names

BOTH = ("generator", "discriminator")


def train_generator(
    workspace: Workspace,
    config: Config,
    *,
    attributes_used: Sequence[str] = (),
    target: str = "",
    source_run: str | None = None,
    transfer: Sequence[str] = BOTH,
    **options: Unpack[Options],
) -> StageResult:
    """A generator of the training images that pass the filter `target`; a conditional one on the attributes used.

    Without a condition unlabelled images are learned from too. The networks that `transfer` names start from
    `source_run` (TransferGAN), another run of a generator of the same size and widths.
    """
    session = Session(**options)
    require_stage(config, GENERATOR)
    conditional = bool(config.generator.conditional)  # type: ignore[attr-defined]  # a section of the method's own
    if attributes_used and not conditional:
        raise UsageError(
            "--attributes-used names the classes of a conditional generator: --set generator.conditional=true"
        )
    schema = used_schema(workspace, config, attributes_used) if conditional else workspace.schema.subset(())
    workspace.schema.filter(target)
    config = settled(workspace, GENERATOR, config, session)
    about: dict[str, Any] = {"attributes_used": list(schema.names), "seed": session.seed, "target": target}
    source = None if source_run is None else workspace.run(source_run)
    if source is not None:
        about |= {"from": [source.id], "transfer": list(transfer)}

    def make() -> MethodTask:
        method = first_weights(session.seed, lambda: find_method(config.method).build(config, schema, GENERATOR))
        if source is not None:
            start_from(method, transfer_names(method, transfer), source, config)
        return _task(workspace, config, GENERATOR, method, schema.names, target, session)

    return train_run(workspace, GENERATOR, config, about, make, session)


def train_miner(
    workspace: Workspace,
    config: Config,
    *,
    sources: Sequence[str] = (),
    target: str = "",
    **options: Unpack[Options],
) -> StageResult:
    """Miners before the generators of `sources` for the training images that pass the filter `target` (MineGAN).

    The critic starts as that of the first source. RgunitError where a source is no generator, or of another size.
    """
    session = Session(**options)
    require_stage(config, MINER)
    if not sources:
        raise UsageError("train miner needs the generators to mine: --from RUN, which may be repeated")
    runs = [workspace.run(name) for name in sources]
    for run in runs:
        _require_generator(run, config)
    workspace.schema.filter(target)
    config = settled(workspace, MINER, config, session)
    schema = workspace.schema.subset(())
    about = {"attributes_used": [], "seed": session.seed, "target": target, "from": [run.id for run in runs]}

    def make() -> MethodTask:
        methods = [open_method(workspace, run, complete=run is runs[0]) for run in runs]
        for method in methods:
            method.settle()
        miner = first_weights(session.seed, lambda: find_method(config.method).mine(config, methods, schema))
        return _task(workspace, config, MINER, miner, (), target, session)

    return train_run(workspace, MINER, config, about, make, session)


def _require_generator(run: RunRecord, config: Config) -> None:
    if run.stage != GENERATOR:
        raise RgunitError(
            f"run {run.id} is of stage {run.stage} ({method_of(run)}): --from takes runs of stage {GENERATOR}"
        )
    size = int(run.config["config"]["data"]["size"])
    if size != config.data.size or method_of(run) != config.method:
        raise RgunitError(
            f"run {run.id} ({method_of(run)}) makes images of {size} px, and these settings ({config.method}) are for "
            f"{config.data.size} px: its critic's layers blocks and value do not fit; give --set data.size={size}, or "
            "take another run"
        )
    if not (run.path / CHECKPOINT).exists():
        raise RgunitError(f"run {run.id} has no checkpoint yet: train it first (`rgunit train {run.stage} --resume`)")


def _task(
    workspace: Workspace,
    config: Config,
    stage: str,
    method: Trains,
    attributes: Sequence[str],
    target: str,
    session: Session,
) -> MethodTask:
    fabric, section = make_fabric(config.training, session.device), getattr(config, stage)
    process: dict[str, Any] = {"rank": fabric.global_rank, "world": fabric.world_size, "seed": session.seed}
    batch = section.batch * getattr(method, "batches", 1)
    draws = ImageSampler(
        workspace, attributes, target, batch=batch, noise=method.noise, mirror=config.data.mirror, **process
    )
    _tell_if_repeated(len(draws.ids), section.batch * fabric.world_size, session.told)
    tell_if_enlarged(workspace, config, session.told)
    return MethodTask(
        workspace,
        workspace.schema.subset(attributes),
        method,
        draws,
        stage=section,
        name=stage,
        data=config.data,
        training=config.training,
        device=fabric.device,
        autocast=fabric.autocast,
        **process,
    )


def _tell_if_repeated(images: int, batch: int, progress: Progress) -> None:
    if images < batch:
        progress.note(f"{images} images to learn from are fewer than a batch of {batch}: they are drawn repeatedly")
