"""Which retrieval run is meant. Needs no torch, so that what cannot be answered is told before it is loaded."""

from __future__ import annotations

from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace


def find_run(workspace: Workspace, run: str | None) -> RunRecord:
    """A retrieval run, by default the newest that has a checkpoint. Raises RgunitError where there is none."""
    if run is not None:
        record = workspace.run(run)
        if record.stage != "retrieval":
            raise RgunitError(f"run {run} trained {record.stage}, not retrieval: name a retrieval run (`rgunit info`)")
        if not (record.path / CHECKPOINT).is_file():
            raise RgunitError(f"retrieval run {run} has no checkpoint yet: run `rgunit train retrieval --resume`")
        return record
    for record in reversed(workspace.runs("retrieval")):
        if (record.path / CHECKPOINT).is_file():
            return record
    raise RgunitError(
        f"no retrieval run in {workspace.path}: run `rgunit train retrieval` first, on a run of a "
        "method that can be guided (`rgunit methods`)"
    )


def words_alone(workspace: Workspace, run: str | None = None) -> bool:
    """Whether nothing but words can be asked: no retrieval run is named, and none has a checkpoint."""
    return run is None and not any((one.path / CHECKPOINT).is_file() for one in workspace.runs("retrieval"))
