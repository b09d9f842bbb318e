"""A step never waits for the device, half precision and compiling change nothing else, and memory stays bounded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from index_store import decoded
from index_store.errors import RgunitError
from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from retrieval.train import RetrievalTask
from tests.translation.small import tiny
from tests.translation.steps import make_batch, make_method, shown_to, step, task_of
from tests.translation.training.line import Line, settings
from translation.guidance import PIXELS, AttentionFusion, ConvolutionFusion, Guidance, PatchGuidance
from translation.neighbours import Neighbours
from translation.training.checkpoints import read_state
from translation.training.compiling import compile_networks
from translation.training.loop import train
from translation.translator import Translator

# --- no waiting for the device -------------------------------------------------------------------------------

READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero", "is_nonzero"}
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::index.Tensor"}


@contextmanager
def recorded() -> Iterator[list[str]]:
    """What would make the host wait for an accelerator: values read back, sizes that depend on values, indexing by a
    list of the host's."""
    found: list[str] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(function, "__name__", "") in READS:
                found.append(function.__name__)
            return function(*args, **(kwargs or {}))

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.name() in WAITS:
                found.append(function.name())
            return function(*args, **(kwargs or {}))

    with Functions(), Operations():
        yield found


def test_what_waits_is_seen() -> None:
    with recorded() as found:
        x = torch.ones(3)
        float(x.sum())
        x[x > 0]
        x[[0, 2]]
        x.cpu()
    assert {"aten::_local_scalar_dense", "aten::index.Tensor", "cpu"} <= set(found)


@pytest.mark.parametrize("warmup", [0, 10])
def test_a_step_of_stage_1_never_waits(workspace: Workspace, warmup: int) -> None:
    config = tiny(f"translation.warmup={warmup}", "translation.domain_softmax=true")
    task = task_of(workspace, config)
    batch = task.prepare(0)
    with recorded() as found:
        task.step(0, batch)
    assert found == []


def test_a_step_of_stage_2_never_waits(staged: Workspace) -> None:
    config = tiny("retrieval.optimizer=sgd").retrieval  # Adam reads its count of steps, which lies on the host
    task = RetrievalTask(staged, Translator.load(staged, "r1", "cpu"), config)
    batch = task.prepare(0)
    with recorded() as found:
        task.step(0, batch)
    assert found == []


@pytest.mark.parametrize(
    "fusion", [ConvolutionFusion(16, 2, start=0.1), AttentionFusion(16, start=0.1), PatchGuidance(16, start=0.1)]
)
def test_a_step_of_stage_3_never_waits(fusion: Guidance) -> None:
    method = make_method(fusion=fusion, train_encoders=False)
    shown, hidden = torch.tensor([True, False]), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    images = make_batch()
    neighbours = torch.randn(2, 2, 16 + (PIXELS if fusion.pixels else 0), 8, 8)
    real = (images.images, images.labels)
    batch = shown_to(make_batch(), neighbours, shown=shown, hidden=hidden, real=real)  # type: ignore[arg-type]
    parts = {"generator": "generator", "discriminator": "discriminator", "fusion": "fusion"}
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(method.networks[part].parameters(), fused=True) for name, part in parts.items()
    }
    with recorded() as found:
        step(method, batch, optimizers)
    assert found == []


# --- precision and compiling ---------------------------------------------------------------------------------


def step_with(scaler: torch.amp.GradScaler | None) -> dict[str, torch.Tensor]:
    method = make_method()
    optimizers: dict[str, torch.optim.Optimizer] = {
        "generator": torch.optim.Adam(method.networks["generator"].parameters(), 1e-3, fused=True),
        "discriminator": torch.optim.Adam(method.networks["discriminator"].parameters(), 1e-3, fused=True),
    }
    step(method, make_batch(), optimizers, scaler)
    return {f"{name}.{k}": v for name, network in method.networks.items() for k, v in network.state_dict().items()}


def test_a_scaled_step_is_the_plain_one_and_an_overflow_is_skipped() -> None:
    plain, untouched = step_with(None), make_method().networks["generator"].state_dict()
    scaled = step_with(torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert all(torch.allclose(plain[name], scaled[name], atol=1e-6) for name in plain)
    assert not torch.equal(plain["generator.image.weight"], untouched["image.weight"])
    overflow = torch.amp.GradScaler("cpu", init_scale=1e38)
    skipped = step_with(overflow)
    assert all(torch.equal(skipped[f"generator.{name}"], value) for name, value in untouched.items())
    assert overflow.get_scale() < 1e38


class ScaledLine(Line):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        self.scaler.scale(torch.zeros(()))  # its scale is made on first use


def test_the_scale_is_in_the_checkpoint(tmp_path: Path) -> None:
    train(ScaledLine(256.0), folder=tmp_path, training=settings(), steps=2)
    assert read_state(tmp_path / CHECKPOINT)["scaler"]["scale"] == 256.0
    again = ScaledLine(8.0)
    train(again, folder=tmp_path, training=settings(), steps=3, resume=True)
    assert again.scaler.get_scale() == 256.0


@pytest.mark.slow
def test_without_a_compiler_compiling_is_refused_in_one_line() -> None:
    import torch._inductor.config as inductor

    with (
        inductor.patch({"cpp.cxx": ("/no/such/compiler",), "force_disable_caches": True}),
        pytest.raises(RgunitError, match=r"training\.compile needs a compiler that works") as refused,
    ):
        compile_networks({"line": nn.Linear(2, 2)})
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_compiled_step_is_the_eager_one() -> None:
    def terms(compiled: bool) -> dict[str, torch.Tensor]:
        method = make_method("translation.weights.gradient_penalty=1")
        if compiled:
            compile_networks(method.networks)
        optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.SGD(method.networks["generator"].parameters(), 1e-3),
            "discriminator": torch.optim.SGD(method.networks["discriminator"].parameters(), 1e-3),
        }
        return [step(method, make_batch(), optimizers) for _ in range(2)][1]

    eager, compiled = terms(False), terms(True)
    assert eager.keys() == compiled.keys()
    assert all(torch.allclose(eager[name], compiled[name], rtol=1e-3, atol=1e-4) for name in eager)


# --- memory --------------------------------------------------------------------------------------------------


def test_the_loader_holds_no_more_pixels_than_its_cache(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    image = 3 * 32 * 32
    monkeypatch.setattr(decoded, "MOST", 8 * image)
    task = task_of(workspace, tiny())
    for number in range(4):
        task.prepare(number)
    tracemalloc.start()
    for number in range(4, 60):
        task.prepare(number)  # about two epochs
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 30 * image < len(task.draws.labels) * image


def test_neighbours_hold_no_more_maps_than_their_cache(staged: Workspace) -> None:
    neighbours = Neighbours(staged, Translator.load(staged, "r1", "cpu"), None, k=2)
    one = neighbours.content(neighbours.pool[:1, None])
    neighbours._limit = 5 * one.numel() * 2  # maps are kept in half precision
    for image in neighbours.pool:
        neighbours.content(np.array([[image]]))
    assert len(neighbours._cache) == 5 and neighbours._bytes == neighbours._limit
    assert int(neighbours.pool[-1]) in neighbours._cache, "the least recently used goes"


def test_neighbours_hold_no_more_styles_than_told(staged: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("translation.neighbours.STYLES", 3)
    model = Translator.load(staged, "r1", "cpu")
    neighbours, wanted = Neighbours(staged, model, None, k=2), model.style_mean(torch.tensor([[1, 0, 0]]))
    pairs = neighbours.pool[:8].reshape(4, 1, 2)
    first = [neighbours.style(ids, wanted) for ids in pairs]
    assert len(neighbours._styles) == 3
    again = [neighbours.style(ids, wanted) for ids in pairs]
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other)
