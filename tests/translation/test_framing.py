"""Which square of a picture passes, and that it comes back where it was."""

from __future__ import annotations

import numpy as np
import pytest

from index_store.errors import UsageError
from index_store.images import prepare
from translation.framing import Box, Framing, parse_box


@pytest.fixture
def picture() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("framing", [Framing(), Framing(Box(3, 5, 32, 32)), Framing(fit=True)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_square_that_is_not_changed_gives_the_picture_back(picture, framing: Framing, turned: bool) -> None:
    picture = np.ascontiguousarray(picture.transpose(1, 0, 2)) if turned else picture
    part = framing.part(picture, "it")
    size = max(picture.shape) if framing.fit else (part or Box(0, 0, 0, 0)).width
    square = framing.square(picture, size)
    assert square.shape == (size, size, 3) and np.array_equal(framing.back(square, picture), picture)


def test_the_middle_is_the_square_that_a_query_sees(picture) -> None:
    assert np.array_equal(Framing().square(picture, 24), prepare(picture, size=24))
    assert Framing().part(picture, "it") == Box(12, 0, 40, 40) and Framing().part(picture[:, :40], "it") is None
    assert Framing().back(np.zeros((24, 24, 3), np.uint8), picture)[:, 12:52].max() == 0


@pytest.mark.parametrize("text", ["1,2,3", "a,0,32,32", "0,0,32,33", "0,0,8,8", "-1,0,32,32"])
def test_a_box_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--box"):
        parse_box(text)
