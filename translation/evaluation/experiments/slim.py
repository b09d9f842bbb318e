"""A small copy of a workspace to carry to another machine, for `--carry`: its runs can be used and judged, not trained.

Its index is to be built again there (`rgunit index build`; `rgunit evaluate guidance` does it). Images that lie outside
the workspace stay where they are: the other machine needs them at the same path.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from index_store.errors import UsageError
from index_store.runs import CHECKPOINT
from index_store.whole import whole
from index_store.workspace import Workspace
from translation.evaluation.experiments.workspaces import copy_workspace
from translation.methods import find_method
from translation.runs import method_of


def slim_workspace(source: Path, target: Path) -> None:
    """A workspace whose finished runs have what is needed to use and judge them: averages, about a quarter of the size.

    The translators' encoders stay in full precision, since their fingerprint is checked; everything else is in half,
    so the index has to be built again. Nothing can be trained from it. UsageError where `target` is there.
    """
    if target.exists():
        raise UsageError(f"{target} is there already: choose another folder")
    part = target.with_name(target.name + ".slim")
    shutil.rmtree(part, ignore_errors=True)
    with Workspace.open(source) as workspace:
        done = [run for run in workspace.runs() if (run.path / CHECKPOINT).exists()]
    copy_workspace(source, part, [run.id for run in done])
    for run in done:
        for file in (part / "runs" / run.path.name).glob(f"*{Path(CHECKPOINT).suffix}"):
            if file.name == CHECKPOINT:
                slim_checkpoint(file, getattr(find_method(method_of(run)), "encoders", ()))
            else:
                file.unlink()
    part.rename(target)


def slim_checkpoint(path: Path, encoders: Sequence[str]) -> None:
    """Leave in a checkpoint the weights that are used after training: the averages, and networks that have none.

    All in half precision but the networks named `encoders`.
    """
    with safe_open(path, framework="pt") as file:
        about, names = file.metadata(), list(file.keys())
        averaged = {name.split(".")[1] for name in names if name.startswith("average.")}
        used = [n for n in names if n.startswith("average.") or (n.startswith("networks.") and not averaged)]
        tensors = {name: file.get_tensor(name) for name in used}
    halved = {n: tensor if n.split(".")[1] in encoders else _halved(tensor) for n, tensor in tensors.items()}
    with whole(path) as part:
        save_file(halved, part, metadata=about)


def _halved(tensor: Tensor) -> Tensor:
    """In half precision, but as it is where that cannot hold it: whitening weights of 1/σ pass 65,504 for small σ."""
    half = tensor.half() if tensor.dtype == torch.float32 else tensor
    return half if half.isfinite().all() else tensor
