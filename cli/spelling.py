"""How help spells the arguments of a command: `PATH...`, `RUN`, `[IMAGE|FOLDER]...`.

The one idea: Typer's own spelling adds the Python type (`PATH <list[Path]>`) and braces (`{PATH}...`); people who read
help know neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand
from typer.models import CommandFunctionType


def spelt(argument: Any, *, usage: bool = False) -> str:
    """The name of an argument, with dots where several may be given; for the usage line an optional one in brackets."""
    name = argument.metavar or argument.name.upper()
    name = f"[{name}]" if usage and not argument.required else name
    return f"{name}..." if argument.nargs != 1 else str(name)


class Command(TyperCommand):
    """A command whose help spells arguments plainly."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What stands behind the command's name: [OPTIONS] and the arguments, optional ones in brackets."""
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return [*filter(None, [self.options_metavar]), *(spelt(one, usage=True) for one in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options."""
        shown = [(one, one.get_help_record(ctx)) for one in self.get_params(ctx)]
        arguments = [(spelt(one), record[1]) for one, record in shown if record and one.param_type_name == "argument"]
        options = [record for one, record in shown if record and one.param_type_name == "option"]
        for heading, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class App(typer.Typer):
    """An application of such commands."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Register a function as a command."""
        return super().command(name, **{"cls": Command, **settings})
