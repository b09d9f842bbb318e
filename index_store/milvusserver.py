"""A Milvus server by URL: connecting, and what its failures mean in one line. The only module that imports pymilvus.

The one idea: a failure names the server without its password, and the remedy.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from index_store import forking
from index_store.errors import RgunitError, Unreachable, UsageError

SCHEMES = ("milvus+http", "milvus+https")
FORM = "milvus+http://HOST:19530/NAME"
PATIENCE = 10.0  # seconds until a server that does not answer counts as not there
LONGEST = 600.0  # seconds of one call
MISSING = (4, 100)  # codes of a collection that is not there
NOT_LOADED = 101
CHANNEL = {  # no pings while nothing is asked, which servers with gRPC's defaults hang up on
    "grpc.keepalive_permit_without_calls": False,
    "grpc.keepalive_time_ms": 300_000,
    "grpc.use_local_subchannel_pool": True,
}

INDEXES = {"FLAT": "", "HNSW": "ef", "IVF_FLAT": "nprobe", "IVF_SQ8": "nprobe"}
"""The indexes that vectors may have, and what says how deep one is searched."""

Field = tuple[str, str, dict[str, Any]]
"""A field of a collection: its name, its kind as pymilvus's `DataType` calls it, what else it has."""

_BUILT: dict[str, dict[str, int]] = {"HNSW": {"M": 16, "efConstruction": 200}}


class Gone(RgunitError):
    """A collection that is not there any more."""


class Server:
    """What a URL `milvus+http://[USER:PASSWORD@]HOST:PORT[/NAME][?index=HNSW]` names. Connects when it is first asked.

    UsageError for another URL, RgunitError where pymilvus is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            parts, port = urlsplit(url), urlsplit(url).port
        except ValueError as error:
            raise UsageError(f"a URL of vectors is {FORM}, which this is not") from error
        self.name, asked = parts.path.strip("/"), dict(parse_qsl(parts.query))
        self.index = asked.pop("index", "").upper()
        if parts.scheme not in SCHEMES or not parts.hostname or asked or parts.fragment:
            raise UsageError(f"a URL of vectors is {FORM}, or with ?index=…, which this is not")
        if self.name and not re.fullmatch(r"[A-Za-z_]\w{0,99}", self.name, re.ASCII):
            raise UsageError(f"a collection's name has letters, digits and _ alone, which {self.name!r} has not")
        if re.search(r"_[0-9a-f]{12}$", self.name):  # a store drops what is named so and is not in its mark
            raise UsageError(
                f"collections of {self.name[:-13] or 'a store'} are named as {self.name!r}: choose another"
            )
        if self.index and self.index not in INDEXES:
            raise UsageError(f"no index {self.index!r} of vectors on Milvus: there are {', '.join(INDEXES)}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.shown = f"{parts.scheme.removeprefix('milvus+')}://{host}:{19530 if port is None else port}"
        self._token = ":".join(unquote(part) for part in (parts.username, parts.password) if part)
        self._client: Any = None
        self._guard = threading.RLock()
        forking.remember(self)
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is told here
        try:
            import pymilvus
        except ImportError as error:
            raise RgunitError(
                "vectors on Milvus need pymilvus, which is not installed: pip install 'rgunit[milvus]'"
            ) from error
        self.library: Any = pymilvus
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs each failure before it raises it

    def after_fork(self) -> None:
        """In a forked child: a connection of its own; its parent's is left alone."""
        self._guard = threading.RLock()
        self._client = None

    def close(self) -> None:
        """Close the connection."""
        with self._guard:
            if self._client is not None:
                with suppress(Exception):
                    self._client.close()
            self._client = None

    def reach(self) -> None:
        """RgunitError where it does not answer."""
        self.call("list_collections", timeout=PATIENCE)

    def call(self, what: str, *args: Any, **named: Any) -> Any:
        """Call a method of pymilvus's client; a collection that is not loaded is. Raises Gone, RgunitError."""
        with self._told():
            client, named = self._connected(), {"timeout": LONGEST, **named}
            try:
                return getattr(client, what)(*args, **named)
            except self.library.MilvusException as error:
                if error.code != NOT_LOADED:
                    raise
                client.load_collection(args[0], timeout=LONGEST)
                return getattr(client, what)(*args, **named)

    def _connected(self) -> Any:
        with self._guard:
            if self._client is None:
                self._client = self.library.MilvusClient(
                    self.shown, token=self._token, timeout=PATIENCE, dedicated=True, grpc_options=CHANNEL
                )
            return self._client

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Around calls: failures as RgunitError."""
        import grpc

        try:
            yield
        except self.library.MilvusException as error:
            why = self._clean(error.message or str(error))
            if error.code in MISSING:
                raise Gone(f"Milvus on {self.shown}: {why}") from error
            lost = error.code == 2 or "UNAVAILABLE" in why or "imeout" in why or "channel" in why.lower()
            raise self._unreachable(why) if lost else RgunitError(f"Milvus on {self.shown}: {why}") from error
        except (grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise self._unreachable(self._clean(str(error))) from error

    def _unreachable(self, why: str) -> Unreachable:
        self.close()
        return Unreachable(
            f"Milvus on {self.shown} cannot be reached ({why}): start it, or name another by --vectors URL"
        )

    def _clean(self, text: str) -> str:
        """A line without the password."""
        line = " ".join(text.split())[:300]
        for secret in sorted({self._token, *self._token.split(":")[1:]} - {""}, key=len, reverse=True):
            line = line.replace(secret, "…")
        return line or "no reason told"

    # Collections

    def make(self, collection: str, fields: Sequence[Field], index: str, cells: int = 0, partitions: int = 0) -> None:
        """Make a collection of fields, whose vectors get the index, one of cells with so many; with a key, partitions.

        Whoever asks it sees all that was written before (Milvus's consistency level Strong).
        """
        schema = self.library.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        params = self.library.MilvusClient.prepare_index_params()
        for name, kind, told in fields:
            schema.add_field(name, getattr(self.library.DataType, kind), **told)
            if kind == "FLOAT_VECTOR":
                built = {"nlist": cells} if cells else _BUILT.get(index, {})
                params.add_index(name, index_type=index, metric_type="L2", params=built)
        more = {"num_partitions": partitions} if partitions else {}
        named = {"schema": schema, "index_params": params, "consistency_level": "Strong", **more}
        self.call("create_collection", collection, **named)

    def described(self, collection: str) -> dict[str, int]:
        """The fields of a collection, and the dimension of each that is a vector (else 0)."""
        told = self.call("describe_collection", collection)
        return {field["name"]: int(field.get("params", {}).get("dim", 0)) for field in told["fields"]}
