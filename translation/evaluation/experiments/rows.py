"""What experiments write: a row of one seed, judged part by part (a JSON file, and beside it an .npz of what intervals
are made of), and pictures of arms side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.images import write_image
from index_store.whole import write_json
from translation.evaluation.experiments.plan import TITLES
from translation.evaluation.experiments.seeds import Arrays, Judged, load_scores, save_scores, scores_of


@dataclass
class RowResult:
    """`parts` {part: evaluation} of the JSON file at `path`; `scores` as `seeds.scores_of` makes them."""

    path: Path
    about: dict[str, Any]
    parts: dict[str, dict[str, Any]]
    scores: Arrays

    @staticmethod
    def file(folder: Path, row: int, seed: int) -> Path:
        """Where the JSON file of a row of a seed is."""
        return folder / f"row-{row}-seed-{seed}.json"

    @staticmethod
    def open(folder: Path, row: int, seed: int) -> RowResult:
        """What is there of a row, nothing where it was not judged."""
        path = RowResult.file(folder, row, seed)
        about: dict[str, Any] = {"row": row, "title": TITLES[row], "seed": seed, "seconds": 0.0}
        if not path.exists():
            return RowResult(path, about, {}, {})
        about = json.loads(path.read_text())
        parts, kept = about.pop("parts"), path.with_suffix(".npz")
        return RowResult(path, about, parts, load_scores(kept) if kept.exists() else {})

    def has(self, part: str, arms: Sequence[str]) -> bool:
        """Whether a part was judged and has these arms, and what intervals are made of."""
        judged = part in self.parts and f"{part}|people" in self.scores
        return judged and all(arm in self.parts[part] for arm in arms)

    def add(self, part: str, summary: dict[str, Any], judged: Judged, seconds: float) -> None:
        """A part that was judged in so many seconds, in place of what there was of it."""
        self._put(part, summary, scores_of(part, judged))
        self.about["seconds"] = round(self.about["seconds"] + seconds, 1)

    def take(self, part: str, other: RowResult, of: str) -> None:
        """Part `of` of another row, whose arms and pairs are the same, as this one's `part`."""
        scores = {f"{part}|{name[len(of) + 1 :]}": a for name, a in other.scores.items() if name.startswith(f"{of}|")}
        self._put(part, other.parts[of], scores)

    def _put(self, part: str, summary: dict[str, Any], scores: Arrays) -> None:
        kept = {name: array for name, array in self.scores.items() if not name.startswith(f"{part}|")}
        self.parts, self.scores = {**self.parts, part: summary}, {**kept, **scores}

    def save(self) -> None:
        """Both files, each whole or not at all."""
        save_scores(self.path.with_suffix(".npz"), self.scores)
        write_json(self.path, {**self.about, "parts": self.parts})


def side_by_side(columns: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Write columns of images uint8 [n, S, S, 3] as one picture, a row for each image; small ones are enlarged."""
    picture = np.concatenate([np.concatenate(column, axis=0) for column in columns], axis=1)
    times = max(1, 64 // columns[0].shape[1])
    write_image(path, picture.repeat(times, axis=0).repeat(times, axis=1))


def spread(values: Sequence[float]) -> dict[str, float]:
    """The mean over seeds, the lowest and the highest."""
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
