"""`rgunit evaluate`: how good retrieval and translation are, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import bias, generators, guidance, judges, modalities, parts, preference, scarce, unseen
from cli.choices import BothWaysOption, JudgeCropOption, JudgeOption, check_judge
from cli.preference import AbOption, ArmsOption, ChoicesOption, CountOption
from cli.settings import Settings
from cli.spelling import App

if TYPE_CHECKING:
    from rich.console import Console

group = App(
    rich_markup_mode=None,
    help="Measure retrieval and translation.",
    epilog="\b\nExamples:\n  rgunit -w faces evaluate retrieval\n"
    "  rgunit -w faces evaluate translation --grid compared.png",
)

COLUMNS = {
    "attributes": "attributes",
    "content": "content",
    "average": "average",
    "both": "both",
    "mean_average_precision_at_k": "mAP@10",
    "recall_at_k": "recall",
    "near_duplicates": "near-dup.",
    "most_found": "most found",
}
"""The measures of a retrieval that the terminal shows, those that there are."""


class Classifier(StrEnum):
    """The attribute classifier of `evaluate translation`."""

    resnet18 = "resnet18"
    resnet50 = "resnet50"


SplitOption = Annotated[str, typer.Option(metavar="NAME", help="Split that is judged.")]


def register(app: typer.Typer) -> None:
    """Give the command group to the app."""
    guidance.register(group)
    bias.register(group)
    scarce.register(group)
    judges.register(group)
    parts.register(group)
    unseen.register(group)
    modalities.register(group)
    generators.register(group)
    app.add_typer(group, name="evaluate")


@group.command(
    short_help="P@10 against random and simpler retrieval.",
    epilog="\b\nExamples:\n"
    "  rgunit -w faces evaluate retrieval\n"
    "  rgunit -w faces evaluate retrieval --relevance identity --plane plane.svg\n"
    "  rgunit -w faces evaluate retrieval --ablation --rows all,parts --seeds 3 --plane rows.svg",
)
def retrieval(
    context: typer.Context,
    split: SplitOption = "test",
    run: Annotated[str | None, typer.Option(metavar="ID", help="Retrieval run. Default: the newest.")] = None,
    relevance: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Text column of the images (identity, class): also count neighbours with the query's own value.",
        ),
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Also search images with unknown labels; only known labels count.")
    ] = False,
    generated: Annotated[
        bool,
        typer.Option("--generated", help="Also search generated images; their labels are those they were made for."),
    ] = False,
    plane: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", dir_okay=False, help="Draw attributes against content, with the baselines."),
    ] = None,
    hide_labels: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0.0, max=1.0, help="Share of images whose labels are hidden from filters."),
    ] = 0.0,
    ablation: Annotated[
        bool,
        typer.Option(
            "--ablation",
            help="Train and compare the rows of the paper's Table 1 and further ones, all on one translator. Finished "
            "rows are kept: run it again to continue.",
        ),
    ] = False,
    rows: Annotated[
        str | None, typer.Option(metavar="A,B", help="Rows of the ablation. Default: all, in order of importance.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Seeds for each row, starting at --seed.")] = 3,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Training steps for each row.")] = 600,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rows trained at once. Default: one for each core.")
    ] = None,
) -> None:
    """Measure P@10 as the paper does: one query for each image of the split, answered from the images of that split.

    P@10 is the precision among the ten nearest images. attributes: share of their labels that are as asked for.
    content: share of their other labels that are the query's own or, where there are none, of images with its own value
    in the column of --relevance. both: share of images with all labels asked for and, with --relevance, the query's own
    value in that column. Compared with random images.
    """
    from cli.choices import check_file
    from cli.progress import Bars
    from index_store.errors import UsageError
    from retrieval.runs import find_run

    settings: Settings = context.obj
    check_file("--plane", plane)
    if plane is not None and plane.suffix.lower() != ".svg":
        raise UsageError(f"--plane draws SVG: give it a name that ends in .svg, not {plane}")
    if ablation:
        if run is not None or unlabelled or generated or hide_labels:
            raise UsageError("--ablation takes only --split, --relevance, --rows, --seeds, --steps, --jobs and --plane")
        from cli.ablation import AblationOptions
        from cli.ablation import run as run_rows
        from retrieval.evaluation import RetrievalProtocol

        run_rows(
            settings, RetrievalProtocol(split, relevance=relevance), AblationOptions(rows, seeds, steps, jobs), plane
        )
        return
    if rows is not None:
        raise UsageError("--rows needs --ablation")
    with settings.open() as workspace:
        find_run(workspace, run)
        with Bars("evaluate") as bars:
            from retrieval.evaluation import RetrievalProtocol
            from translation.evaluation.judging import evaluate_retrieval_run

            protocol = RetrievalProtocol(
                split=split,
                seed=settings.seed,
                relevance=relevance,
                unlabelled=unlabelled,
                generated=generated,
                hidden=hide_labels,
            )
            found = evaluate_retrieval_run(workspace, protocol, run=run, device=settings.device, progress=bars).summary
        if plane is not None:
            from translation.evaluation.report.plane import draw_plane, points_of

            points = points_of(found)
            if not points:
                raise UsageError(
                    "--plane draws attributes against content, and one of them has no numbers here: leave it out, or "
                    "name a text column by --relevance"
                )
            draw_plane(points, found["late_fusion_curve"], plane)
        settings.show(found, lambda console: _draw_retrieval(console, found))


@group.command(
    short_help="Compare guided, unguided and random translation.",
    epilog="\b\nExamples:\n"
    "  rgunit -w faces evaluate translation --out compared --grid compared.png\n"
    "  rgunit -w faces evaluate translation --reverse --inception-weights cache --lpips-weights alexnet.pth\n"
    "  rgunit -w faces evaluate translation --judge mobilefacenet.onnx --judge-crop 25.84,24.69,76.48,89.23@128\n"
    "  rgunit -w faces evaluate translation --ab blind --arms guided,unguided\n"
    "  rgunit -w faces evaluate translation --ab blind --choices choices-1.json --choices choices-2.json",
)
def translation(
    context: typer.Context,
    split: SplitOption = "test",
    run: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Run whose arms are compared. Default: the newest guided run."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Keep every image there, with a manifest.jsonl."),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            dir_okay=False,
            help="Draw the best, some random and the worst pairs with their neighbours and what each arm made of them.",
        ),
    ] = None,
    cases: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Pairs of each kind in the picture. Default: 3.")
    ] = None,
    judge: JudgeOption = None,
    judge_crop: JudgeCropOption = None,
    classifier: Annotated[
        Classifier | None,
        typer.Option(help="Network that reads the attributes. Default: the one in the run's settings."),
    ] = None,
    classifier_minutes: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", min=0.001, help="Time limit of its training. Default: the preset's."),
    ] = None,
    both_ways: BothWaysOption = False,
    unseen: Annotated[
        bool,
        typer.Option("--unseen", help="Only pairs of domains that were not trained (of mix_match, which joins them)."),
    ] = False,
    reverse: Annotated[
        bool,
        typer.Option(
            "--reverse",
            help="Also train a classifier on each arm's translations and test it on real images (about a minute each).",
        ),
    ] = False,
    relevance: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="A text column of at most 50 values that a translation must keep (class, folder): the share in which "
            "a classifier of real target images still reads it.",
        ),
    ] = None,
    inception_weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|cache", help="Weights of FID's Inception v3, or torch's cache: adds FID, KID and IS."
        ),
    ] = None,
    lpips_weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|cache", help="Weights of torchvision's AlexNet or VGG-16, or torch's cache: adds LPIPS."
        ),
    ] = None,
    ab: AbOption = None,
    arms: ArmsOption = None,
    ab_pairs: CountOption = None,
    choices: ChoicesOption = None,
) -> None:
    """Compare trained variants (arms) on the same pairs: guided, random neighbours, unguided; and two controls.

    The controls are copy (the input itself) and neighbour (the nearest image found). The test people are divided into
    halves A and B. Images of A are translated to label vectors of B that differ in at least one attribute, and Fréchet
    distances are to B: copying cannot win. The pairs are kept with the stage-1 run (translation), so arms trained
    later are judged on the same pairs.
    """
    from cli.choices import check_file, check_folder
    from cli.progress import Bars
    from index_store.errors import UsageError
    from translation.runs import default_start

    settings: Settings = context.obj
    if ab is None and (arms or ab_pairs or choices):
        raise UsageError("--arms, --ab-pairs and --choices need --ab DIR")
    if ab is not None:
        others = (out, grid, cases, judge, judge_crop, classifier, classifier_minutes, relevance)
        if any(one is not None for one in (*others, inception_weights, lpips_weights)) or both_ways or reverse:
            raise UsageError(
                "--ab takes only --split, --run, --arms, --ab-pairs and --choices: measure in another call"
            )
        if choices and (arms or ab_pairs or run is not None or split != "test"):
            raise UsageError(
                "--choices are of the page as it was written: leave --arms, --ab-pairs, --run and --split out"
            )
        if choices:
            preference.read(settings, ab, choices)
        else:
            preference.write(settings, ab, run, split, arms, ab_pairs)
        return
    check_file("--grid", grid)
    check_folder("--out", out)
    check_judge(judge, judge_crop)
    if cases is not None and grid is None:
        raise UsageError("--cases needs --grid FILE.png")
    if grid is not None and grid.suffix.lower() != ".png":
        raise UsageError(f"--grid draws PNG: give it a name that ends in .png, not {grid}")
    given = {
        "classifier": None if classifier is None else classifier.value,
        "classifier_minutes": classifier_minutes,
        "reverse": reverse or None,
        "relevance": relevance,
        "inception_weights": inception_weights,
        "lpips_weights": lpips_weights,
    }
    with settings.open() as workspace:
        _ = default_start(workspace) if run is None else workspace.run(run)  # told before anything slow is imported
        with Bars() as bars:
            bars.stage("evaluate")
            from translation.evaluation.arms import open_arms
            from translation.evaluation.judging import evaluate_both_ways, evaluate_translation_runs

            found_arms = open_arms(workspace, run, settings.device)
            evaluate = evaluate_both_ways if both_ways else evaluate_translation_runs
            evaluation = evaluate(
                workspace,
                split=split,
                out=out,
                judge=judge,
                judge_crop=judge_crop,
                seed=settings.seed,
                device=settings.device,
                arms=found_arms,
                changes={name: value for name, value in given.items() if value is not None},
                unseen=unseen,
                progress=bars,
            )
            if grid is not None:
                from translation.evaluation.report.sheet import draw_pairs

                draw_pairs(workspace, evaluation, found_arms, grid, per_case=cases or 3, seed=settings.seed)
        found, files = evaluation.summary, [one for one in (out, grid) if one is not None]
        settings.show(found, lambda console: _draw_translation(console, found, files))


def _draw_retrieval(console: Console, found: dict[str, Any]) -> None:
    from cli.drawing import number, plain, table
    from retrieval.baselines import ORACLES
    from translation.evaluation.report.terminal import terminal_table
    from translation.evaluation.report.verdicts import baseline_name

    console.print(terminal_table(found, None))
    kept = {name: (row["kept"]["content"], row["flipped"]["content"]) for name, row in found["by_change"].items()}
    numbers = ["here", "random", "content if kept", "if flipped"]
    shown = table("attribute", *numbers, right=numbers)
    for name, value in found["per_attribute"].items():
        shown.add_row(name, *map(number, (value, found["random"]["per_attribute"].get(name), *kept[name])))
    if found["per_attribute"]:
        console.print()
        console.print(shown)
    columns = {name: short for name, short in COLUMNS.items() if found.get(name) is not None}
    rows = {"this run, the embedding alone": found, "this run, and known labels": found["labels_prefer"]}
    rows["random images"] = found["random"]
    apart: dict[str, Any] = {}
    for name, row in found["baselines"].items():
        (apart if name in ORACLES else rows)[baseline_name(name, row)] = row
    for title, part in (("Against simpler retrievals", rows), ("Oracles: they know what no search does", apart)):
        shown = table("", *columns.values(), right=columns.values(), title=title)
        for name, row in part.items():
            shown.add_row(name, *(number(row.get(column)) for column in columns))
        console.print()
        console.print(shown)
    if found["average"] is not None and found["style"]:
        _draw_known(console, found["labels_known"])
    plain(console, f"{found['queries']} queries among {found['images']} images", style="dim")


def _draw_known(console: Console, shares: Sequence[dict[str, Any]]) -> None:
    """The average of what searches with labels, where all, some or none of the stored images' labels are known."""
    from cli.drawing import number, table
    from translation.evaluation.report.verdicts import BASELINES

    names = ["labels_prefer", "label_filter", "label_filter_content"]
    headings = ["known labels (95 %)", *(BASELINES[name] for name in names[1:])]
    shown = table("", *headings, right=headings, title="Average, by the share of images whose labels are known")
    for row in shares:
        low, high = row["labels_prefer"]["interval"]
        averages = [number(row[name]["average"]) for name in names]
        shown.add_row(f"{row['known']:.0%}", f"{averages[0]} ({low:.3f} … {high:.3f})", *averages[1:])
    console.print()
    console.print(shown)


def _draw_translation(console: Console, found: dict[str, Any], files: Sequence[Path]) -> None:
    from cli.drawing import plain
    from translation.evaluation.report.lengths import too_short
    from translation.evaluation.report.terminal import terminal_table
    from translation.evaluation.report.verdicts import verdicts

    for title, part in (("", found), ("both ways", found.get("both_ways"))):
        if part is None:
            continue
        if title:
            console.print()
            plain(console, title, style="bold")
        console.print(terminal_table(None, part))
        console.print()
        if short := too_short(found):
            plain(console, short)
            continue
        for verdict in verdicts(part, None):
            if " against " in verdict.subject:
                plain(console, verdict.text)
    for file in files:
        plain(console, f"images: {file.absolute()}", style="bold")
