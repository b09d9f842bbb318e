"""Which pictures of a table are gone from the disk, and whether what is left is enough.

The one idea: one lost file is no reason to lose a night's training; many are, and before it begins.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from index_store.errors import RgunitError
from index_store.imagetable import ImageTable

MOST_MISSING = 0.01
REMEDY = "put them back, or let rgunit add find them where they are now (`rgunit add NEWPLACE`)"


def missing_rows(table: ImageTable) -> npt.NDArray[np.int64]:
    """The rows of images whose file is gone, ascending."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        there = list(pool.map(os.path.isfile, table.paths, chunksize=256))
    return np.flatnonzero(~np.array(there, np.bool_))


def enough(table: ImageTable, missing: npt.NDArray[np.int64]) -> str | None:
    """What to say of missing rows, None if there are none. RgunitError where they are more than one and than 1 %."""
    if not len(missing):
        return None
    told = f"{len(missing)} of {len(table)} pictures {'is' if len(missing) == 1 else 'are'} gone"
    first = f"{'' if len(missing) == 1 else 'the first '}{table.paths[missing[0]]}"
    if len(missing) > 1 and len(missing) > MOST_MISSING * len(table):
        raise RgunitError(f"{told}, {first}: {REMEDY}; `rgunit index remove` forgets them")
    return f"{told} and left out, {first}: {REMEDY}"
