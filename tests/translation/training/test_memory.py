"""Settings that need more memory than there is end in a sentence."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch

from index_store.errors import RgunitError
from index_store.workspace import Workspace
from tests.translation.small import USED, tiny
from translation.stages import train_retrieval, train_translation
from translation.training import memory
from translation.training.memory import free_bytes, within_memory


@pytest.fixture(autouse=True)
def _a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * 10**8)


@pytest.mark.parametrize(
    "settings",
    [
        ("networks.width=300",),
        ("networks.width=1e12",),
        ("networks.discriminator_width=500",),
        ("data.size=16384",),
        ("translation.batch=6", "data.size=8192"),
    ],
)
def test_a_run_of_too_large_settings_ends_in_a_sentence(staged: Workspace, settings: tuple[str, ...]) -> None:
    with pytest.raises(RgunitError, match="needs more memory than there is") as error:
        train_translation(staged, tiny(*settings), attributes_used=USED, device="cpu")
    assert "\n" not in str(error.value) and "networks.width" in str(error.value)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
    assert staged.runs()[-1].status in ("failed", "done") and torch.zeros(10**8).numel()


def test_the_first_allocation_that_is_too_much_is_told_and_others_are_as_they_were() -> None:
    for take in (lambda: np.ones(10**8), lambda: torch.ones(10**8), lambda: bytearray(10**9)):
        told = r"it needs more memory than there is \(0\.3 GB are free\): buy some"
        with pytest.raises(RgunitError, match=told), within_memory("it", "cpu", "buy some"):
            take()
    with pytest.raises(ValueError, match="other"), within_memory("it", "cpu"):
        raise ValueError("other")


def test_what_is_free_is_known() -> None:
    free = free_bytes()
    assert free is None or 10**8 < free < 10**14


def test_a_second_stage_is_limited_too(staged: Workspace) -> None:
    with pytest.raises(RgunitError, match="needs more memory"):
        train_retrieval(staged, tiny("retrieval.hidden=30000000"), device="cpu")
