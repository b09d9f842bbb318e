"""Two processes are one with the double batch: the same gradients, one run, one writer."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.places import ROOT
from tests.translation.small import TINY, USED
from tests.translation.steps import A, make_method, optimizers, step
from translation.methods.gmm_unit import GmmUnit
from translation.sampling import Batch
from translation.training.checkpoints import read_state
from translation.training.metrics import read_metrics
from translation.training.processes import average_gradients

IMAGES = 8
PENALTY = "translation.weights.gradient_penalty=2"


def batch() -> Batch:
    """Images of which the first three have unknown labels: more in one half than in the other."""
    g = torch.Generator().manual_seed(3)
    images = torch.rand(IMAGES, 3, 32, 32, generator=g) * 2 - 1
    labels, target = torch.randint(0, 2, (2, IMAGES, A), generator=g)
    labels[0, :2], labels[1], labels[2, 1] = -1, -1, -1
    return Batch(images, labels, target, torch.randn(3, IMAGES, 8 * A, generator=g))


def part(whole: Batch, rows: slice) -> Batch:
    return Batch(whole.images[rows], whole.labels[rows], whole.target[rows], whole.noise[:, rows])


def gradients(method: GmmUnit) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": parameter.grad
        for name, network in method.networks.items()
        for key, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def started(settings: Sequence[str]) -> GmmUnit:
    """A method whose discriminator is steep enough for R1 to have a gradient."""
    method = make_method(*settings)
    with torch.no_grad():
        for parameter in method.networks["discriminator"].parameters():
            parameter.mul_(10)
    return method


def step_in_a_process(rank: int, folder: Path, settings: Sequence[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    method = started(settings)
    ours = optimizers(method, rate=1e-4)
    average_gradients(ours.values())
    half = IMAGES // 2
    step(method, part(batch(), slice(rank * half, rank * half + half)), ours)
    found = {"followed": method.generator.followed, **gradients(method)}
    save_file({name: value.contiguous() for name, value in found.items()}, folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "settings", [(), (PENALTY,), (PENALTY, "translation.domain_softmax=true", "translation.mask_followed=0.5")]
)
def test_two_processes_have_the_gradients_of_one_with_the_double_batch(tmp_path: Path, settings: Sequence[str]) -> None:
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=step_in_a_process, args=(rank, tmp_path, settings)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    method = started(settings)
    step(method, batch(), optimizers(method, rate=1e-4))  # the second loss sees what the first has moved
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    alone = gradients(method)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert first["followed"] == second.pop("followed") == pytest.approx(float(method.generator.followed))
    assert bool(first.pop("followed")) is ("translation.mask_followed=0.5" in settings)
    assert alone.keys() == first.keys() and any(name.startswith("discriminator") for name in alone)
    assert all(torch.equal(first[name], second[name]) for name in first)
    scale = max(float(value.abs().max()) for value in alone.values())
    assert scale > 0.1
    assert max(float((first[name] - value).abs().max()) for name, value in alone.items()) < 1e-5 * max(1.0, scale)


def torchrun(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cli", "-w", str(path)]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_torchrun_opens_one_run_and_draws_a_double_batch(workspace: Workspace) -> None:
    path = workspace.path
    workspace.close()
    overrides = [word for override in TINY for word in ("--set", override)]
    chosen = ["--preset", "demo", "--attributes-used", ",".join(USED), *overrides, "--json"]
    done = torchrun(path, "train", "translation", *chosen, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4, "the first process answers, the other is silent"
    with Workspace.open(path) as again:
        (run,) = again.runs()
        assert (run.status, run.steps) == ("done", 4)
    assert read_state(run.path / CHECKPOINT)["step"] == 4
    assert [row["step"] for row in read_metrics(run.path)] == [2, 4]


def test_fp16_is_for_one_process_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from translation.config import TrainingConfig
    from translation.training.loop import make_fabric

    with pytest.raises(RgunitError, match="16-mixed needs a GPU: on a CPU take bf16-mixed or 32-true"):
        make_fabric(TrainingConfig(precision="16-mixed"), "cpu")
