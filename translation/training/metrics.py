"""What a run tells while it trains: rows of numbers in `metrics.jsonl`, sample pictures, TensorBoard's curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_store.images import write_image

PICTURES = 50  # sample pictures that a run keeps


class RunLog:
    """`metrics.jsonl`, sample pictures and TensorBoard of a run; rows beyond the step resumed from are dropped."""

    def __init__(self, folder: Path, first: int, tensorboard: bool, writes: bool = True) -> None:
        self.folder, self.path, self.writes = folder, folder / "metrics.jsonl", writes
        rows = []
        if first and self.path.exists():
            rows = [row for row in read_metrics(folder) if row["step"] <= first]
        if writes:
            self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.last: dict[str, float] = (
            {k: v for k, v in rows[-1].items() if k not in ("step", "seconds")} if rows else {}
        )
        self.writer: Any = None
        if tensorboard and writes:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        if not self.writes:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": round(seconds, 2), **metrics}) + "\n")
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, step: int, pixels: NDArray[np.uint8] | None, shows: Iterable[int] | None = None) -> None:
        """Keep a picture of a step; of many the newest stay and, ever further apart, some of the older ones.

        `shows`: the ids of all images that can be seen in it, None where that is not known.
        """
        if pixels is None:
            return
        folder = self.folder / "samples"
        folder.mkdir(exist_ok=True)
        write_image(folder / f"{step:06d}.png", pixels, shows=shows)
        files = {int(file.stem): file for file in folder.glob("*.png") if file.stem.isdecimal()}
        for old in thinned(sorted(files), PICTURES):
            files[old].unlink()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """Those of ascending `steps` to give up so that `most` stay: each the one of the older half that is missed least.

    That is the one whose neighbours are closest to each other; the first and the newer half stay.
    """
    left, gone = list(steps), []
    while len(left) > most:
        least = min(range(1, max(2, len(left) // 2)), key=lambda i: left[i + 1] - left[i - 1])
        gone.append(left.pop(least))
    return gone


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's `metrics.jsonl`, oldest first; a half-written last line is left out."""
    rows: list[dict[str, float]] = []
    path = folder / "metrics.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows
