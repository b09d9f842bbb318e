"""`rgunit train`: one stage of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.choices import AttributesOption, ConfigOption, MethodOption, MinutesOption, PresetOption, SetOption
from cli.settings import Settings, Stopped
from index_store.errors import UsageError
from index_store.names import listed_names

if TYPE_CHECKING:
    from rich.console import Console

    from translation.training.sessions import StageResult


class Stage(StrEnum):
    """The stages: those of translation in order, and those of images from noise."""

    translation = "translation"
    retrieval = "retrieval"
    guided = "guided"
    generator = "generator"
    miner = "miner"
    extractor = "extractor"


class Neighbours(StrEnum):
    """What guides stage 3 (guided)."""

    retrieved = "retrieved"
    random = "random"
    none = "none"


def register(app: typer.Typer) -> None:
    """Give the command to the app."""
    app.command(
        short_help="Train one stage.",
        epilog="\b\nExamples:\n"
        "  rgunit -w faces train translation --preset celeba-64 --attributes-used Blond_Hair,Male --minutes 30\n"
        "  rgunit -w faces train retrieval\n"
        "  rgunit -w faces index build\n"
        "  rgunit -w faces train guided --neighbours random --set guided.steps=2000\n"
        "  rgunit -w faces train translation --resume\n"
        "  rgunit -w faces train extractor --protect Male\n"
        "  rgunit -w faces train translation --attributes-used Young --set semantic.weight=1\n"
        "  rgunit -w faces train generator --preset wgan-gp --target +Male\n"
        "  rgunit -w faces train generator --from r4 --target '-Male +Eyeglasses'\n"
        "  rgunit -w faces train miner --from r4 --from r5 --target '-Male +Eyeglasses' --set miner.release=1000",
    )(train)


def train(
    context: typer.Context,
    stage: Annotated[
        Stage,
        typer.Argument(
            metavar="STAGE",
            help="translation: the method (GMM-UNIT unless the preset or --method names another), no guidance. "
            "retrieval: the embedding, on that translator. guided: RG-UNIT, the translator fine-tuned "
            "with retrieved neighbours (needs `rgunit index build`). generator: images from noise (WGAN-GP). "
            "miner: trained generators (--from) mined for a domain of few images (MineGAN). "
            "extractor: reads an attribute that translations must keep (semantic.weight, guided.agree).",
        ),
    ],
    preset: PresetOption = None,
    method: MethodOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    attributes_used: AttributesOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            help="translation, of a method that learns one direction (cut): images to translate. Default with "
            "--target: the first and the second of two folders, else images without and with the first attribute used. "
            "single-image: one picture, by its path or id=N.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="FILTER", help="Images that translations are to look like; with --source.")
    ] = None,
    neighbours: Annotated[
        Neighbours | None,
        typer.Option(
            help="guided only: retrieved neighbours, or random ones or none for comparison. Default: retrieved."
        ),
    ] = None,
    translation_run: Annotated[
        str | None,
        typer.Option(metavar="ID", help="retrieval and guided: the stage-1 run to build on. Default: the newest."),
    ] = None,
    retrieval_run: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="guided: the retrieval run that finds the neighbours; of a method without a style (cut) any. Default: "
            "the newest.",
        ),
    ] = None,
    protect: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="extractor, which needs it: the attribute that translations must keep."),
    ] = None,
    minutes: MinutesOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the newest run of this stage, with the same settings.")
    ] = False,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="With --resume: continue with other settings (but the same network and data), which the run keeps.",
        ),
    ] = False,
    start: Annotated[
        str | None,
        typer.Option(
            "--resume-at",
            metavar="best|STEP",
            help="With --resume: start from the best checkpoint (training.best) or an older one (training.keep).",
        ),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="generator: a run to start from instead of from random weights (TransferGAN). miner: the generators "
            "to mine; may be repeated.",
        ),
    ] = None,
    transfer: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="generator, with --from: the networks that start from the run. Default: generator,discriminator.",
        ),
    ] = None,
) -> None:
    """Train one stage and keep it as a run. Ctrl-C saves a checkpoint; --resume continues from there."""
    from contextlib import AbstractContextManager, nullcontext

    from cli.choices import configuration
    from cli.progress import Bars
    from translation.progress import Progress, is_first
    from translation.runs import TRANSLATION, newest

    settings: Settings = context.obj
    if neighbours is not None and stage is not Stage.guided:
        raise UsageError(f"--neighbours belongs to `train guided`, not to `train {stage.value}`")
    if method is not None and stage in (Stage.retrieval, Stage.guided):
        raise UsageError(f"--method is decided by `train translation`: `train {stage.value}` takes that run's")
    from_noise = stage in (Stage.generator, Stage.miner)
    if attributes_used is not None and stage not in (Stage.translation, Stage.generator):
        raise UsageError(
            f"--attributes-used belongs to `train translation`; `train {stage.value}` takes it from that run"
        )
    if source is not None and from_noise:
        raise UsageError(
            f"`train {stage.value}` has no --source: it makes images from noise (generators are --from RUN)"
        )
    if (source is not None or target is not None) and stage is not Stage.translation and not from_noise:
        raise UsageError(f"--source and --target belong to `train translation`, not to `train {stage.value}`")
    if sources and not from_noise:
        raise UsageError(f"--from RUN belongs to `train generator` and `train miner`, not to `train {stage.value}`")
    if stage is Stage.generator and sources and len(sources) > 1:
        raise UsageError("`train generator` starts from one run: give --from once")
    if transfer is not None and not (sources and stage is Stage.generator):
        raise UsageError("--transfer belongs to `train generator --from RUN`")
    if translation_run is not None and stage not in (Stage.retrieval, Stage.guided):
        raise UsageError("--translation-run names the run that `train retrieval` and `train guided` build on")
    if retrieval_run is not None and stage is not Stage.guided:
        raise UsageError(f"--retrieval-run belongs to `train guided`, not to `train {stage.value}`")
    if protect is not None and stage is not Stage.extractor:
        raise UsageError(f"--protect belongs to `train extractor`, not to `train {stage.value}`")
    if protect is None and stage is Stage.extractor:
        raise UsageError("`train extractor` needs the attribute to keep: --protect NAME")
    if start is not None and not resume:
        raise UsageError("--resume-at needs --resume")
    if allow_changes and not resume:
        raise UsageError("--allow-changes needs --resume")
    with settings.open() as workspace:
        used = listed_names(attributes_used)
        workspace.schema.indices(used)
        if stage in (Stage.retrieval, Stage.guided):
            newest(workspace, TRANSLATION, translation_run)  # told before anything slow is imported
        kind = (neighbours.value if neighbours else "retrieved") if stage is Stage.guided else None
        goes_on = (stage.value, kind) if resume else None
        chosen = configuration(workspace, preset, config, overrides or [], goes_on, method, stage.value)
        common: dict[str, Any] = {
            "seed": settings.seed,
            "device": settings.device,
            "minutes": minutes,
            "resume": "changed" if allow_changes else resume,
            "start": start,
        }
        shown: AbstractContextManager[Progress] = Bars() if is_first() else nullcontext(Progress())
        with shown as bars:
            from translation import stages

            if stage is Stage.translation:
                bars.stage("translation")
                result = stages.train_translation(
                    workspace, chosen, attributes_used=used, source=source, target=target, progress=bars, **common
                )
            elif stage is Stage.retrieval:
                bars.stage("retrieval")
                result = stages.train_retrieval(
                    workspace, chosen, translation_run=translation_run, progress=bars, **common
                )
            elif stage is Stage.generator:
                from translation.generator_stages import train_generator

                bars.stage("generator")
                given: dict[str, Any] = {"source_run": sources[0]} if sources else {}
                given |= {"transfer": listed_names(transfer)} if transfer is not None else {}
                result = train_generator(
                    workspace, chosen, attributes_used=used, target=target or "", progress=bars, **given, **common
                )
            elif stage is Stage.miner:
                from translation.generator_stages import train_miner

                bars.stage("miner")
                result = train_miner(
                    workspace, chosen, sources=sources or (), target=target or "", progress=bars, **common
                )
            elif stage is Stage.extractor:
                bars.stage("extractor")
                assert protect is not None
                result = stages.train_extractor(workspace, chosen, protect=protect, progress=bars, **common)
            else:
                arm: stages.Arm = neighbours.value if neighbours else "retrieved"
                bars.stage(f"guided:{arm}")
                result = stages.train_guided(
                    workspace,
                    chosen,
                    neighbours=arm,
                    translation_run=translation_run,
                    retrieval_run=retrieval_run,
                    progress=bars,
                    **common,
                )
        payload = {
            "run": result.run.id,
            "steps": result.steps,
            "seconds": round(result.seconds, 2),
            "metrics": result.metrics,
        }
        if stage is Stage.extractor and not result.stopped:
            found = result.run.summary
            payload |= {"protect": result.run.config["protect"]}
            payload |= {key: found[key] for key in ("width", "curve", "doubt") if key in found}
        if result.stopped:
            extra = f" --neighbours {neighbours.value}" if neighbours else f" --protect {protect}" if protect else ""
            raise Stopped(
                f"`rgunit -w {settings.folder} train {stage.value}{extra} --resume` and the same settings (checkpoint "
                f"at step {result.steps})",
                payload | {"stopped": True},
            )
        if is_first():
            settings.show(payload, lambda console: _draw(console, result))


def _draw(console: Console, result: StageResult) -> None:
    from cli.drawing import plain, span

    plain(console, f"run {result.run.id} ({result.run.stage}): {result.steps} steps in {span(result.seconds)}")
    if curve := result.run.summary.get("curve"):
        _draw_curve(console, curve, int(result.run.summary["width"]))
    told = [f"{name} {value:.3g}" for name, value in result.metrics.items() if not name.startswith("lr/")]
    plain(console, "  " + ", ".join(told), style="dim")
    plain(console, f"  {result.run.path}", style="dim")


def _draw_curve(console: Console, curve: Sequence[Mapping[str, Any]], chosen: int) -> None:
    """The accuracy of each width as a bar from chance (0.5) to 1, the one that was chosen marked."""
    from cli.drawing import table

    shown = table("D", "accuracy", "", right=("D", "accuracy"), title="Accuracy by width, images set aside")
    for point in curve:
        bar = "█" * round(40 * max(0.0, 2 * point["accuracy"] - 1))
        mark = " ← the narrowest that keeps it" if point["width"] == chosen else ""
        shown.add_row(str(point["width"]), f"{point['accuracy']:.3f}", f"{bar}{mark}")
    console.print(shown)
