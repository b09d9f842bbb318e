"""What the losses of a stage add up to between two logs, and which of them was the first to be no number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from index_store.errors import RgunitError
from translation.training.processes import least_of_processes, mean_of_processes


class Sums:
    """Sums of named scalars over steps, on their device, and for each the first step in which it was not finite."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self.names, self.steps = names, 0
        self.total = self.first = torch.zeros(0)

    @staticmethod
    def of(step: int, values: Mapping[str, Tensor]) -> Sums:
        """The scalars of one step."""
        sums = Sums(tuple(values))
        if values:
            sums.add(step, values.values())
        return sums

    def add(self, step: int, values: Iterable[Tensor]) -> None:
        """Those of another step, in the order of `names`; nothing is waited for."""
        total = torch.stack([value.detach().float().reshape(()) for value in values])
        if self.steps:
            total = total + self.total.to(total.device)
        first = torch.where(total.isfinite(), math.inf, float(step))  # a sum that is not stays so
        self.first = self.first.to(total.device).minimum(first) if self.steps else first
        self.total, self.steps = total, self.steps + 1

    def state(self) -> dict[str, Any]:
        """For a checkpoint between two logs, the mean over the processes; all are finite there."""
        total = mean_of_processes(dict(zip(self.names, self.total.cpu().tolist(), strict=True)))
        return {"steps": self.steps, "total": total}

    @staticmethod
    def restored(state: Mapping[str, Any]) -> Sums:
        """The sums that a checkpoint kept, so that the next log is of as many steps as without a stop."""
        if not state.get("steps"):
            return Sums()
        sums = Sums(tuple(state["total"]))
        sums.steps, sums.total = int(state["steps"]), torch.tensor(list(state["total"].values()))
        sums.first = torch.full_like(sums.total, math.inf)
        return sums

    def means(self) -> dict[str, float]:
        """Each one's mean over the steps and the processes."""
        found = (self.total / max(1, self.steps)).cpu().tolist()
        return mean_of_processes(dict(zip(self.names, found, strict=True)))

    def spoilt(self) -> tuple[list[str], int]:
        """Those that were the first not to be finite in any process, before it spread to the others, and that step."""
        firsts = least_of_processes(dict(zip(self.names, self.first.cpu().tolist(), strict=True)))
        earliest = min(firsts.values(), default=math.inf)
        return [name for name, step in firsts.items() if step == earliest < math.inf], int(min(earliest, 2**62))


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
