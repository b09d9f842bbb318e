"""Choosing how to search: exactly over the rows that match, exactly over all, or by cells with an exact retry.

The one idea: costs and recall were measured on this machine when the cells were built, so the choice is a sum;
what was chosen, and against what, is said in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from index_store.ann import Cells
from index_store.index import PRODUCT_FORM, SPARE, Ids, Vectors
from index_store.search import Subset, depths, search_cells, search_exact
from index_store.state import Table

if TYPE_CHECKING:
    from index_store.device import Device


@dataclass(frozen=True)
class Plan:
    """What was chosen: the cells to look into, None for an exact scan, on the device or not, and in words."""

    cells: Sequence[Cells | None] | None
    scan: str
    told: str
    device: Device | None = None


def run(
    table: Table,
    cells: Callable[[Table], Sequence[Cells | None]],
    subset: Subset,
    queries: Vectors,
    k: int,
    exact: bool,
    device: Device | None = None,
) -> tuple[Vectors, Ids, str]:
    """Search by the cheapest way that finds enough: distances [q, k], places in the table [q, k], what was done.

    A `device` makes exact scans where it was measured to be faster.
    """
    if exact:
        chosen, _ = on_device(device, table, subset, len(queries), k)
        distances, places = search_exact(table, subset, queries, k, chosen)
        return distances, places, _scan(table, subset) + _where(chosen, table, subset) + " (asked for)"
    size = len(queries).bit_length() if device is not None else 0
    key = (k, len(queries) >= PRODUCT_FORM, subset.vectors is None, size)
    plan: Plan | None = subset.plans.get(key)
    if plan is None:
        plan = subset.plans[key] = choose(table, cells(table), subset, len(queries), k, device)
    if plan.cells is None:
        distances, places = search_exact(table, subset, queries, k, plan.device)
        return distances, places, plan.told + _where(plan.device, table, subset)
    distances, places, again = search_cells(table, plan.cells, subset, queries, k)
    if not len(again):
        return distances, places, plan.told
    retried = f"{len(again)} of {len(queries)} queries in part by {plan.scan}: too few of the nearest match"
    return distances, places, f"{plan.told}; {retried}"


def choose(
    table: Table, cells: Sequence[Cells | None], subset: Subset, queries: int, k: int, device: Device | None = None
) -> Plan:
    """Return the cheapest way to search a subset."""
    scan = _scan(table, subset)
    chosen, there = on_device(device, table, subset, queries, k)
    if not len(subset.places) or not any(cells):
        return Plan(None, scan, scan, chosen)
    by_scan, by_cells, probes = estimate(table, cells, subset, queries, k)
    if chosen is not None:
        by_scan = there
    if by_cells is None or by_scan <= by_cells:
        against = "no cells find enough" if by_cells is None else f"{by_cells / 1e3:.2f} ms by cells"
        return Plan(None, scan, f"{scan} ({by_scan / 1e3:.2f} ms a query estimated, {against})", chosen)
    told = f"{probes} cells ({by_cells / 1e3:.2f} ms a query estimated, {by_scan / 1e3:.2f} ms by exact scan)"
    if not subset.whole:
        told += f", {100 * subset.share:.3g} % match"
    return Plan(cells, scan, told)


def on_device(device: Device | None, table: Table, subset: Subset, queries: int, k: int) -> tuple[Device | None, float]:
    """Return the device if it scans a subset faster than the CPU, None if it does not, and its microseconds a query."""
    if device is None or not len(subset.places) or not device.fits(k + SPARE):
        return None, 0.0
    there, here = device.cost(len(subset.places), table.info.dim, queries)
    return (device if there < here else None), there / queries


def _where(device: Device | None, table: Table, subset: Subset) -> str:
    """Say where a scan was made, if not on the CPU."""
    return "" if device is None else " " + device.told(4 * len(subset.places) * table.info.dim)


def _scan(table: Table, subset: Subset) -> str:
    """Say what an exact scan looks at."""
    if len(subset.places) == table.alive:
        return f"exact scan of all {table.alive} rows"
    return f"exact scan of the {len(subset.places)} of {table.alive} rows that match"


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
    for segment, own, depth in zip(table.segments, cells, depths(table, subset, k), strict=True):
        if not depth:
            continue
        cost = own.cost(depth) if own else len(segment.ids) * subset.share * measured.scan
        if cost is None:
            return by_scan, None, 0
        by_cells += cost
        looked += own.probes_for(depth) if own else 0
    return by_scan, by_cells, looked


def describe(cells: Cells, shard: str) -> str:
    """Say in a line what was built for a shard and why."""
    rows, count, probes, cost = cells.index.rows, cells.index.cells, cells.probes[0], cells.cost(10)
    scan = rows * cells.costs.scan / 1e3
    if cost is None:
        return f"{shard}: {rows} rows, {count} cells do not find enough: exact scan, {scan:.2f} ms a query"
    choice = "cells" if cost / 1e3 < scan else "exact scan"
    return (
        f"{shard}: {rows} rows, {count} cells; {probes} of them find 99.8 % of the nearest 10 in "
        f"{cost / 1e3:.2f} ms, an exact scan takes {scan:.2f} ms: {choice}"
    )
