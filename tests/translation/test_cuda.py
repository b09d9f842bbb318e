"""What only a GPU can show: the numbers of a CPU, no step that waits, half precision, every stage end to end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from index_store.runs import CHECKPOINT
from index_store.workspace import Workspace
from tests.translation.small import USED, tiny
from tests.translation.steps import make_batch, make_method, shown_to, step
from tests.translation.test_tiles import guide_of, picture
from tests.translation.test_tiles import make as make_cut
from translation.anysize import fitting, translate_any_size
from translation.config import Config
from translation.evaluation.judging import evaluate_translation_runs
from translation.guidance import PIXELS, AttentionFusion, ConvolutionFusion, Guidance, PatchGuidance, attend
from translation.indexing import fill_index
from translation.methods.gmm_unit import Batch
from translation.networks.blocks import instance_norm
from translation.stages import train_guided, train_retrieval, train_translation
from translation.training.checkpoints import read_state
from translation.translator import Translator

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
KINDS = {"none": None, "convolution": ConvolutionFusion, "attention": AttentionFusion, "patches": PatchGuidance}


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Convolutions in float32, not TF32, so that numbers can be compared."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on(batch: Batch, device: str) -> Batch:
    moved = {k: v.to(device) for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    shown = {k: v.to(device) for k, v in vars(batch.guides).items() if isinstance(v, torch.Tensor)}
    maps = tuple(one.to(device) for one in batch.guides.maps)
    return replace(batch, **moved, guides=replace(batch.guides, **shown, maps=maps))


def fusion_of(kind: str) -> Guidance | None:
    torch.manual_seed(5)
    make: Any = KINDS[kind]
    if make is None:
        return None
    return make(16, 2, start=0.1) if kind == "convolution" else make(16, start=0.1)  # type: ignore[no-any-return]


def made(kind: str, device: str) -> tuple[Any, Batch, dict[str, torch.optim.Optimizer]]:
    """A method, a batch and optimisers; with R1, and guided where there is a kind."""
    fusion = fusion_of(kind)
    method = make_method("translation.weights.gradient_penalty=1", fusion=fusion, train_encoders=fusion is None)
    for network in method.networks.values():
        network.to(device, memory_format=torch.channels_last)
    batch = make_batch()
    if fusion is not None:
        shape = (2, 2, 16 + (PIXELS if fusion.pixels else 0), 8, 8)
        neighbours = torch.randn(shape, generator=torch.Generator().manual_seed(6))
        batch = shown_to(batch, neighbours, alone=fusion.pixels, shown=torch.tensor([True, False]))
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(method.networks[name].parameters(), 1e-3, fused=True)
        for name in ("generator", "discriminator", *(["fusion"] if fusion is not None else []))
    }
    return method, on(batch, device), optimizers


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_gives_the_numbers_of_a_cpu(kind: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        method, batch, optimizers = made(kind, device)
        found.append({name: float(value) for name, value in step(method, batch, optimizers).items()})
    assert found[0] == pytest.approx(found[1], rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_never_waits_for_the_gpu(kind: str) -> None:
    method, batch, optimizers = made(kind, "cuda")
    step(method, batch, optimizers)  # the first one may set things up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(method, batch, optimizers)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_attention_to_patches_is_that_of_a_cpu() -> None:
    g = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2, n, 24, generator=g) for n in (16, 48))
    values = torch.randn(2, 48, 12, generator=g)
    there = attend(queries.cuda(), keys.cuda(), values.cuda()).cpu()
    torch.testing.assert_close(there, attend(queries, keys, values), rtol=1e-4, atol=1e-5)


def test_instance_norm_and_its_gradient_are_those_of_a_cpu() -> None:
    for n in (1, 3):
        results = []
        for device in ("cpu", "cuda"):
            x = torch.randn(n, 6, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
            x = x.to(memory_format=torch.channels_last).requires_grad_()
            weight = torch.randn(n, 6, 8, 8, generator=torch.Generator().manual_seed(2)).to(device)
            y = instance_norm(x)
            (y * weight.to(memory_format=torch.channels_last)).sum().backward()  # type: ignore[no-untyped-call]
            assert x.grad is not None
            results.append((y.detach().cpu(), x.grad.cpu()))
        torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_every_stage_runs_and_is_judged_on_a_gpu(workspace: Workspace, precision: str) -> None:
    def config(*more: str) -> Config:
        return tiny(f"training.precision={precision}", "guided.weights.gradient_penalty=1", *more)

    first = train_translation(workspace, config(), attributes_used=USED, device="cuda")
    longer = train_translation(
        workspace, config("translation.steps=8"), resume=True, attributes_used=USED, device="cuda"
    )
    assert longer.run.id == first.run.id and longer.steps == 8
    assert ("scaler" in read_state(first.run.path / CHECKPOINT)) == (precision == "16-mixed")
    train_retrieval(workspace, config(), device="cuda")
    fill_index(workspace, config(), device="cuda")
    patches = ("guided.guidance=patches", "guided.neighbour_start=0.3", "guided.neighbour_style=true")
    for arm in ("retrieved", "random", "none"):
        done = train_guided(workspace, config(*patches), neighbours=arm, device="cuda")  # type: ignore[arg-type]
        assert done.steps == 3 and all(np.isfinite(value) for value in done.metrics.values())
    settings = {"pairs": 8, "classifier_epochs": 1, "diversity_inputs": 2}
    summary = evaluate_translation_runs(workspace, device="cuda", changes=settings).summary
    assert all(np.isfinite(summary[arm]["fd_attr"]) for arm in ("unguided", "random", "guided", "swapped", "stage1"))


def test_what_a_gpu_trained_translates_alike_on_a_cpu(workspace: Workspace, tmp_path: Path) -> None:
    run = train_translation(workspace, tiny(), attributes_used=USED, device="cuda").run.id
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = []
    for device in ("cpu", "cuda"):
        model = Translator.load(workspace, run, device)
        there = images.to(device)
        style = model.style_mean(torch.tensor([[1, 0, 1], [0, 1, 0]])).to(device)
        made.append(model.translate(there, model.content(there), style).image.cpu())
    torch.testing.assert_close(made[0], made[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["none", "attention", "patches"])
def test_a_picture_in_tiles_is_the_whole_and_that_of_a_cpu(kind: str) -> None:
    pixels, found = picture(150, 213), []
    for device in ("cpu", "cuda"):
        translator = make_cut(kind, device=device)
        guide = guide_of(translator, kind)
        found += [translate_any_size(translator, pixels, guide, most=most).astype(int) for most in (10**6, 9216)]
        assert fitting(translator) > 10**5
    assert all(np.abs(one - found[0]).max() <= 2 for one in found)
