"""The stages as a user starts them: open or resume a run, make its task, train it, record how it went.

Stage 1 trains the translator, stage 2 the retrieval network on it, `indexing.fill_index` embeds the collection and
some translations of it, stage 3 fine-tunes the translator under guidance (or without, the arms to compare with).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from retrieval.retriever import Retriever
from retrieval.tensors import first_weights
from retrieval.train import RetrievalTask
from translation.agreement import check_agreed, open_agreement
from translation.config import Config
from translation.embeddings import open_importance
from translation.extractor import ExtractorTask, check_held, open_extractor, tell_doubt, train_curve
from translation.fitting import (
    fitted,
    picture_filter,
    require_stage,
    resumed_direction,
    tell_if_enlarged,
    tell_what_is_off,
    used_domains,
    used_schema,
)
from translation.guidance import build_guidance
from translation.guides import drawing_runs, not_drawn
from translation.indexing import open_retriever, require_index
from translation.methods import Guidable, Joins, Method, Protects, Weighed, find_method
from translation.modalities import ModalitySampler
from translation.neighbours import Guiding, Neighbours
from translation.pairing import PairSampler
from translation.runs import EXTRACTOR, GUIDED, RETRIEVAL, TRANSLATION, direction_of, newest
from translation.sampling import CropSampler, DomainSampler, LabelSampler, Sampler
from translation.sections import StageConfig
from translation.training.checkpoints import load_networks, trained_networks
from translation.training.loop import make_fabric
from translation.training.processes import from_first
from translation.training.sessions import COLLECTION, Options, Session, StageResult, settled, train_run
from translation.training.task import MethodTask
from translation.translator import Translator

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Arm = Literal["retrieved", "random", "none"]


def train_translation(
    workspace: Workspace,
    config: Config,
    *,
    attributes_used: Sequence[str] = (),
    source: str | None = None,
    target: str | None = None,
    **options: Unpack[Options],
) -> StageResult:
    """Stage 1: the configuration's method on the attributes used; see `used_schema` for the default.

    `source` and `target` are filters, for a method that learns one direction; see `used_domains` for the default. For
    one that learns from two pictures they may be the pictures' paths.
    `options` are those of every stage (`Session`).
    """
    session = Session(**options)
    seed, progress = session.seed, session.told
    require_stage(config, TRANSLATION)
    schema = used_schema(workspace, config, attributes_used)
    of_pictures = find_method(config.method).draws == "crops"
    if session.resume in (True, "changed") and source is None and target is None:
        source, target = resumed_direction(workspace, config)
    if of_pictures:
        source, target = picture_filter(workspace, source), picture_filter(workspace, target)
    about: dict[str, Any] = {"attributes_used": list(schema.names), "seed": seed}
    domains = used_domains(schema, config, source, target)
    if domains is not None:
        workspace.schema.filter(domains[0])
        workspace.schema.filter(domains[1])
        about |= {"source": domains[0], "target": domains[1]}
    config = settled(workspace, TRANSLATION, config, session)
    fabric = make_fabric(config.training, session.device)
    tell_if_enlarged(workspace, config, progress, domains if of_pictures else None)
    tell_what_is_off(config, config.translation, progress)

    def make() -> MethodTask:
        method = first_weights(seed, lambda: find_method(config.method).build(config, schema, TRANSLATION))
        return _task(workspace, config, schema, method, config.translation, fabric, session, domains=domains)

    looked_at = COLLECTION if find_method(config.method).draws == "modalities" else "" if of_pictures else "origin=real"
    return train_run(workspace, TRANSLATION, config, about, make, session, images=looked_at)


def train_extractor(workspace: Workspace, config: Config, *, protect: str, **options: Unpack[Options]) -> StageResult:
    """UDIT's extractor of one attribute, on all labelled training images; its run's summary has {curve, width, scale}.

    Metrics are the accuracy of the width that was chosen and the width.
    """
    session = Session(**options)
    protect = workspace.schema.names[workspace.schema.index(protect)]
    config = settled(workspace, EXTRACTOR, config, session)
    fabric = make_fabric(config.training, session.device)

    def make() -> ExtractorTask:
        return ExtractorTask(
            workspace,
            config,
            protect,
            seed=session.seed,
            rank=fabric.global_rank,
            world=fabric.world_size,
            device=fabric.device,
            autocast=fabric.autocast,
        )

    training = config.training.model_copy(update={"best": ""})
    about = {"protect": protect, "seed": session.seed}
    result = train_run(workspace, EXTRACTOR, config, about, make, session, training=training, images="origin=real")
    if result.stopped or "width" in result.run.summary:
        return result
    found = train_curve(make(), result.run, config)
    accuracy = next(one["accuracy"] for one in found["curve"] if one["width"] == found["width"])
    metrics = {**result.metrics, "accuracy": accuracy, "width": float(found["width"])}

    def record() -> RunRecord:
        workspace.update_run(result.run.id, summary={"metrics": metrics, **found})
        return workspace.run(result.run.id)

    run = from_first(record)
    tell_doubt(run, session.told)
    return replace(result, run=run, metrics=metrics)


def translation_task(
    workspace: Workspace, config: Config, session: Session, attributes_used: Sequence[str] = ()
) -> tuple[MethodTask, AttributeSchema, Config]:
    """What stage 1 would train with these settings, without a run: its task, the attributes used, and the settings."""
    schema = used_schema(workspace, config, attributes_used)
    domains = used_domains(schema, config, None, None)
    config = settled(workspace, TRANSLATION, config, session)
    fabric, seed = make_fabric(config.training, session.device), session.seed
    method = first_weights(seed, lambda: find_method(config.method).build(config, schema, TRANSLATION))
    task = _task(workspace, config, schema, method, config.translation, fabric, session, domains=domains)
    return task, schema, config


def train_retrieval(
    workspace: Workspace,
    config: Config,
    *,
    translation_run: str | None = None,
    **options: Unpack[Options],
) -> StageResult:
    """Stage 2: the embedding network, on triplets that the newest stage-1 translator makes.

    It is small: where the others train in fp16 it takes full precision, and it keeps no best checkpoint.
    """
    session = Session(**options)
    seed, progress = session.seed, session.told
    config = settled(workspace, RETRIEVAL, config, session)
    training = config.training.model_copy(update={"best": ""})
    if training.precision == "16-mixed":
        training = training.model_copy(update={"precision": "32-true"})
    fabric = make_fabric(training, session.device)
    source = newest(workspace, TRANSLATION, translation_run)
    translator = Translator.load(workspace, source.id, str(fabric.device))
    if find_method(translator.config.method).draws == "crops":
        raise RgunitError(
            f"run {source.id} ({translator.config.method}) learned from two pictures: nothing is there to retrieve; "
            "use `rgunit translate`, or name another --translation-run"
        )
    if not translator.method.encoders:
        raise RgunitError(
            f"run {source.id} ({translator.config.method}) has no encoder to search by: name a run of another method "
            "(--translation-run)"
        )
    about = {
        "attributes_used": list(translator.schema.names),
        "seed": seed,
        "translation_run": source.id,
        "encoders_fingerprint": translator.fingerprint,
    }
    config = fitted(config, translator, progress).model_copy(update={"networks": translator.config.networks})

    def make() -> RetrievalTask:
        return RetrievalTask(
            workspace,
            translator.searched,
            config.retrieval,
            seed=seed,
            rank=fabric.global_rank,
            world=fabric.world_size,
            mirror=config.data.mirror,
            device=fabric.device,
            autocast=fabric.autocast,
            pool_progress=progress.step,
        )

    return train_run(workspace, RETRIEVAL, config, about, make, session, training=training)


def train_guided(
    workspace: Workspace,
    config: Config,
    *,
    neighbours: Arm = "retrieved",
    translation_run: str | None = None,
    retrieval_run: str | None = None,
    steps: int | None = None,
    **options: Unpack[Options],
) -> StageResult:
    """Stage 3 from the stage-1 checkpoint, guided by `retrieved` or `random` neighbours or by `none`."""
    session = Session(**options)
    seed, progress = session.seed, session.told
    if not find_method(config.method).about.guidance:
        raise RgunitError(f"the method {config.method} takes no guidance: `rgunit methods` says which do")
    config = settled(workspace, GUIDED, config, session, neighbours)
    fabric = make_fabric(config.training, session.device)
    source_run = newest(workspace, TRANSLATION, translation_run)
    source = Translator.load(workspace, source_run.id, str(fabric.device))
    about: dict[str, Any] = {
        "attributes_used": list(source.schema.names),
        "seed": seed,
        "neighbours": neighbours,
        "translation_run": source_run.id,
        "encoders_fingerprint": source.fingerprint,
    }
    config = fitted(config, source, progress)
    tell_what_is_off(config, config.guided, progress)
    domains = direction_of(source_run)
    if domains is not None:
        about |= {"source": domains[0], "target": domains[1]}
    agreement = None
    if neighbours != "none":
        check_agreed(config.guided.agree, source.schema)
        agreement = open_agreement(workspace, config, fabric.device, progress=progress)
    if agreement is not None and agreement.runs:
        about["agreement_runs"] = list(agreement.runs)
    retriever = None
    if neighbours == "retrieved":
        retriever = _guide_retriever(workspace, retrieval_run, source)
        about["retrieval_run"] = retriever.run.id
        require_index(workspace, retriever)
    if neighbours != "none" and config.guided.pool != "real":  # what these runs learned from is not to be judged
        barred = not_drawn(workspace)
        about["drawn_by"] = drawing_runs(workspace, np.setdiff1d(workspace.images("origin=generated").ids, barred))

    def make() -> MethodTask:
        g, guides = config.guided, None
        if neighbours != "none":
            guides = Neighbours(
                workspace,
                source,
                retriever,
                k=g.neighbours,
                cache_mib=g.feature_cache,
                pixels=g.guidance == "patches",
                pool=g.neighbour_pool,
                where="" if domains is None else domains[1],
                origins=g.pool,
                agreement=agreement,
            )
        method = first_weights(seed, lambda: _guided_method(config, source, source_run, guided=guides is not None))
        assert isinstance(method, Guidable)
        fused = "fusion" in method.networks
        shown = Guiding(method, guides, g, fused=fused, seed=seed, rank=fabric.global_rank)
        return _task(workspace, config, source.schema, method, g, fabric, session, shown, domains)

    return train_run(workspace, GUIDED, config, about, make, session, exactly=steps)


def _guide_retriever(workspace: Workspace, run: str | None, source: Translator) -> Retriever:
    """The retrieval that guides a translator: one that was trained on it; by content alone any may be named.

    RgunitError where it was trained on another translator, and this one has a style to search by.
    """
    if not source.style_tells and run is not None:
        named = open_retriever(workspace, run, str(source.device))
        if named.encoders.fingerprint != source.fingerprint:
            return named
    return Retriever.open(workspace, run, encoders=source, device=source.device)


def _guided_method(config: Config, source: Translator, source_run: RunRecord, *, guided: bool) -> Method:
    """The method of stage 3 with stage 1's networks, and a fresh guidance where it is guided; its encoders frozen.

    RgunitError where the run is a copy that keeps only what is used.
    """
    checkpoint = source_run.path / CHECKPOINT
    trained = trained_networks(checkpoint)
    if not trained:
        raise RgunitError(
            f"{checkpoint} lacks what training needs (imported, or copied by --carry): train where the run was made"
        )
    method: Method = find_method(config.method).build(config, source.schema, GUIDED)
    assert isinstance(method, Guidable)
    for name, network in method.networks.items():
        start = getattr(method, "starts", {}).get(name, name)
        if name in source.networks:
            network.load_state_dict(source.networks[name].state_dict())
        elif start in trained:  # no part of inference, so without a moving average
            load_networks(checkpoint, {start: network}, prefix="networks")
    fusion = build_guidance(config.guided, source.content_channels) if guided else None
    if fusion is not None:
        method.networks["fusion"] = fusion
    for name in method.encoders:
        method.networks[name].requires_grad_(False).eval()
    return method


def _draws(
    workspace: Workspace,
    schema: AttributeSchema,
    method: Method,
    stage: StageConfig,
    config: Config,
    domains: tuple[str, str] | None,
    **process: int,
) -> Sampler:
    """Where a method's batches come from, by what it draws. `process`: seed, rank and world."""
    common: dict[str, Any] = {"batch": stage.batch, "mirror": config.data.mirror, **process}
    if method.draws == "modalities":
        modalities: tuple[str, ...] = config.networks.modalities  # type: ignore[attr-defined]
        return ModalitySampler(workspace, modalities, config.data.size, **common)
    if isinstance(method, Joins):
        return PairSampler(workspace, schema.names, method.pairs, **common)
    if domains is None:
        groups = [schema.indices(group) for group in schema.groups]
        hops = 1 if stage is config.guided else config.sampling.hops
        return LabelSampler(workspace, schema.names, groups=groups, noise=method.noise, hops=hops, **common)
    if method.draws == "crops":
        zoom: float = getattr(stage, "zoom", 1.0)
        return CropSampler(workspace, *domains, size=config.data.size, zoom=zoom, **common)
    return DomainSampler(workspace, schema.names, *domains, **common)


def _task(
    workspace: Workspace,
    config: Config,
    schema: AttributeSchema,
    method: Method,
    stage: StageConfig,
    fabric: Fabric,
    session: Session,
    guiding: Guiding | None = None,
    domains: tuple[str, str] | None = None,
) -> MethodTask:
    process = {"rank": fabric.global_rank, "world": fabric.world_size}
    if config.sampling.informative and isinstance(method, Weighed):
        phi = config.sampling.embedding
        method.importance = open_importance(workspace, schema, phi, str(fabric.device), stage.batch)
    if config.semantic.weight and isinstance(method, Protects):
        s = config.semantic
        extractor = open_extractor(workspace, s.extractor, config.data.size, fabric.device, session.told)
        check_held(extractor.protect, schema)
        method.features = extractor
        method.semantic_weight = s.weight
    return MethodTask(
        workspace,
        schema,
        method,
        _draws(workspace, schema, method, stage, config, domains, seed=session.seed, **process),
        stage=stage,
        name=GUIDED if stage is config.guided else TRANSLATION,
        data=config.data,
        training=config.training,
        guiding=guiding,
        watched="" if domains is None else domains[0],
        seed=session.seed,
        device=fabric.device,
        autocast=fabric.autocast,
        **process,
    )
