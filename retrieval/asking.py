"""A workspace's retrieval runs for many threads: kept open by their graphs, calls that come together computed as one.

The one idea: where a run has graphs, nothing of torch is needed; where it has none, whoever asks is told so by None.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT, RunRecord
from index_store.workspace import Workspace
from retrieval.composing import Floats
from retrieval.reading import ABOUT, FOLDER, GraphReader, GraphSearcher
from retrieval.runs import find_run
from retrieval.together import Together

Told = Callable[[int], None] | None


class SharedReader(GraphReader):
    """A `GraphReader` whose calls of a graph share it. `told` gets how many shared each."""

    def __init__(self, *about: Any, told: Told = None) -> None:
        super().__init__(*about)
        self._told = told
        self._together: dict[tuple[Any, ...], Together] = {}

    def run(self, name: str, given: dict[str, Floats], *wanted: str) -> list[Floats]:
        names = tuple(given)

        def together(*arrays: Floats) -> Sequence[Floats]:
            return GraphReader.run(self, name, dict(zip(names, arrays, strict=True)), *wanted)

        shared = self._together.setdefault((name, names, wanted), Together(together, self._told))
        return shared(*given.values())


class Asking:
    """Searchers by graphs, opened when first asked for. `told`: see `SharedReader`."""

    def __init__(self, workspace: Workspace, told: Told = None) -> None:
        self.workspace, self._told = workspace, told
        self._kept: dict[str, tuple[tuple[Any, ...], GraphSearcher | None]] = {}
        self._guard = threading.Lock()

    def searcher(self, record: RunRecord) -> GraphSearcher | None:
        """The searcher of a retrieval run as it is now; None where it has no graphs that are of its weights."""
        with self._guard:
            state = self._state(record)
            if self._kept.get(record.id, ((), None))[0] != state:
                reader = partial(SharedReader, told=self._told)
                self._kept[record.id] = state, GraphSearcher.of(self.workspace, record, reader=reader)
            return self._kept[record.id][1]

    def warm(self) -> bool:
        """Open the run that is asked by default; whether it could be."""
        with suppress(RgunitError):
            return self.searcher(find_run(self.workspace, None)) is not None
        return False

    def _state(self, record: RunRecord) -> tuple[Any, ...]:
        """What tells that a run, the one that it stands on, or its graphs have changed."""
        source = next(self.workspace.path.glob(f"runs/{record.config.get('translation_run')}-translation"), record.path)
        files = (record.path / CHECKPOINT, source / CHECKPOINT, record.path / FOLDER / ABOUT)
        return tuple((file.stat().st_mtime_ns, file.stat().st_ino) if file.exists() else None for file in files)
