"""Traps of a loop that serves any method: changing terms, buffers, networks without weights, absent gradients."""

from __future__ import annotations

import math
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn

from translation.methods import Loss, Steps
from translation.training.compiling import compile_networks
from translation.training.loop import _sizes, _update_average
from translation.training.processes import average_gradients, mean_of_processes
from translation.training.sums import Sums
from translation.training.task import Engine


def test_a_term_that_comes_and_goes_is_a_mean_over_its_own_steps() -> None:
    sums = Sums()
    for step in range(1, 5):
        terms = {"always": torch.tensor(float(step))}
        if step % 2:
            terms["odd"] = torch.tensor(10.0 * step)
        sums.add(step, terms)
    assert sums.means() == {"always": 2.5, "odd": 20.0}
    again = Sums.restored(sums.state())
    again.add(5, {"odd": torch.tensor(50.0)})
    assert again.means() == {"always": 2.5, "odd": 30.0}
    assert Sums.restored({"steps": 2, "total": {"old": 6.0}}).means() == {"old": 3.0}, "of an older checkpoint"
    assert Sums.restored({}).means() == {}


def test_the_first_term_that_is_no_number_is_named_among_changing_ones() -> None:
    sums = Sums()
    sums.add(1, {"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
    sums.add(2, {"a": torch.tensor(math.nan)})
    sums.add(3, {"a": torch.tensor(math.nan), "b": torch.tensor(math.inf)})
    assert sums.spoilt() == (["a"], 2)


class Counting(nn.Module):
    """Batch norm and a count of wins."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("wins", torch.zeros(3, dtype=torch.int64))


def test_the_moving_average_keeps_buffers() -> None:
    network, average = Counting(), Counting()
    network.norm(torch.randn(8, 2) * 3 + 5)
    network.get_buffer("wins")[1] = 7
    _update_average({"n": average}, {"n": network}, 0.9)
    assert average.get_buffer("wins").tolist() == [0, 7, 0]
    assert network.norm.running_mean is not None and average.norm.running_mean is not None
    assert torch.equal(average.norm.running_mean, network.norm.running_mean)
    assert int(average.norm.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_a_network_without_parameters_is_no_exception() -> None:
    plain = nn.Upsample(scale_factor=2)
    assert _sizes({"up": plain, "line": nn.Linear(1, 1)}).keys() == {"the weights of line"}
    _update_average({"up": nn.Upsample(scale_factor=2)}, {"up": plain}, 0.9)
    partly = nn.ParameterList([nn.Parameter(torch.zeros(0)), nn.Parameter(torch.full((2,), -3.0))])
    assert _sizes({"partly": partly}) == {"the weights of partly": 3.0}


@pytest.mark.slow
def test_networks_without_parameters_are_compiled() -> None:
    compile_networks({"up": nn.Upsample(scale_factor=2)})


def step_in_a_process(rank: int, folder: Path) -> None:
    """Process 0 has a gradient of `first` alone, process 1 of `second` alone; `third` has none anywhere."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    first, second, third = (nn.Parameter(torch.zeros(n)) for n in (2, 3, 2))
    optimizer = torch.optim.SGD([first, second, third], 1.0)
    average_gradients([optimizer])
    (4.0 * (first if rank == 0 else second).sum()).backward()
    optimizer.step()
    assert third.grad is None
    sums = Sums()
    sums.add(1, {"both": torch.tensor(1.0 + rank)})
    if rank == 1:  # what only one process has waits for no other, and mixes with nothing
        sums.add(2, {"mine": torch.tensor(5.0)})
        sums.add(3, {"both": torch.tensor(6.0)})
    found = [sums.means(), Sums.restored(sums.state()).means(), mean_of_processes({} if rank else {"a": 3.0})]
    torch.save([first.detach(), second.detach(), found], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_what_only_one_process_has(tmp_path: Path) -> None:
    """An absent gradient counts as 0 in the mean; an absent number does not count."""
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=step_in_a_process, args=(rank, tmp_path)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    for rank in (0, 1):
        first, second, found = torch.load(tmp_path / f"{rank}.pt")
        assert first.tolist() == [-2, -2] and second.tolist() == [-2, -2, -2]
        assert found[0] == found[1] == {"both": 2.5, "mine": 5.0}, "the mean of 1 and of (2 + 6) / 2"
        assert found[2] == {"a": 3.0}


def test_a_player_without_parameters_learns_nothing_and_stops_nobody() -> None:
    weight = nn.Parameter(torch.ones(1))
    players = {
        "none": torch.optim.Adam([{"params": []}]),
        "one": torch.optim.SGD([weight], 1.0),
    }

    def steps() -> Steps:
        yield Loss(("none",), {"a": torch.ones(())})
        yield Loss(("one", "none"), {"b": 2 * weight.sum()})
        return weight

    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1.0)):
        told = Engine(players, scaler=scaler).run(steps())
        assert told.keys() == {"none/a", "one/b"}
    assert weight.item() == -3
