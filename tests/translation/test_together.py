"""Calls of several threads are one call, and each gets its own part."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from index_store.workspace import Workspace
from translation.guidance import Guide
from translation.together import SharedTranslator, TensorsTogether
from translation.translator import Translator


def test_calls_that_wait_together_are_one_call_of_their_kind() -> None:
    busy, free, sizes = threading.Event(), threading.Event(), []

    def double(x: torch.Tensor, add: int = 0) -> tuple[torch.Tensor, None]:
        sizes.append(len(x))
        busy.set()
        free.wait(10)
        return 2 * x + add, None

    together = TensorsTogether(double)
    rows = [torch.full((1, width), float(width)) for width in (2, 3, 3, 3)]
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(together, rows[0])
        busy.wait(10)
        asked = [pool.submit(together, row) for row in rows[1:]] + [pool.submit(together, rows[1], key=1)]
        while len(together._waiting) < 4:
            pass
        free.set()
        answers = [one.result(10) for one in [first, *asked]]
    assert sorted(sizes) == [1, 1, 3]
    for row, (made, nothing) in zip([*rows, rows[1]], answers, strict=True):
        assert nothing is None and made is not None and made.shape == row.shape
    assert [float(made[0, 0]) for made, _ in answers if made is not None] == [4, 6, 6, 6, 7]


def test_a_failure_is_of_all_that_shared_it_and_of_no_later_call() -> None:
    def broken(x: torch.Tensor) -> tuple[torch.Tensor]:
        if x.sum() < 0:
            raise RuntimeError("no")
        return (x,)

    together = TensorsTogether(broken)
    with pytest.raises(RuntimeError, match="no"):
        together(-torch.ones(1))
    assert together(torch.ones(1)) == [torch.ones(1)]


def test_a_shared_translator_gives_what_it_gives_alone(staged: Workspace) -> None:
    alone = Translator.load(staged, "r1", "cpu")
    shared = SharedTranslator(alone)
    images = torch.rand(8, 3, 32, 32) * 2 - 1
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda one: shared.content(one[None]), images))
    whole = alone.content(images)
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5) and shared.fingerprint == alone.fingerprint
    style = alone.style(images)
    wanted = alone.translate(images, whole, style).image

    def one(row: int) -> torch.Tensor:
        return shared.translate(images[row : row + 1], whole[row : row + 1], style[row : row + 1]).image

    with ThreadPoolExecutor(8) as pool:
        assert torch.allclose(torch.cat(list(pool.map(one, range(8)))), wanted, atol=1e-4)
    unguided = shared.translate(images, whole, style, guide=Guide(whole[:, None], 0.0))
    assert torch.allclose(unguided.image, wanted, atol=1e-4)
