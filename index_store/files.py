"""The files of a collection: which of a folder's are meant as pictures, each once, whatever links there are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

METADATA = ("metadata.csv", "metadata.jsonl")
CELEBA = ("list_attr_celeba", "list_eval_partition", "identity_CelebA")
CELEBA_FILES = tuple(f"{name}{suffix}" for name in CELEBA for suffix in (".txt", ".csv"))
LEFT_BEHIND = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin")
"""What systems leave in folders, in lower case. What starts with a dot (.DS_Store, ._x.jpg) is left out anyway."""
_WORDS = ("readme", "license", "licence", "copying", "changelog", "makefile", "notes", "citation")
_OTHERS = frozenset(
    f".{suffix}"
    for suffix in (
        *("csv", "tsv", "txt", "md", "rst", "json", "jsonl", "ndjson", "xml", "yaml", "yml", "toml", "ini", "cfg"),
        *("db", "sqlite", "html", "htm", "pdf", "doc", "docx", "xls", "xlsx", "zip", "gz", "tgz", "tar", "bz2", "xz"),
        *("7z", "rar", "py", "ipynb", "sh", "bat", "log", "npy", "npz", "mat", "pkl", "pt", "pth", "h5", "hdf5"),
        *("parquet", "arrow", "tfrecord", "lnk", "url", "torrent", "md5", "sha256", "crc"),
    )
)


def is_left_out(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system leaves behind: never looked at, never told."""
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def is_label_file(file: Path) -> bool:
    """Whether a file is one that tells labels, by its name."""
    return file.name in METADATA or file.name in CELEBA_FILES


def may_be_picture(file: Path) -> bool:
    """Whether a file is meant as a picture, as far as its name says so: a README or a stray CSV is not."""
    name = file.name.lower()
    suffix = file.suffix.lower()
    return not (suffix in _OTHERS or (not suffix and name.startswith(_WORDS)) or is_left_out(name))


def entries_of(folder: Path, leave: Iterable[Path] = ()) -> list[Path]:
    """What lies in a folder, in order, without what is left out."""
    left = set(leave)
    return [entry for entry in sorted(folder.iterdir()) if not is_left_out(entry.name) and entry not in left]


def image_files(folder: Path, *, leave: Iterable[Path] = ()) -> list[Path]:
    """List the files below a folder in order, without those that are left out, label files and those at or below
    `leave`. A folder that several links lead to is read once; a link that leads back up is not followed."""
    left = set(leave)
    found: list[Path] = []
    links = [folder]
    top = folder.resolve()
    seen: set[tuple[int, int]] = set()
    for start in links:  # links to folders come after all real folders, in the order in which they are found
        for here, inside, names in _walk(start, seen):
            keep = [name for name in inside if not is_left_out(name) and here / name not in left]
            linked = [name for name in keep if (here / name).is_symlink()]
            links += [here / name for name in linked if not top.is_relative_to((here / name).resolve())]
            inside[:] = [name for name in keep if name not in linked]
            for name in names:
                file = here / name
                if not is_left_out(name) and file not in left and not is_label_file(file):
                    found.append(file)
    return sorted(found, key=lambda file: file.parts) if len(links) > 1 else found


def _walk(start: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` in order, without folders that were seen (by device and number), which are noted."""
    for place, inside, names in os.walk(start):
        told = os.stat(place)  # noqa: PTH116  the path as os.walk has it
        if (told.st_dev, told.st_ino) in seen:
            inside.clear()
            continue
        seen.add((told.st_dev, told.st_ino))
        inside.sort()
        yield Path(place), inside, sorted(names)
