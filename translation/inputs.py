"""The pictures that a user names, alone or by their folder, and what their translations are called. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from index_store.errors import RgunitError, UsageError
from index_store.files import image_files
from index_store.images import check_header, made_of, mark_of, read_image
from index_store.workspace import Workspace


@dataclass(frozen=True)
class Input:
    """A file to translate, the name that its outputs should have, and the folder it was found in (None: none)."""

    path: Path
    name: str
    folder: Path | None = None


def find_inputs(paths: Sequence[Path | Input], out: Path) -> list[Input]:
    """Each file of `paths`, and of each folder the files below it in order, without hidden ones and those below `out`.

    Names are those of the files (of a folder's, relative to it) without suffix. Nothing in a folder is opened: a file
    there may be no picture. Files that are named themselves must be: each is decoded and dropped again, but for a
    single one, of which only the head is read, since it is decoded before anything is written. ImageRefused for a file
    that is none, RgunitError for an empty folder, UsageError for one that is `out`. What is an `Input` already stays.
    """
    found: list[Input] = []
    target = out.resolve()
    named: list[Path] = []
    for path in paths:
        if isinstance(path, Input):
            found.append(path)
            continue
        if not path.is_dir():
            check_header(path)
            named.append(path)
            found.append(Input(path, path.stem))
            continue
        root = path.resolve()
        if target == root:
            raise UsageError(f"--out {out} is the folder whose pictures are to be translated: name another one")
        leave = [path / target.relative_to(root)] if target.is_relative_to(root) else []
        inside = [file for file in image_files(path, leave=leave) if file.is_file()]
        if not inside:
            raise nothing(path)
        found += [Input(file, str(file.relative_to(path).with_suffix("")), path) for file in inside]
    for path in named if len(found) > 1 else ():
        read_image(path)
    return found


def workspace_inputs(workspace: Workspace, where: str) -> list[Input]:
    """The images of a workspace that pass a filter; what is generated only where the filter names it.

    RgunitError where none does. One whose file is gone or damaged is left out later, and told.
    """
    origins = workspace.schema.filter(where).origin
    table = workspace.images(where if origins else f"{where} origin=real|unlabelled")
    if not len(table):
        raise RgunitError(f"no image passes the filter {where!r}: widen it")
    return [Input(Path(path), Path(path).stem, workspace.path) for path in table.paths]


def check_out(out: Path) -> None:
    """RgunitError where nothing can be written into a folder, which need not be there."""
    there = next(place for place in (out.absolute(), *out.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise RgunitError(f"--out {out}: {there} is no folder: name another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RgunitError(f"--out {out}: nothing can be written into {there}: name another folder")


def nothing(path: Path | str) -> RgunitError:
    """What to say where no picture was found."""
    return RgunitError(f"{path} holds no image that can be read: name a folder with images, or the images")


class Names:
    """Names of outputs: each is given once, and none whose files would overwrite anything but earlier translations of
    the same picture, as `write_image` noted them: no picture that is translated, and no file of the user's."""

    def __init__(self, out: Path, inputs: Sequence[Input]) -> None:
        self._out = out.resolve()
        self._inputs = {one.path.resolve() for one in inputs}
        self._taken: set[str] = set()

    def take(self, one: Input, samples: int) -> str:
        """The name that an input's outputs should have, or with -2, -3 … behind it."""
        name, n, mark = one.name, 1, mark_of(one.path)
        while name in self._taken or any(self._stays(file, mark) for file in self._files(name, samples)):
            n += 1
            name = f"{one.name}-{n}"
        self._taken.add(name)
        return name

    def _files(self, name: str, samples: int) -> list[Path]:
        return [self._out / f"{name}-{sample}{mask}.png" for sample in range(samples) for mask in ("", "-mask")]

    def _stays(self, file: Path, mark: str) -> bool:
        """Whether a file is there that is no earlier translation of the picture with this mark."""
        return file in self._inputs or (os.path.lexists(file) and (file.is_symlink() or made_of(file) != mark))
