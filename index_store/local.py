"""The engine of a store without a server: its sealed files, searched by FAISS where they lie or on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from index_store import ann, planner
from index_store.attributes import AttributeSchema
from index_store.index import Ids, Vectors, pick
from index_store.live import Live
from index_store.search import Subsets
from index_store.state import BIG_SEGMENT, State, Table

if TYPE_CHECKING:
    from index_store.device import Device


@dataclass(frozen=True)
class LocalView:
    """See `engines.View`."""

    engine: Local
    state: State
    table: Table

    @property
    def schema(self) -> AttributeSchema:
        return self.state.schema

    @property
    def dim(self) -> int:
        return self.table.info.dim

    def nearest(
        self, where: str | None, queries: Vectors, k: int, exact: bool, without: Ids | None = None
    ) -> tuple[Vectors, Ids, str]:
        subset = self.engine.subsets.get(self.state, self.table, where)
        if without is not None:
            subset = subset.without(self.table.ids, without)
        cells, device = self.engine.live.cells, self.engine.device()
        gaps, places, plan = planner.run(self.table, cells, subset, queries, k, exact, device)
        return gaps, pick(self.table.ids, places), plan


class Local:
    """See `engines.Engine`. `device` gives what computes beside the CPU, if anything."""

    url = None

    def __init__(self, live: Live, device: Callable[[], Device | None]) -> None:
        self.live, self.device = live, device
        self.subsets = Subsets()

    def view(self, encoder: str | None) -> LocalView:
        state, (table,) = self.live.snapshot(encoder)
        return LocalView(self, state, table)

    sealed = view

    def follow(self) -> None:
        """Nothing to do: the files are what is searched."""

    def problems(self) -> list[str]:
        return []  # the files themselves are checked by `maintenance.verify`

    @property
    def derived(self) -> bool:
        return any((self.live.catalog.folder / ann.FOLDER).glob("*" + ann.SUFFIX))

    def remake(self) -> list[str]:
        """Build the cells of every large shard; delete those of shards that are gone."""
        folder, state = self.live.catalog.folder, self.live.state()
        for old in (folder / ann.FOLDER).glob("*" + ann.SUFFIX):
            old.unlink()
        told = []
        for info in state.encoders:
            like: Vectors | None = None
            for segment in self.live.table(state, info).segments:
                if len(segment.ids) >= BIG_SEGMENT:
                    cells = ann.build_cells(segment, device=self.device(), like=like)
                    like = cells.index.centroids  # of the next file, whose vectors are alike
                    ann.save_cells(folder, segment.files[0], cells)
                    told.append(planner.describe(cells, segment.files[0]))
                else:
                    told.append(f"{info.name}: {len(segment.ids)} rows in memory: exact scan")
        self.live.forget_cells()
        return told

    def forget(self) -> None:
        self.subsets = Subsets()

    def close(self) -> None:
        """Nothing is open."""
