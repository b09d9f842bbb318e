"""Where vectors are searched: in the sealed files by FAISS, or in collections of a Milvus server by URL.

The one idea: the sealed files are the truth wherever the search is made. An `Engine` answers from what it holds of the
last commit, is brought to it under the writer's lock, and is checked against the files and made anew from them. Which
server is asked is for the user to say (`--vectors`, RGUNIT_VECTORS), not for a folder that somebody may have sent: that
keeps a name alone (`vectors.json`). So it is with the catalog, too (`databases.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from index_store.attributes import AttributeSchema
from index_store.errors import RgunitError, UsageError
from index_store.index import Ids, Vectors
from index_store.marker import VECTORS

if TYPE_CHECKING:
    from index_store.device import Device
    from index_store.live import Live

URL = "RGUNIT_VECTORS"
"""The environment variable that names the Milvus server of vectors."""

FILES = "files"
"""Instead of a URL: vectors are searched in the sealed files."""


class Moved(RgunitError):
    """While a view was searched somebody committed: what was found may be of two states, ask a new one."""


class View(Protocol):
    """The vectors of one encoder at one commit."""

    @property
    def schema(self) -> AttributeSchema:
        """Attribute names and groups."""

    @property
    def dim(self) -> int:
        """Numbers of a vector."""

    def nearest(
        self, where: str | None, queries: Vectors, k: int, exact: bool, without: Ids | None = None
    ) -> tuple[Vectors, Ids, str]:
        """Search the rows that pass a filter, less some ids: squared distances [q, k] ascending (inf), ids [q, k] (-1
        where fewer match), and what was done. Raises Moved."""


class Engine(Protocol):
    """What searches the vectors of a store."""

    @property
    def url(self) -> str | None:
        """The server's, None without one."""

    def view(self, encoder: str | None) -> View:
        """The vectors of an encoder (by name, None: the only one) at the last commit."""

    def sealed(self, encoder: str | None) -> View:
        """The same from the sealed files."""

    def follow(self) -> None:
        """Bring what it holds to the last commit; the writer's lock is held."""

    def problems(self) -> list[str]:
        """What of it differs from the sealed files, a line each. Unreachable where it cannot be asked."""

    def remake(self) -> list[str]:
        """Mend or make anew what it derives from the sealed files; the lock is held. A line on each."""

    @property
    def derived(self) -> bool:
        """Whether it has something that a compaction of the sealed files makes useless."""

    def forget(self) -> None:
        """Drop what was read, so that it is read again."""

    def close(self) -> None:
        """Close connections."""


def chosen(url: str | None, folder: Path | None = None) -> str | None:
    """The URL that is meant, None for the sealed files. UsageError for one that is no engine's, RgunitError where the
    store in a folder is searched on a server, and nobody says which."""
    told = url or os.environ.get(URL)
    if told is None and folder is not None and (folder / VECTORS).exists():
        raise RgunitError(
            f"the vectors of {folder} are on Milvus: say which server by --vectors URL or {URL}, or search the sealed "
            f"files by --vectors {FILES}"
        )
    if not told or told == FILES:
        return None
    if not told.startswith("milvus+"):
        raise UsageError(f"vectors are searched in {FILES}, or on milvus+http://HOST:19530/NAME, not where you said")
    return told


def reach(url: str | None) -> None:
    """RgunitError where the engine of a URL cannot be reached: before anything is made."""
    if (told := chosen(url)) is not None:
        from index_store.milvusserver import Server

        server = Server(told)
        server.reach()
        server.close()


def engine(live: Live, url: str | None, device: Callable[[], Device | None]) -> Engine:
    """The engine of a store."""
    from index_store.local import Local

    local = Local(live, device)
    if (told := chosen(url, live.catalog.folder)) is None:
        return local
    from index_store.milvus import Milvus

    return Milvus(live, told, local)
