"""Choosing how to search: exactly over the rows that match, exactly over all, or by cells with an exact retry.

The one idea: costs and recall were measured on this machine when the cells were built, so the choice is a sum;
what was chosen, and against what, is said in words.
"""

from __future__ import annotations

from collections.abc import Sequence

from index_store.ann import Cells
from index_store.index import PRODUCT_FORM, Ids, Vectors
from index_store.search import Subset, search_cells, search_exact
from index_store.state import Table


def run(
    table: Table, cells: Sequence[Cells | None], subset: Subset, queries: Vectors, k: int, *, exact: bool
) -> tuple[Vectors, Ids, str]:
    """Search by the cheapest way that finds enough: distances [q, k], places in the table [q, k], what was done."""
    matching, total = len(subset.places), table.alive
    scan = (
        f"exact scan of all {total} rows"
        if matching == total
        else f"exact scan of the {matching} of {total} rows that match"
    )
    if exact or not matching or not any(cells):
        distances, places = search_exact(table, subset, queries, k)
        return distances, places, scan + (" (asked for)" if exact else "")
    by_scan, by_cells, probes = estimate(table, cells, subset, len(queries), k)
    if by_cells is None or by_scan <= by_cells:
        against = "no cells find enough" if by_cells is None else f"{by_cells / 1e3:.2f} ms by cells"
        distances, places = search_exact(table, subset, queries, k)
        return distances, places, f"{scan} ({by_scan / 1e3:.2f} ms a query estimated, {against})"
    distances, places, again = search_cells(table, cells, subset, queries, k)
    plan = f"{probes} cells ({by_cells / 1e3:.2f} ms a query estimated, {by_scan / 1e3:.2f} ms by exact scan)"
    if subset.share < 1:
        plan += f", {100 * subset.share:.3g} % match"
    if len(again):
        plan += f"; {len(again)} of {len(queries)} queries again by {scan}: their cells held too few that match"
    return distances, places, plan


def estimate(
    table: Table, cells: Sequence[Cells | None], subset: Subset, queries: int, k: int
) -> tuple[float, float | None, int]:
    """Return microseconds a query of the exact scan and of the search by cells (None: it would find too little), and
    how many cells the latter looks at."""
    measured = next(own.costs for own in cells if own)
    scanning = measured.batch if queries >= PRODUCT_FORM else measured.scan
    picked = not subset.whole and queries < PRODUCT_FORM and not subset.at_hand(4 * table.info.dim)
    by_scan = len(subset.places) * (measured.pick if picked else scanning)
    by_cells, looked = 0.0, 0
    for segment, own in zip(table.segments, cells, strict=True):
        if own is None:
            by_cells += len(segment.ids) * subset.share * measured.scan
            continue
        probes = own.probes_for(k / subset.share)
        if not probes:
            return by_scan, None, 0
        seen = probes * len(own.order) / len(own.centroids)
        by_cells += own.costs.probe + seen * own.costs.cell
        looked += probes
    return by_scan, by_cells, looked


def describe(cells: Cells, shard: str) -> str:
    """Say in a line what was built for a shard and why."""
    rows = len(cells.order)
    scan = rows * cells.costs.scan / 1e3
    probes = cells.probes[0]
    if not probes:
        return (
            f"{shard}: {rows} rows, {len(cells.centroids)} cells do not find enough: exact scan, {scan:.2f} ms a query"
        )
    by_cells = (cells.costs.probe + probes * rows / len(cells.centroids) * cells.costs.cell) / 1e3
    choice = "cells" if by_cells < scan else "exact scan"
    return (
        f"{shard}: {rows} rows, {len(cells.centroids)} cells; {probes} of them find 99.8 % of the nearest 10 in "
        f"{by_cells:.2f} ms, an exact scan takes {scan:.2f} ms: {choice}"
    )
