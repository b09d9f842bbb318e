"""What the losses of a stage add up to between two logs, and which of them was the first to be no number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from index_store.errors import RgunitError
from translation.training.processes import gathered, least_of_processes, mean_of_processes


class Sums:
    """Sums of named scalars over steps, on their device, and for each the first step in which it was not finite.

    Names may come and go from step to step (a warm-up, several critic steps): each set of names that comes together has
    one row of sums, so a change waits for no device and drops nothing, and a mean is over the steps with that name.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], _Row] = {}

    @staticmethod
    def of(step: int, values: Mapping[str, Tensor]) -> Sums:
        """The scalars of one step."""
        sums = Sums()
        sums.add(step, values)
        return sums

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Those of another step; nothing is waited for."""
        if not values:
            return
        total = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        row = self.rows.get(tuple(values))
        if row is not None:
            total = total + row.total.to(total.device)
        first = torch.where(total.isfinite(), math.inf, float(step))  # a sum that is not stays so
        if row is not None:
            first = row.first.to(first.device).minimum(first)
        self.rows[tuple(values)] = _Row(1 if row is None else row.steps + 1, total, first)

    def state(self) -> dict[str, Any]:
        """For a checkpoint between two logs, the mean over the processes; all are finite there."""
        rows: dict[tuple[str, ...], list[tuple[int, dict[str, float]]]] = {}
        for theirs in gathered([(names, row.steps, row.of(names)) for names, row in self._all()]):
            for names, steps, total in theirs:
                rows.setdefault(names, []).append((steps, total))
        return {"rows": [_mean_row(found) for found in rows.values()]}

    @staticmethod
    def restored(state: Mapping[str, Any]) -> Sums:
        """The sums that a checkpoint kept, so that the next log is of as many steps as without a stop.

        Older checkpoints have one row, without a list around it.
        """
        sums = Sums()
        for row in state.get("rows", [state]):
            if row.get("steps"):
                total = torch.tensor(list(row["total"].values()))
                sums.rows[tuple(row["total"])] = _Row(int(row["steps"]), total, torch.full_like(total, math.inf))
        return sums

    def means(self) -> dict[str, float]:
        """Each one's mean over the steps that had it and over the processes."""
        totals: dict[str, float] = {}
        steps: dict[str, int] = {}
        for names, row in self._all():
            for name, value in row.of(names).items():
                totals[name] = totals.get(name, 0.0) + value
                steps[name] = steps.get(name, 0) + row.steps
        return mean_of_processes({name: total / steps[name] for name, total in totals.items()})

    def spoilt(self) -> tuple[list[str], int]:
        """Those that were the first not to be finite in any process, before it spread to the others, and that step."""
        found: dict[str, float] = {}
        for names, row in self._all():
            for name, step in zip(names, row.first.cpu().tolist(), strict=True):
                found[name] = min(found.get(name, math.inf), step)
        firsts = least_of_processes(found)
        earliest = min(firsts.values(), default=math.inf)
        return [name for name, step in firsts.items() if step == earliest < math.inf], int(min(earliest, 2**62))

    def _all(self) -> list[tuple[tuple[str, ...], _Row]]:
        return list(self.rows.items())


@dataclass(frozen=True)
class _Row:
    """Sums of names that came together: over how many steps, their totals, the first step not finite (else inf)."""

    steps: int
    total: Tensor
    first: Tensor

    def of(self, names: Sequence[str]) -> dict[str, float]:
        return dict(zip(names, self.total.cpu().tolist(), strict=True))


def _mean_row(found: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, Any]:
    """One row for those [(steps, totals)] of the processes that have it: of all their steps the same mean."""
    steps = max(count for count, _ in found)
    shares = [steps / count / len(found) for count, _ in found]
    names = found[0][1]
    total = {name: sum(w * one[name] for w, (_, one) in zip(shares, found, strict=True)) for name in names}
    return {"steps": steps, "total": total}


def divergence(names: Sequence[str], step: int, kept: int, stage: str) -> RgunitError:
    """The error that says what is no number since which step, and how to go on: `kept` is the checkpoint's, 0: none."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    told = f"training diverged in step {step}: {shown} {'is' if len(names) == 1 else 'are'} not finite"
    rate = f"--set {stage}.learning_rate=…"
    if not kept:
        return RgunitError(f"{told}; nothing was kept yet: start again with a lower rate ({rate})")
    return RgunitError(
        f"{told}; the last good checkpoint, of step {kept}, is kept: go on from it with a lower rate "
        f"(--resume --allow-changes {rate})"
    )
