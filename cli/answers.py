"""How the answer of `query` and `similar` looks on a terminal: the columns that fit, and whole or shortened paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.drawing import between, plain, shortest, table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from retrieval.pictures import Neighbour, Results

    Columns = Mapping[str, Sequence[str | Text]]

SHOWN = 6  # wanted labels up to which each has a column of its own
ROWS = 20  # queries of a folder that are shown
GAP = 2  # columns between two columns of the table
PATH = 24  # columns that a path gets at least, where it is so long


def draw_answer(console: Console, found: Results, edited: Sequence[str], files: Sequence[Path] = ()) -> None:
    """A row a neighbour: which labels are as wanted, how many of all, which are not, and where the image is.

    Columns that a terminal has no room for are left out, those of single labels first; never rank, distance and path.
    """
    from retrieval.sheets import wanted

    plain(console, wanted(found), style="bold")
    told = [name for name, bit in found.target.items() if bit is not None]
    bits = edited or (told if len(told) <= SHOWN else [])
    columns: Columns = {
        "rank": [str(one.rank) for one in found],
        "id": [str(one.image_id) for one in found],
        "distance": [f"{one.distance:.3f}" for one in found],
        **{name: [_mark(one.attributes.get(name), found.target.get(name)) for one in found] for name in bits},
        **({"labels": [_agreeing(one, found) for one in found]} if told else {}),
        **({"not as wanted": [_wrong(one, found) for one in found]} if told else {}),
        "origin": [one.origin for one in found],
        "image": [shortest(str(one.path)) for one in found],
    }
    _print(console, columns, [*reversed(bits), "not as wanted", "origin", "labels", "id"])
    plain(console, f"{found.milliseconds:.0f} ms, {found.plan}", style="dim")
    _written(console, files)


def draw_answers(console: Console, answers: Sequence[tuple[Path, Results]], files: Sequence[Path] = ()) -> None:
    """A row a query: its nearest image, and how many of all are known to be as wanted."""
    shown = answers[:ROWS]
    _print(
        console,
        {
            "query": [shortest(str(path)) for path, _ in shown],
            "found": [str(len(found)) for _, found in shown],
            "fitting": [_fitting(found) for _, found in shown],
            "distance": [f"{found[0].distance:.3f}" if len(found) else "" for _, found in shown],
            "image": [shortest(str(found[0].path)) if len(found) else "" for _, found in shown],
        },
        ["fitting", "found"],
    )
    if len(answers) > ROWS:
        plain(console, f"… and {len(answers) - ROWS} more queries (--csv FILE or --json has all)", style="dim")
    _written(console, files)


def _written(console: Console, files: Sequence[Path]) -> None:
    """Name the files that were written."""
    for file in files:
        plain(console, f"written: {file.absolute()}")


def _print(console: Console, columns: Columns, droppable: Sequence[str]) -> None:
    """The table of columns {heading: cells}, without those of `droppable` for which there is no room, in its order."""
    widths = {name: max(len(name), *(len(cell) for cell in cells)) for name, cells in columns.items()}
    paths = [name for name in ("query", "image") if name in columns]
    least = {name: min(widths[name], PATH) if name in paths else width for name, width in widths.items()}
    kept = list(columns)
    if not console.is_terminal:  # a file or a pipe has room for all
        console.width = max(console.width, sum(widths.values()) + GAP * len(widths))
    room = console.width
    for name in droppable:
        if sum(least[one] for one in kept) + GAP * (len(kept) - 1) <= room:
            break
        if name in kept:
            kept.remove(name)
    spare = room - sum(least[one] for one in kept) - GAP * (len(kept) - 1)
    for name in paths:  # what is left goes to the paths
        more = min(spare, widths[name] - least[name])
        least[name] += more
        spare -= more
    headings = ["" if name == "rank" else name for name in kept]
    shown = table(*headings, right=["", "id", "distance", "labels", "found", "fitting"])
    for cells in zip(*(columns[name] for name in kept), strict=True):
        shown.add_row(
            *(
                between(cell, least[name]) if name in paths and isinstance(cell, str) else cell
                for name, cell in zip(kept, cells, strict=True)
            )
        )
    console.print(shown)


def _agreeing(one: Neighbour, found: Results) -> str:
    from retrieval.sheets import agreement

    agree, known = agreement(one.attributes, found.target)
    return f"{agree}/{known}" if known else "?"


def _wrong(one: Neighbour, found: Results) -> str:
    """The labels that an image has instead of those wanted."""
    return " ".join(
        f"{'-' if bit else '+'}{name}"
        for name, bit in found.target.items()
        if bit is not None and one.attributes[name] == 1 - bit
    )


def _fitting(found: Results) -> str:
    from retrieval.sheets import agreement

    counts = [agreement(one.attributes, found.target) for one in found]
    known = [agree == of for agree, of in counts if of]
    return f"{sum(known)}/{len(known)}" if known else "?"


def _mark(bit: int | None, wanted: int | None) -> Text:
    """✓ where a label is as wanted, ✗ where it is not, ? where it is unknown."""
    from rich.text import Text

    if bit is None or wanted is None:
        return Text("?", style="dim")
    return Text("✓", style="green") if bit == wanted else Text("✗", style="red")
