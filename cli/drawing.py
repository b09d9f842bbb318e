"""How answers look on a terminal: a console, quiet tables, times and counts in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_ELSEWHERE = 160  # columns where the output is no terminal
LISTED = 10  # of many things that a person is shown


def console_on(out: TextIO) -> Console:
    """A console on a stream; without a terminal it has neither colours nor a narrow width."""
    from rich.console import Console

    return Console(file=out, highlight=False, width=None if out.isatty() else WIDTH_ELSEWHERE)


def table(*headings: str, right: Iterable[str] = (), title: str | None = None) -> Table:
    """A table without lines; the headings in `right` have numbers under them."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    numbers = set(right)
    for heading in headings:
        made.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=True)
    made.columns[-1].no_wrap = False
    made.columns[-1].overflow = "fold"
    return made


def shortest(path: str) -> str:
    """A path as seen from here, where it is below."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def between(text: str, room: int) -> str:
    """A path that is too long for so many columns, with … in its middle; its end, the file's name, is longer."""
    if len(text) <= room:
        return text
    start = max(0, (room - 1) // 3)
    return f"{text[:start]}…{text[len(text) - max(0, room - 1 - start) :]}"


def plain(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: a path in it is neither broken nor read as markup."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def listed(console: Console, names: Iterable[str]) -> None:
    """Print the first of many names, and how many more there are."""
    every = list(names)
    for name in every[:LISTED]:
        plain(console, f"  {name}", style="dim")
    if len(every) > LISTED:
        plain(console, f"  … and {len(every) - LISTED} more (--json lists all)", style="dim")


def number(value: float | None) -> str:
    """Three decimals, or – where there is no number."""
    return "–" if value is None else f"{value:.3f}"


def difference(gap: Mapping[str, Any]) -> str:
    """`+0.031 (+0.012 … +0.050)`; of several seeds that do not agree in the sign, each one's too."""
    low, high = gap["interval"]
    each = gap.get("seeds", ())
    apart = min(each, default=0.0) < 0 < max(each, default=0.0)
    told = f"; seeds apart: {', '.join(f'{one:+.3f}' for one in each)}" if apart else ""
    return f"{gap['difference']:+.3f} ({low:+.3f} … {high:+.3f}{told})"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `12 images`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """Seconds in words: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = math.floor(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(number: int) -> str:
    """Bytes in words: 12 kB, 3.4 MB, 1.2 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e3:.0f} kB"
