"""The pictures of a report: the best, the worst and some drawn at random, of queries and of translations.

Nothing is chosen by eye: cases are picked by their scores and by the seed, and translations are made again here from
the same source, target and seed as in the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from index_store.attributes import named
from translation.evaluation.report.data import Case, Neighbour, Output, ReportData, RetrievalRow, TranslationRow

if TYPE_CHECKING:
    from index_store.workspace import ImageTable, Workspace
    from retrieval.evaluation import RetrievalEvaluation
    from translation.evaluation.evaluate import Evaluation
    from translation.evaluation.truth import Truth

SHOWN_ARMS = ("unguided", "random", "guided")
Ids = NDArray[np.int64]


class Arm(Protocol):
    """An arm that also tells what it looked at: `translation.evaluation.arms.Arm`."""

    def translate(self, source: Ids, target: NDArray[np.int8], seeds: Ids) -> tuple[Any, Ids]:
        """(translation with `image` [n, 3, H, W] in [−1, 1] and `mask` [n, 1, H, W], neighbours int64 [n, k])."""


def collect(
    workspace: Workspace,
    *,
    title: str,
    stages: Sequence[Mapping[str, Any]],
    runs: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
    commands: Sequence[str] = (),
    notes: Sequence[str] = (),
    retrieval: RetrievalEvaluation | None = None,
    translation: Evaluation | None = None,
    arms: Mapping[str, Arm] | None = None,
    truth: Truth | None = None,
    size: int = 64,
    per_case: int = 3,
) -> ReportData:
    """Everything a report shows, from a workspace whose stages ran and from their evaluations.

    Settings and metrics are those of `runs` (ids), by default of the newest run of each stage and of each kind of
    neighbours. `arms` are `open_arms(…).arms`, which make the pictures; `size` is the translator's own.
    """
    from translation.training.metrics import read_metrics

    newest = {(r.stage, r.config.get("neighbours")): r for r in workspace.runs()}
    chosen = [workspace.run(run) for run in runs] or list(newest.values())
    first = next((r for r in chosen if r.stage == "translation"), chosen[0] if chosen else None)
    metrics = {}
    for record in chosen:
        neighbours = record.config.get("neighbours")
        name = f"{record.stage}, {_NEIGHBOURS.get(neighbours, neighbours)}" if neighbours else record.stage
        metrics[f"{name} ({record.id})"] = read_metrics(record.path)
    return ReportData(
        title=title,
        preset=first.preset if first else "none",
        seed=seed,
        device=device,
        attributes_used=tuple(first.config.get("attributes_used", ())) if first else (),
        stages=stages,
        commands=commands,
        metrics=metrics,
        retrieval=None if retrieval is None else retrieval.summary,
        translation=None if translation is None else translation.summary,
        retrieval_rows=[]
        if retrieval is None
        else retrieval_rows(
            workspace, retrieval, list(retrieval.summary["per_attribute"]), size=size, per_case=per_case, seed=seed
        ),
        translation_rows=[]
        if translation is None or not arms
        else translation_rows(workspace, translation, arms, truth=truth, size=size, per_case=per_case, seed=seed),
        config=first.config.get("config", {}) if first else {},
        notes=notes,
    )


_NEIGHBOURS = {"retrieved": "retrieved neighbours", "random": "random neighbours", "none": "no neighbours"}


def retrieval_rows(
    workspace: Workspace,
    evaluation: RetrievalEvaluation,
    attributes: Sequence[str],
    *,
    size: int,
    per_case: int = 3,
    seed: int = 0,
) -> list[RetrievalRow]:
    """The best, some random and the worst queries by the average of attributes and content P@k, in that order.

    `attributes` are the used ones, the columns of `evaluation.targets`.
    """
    score = np.where(np.isnan(evaluation.average), evaluation.attributes, evaluation.average)
    columns = workspace.schema.indices(attributes)
    rows = []
    for case, row in cases(-score, per_case, seed):
        query, hits = int(evaluation.query_ids[row]), evaluation.neighbour_ids[row]
        kept = hits >= 0
        hits, distances = hits[kept], evaluation.distances[row][kept]
        table = workspace.images(ids=np.unique(np.append(hits, query)))
        places = {int(i): place for place, i in enumerate(table.ids)}
        target = evaluation.targets[row]
        images = workspace.load(np.append(hits, query), size)
        neighbours = [
            Neighbour(
                image=image,
                path=table.paths[places[int(hit)]],
                distance=float(distance),
                matches=_matches(table.labels[places[int(hit)], columns], target, attributes),
                origin=str(table.origin[places[int(hit)]]),
            )
            for hit, distance, image in zip(hits, distances, images[:-1], strict=True)
        ]
        content = float(evaluation.content[row])
        rows.append(
            RetrievalRow(
                case=case,
                query=images[-1],
                path=table.paths[places[query]],
                edit=edit_words(table.labels[places[query], columns], target, attributes),
                target=named(attributes, target),
                neighbours=neighbours,
                score=float(evaluation.attributes[row]),
                content=None if np.isnan(content) else content,
            )
        )
    return rows


def translation_rows(
    workspace: Workspace,
    evaluation: Evaluation,
    arms: Mapping[str, Arm],
    *,
    truth: Truth | None = None,
    size: int,
    per_case: int = 3,
    seed: int = 0,
    shown: Sequence[str] = SHOWN_ARMS,
) -> list[TranslationRow]:
    """The best, some random and the worst pairs of the guided arm, made again by those of the arms `shown` there are.

    Where no arm is named `guided`, the last of them chooses the pairs, and its mask and neighbours are shown.
    """
    from retrieval.tensors import to_pixels

    pairs = evaluation.pairs
    shown = [arm for arm in shown if arm in arms and arm in evaluation.scores]
    shown = shown or [arm for arm in evaluation.scores if arm in arms][:1]
    if not shown:
        return []
    main = "guided" if "guided" in shown else shown[-1]
    scores = evaluation.scores[main]
    badness = scores.truth if scores.truth is not None else -scores.likeness
    picked = cases(badness, per_case, seed)
    rows = np.array([row for _, row in picked], dtype=np.int64)
    source, target, seeds = pairs.source[rows], pairs.target[rows], pairs.seeds[rows]
    made = {name: arms[name].translate(source, target, seeds) for name in shown}
    pictures = {name: to_pixels(translation.image) for name, (translation, _) in made.items()}
    mask = made[main][0].mask
    masks = None if mask is None else mask.detach().float().cpu().numpy()[:, 0]
    guides = made[main][1]
    neighbours = workspace.load(guides.reshape(-1), size).reshape(*guides.shape, size, size, 3) if guides.size else None
    known = truth(source, target) if truth is not None else None
    images, paths = workspace.load(source, size), _paths(workspace.images(ids=np.unique(source)))
    found = []
    for place, (case, row) in enumerate(picked):
        changed = np.flatnonzero(pairs.changed[row])
        bits = {column: _signed(pairs.attributes[column], pairs.target[row, column]) for column in changed}
        outputs = [
            Output(
                arm=name,
                image=pictures[name][place],
                right={bits[column]: bool(evaluation.scores[name].right[row, column]) for column in changed},
            )
            for name in shown
        ]
        found.append(
            TranslationRow(
                case=case,
                source=images[place],
                path=paths[int(source[place])],
                edit=edit_words(pairs.before[row], pairs.target[row], pairs.attributes),
                outputs=outputs,
                neighbours=() if neighbours is None else list(neighbours[place]),
                mask=None if masks is None else masks[place],
                truth=None if known is None else known[place],
                score=float(badness[row]),
            )
        )
    return found


def cases(badness: NDArray[np.float64], count: int, seed: int) -> list[tuple[Case, int]]:
    """`count` best, random and worst rows by `badness` [n], no row twice; fewer where there are not enough."""
    order = [int(row) for row in np.argsort(badness, kind="stable")]
    count = min(count, len(order) // 3 or len(order))
    best, worst = order[:count], order[len(order) - count :] if len(order) >= 2 * count else []
    rest = np.array(sorted(set(order) - {*best, *worst}), dtype=np.int64)
    drawn = np.random.default_rng(seed).permutation(rest)[:count].tolist()
    chosen: list[tuple[Case, int]] = [("best", row) for row in best]
    chosen += [("random", int(row)) for row in drawn]
    return chosen + [("worst", row) for row in reversed(worst)]


def edit_words(before: NDArray[np.int8], target: NDArray[np.int8], attributes: Sequence[str]) -> str:
    """What is asked to change, "+Blond Hair −Hat"; empty where nothing is."""
    words = [
        _signed(name, bit)
        for name, old, bit in zip(attributes, before.tolist(), target.tolist(), strict=True)
        if bit >= 0 and bit != old
    ]
    return " ".join(words)


def _signed(name: str, bit: int) -> str:
    return ("+" if bit == 1 else "−") + name.replace("_", " ")


def _matches(labels: NDArray[np.int8], target: NDArray[np.int8], attributes: Sequence[str]) -> dict[str, bool | None]:
    return {
        name: None if have < 0 else have == want
        for name, have, want in zip(attributes, labels.tolist(), target.tolist(), strict=True)
        if want >= 0
    }


def _paths(table: ImageTable) -> dict[int, str]:
    return dict(zip(table.ids.tolist(), table.paths, strict=True))
