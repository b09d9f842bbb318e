"""What can go wrong in a way that a user can put right.

The one idea: every expected failure is an `RgunitError` whose text is one line that names the thing, the
limit and the remedy; the command line prints it and ends with status 1 (2 for `UsageError`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RgunitError(Exception):
    """A failure that its one-line message explains; the command line exits with status 1."""


class UsageError(RgunitError):
    """A value that was asked for makes no sense (an edit, a filter, an option): exit status 2."""


class UnknownAttribute(UsageError):
    """An attribute name that the workspace does not have; the message offers the nearest names."""


class CatalogDamaged(RgunitError):
    """A catalog that cannot be read; `why` says what its engine says."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"{file} is damaged ({why}): run `rgunit index rebuild`")
        self.file, self.why = file, why


@contextmanager
def damage_named(file: Path) -> Iterator[None]:
    """Around making something of what a catalog holds: CatalogDamaged where a value is not of its kind."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise CatalogDamaged(file, str(error).partition("\n")[0] or type(error).__name__) from error


class DuplicateKey(RgunitError):
    """A key that is already taken by other data."""


class Locked(RgunitError):
    """Another process is writing; the message names its process id."""


class ReadOnly(RgunitError):
    """A workspace that this user may only read."""


class Unreachable(RgunitError):
    """A server that does not answer; nothing of what it holds is known to be wrong."""


class ImageRefused(RgunitError):
    """A file that cannot be taken as an image, with the reason."""


class ImageTooLarge(ImageRefused):
    """An image of more pixels or bytes than are taken."""
