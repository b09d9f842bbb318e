"""What the site (mkdocs.yml) has beside the pages of this folder: all commands, all settings, the list of changes.

The one idea: both references are made while the site is built, of the command line itself and of the classes that
check settings (read, not imported: that would take torch), so they cannot be out of date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OPTION = ' class="option"'  # what assets/site.css does not break
COMMANDS = "<!-- the reference of all commands stands here on the site -->"
SETTINGS = "<!-- the reference of all settings stands here on the site -->"


def commands() -> Iterator[tuple[Any, Any]]:
    """Every command that can be called, with its context; those of a group behind the group."""
    if str(ROOT) not in sys.path:  # MkDocs takes back what is added while this file is loaded
        sys.path.insert(0, str(ROOT))
    import typer

    from cli.main import app

    def below(command: Any, context: Any) -> Iterator[tuple[Any, Any]]:
        yield command, context
        for name, one in getattr(command, "commands", {}).items():
            if not one.hidden:
                yield from below(one, one.context_class(one, info_name=name, parent=context))

    top = typer.main.get_command(app)
    yield from below(top, top.context_class(top, info_name="rgunit"))


def reference() -> str:
    """The commands as Markdown: what each does, its arguments and options, examples."""
    return "\n".join(_section(command, context) for command, context in commands())


def _section(command: Any, context: Any) -> str:
    from cli.spelling import spelt

    name = context.command_path
    lines = [f"## {name if ' ' in name else 'Options of every command'}", "", _prose(command.help or ""), ""]
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines += ["```text", re.sub(r"\s+", " ", usage), "```", ""]
    rows = [(one, one.get_help_record(context)) for one in command.get_params(context) if one.name != "help"]
    shown = [(one, record) for one, record in rows if record]
    if shown:
        lines += ["| option | |", "|---|---|"]
        for one, record in shown:
            written = spelt(one) if one.param_type_name == "argument" else record[0]
            lines.append(f"| {_code(written, OPTION)} | {_cell(record[1])} |")
        lines.append("")
    groups = getattr(command, "commands", {})
    if groups:
        lines += ["| command | |", "|---|---|"]
        for short, one in groups.items():
            path = f"{name} {short}"
            told = one.short_help or (one.help or "").split("\n\n")[0]
            lines.append(f"| [`{path}`](#{path.replace(' ', '-')}) | {_cell(told)} |")
        lines.append("")
    examples = [line[2:] for line in (command.epilog or "").splitlines() if line.startswith("  ")]
    if examples:
        lines += [*(f"    {line}" for line in examples), ""]
    return "\n".join(lines)


def _prose(text: str) -> str:
    """Help as paragraphs; `\\b` marks one whose lines stay as they are."""
    parts = []
    for part in re.split(r"\n\s*\n", text.strip()):
        if part.lstrip().startswith("\b"):
            parts.append("```text\n" + part.replace("\b", "").strip("\n") + "\n```")
        else:
            parts.append(_plain(re.sub(r"\s+", " ", part)))
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text in which Markdown has nothing to read but code in backticks."""
    parts = re.split(r"`([^`]+)`", text.strip())
    parts[::2] = [re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [_code(part) for part in parts[1::2]]
    return "".join(parts)


def _cell(text: str) -> str:
    return _plain(re.sub(r"\s+", " ", text))


def _code(text: str, kind: str = "") -> str:
    """Code that may stand in the cell of a table."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return f"<code{kind}>{text}</code>"


def settings() -> str:
    """The settings as Markdown: those of every method by section, then those that a method brings."""
    config = _classes(ROOT / "translation" / "config.py")
    shared = {
        **_classes(ROOT / "translation" / "sections.py"),
        **_classes(ROOT / "retrieval" / "config.py"),
        **_classes(ROOT / "translation" / "evaluation" / "config.py"),
    }
    lines = ["## Of every method", ""]
    for name, kind in _annotations(config["Config"]):
        section = shared.get(kind.rstrip("]").rpartition("[")[2])
        if section and section.name != "Section":
            lines += _table(f"### {name}", section, name, shared)
    lines += ["## What a method brings", ""]
    for file in sorted((ROOT / "translation" / "methods").glob("*.py")):
        classes = _classes(file)
        found = re.search(r"Sections\(\s*(\w+), (\w+), (\w+)(?:, (\{.*?\}))?\s*\)$", file.read_text(), re.MULTILINE)
        if not found:
            continue
        lines += [f"### {file.stem}", ""]
        own = dict(re.findall(r'"(\w+)": (\w+)', found[4] or ""))
        for name, kind in {"networks": found[1], "translation": found[2], "guided": found[3], **own}.items():
            if kind in classes:  # a stage of its own has what every stage has
                lines += _table("", classes[kind], name, {**shared, **classes} if name in own else classes)
    return "\n".join(lines)


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    """The classes of a file by name, with those that it takes from another method's file."""
    found: dict[str, ast.ClassDef] = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("translation.methods."):
            theirs = _classes((ROOT / str(node.module).replace(".", "/")).with_suffix(".py"))
            found |= {one.asname or one.name: theirs[one.name] for one in node.names if one.name in theirs}
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
    return found


def _annotations(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for node in section.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.annotation)


def _table(heading: str, section: ast.ClassDef, path: str, classes: dict[str, ast.ClassDef]) -> list[str]:
    """The settings of a section by their whole names, with their defaults; those of a `weights` in it too."""
    rows = _rows(section, path, classes)
    about = _plain(re.sub(r"\s+", " ", ast.get_docstring(section) or ""))
    table = ["| setting | default | |", "|---|---|---|", *rows.values(), ""] if rows else []
    return [*([heading, ""] if heading else []), *([about, ""] if about else []), *table]


def _rows(section: ast.ClassDef, path: str, classes: dict[str, ast.ClassDef]) -> dict[str, str]:
    """The row of each setting, those of known base classes first (stage 3 has stage 1's, which stand there)."""
    rows: dict[str, str] = {}
    for base in section.bases:
        if isinstance(base, ast.Name) and base.id in classes and not path.startswith("guided"):
            rows |= _rows(classes[base.id], path, classes)
    for node in section.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
            continue
        name, default, told = f"{path}.{node.target.id}", node.value, ""
        if isinstance(default, ast.Call) and isinstance(default.func, ast.Name):
            if default.func.id in classes:
                rows |= _rows(classes[default.func.id], name, classes)
                continue
            given = {word.arg: word.value for word in default.keywords}
            told = ast.literal_eval(given["description"]) if "description" in given else ""
            found = default.args[0] if default.args else given.get("default")
            if found is None:  # a section that a method brings
                continue
            default = found
        annotation = ast.unparse(node.annotation)
        if annotation.startswith("Literal["):
            told += f"{'; ' if told else ''}one of {annotation[8:-1]}".replace("'", "")
        rows[name] = f"| {_code(name, OPTION)} | {_code(_default(default))} | {_cell(told)} |"
    return rows


def _default(value: ast.expr) -> str:
    text = "all" if isinstance(value, ast.Name) else ast.unparse(value).strip("'")
    return {"None": "none", "()": "none", "": "none", "True": "true", "False": "false"}.get(text, text)


def changes() -> str:
    """CHANGELOG.md as a page of this folder."""
    return (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](")


def for_the_site(text: str) -> str:
    """A page whose links to files outside this folder, which have no page, are no links."""
    text = text.replace("](../CHANGELOG.md", "](changes.md")
    # Code in a list stands six columns in; Python-Markdown asks for eight.
    text = re.sub(r"(?<=\n\n)(?: {6,}\S.*\n)+", lambda block: re.sub(r"^", "  ", block[0], flags=re.M)[:-2], text)
    return re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])+)\]\((?:\.\./)+[^)]*\)", r"\1", text)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: one page more."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "changes.md", content=changes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs: a page before it is rendered."""
    markdown = re.sub(r"^\*As plain text this page ends here.*\n", "", markdown, flags=re.MULTILINE)
    if COMMANDS in markdown or SETTINGS in markdown:
        return markdown.replace(COMMANDS, reference()).replace(SETTINGS, settings())
    # Pages of a folder below link to those here by `../`.
    return for_the_site(markdown) if "/" not in page.file.src_uri else markdown
