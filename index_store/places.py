"""What a name may mean on the disk: the only place that makes paths of names that a workspace holds, and opens them.

The one idea: a workspace may come from somebody else. A name in its catalog, a shard, a run or a checkpoint is text
that anybody may have written: it becomes a path here or not at all, and what it leads to lies in the workspace.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from index_store.errors import RgunitError

STAGES = ("translation", "retrieval", "guided", "evaluate", "extractor", "generator", "miner")
"""Every stage that a run may be of."""
KINDS = ("schema", "settings", "images", "labels", "remove", "vectors")
"""Every kind of change that a shard may hold."""
LONGEST = 255  # bytes of a name
_FOLDERS = ("shards", "runs", "cache", "models", "ablation")
_FILES = ("catalog.", "lock", "report")  # how the names begin of what is written beside them
_SHARD = re.compile(rf"[0-9]{{8,18}}-({'|'.join(KINDS)})\.h5", re.ASCII)


class Unsafe(RgunitError):
    """A name or a file that must not be followed: it leads out of the workspace, or is no regular file."""


class NotRegular(OSError):
    """A pipe, a device, a socket or a folder where a file is to be read."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(0, "it is no regular file", str(path))


class TooLarge(OSError):
    """A file of more bytes than may be read."""

    def __init__(self, path: Path | str, size: int, most: int) -> None:
        super().__init__(0, f"it has {size / 1e6:.0f} MB, more than the {most / 1e6:.0f} MB that are read", str(path))


_SUPER = bytes.fromhex("d9d505f920a163d7")  # the end of a SQLite journal that names another

# Names


def told(name: object) -> str:
    """A name as a message shows it: quoted, on one line, not too long."""
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:70]}…"


def is_plain(name: object) -> bool:
    """Whether a name is that of one file: no folder in it, no control character, not too long."""
    if not isinstance(name, str) or name in ("", ".", "..") or not name.isprintable():
        return False
    return not any(mark in name for mark in "/\\") and len(name.encode("utf-8", "surrogateescape")) <= LONGEST


def leads_out(root: Path, path: Path | str) -> bool:
    """Whether a place, links followed, lies outside a folder."""
    home = os.path.realpath(root)
    return os.path.commonpath([home, os.path.realpath(path)]) != home


def inside(root: Path, *names: object) -> Path:
    """The place of plain names below a folder; Unsafe where one is not plain, or a link in it leads out."""
    for name in names:
        if not is_plain(name):
            raise Unsafe(f"{root}: {told(name)} is no name of a file")
    path = root.joinpath(*(str(name) for name in names))
    if leads_out(root, path):
        raise Unsafe(f"{path} is a link that leads out of {root}: put a copy of what it leads to in its place")
    return path


def shard(folder: Path, name: object) -> Path:
    """The place of a shard: a plain name with its place in the log and its kind."""
    if not isinstance(name, str) or not _SHARD.fullmatch(name):
        raise Unsafe(f"{told(name)} is no shard's name")
    return inside(folder, name)


def shard_name(seq: int, kind: str) -> str:
    """The name of a shard: its place in the log and what it does."""
    return f"{seq:08d}-{kind}.h5"


def shard_seq(name: str) -> int:
    """The place in the log that a shard's name tells, 0 if it is no shard's name."""
    return int(name.partition("-")[0]) if _SHARD.fullmatch(name) else 0


def run_folder(folder: Path, number: object, stage: object) -> Path:
    """The place of a run: `runs/rNUMBER-STAGE`, with a whole number and one of the stages."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**53:
        raise Unsafe(f"{told(number)} is no run's number")
    if stage not in STAGES:
        raise Unsafe(f"{told(stage)} is no stage of a run (there are: {', '.join(STAGES)})")
    return inside(folder, "runs", f"r{number}-{stage}")


def picture(folder: Path, text: object) -> str:
    """The place of a picture: an absolute path as it is (the user's own), a relative one inside the workspace."""
    if not isinstance(text, str) or not text or "\0" in text or len(os.fsencode(text)) >= 4096:
        raise Unsafe(f"{told(text)} is no path of a picture")
    if text.startswith("/"):
        return text
    names = text.split("/")
    if ".." in names:
        raise Unsafe(f"{told(text)} leads out of the workspace")
    path = f"{folder}/{text}"
    if _leads_out(folder, text.rpartition("/")[0]) or (os.path.islink(path) and leads_out(folder, path)):  # noqa: PTH114
        raise Unsafe(f"{told(text)} is a link that leads out of the workspace: `rgunit add` the place that it leads to")
    return path


@lru_cache(4096)
def _leads_out(folder: Path, inner: str) -> bool:
    """See `leads_out`: of a folder of pictures, asked once and not for each of them, which would take long."""
    return leads_out(folder, folder / inner)


def picture_or_none(folder: Path, number: object, text: object) -> str:
    """See `picture`; where it would raise, a place in the workspace where nothing lies and whose name says why."""
    try:
        return picture(folder, text)
    except Unsafe:
        return f"{folder}/leads-out-of-the-workspace/{number}"


def refuse_links(root: Path) -> None:
    """Look at everything in a workspace that the program itself opens, makes or deletes: Unsafe names what leads out
    of it, or is neither a file nor a folder."""
    for entry in _entries(root):
        if entry.name in (*_FOLDERS, "images") or entry.name.startswith(_FILES):
            _refuse(root, entry)
        if entry.name == "images" and entry.is_dir():
            made = [one for one in _entries(entry.path) if one.name == "generated"]
            for one in made:
                _refuse(root, one)
                _refuse_below(root, one.path)
        elif entry.name in _FOLDERS and entry.is_dir():
            _refuse_below(root, entry.path)


def refuse_journal(file: Path) -> None:
    """Unsafe for a SQLite journal that names another file: SQLite would delete that when it rolls the journal back."""
    with suppress(FileNotFoundError), opened(file) as journal:
        journal.seek(max(0, os.fstat(journal.fileno()).st_size - len(_SUPER)))
        if journal.read() == _SUPER:
            raise Unsafe(f"{file} names another file, which no journal of rgunit does: delete it")


def _refuse_below(root: Path, folder: str) -> None:
    """See `refuse_links`: everything below a folder. A link that stays in the workspace is not followed."""
    waiting = [folder]
    while waiting:
        for entry in _entries(waiting.pop()):
            _refuse(root, entry)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)


def _refuse(root: Path, entry: os.DirEntry[str]) -> None:
    """See `refuse_links`: one entry."""
    if entry.is_symlink():
        if leads_out(root, entry.path):
            raise Unsafe(f"{entry.path} is a link that leads out of {root}: put what it leads to in its place")
    elif not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
        raise Unsafe(f"{entry.path} is neither a file nor a folder: delete it")


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing where it cannot be read, for then nothing in it can be opened."""
    with suppress(OSError), os.scandir(folder) as found:
        return list(found)
    return []


# Files


@contextmanager
def opened(path: Path | str, most: int | None = None) -> Iterator[BinaryIO]:
    """A file opened to be read, once it is known to be a regular one of at most so many bytes.

    Raises NotRegular, TooLarge, or another OSError. It is opened without waiting, then looked at: a pipe with nobody
    at its other end is refused as fast as a folder is.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  a device may do something when it is opened
            raise NotRegular(path)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as error:  # a NUL in the name
        raise OSError(0, str(error), str(path)) from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise NotRegular(path)
        if most is not None and found.st_size > most:
            raise TooLarge(path, found.st_size, most)
        yield file


def sha256_of(path: Path | str, most: int | None = None) -> str:
    """SHA-256 (hex) of a regular file of at most so many bytes; see `opened`."""
    digest = hashlib.sha256()
    with opened(path, most) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_bytes(path: Path | str, most: int) -> bytes:
    """The bytes of a regular file of at most so many; see `opened`."""
    with opened(path, most) as file:
        data = file.read(most + 1)
    if len(data) > most:  # it grew meanwhile, or its size was no truth (/proc)
        raise TooLarge(path, len(data), most)
    return data
