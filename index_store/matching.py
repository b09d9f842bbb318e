"""Which file a row of labels means.

The one idea: the name as it is written comes first; where no file is called so, what differs without a doubt is looked
through: NFC and NFD, `./`, backslashes, links, a suffix that is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from index_store.names import same


class Files:
    """The files of a folder, to be found by the names that tables give them."""

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self.root = root
        self.there = {file.relative_to(root).as_posix(): file for file in files}
        self._same: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        for name in self.there:
            self._same[same(name)].append(name)
            self._stems[str(PurePosixPath(same(name)).with_suffix(""))].append(name)
        self._real: dict[Path, str] | None = None

    def find(self, name: str) -> tuple[Path | None, str]:
        """The file that a row names, and why there is none ("": it is not among the files)."""
        text = name.strip()
        pure = PurePosixPath(text)
        if not text or (PureWindowsPath(text).is_absolute() and not pure.is_absolute()) or ".." in pure.parts:
            return None, f"names no file inside {self.root}"
        if pure.is_absolute():
            relative = self._below(Path(text))
            return (self.there[relative], "") if relative else (None, f"names no file inside {self.root}")
        for written in (pure.as_posix(), PurePosixPath(text.replace("\\", "/")).as_posix()):
            if written in self.there:
                return self.there[written], ""
            for kind, among in (("spelled so", self._same), ("without a suffix", self._stems)):
                found = among.get(same(written), [])
                if len(found) == 1:
                    return self.there[found[0]], ""
                if found:
                    return None, f"could be any of {', '.join(sorted(found)[:4])} ({kind}): write which"
        try:
            relative = self._below(self.root / text) if (self.root / text).is_file() else ""
        except (OSError, ValueError):  # a name that no file can have
            relative = ""
        return (self.there[relative] if relative else None), ""

    def _below(self, path: Path) -> str:
        """The name of the file that a path leads to, through links too; "" if it is none of these."""
        if path.is_relative_to(self.root) and (name := path.relative_to(self.root).as_posix()) in self.there:
            return name
        if self._real is None:
            self._real = {file.resolve(): name for name, file in self.there.items()}
        return self._real.get(path.resolve(), "")
