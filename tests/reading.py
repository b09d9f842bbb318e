"""A folder that this process may only read, also where it is root."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HEAD = (ctypes.c_uint32 * 2)(0x20080522, 0)
_PAST_MODES = 0b110  # root's rights to write and to read whatever a file's mode says


@contextmanager
def reading_only(folder: Path) -> Iterator[None]:
    """No thread that begins in here, nor this one, may write below `folder`."""
    libc = ctypes.CDLL(None)
    rights = (ctypes.c_uint32 * 6)()
    for place in (folder, *folder.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    if os.geteuid() == 0:
        assert libc.capget(_HEAD, rights) == 0
        held = rights[0]
        rights[0] = held & ~_PAST_MODES
        assert libc.capset(_HEAD, rights) == 0
    try:
        yield
    finally:
        if os.geteuid() == 0:
            rights[0] = held
            assert libc.capset(_HEAD, rights) == 0
        for place in (folder, *folder.rglob("*")):
            place.chmod(0o755 if place.is_dir() else 0o644)
