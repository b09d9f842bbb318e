"""What an experiment has trained: `ledger.json`, which a second start reads, so that nothing is trained again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index_store.errors import RgunitError, UsageError
from index_store.whole import write_json
from index_store.workspace import Workspace
from translation.config import Config, parse_config
from translation.progress import Progress
from translation.training.sessions import Resume, StageResult

FILE = "ledger.json"


def results_folder(out: Path | None) -> Path:
    """The folder of an experiment's results. UsageError where none was named."""
    if out is None:
        raise UsageError("an experiment needs a folder for its results: --out DIR")
    return out


@dataclass
class Ledger:
    """`done` {"place/seed/part": {run, steps, seconds}}; `before` {place: the runs that were there at the start}."""

    path: Path
    settings: dict[str, Any]
    done: dict[str, dict[str, Any]]
    before: dict[str, list[str]]

    @staticmethod
    def open(folder: Path, settings: dict[str, Any]) -> Ledger:
        """The ledger in `folder`, new where there is none. RgunitError where it was made with other settings."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        there = json.loads(path.read_text()) if path.exists() else {"settings": settings, "done": {}, "before": {}}
        if other := [key for key in settings if settings[key] != _today(there["settings"].get(key))]:
            raise RgunitError(f"{folder} holds rows made with other settings ({', '.join(other)}): give another --out")
        return Ledger(path, settings, there["done"], there["before"])

    def save(self) -> None:
        """Write it, whole."""
        write_json(self.path, {"settings": self.settings, "before": self.before, "done": self.done})

    def begin(self, place: str, workspace: Workspace) -> None:
        """Keep which runs were in a workspace at the first start."""
        if place not in self.before:
            self.before[place] = [run.id for run in workspace.runs()]
            self.save()

    def note(self, key: str, result: StageResult) -> None:
        """Record a finished training."""
        self.done[key] = {"run": result.run.id, "steps": result.steps, "seconds": round(result.seconds, 1)}
        self.save()

    def trained(
        self,
        key: str,
        workspace: Workspace,
        train: Callable[..., StageResult],
        config: Config,
        progress: Progress,
        *,
        resume: Resume = "auto",
        **given: Any,
    ) -> str:
        """The run of a training, done now where it is not noted. KeyboardInterrupt where it was stopped."""
        if key not in self.done:
            progress.note(f"training {key}")
            progress.stage(key)
            result = train(workspace, config, resume=resume, progress=progress, **given)
            if result.stopped:
                raise KeyboardInterrupt
            self.note(key, result)
        return str(self.done[key]["run"])


def _today(setting: Any) -> Any:
    """A setting as it would be written today: a configuration may have got new keys since, with their defaults."""
    if not isinstance(setting, Mapping):
        return setting
    try:
        return parse_config(setting).model_dump(mode="json")
    except UsageError:
        return setting
