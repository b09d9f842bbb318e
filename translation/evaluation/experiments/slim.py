"""A small copy of a workspace to carry to another machine, for `--carry`: its runs can be used and judged, not trained.

Its index is to be built again there (`rgunit index build`; `rgunit evaluate guidance` does it). Images that lie outside
the workspace stay where they are: the other machine needs them at the same path.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from index_store.errors import UsageError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from translation.evaluation.experiments.workspaces import copy_workspace


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
        done = [run.id for run in workspace.runs() if (run.path / CHECKPOINT).exists()]
    copy_workspace(source, part, done)
    for file in part.glob(f"runs/*/*{Path(CHECKPOINT).suffix}"):
        if file.name == CHECKPOINT:
            slim_checkpoint(file)
        else:
            file.unlink()
    part.rename(target)


def slim_checkpoint(path: Path) -> None:
    """Leave in a checkpoint the weights that are used after training: the averages, and networks that have none."""
    with safe_open(path, framework="pt") as file:
        about, names = file.metadata(), list(file.keys())
        averaged = {name.split(".")[1] for name in names if name.startswith("average.")}
        used = [n for n in names if n.startswith("average.") or (n.startswith("networks.") and not averaged)]
        tensors = {name: file.get_tensor(name) for name in used}
    halved = {k: v if "_encoder." in k or v.dtype != torch.float32 else v.half() for k, v in tensors.items()}
    part = path.with_name(path.name + ".part")
    save_file(halved, part, metadata=about)
    part.replace(path)
