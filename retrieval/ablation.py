"""The ablation of the paper's Table 1, and what was tried beyond it: rows of one table, under one protocol.

The one idea: one frozen translator serves all rows. Its encodings of the training and of the judged images are made
once (`pool`), every row trains from them, and each row's scores are a file of their own: a run that was stopped
continues with the missing rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from index_store.duplicates import perceptual_hash
from index_store.errors import RgunitError, UsageError
from index_store.learned import learned_from
from index_store.lifetimes import end_with_parent
from index_store.whole import write_json
from index_store.workspace import Workspace
from retrieval.baselines import WEIGHTS, Vectors, filter_by_labels, late_fusion
from retrieval.config import RetrievalConfig
from retrieval.evaluation import RetrievalProtocol, SetVectors, choose, duplicates_of, evaluate_vectors
from retrieval.loading import load_encoders_of
from retrieval.network import Network, PartsNetwork
from retrieval.pool import FIRST, ITSELF, SECOND, open_pool
from retrieval.protocol import Encoders
from retrieval.scoring import Case, Ids, rank, score
from retrieval.train import RetrievalTask

FOLDER = "ablation"
BATCH = 128
SHOWN = ("attributes", "content", "average", "both", "mean_average_precision_at_k", "recall_at_k", "near_duplicates")


@dataclass(frozen=True)
class Row:
    """A row of the table: what it says, and the settings in which it differs from the base configuration."""

    says: str
    settings: Mapping[str, Any]
    longer: int = 1  # so many times the steps: a step of `parts` costs a twentieth


_ADAM = {"optimizer": "adam", "learning_rate": 1e-3}
ROWS: dict[str, Row] = {  # in order of importance
    "all": Row("all four negatives: the paper", {}),
    "hard": Row("easy, medium and hard negatives", {"negatives": ("easy", "medium", "hard")}),
    "medium": Row("easy and medium negatives", {"negatives": ("easy", "medium")}),
    "easy": Row("easy negatives", {"negatives": ("easy",)}),
    "parts": Row(
        "a content vector beside the style, learned from views",
        {"objective": "parts", "content_teacher": "views", **_ADAM},
        longer=4,
    ),
    "parts_labels": Row(
        "the same, learned from the training images' other attributes",
        {"objective": "parts", "content_teacher": "labels", **_ADAM},
        longer=4,
    ),
    "info_nce": Row("the four negatives in one softmax", {"objective": "info_nce", "normalize": True, **_ADAM}),
    "normalized": Row("the paper, embeddings of length 1", {"normalize": True}),
    "semihard": Row("the paper's triplets, semi-hard ones mined by distance", {"objective": "semihard"}),
    "multi_similarity": Row(
        "multi-similarity loss and miner", {"objective": "multi_similarity", "normalize": True, **_ADAM}
    ),
    "memory": Row(
        "the same with a memory of 2,048 embeddings",
        {"objective": "multi_similarity", "normalize": True, "memory": 2048, **_ADAM},
    ),
}
BASELINES = (
    "random",
    "content_only",
    "style_only",
    "early_concatenation",
    "late_fusion",
    "label_filter",
    "same_labels",
)


@dataclass(frozen=True)
class Plan:
    """What an ablation is to do: steps of `base.batch` triplets a row, on one split, and where results go."""

    workspace: Path
    translation_run: str
    base: RetrievalConfig
    steps: int
    protocol: RetrievalProtocol
    device: str = "cpu"
    half: bool = True

    @property
    def folder(self) -> Path:
        """One folder for each set of settings, so that rows of two are never in one table."""
        told = {
            "run": self.translation_run,
            "base": self.base.model_dump(mode="json"),
            "steps": self.steps,
            "protocol": vars(self.protocol),
        }
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
        return self.workspace / FOLDER / f"{self.translation_run}-{digest}"


def run_ablation(
    plan: Plan,
    *,
    rows: Sequence[str] = tuple(ROWS),
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Train and judge every row with every seed that is not there yet; the table as JSON (see `table`).

    `jobs` processes of one thread each, one per core by default (on a GPU one in all). `progress(what, done, total)`.
    """
    strange = [row for row in rows if row not in ROWS]
    if strange:
        raise UsageError(f"no row {strange[0]!r} in the ablation: there are {', '.join(ROWS)}")
    tell = progress or (lambda what, done, total: None)
    plan.folder.mkdir(parents=True, exist_ok=True)
    with Workspace.open(plan.workspace) as workspace:
        encoders = load_encoders_of(workspace, plan.translation_run, plan.device)
        bench = _Bench(workspace, encoders, plan, lambda done, total: tell("encoding the judged images", done, total))
        task = bench.task(plan.base, 0, lambda done, total: tell("encoding the training images", done, total))
        if not (plan.folder / "baselines.json").is_file():
            write_json(plan.folder / "baselines.json", bench.baselines())
        del task
    todo = [(row, seed) for seed in seeds for row in rows if not _file(plan, row, seed).is_file()]
    done = len(rows) * len(seeds) - len(todo)
    jobs = jobs or (1 if plan.device.startswith("cuda") else max(1, len(os.sched_getaffinity(0))))
    tell("rows", done, len(rows) * len(seeds))
    at_once = min(jobs, max(1, len(todo)))
    with ProcessPoolExecutor(at_once, get_context("spawn"), end_with_parent, (os.getpid(),)) as executor:
        running = [executor.submit(_one, plan, row, seed) for row, seed in todo]
        try:
            for finished in as_completed(running):
                finished.result()
                done += 1
                tell("rows", done, len(rows) * len(seeds))
        finally:
            executor.shutdown(cancel_futures=True)
    return table(plan, rows)


def table(plan: Plan, rows: Sequence[str] = tuple(ROWS)) -> dict[str, Any]:
    """What is there so far: {steps, batch, triplets, baselines: {name: scores}, rows: [{row, says, seeds, mean, spread,
    curve, by_change}]}; spread is the standard deviation over seeds (None for one)."""
    told: dict[str, Any] = {"steps": plan.steps, "batch": plan.base.batch, "translation_run": plan.translation_run}
    there = plan.folder / "baselines.json"
    if not there.is_file():
        raise RgunitError(f"there is no ablation in {plan.folder} yet: run `rgunit evaluate retrieval --ablation`")
    told.update(json.loads(there.read_text()))
    told["rows"] = []
    for row in rows:
        files = sorted(plan.folder.glob(f"row-{row}-[0-9]*.json"))
        if not files:
            continue
        found = [json.loads(file.read_text()) for file in files]
        scores = {name: [one["scores"][name] for one in found] for name in SHOWN}
        told["rows"].append(
            {
                "row": row,
                "says": ROWS[row].says,
                "seeds": [one["seed"] for one in found],
                "mean": {name: _mean(values) for name, values in scores.items()},
                "spread": {name: _spread(values) for name, values in scores.items()},
                "seconds": _mean([one["seconds"] for one in found]),
                "by_change": _mean_changes([one["scores"]["by_change"] for one in found]),
                "curve": _mean_curve([one["curve"] for one in found]),
                **{
                    extra: {name: _mean([one[extra][name] for one in found]) for name in SHOWN[:4]}
                    for extra in ("bridge_source", "bridge_expand", "label_filter", "label_filter_hidden")
                },
            }
        )
    return told


class _Bench:
    """What every row is judged on: the encodings of the judged images, and their case."""

    def __init__(
        self, workspace: Workspace, encoders: Encoders, plan: Plan, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.workspace, self.encoders, self.plan = workspace, encoders, plan
        if not encoders.style_dim:
            raise UsageError(
                f"the ablation compares ways to join content and style, and translation run {plan.translation_run} has "
                "no style: `rgunit evaluate retrieval` without --ablation judges its content"
            )
        learned = learned_from(workspace, [workspace.run(plan.translation_run)])
        images, case = choose(workspace, encoders.schema.names, plan.protocol, learned)
        if len(case.rows) != len(images):
            raise RgunitError("an ablation is judged on labelled real images only")
        hashes = perceptual_hash(workspace.load(images.ids, encoders.size))
        self.case: Case = replace(case, duplicates=duplicates_of(case, hashes))
        # Encoded apart from the labels that the case counts by: only the translations' domains, for bridges, need some.
        self.pool = open_pool(
            workspace, encoders, images.ids, case.used, gigabytes=1e9, seed=0, kept=True, progress=progress
        )
        self.wanted = encoders.style_mean(torch.from_numpy(case.targets)).float().cpu()

    def task(
        self, config: RetrievalConfig, seed: int, progress: Callable[[int, int], None] | None = None
    ) -> RetrievalTask:
        device = self.encoders.device
        return RetrievalTask(
            self.workspace,
            self.encoders,
            config,
            seed=seed,
            device=device,
            autocast=lambda: torch.autocast(device.type, torch.bfloat16, enabled=self.plan.half),
            pool_progress=progress,
        )

    def baselines(self) -> dict[str, Any]:
        """Retrievals that need no training, and late fusion's curve."""
        content, style, wanted = self.pooled(), self.pool.style[:, ITSELF], self.wanted.numpy()
        joined = np.concatenate([content, style / np.linalg.norm(style, axis=1, keepdims=True)], axis=1)
        asked = np.concatenate([content, wanted / np.linalg.norm(wanted, axis=1, keepdims=True)], axis=1)
        summary, _, _ = evaluate_vectors(self.case, SetVectors(asked, joined, content, style, wanted))
        baselines = {"random": summary["random"], **summary["baselines"]}
        baselines["early_concatenation"] = {name: summary[name] for name in (*SHOWN, "by_change")}
        return {
            "queries": summary["queries"],
            "baselines": {name: baselines[name] for name in BASELINES},
            "late_fusion_curve": summary["late_fusion_curve"],
        }

    def pooled(self) -> Vectors:
        """E_c pooled to 2×2, flattened, of length 1: float32 [n, 4·C]."""
        content = np.asarray(self.pool.content[:, ITSELF], np.float32)
        vectors = F.normalize(F.adaptive_avg_pool2d(torch.from_numpy(content), 2).flatten(1))
        return vectors.numpy()

    @torch.no_grad()
    def judge(self, network: Network) -> dict[str, Any]:
        """The scores of a trained network, its own curve over the weight of content, and what bridges add."""
        network.eval()
        pool, case, device = self.pool, self.case, self.encoders.device
        styles = torch.from_numpy(np.asarray(pool.style))

        def embed(read: Callable[[Tensor, Tensor], Tensor], slot: int, style: Tensor) -> Vectors:
            made = []
            for start in range(0, len(pool), BATCH):
                part = slice(start, start + BATCH)
                content = torch.from_numpy(np.asarray(pool.content[part, slot], np.float32)).to(device)
                made.append(read(content, style[part].to(device)).float().cpu())
            return torch.cat(made).numpy()

        images, queries = embed(network, ITSELF, styles[:, ITSELF]), embed(network, ITSELF, self.wanted)
        rows, _ = rank(queries, images, case)
        told: dict[str, Any] = {"scores": score(case, rows), "curve": []}
        if isinstance(network, PartsNetwork):
            content = embed(lambda c, s: network.content_vector(c), ITSELF, styles[:, ITSELF])
            style, asked = pool.style[:, ITSELF], self.wanted.numpy()
            weights = [(w, 1 - w) for w in (0.0, *WEIGHTS, 1.0)]
            found = late_fusion(case, [(content, content), (asked, style)], weights)
            told["curve"] = [
                {"weight": weight, **{name: score(case, one)[name] for name in SHOWN[:4]}}
                for (weight, _), one in zip(weights, found, strict=True)
            ]
        made = [embed(network, slot, styles[:, slot]) for slot in (FIRST, SECOND)]
        told.update(_bridges(case, queries, images, np.stack(made, axis=1)))
        told.update(self._filtered(queries, images))
        return told

    def _filtered(self, queries: Vectors, images: Vectors) -> dict[str, Any]:
        """Labels as a filter where they are known: all of them, and a quarter."""
        hidden = np.random.default_rng([self.plan.protocol.seed, 1]).random(len(self.case.used)) < 0.75
        quarter = np.where(hidden[:, None], np.int8(-1), self.case.used)
        return {
            "label_filter": score(self.case, filter_by_labels(self.case, queries, images)),
            "label_filter_hidden": score(self.case, filter_by_labels(self.case, queries, images, quarter)),
        }


def _bridges(case: Case, queries: Vectors, images: Vectors, made: NDArray[np.float32]) -> dict[str, Any]:
    """Translations of the collection [n, 2, d] in the index as well, and real images returned in two ways.

    bridge_source: a translation that is found stands for its source. bridge_expand: the nearest three translations
    of other images are averaged with the query, and real images are searched again.
    """
    n, each = made.shape[:2]
    flat = made.reshape(n * each, -1)
    source = np.repeat(np.arange(n), each)
    union = replace(
        case,
        k=case.k * (each + 1),
        used=np.concatenate([case.used, case.used[source]]),
        other=np.concatenate([case.other, case.other[source]]),
        relevance=None,
        duplicates=None,
        family=np.concatenate([case.family, case.family[source]]),
    )
    found, _ = rank(queries, np.concatenate([images, flat]), union)
    origin = np.concatenate([np.arange(n), source])[found]
    rows = np.stack([_first(one, case.k) for one in origin])
    only = replace(
        union, k=3, used=union.used[n:], other=union.other[n:], family=union.family[n:], rows=case.rows * each
    )
    nearest, _ = rank(queries, flat, only)
    expanded = (queries + flat[nearest].sum(axis=1)) / 4
    return {"bridge_source": score(case, rows), "bridge_expand": score(case, rank(expanded, images, case)[0])}


def _first(rows: Ids, k: int) -> Ids:
    """The first k different rows of a ranking."""
    _, place = np.unique(rows, return_index=True)
    return rows[np.sort(place)[:k]]


def _one(plan: Plan, row: str, seed: int) -> None:
    """Train one row with one seed and write its scores; in a process of its own."""
    if not plan.device.startswith("cuda"):
        torch.set_num_threads(1)
    begun = time.monotonic()
    config = RetrievalConfig.model_validate({**plan.base.model_dump(), **ROWS[row].settings})
    with Workspace.open(plan.workspace) as workspace:
        bench = _Bench(workspace, load_encoders_of(workspace, plan.translation_run, plan.device), plan)
        task = bench.task(config, seed)
        for step in range(plan.steps * ROWS[row].longer):
            for group in task.optimizers["embedding"].param_groups:
                group["lr"] = task.learning_rates(step)["embedding"]
            torch.manual_seed(seed * 1_000_003 + step)  # dropout
            task.step(step, task.prepare(step))
        trained = time.monotonic() - begun
        told = {"row": row, "seed": seed, "seconds": round(trained, 1), **bench.judge(task.network)}
    write_json(_file(plan, row, seed), told)


def _file(plan: Plan, row: str, seed: int) -> Path:
    return plan.folder / f"row-{row}-{seed}.json"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def _mean_changes(apart: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """attributes and content of queries that keep, and that flip, each attribute."""
    return {
        name: {
            which: {measure: _mean([one[name][which][measure] for one in apart]) for measure in SHOWN[:2]}
            for which in ("kept", "flipped")
        }
        for name in apart[0]
    }


def _mean_curve(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {name: _mean([point[name] for point in points]) for name in points[0]} for points in zip(*curves, strict=True)
    ]
