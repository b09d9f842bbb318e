"""Which run is meant: the only place that says which is the newest, and what a run says of its direction."""

from __future__ import annotations

from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord, Workspace
from translation.methods import DEFAULT

GUIDED, TRANSLATION, RETRIEVAL, EXTRACTOR = "guided", "translation", "retrieval", "extractor"
GENERATOR, MINER = "generator", "miner"


def trained(workspace: Workspace, *stages: str) -> list[RunRecord]:
    """The runs of some stages that have a checkpoint, the newest last."""
    return [run for run in workspace.runs() if run.stage in stages and (run.path / CHECKPOINT).exists()]


def extractors(workspace: Workspace) -> list[RunRecord]:
    """The finished runs of `train extractor`, the newest last: a width was chosen."""
    return [run for run in trained(workspace, EXTRACTOR) if "width" in run.summary]


def newest(workspace: Workspace, stage: str, run_id: str | None = None) -> RunRecord:
    """The run of that id, or the newest of the stage that has a checkpoint."""
    if run_id is not None:
        return workspace.run(run_id)
    runs = trained(workspace, stage)
    if not runs:
        raise RgunitError(f"no run of stage {stage} yet: run `rgunit train {stage}` first")
    return runs[-1]


def drawing_run(workspace: Workspace, run_id: str | None = None) -> RunRecord:
    """The run of that id, or the newest, that makes images from noise. RgunitError for one of another stage."""
    if run_id is not None:
        run = workspace.run(run_id)
        if run.stage not in (GENERATOR, MINER):
            raise RgunitError(
                f"run {run_id} is of stage {run.stage} and draws nothing from noise: name a run of stage {GENERATOR} "
                f"or {MINER} (`rgunit info` lists them)"
            )
        return run
    runs = trained(workspace, GENERATOR, MINER)
    if not runs:
        raise RgunitError("the workspace has no trained generator: run `rgunit train generator` first")
    return runs[-1]


def last_method(workspace: Workspace) -> str | None:
    """The method of the translator that was trained last, None where there is none."""
    runs = trained(workspace, TRANSLATION, GUIDED)
    return method_of(runs[-1]) if runs else None


def method_of(run: RunRecord) -> str:
    """The method that a run is of; runs that name none are older than the choice."""
    return str(run.config["config"].get("method", DEFAULT))


def default_run(workspace: Workspace) -> RunRecord:
    """Of the method trained last the newest run guided by what is retrieved, else its newest of stage 1."""
    method = last_method(workspace)
    for stage in (GUIDED, TRANSLATION):
        for run in reversed(trained(workspace, stage)):
            if method_of(run) == method and (stage == TRANSLATION or run.config["neighbours"] == "retrieved"):
                return run
    raise RgunitError("the workspace has no trained translator: run `rgunit train translation` or `rgunit run` first")


def default_start(workspace: Workspace) -> RunRecord:
    """Of the method trained last the stage 1 that its newest guided run started from, else its newest stage 1."""
    method = last_method(workspace)
    for run in reversed(trained(workspace, GUIDED)):
        if method_of(run) == method:
            return workspace.run(str(run.config["translation_run"]))
    return newest(workspace, TRANSLATION)


def direction_of(run: RunRecord) -> tuple[str, str] | None:
    """The filters of source and target of a run that learned one direction; None of others."""
    return (str(run.config["source"]), str(run.config["target"])) if "target" in run.config else None


def target_of(run: RunRecord) -> str:
    """The filter of a run's target domain, empty where it learned no single direction."""
    return str(run.config.get("target", ""))
