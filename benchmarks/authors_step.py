"""Seconds and GFLOP of one training step of GMM-UNIT: the code that its authors released beside ours, in turns.

    python benchmarks/authors_step.py --code DIR [--steps 5] [--size 128] [--threads N] [--json FILE]

DIR is a clone of the GitHub repository yhlleo/RG-UNIT. Both train at full width on one random image of `--size` pixels
with five random attributes, on the CPU, in this process. Theirs: one update of the discriminator and one of the
generator towards a sampled style, in fp32, with their networks, loss functions, optimisers (AdamW) and the numbers of
their configs/gmmunit_celeba.yaml, except batch 1 and no perceptual term (it needs a VGG's weights). Ours:
`GmmUnit.step` of stage 1 of the preset paper-celeba-128 without the isometry term, which their code does not compute,
and without a VGG, in fp32 and in bf16. A step of their training loop makes two updates of each network, the second
towards the style of another real image, with the perceptual term on, then the moving averages and the learning rates;
none of these is timed, on either side.

The two steps are not the same arithmetic. Theirs judges by two scales of five convolutions (ours: one of four), has no
mask (their setting; ours has one), clips gradients, encodes the source and makes the fake once for each network (ours:
once), sends the discriminator's gradient through the generator and the generator's into the discriminator's weights,
where neither is used, and encodes the cycle image, content too, for the style term (ours reads the style of the fake).
At 128 pixels torch counts 437 GFLOP for theirs and 309 for ours; 71 are the generator's unused gradient.

Nothing of theirs is copied or changed: modules are imported from DIR/core. Shimmed while they are imported: the package
`core` itself (its own start imports every stage), `data` (files and transforms), `munch` (a namespace for figures that
are printed), `timm` (learning rate schedules) and `yaml` (the settings are read here). Nothing of CUDA is called.

Medians of `--steps` turns after 3 that are not counted; `ratio` is the median over the turns of their time over the
contender's. FLOPs by torch's counter. Where other work keeps the cores busy, torch's threads wait for each other and no
figure means much; there `--threads 1` is fairer.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from train_step import count_flops, measure, update_of

from translation.config import load_config

SETTINGS = "configs/gmmunit_celeba.yaml"
MODULES = ("basic_modules", "gmmunit_solver", "losses", "models", "optims", "utils")
SHIMS: dict[str, dict[str, object]] = {
    "data": {"build_dataset": None, "build_loader": None},
    "munch": {"Munch": SimpleNamespace},
    "timm": {},
    "timm.scheduler": {},
    "timm.scheduler.cosine_lr": {"CosineLRScheduler": None},
    "timm.scheduler.step_lr": {"StepLRScheduler": None},
    "yaml": {},
}
OURS = {"ours": "32-true", "ours, bf16": "bf16-mixed"}
THEIRS = "theirs"
CLIP = 2.0  # the norm that their training loop clips gradients to
WARM_UP = 3
CPU = torch.device("cpu")


def fail(problem: str) -> NoReturn:
    """End with status 1 and one line."""
    sys.exit(f"authors_step.py: {problem}")


def check(code: Path) -> None:
    """End unless the folder has every file that is imported or read."""
    if not code.is_dir():
        fail(f"--code {code} is not a folder: clone the GitHub repository yhlleo/RG-UNIT and name its folder")
    wanted = [*(f"core/{name}.py" for name in MODULES), SETTINGS]
    if missing := [name for name in wanted if not (code / name).is_file()]:
        fail(f"--code {code} is no checkout of the GitHub repository yhlleo/RG-UNIT: it lacks {', '.join(missing)}")


@contextmanager
def shims(code: Path) -> Iterator[None]:
    """Stand-ins for packages that the step does not need, in place while the authors' modules are imported."""
    package = ModuleType("core")
    package.__path__ = [str(code / "core")]
    stand_ins = {"core": package}
    for name, attributes in SHIMS.items():
        stand_ins[name] = ModuleType(name)
        vars(stand_ins[name]).update(attributes)
    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)


def load_solver(code: Path) -> Any:
    """Their module of the stage, with all that it imports."""
    try:
        with shims(code):
            return importlib.import_module("core.gmmunit_solver")
    except (ImportError, AttributeError, SyntaxError) as error:
        fail(f"--code {code} cannot be imported with torch {torch.__version__}: {error}")


def read_settings(file: Path) -> dict[str, Any]:
    """The settings of a YAML file of `name: value` lines, with sections of one level."""
    settings: dict[str, Any] = {}
    section = settings
    for text in file.read_text().splitlines():
        name, _, value = (part.strip() for part in text.split("#")[0].partition(":"))
        if not name:
            continue
        if not value:
            section = settings[name] = {}
            continue
        try:
            known = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            known = value  # a word
        (section if text[0].isspace() else settings)[name] = known
    return settings


def their_step(code: Path, size: int) -> Callable[[], None]:
    """One update of the discriminator and one of the generator, to be called again and again."""
    solver, settings = load_solver(code), read_settings(code / SETTINGS)
    settings |= {"batch_size": 1, "img_size": size, "lambda_vgg": 0}
    settings["dis"]["img_size"] = size
    torch.manual_seed(0)
    generator, discriminator = solver.AdaINGen(settings["gen"]), solver.MsImageDis(settings["dis"])
    generator.apply(solver.weights_init("kaiming"))
    discriminator.apply(solver.weights_init("gaussian"))
    generator_optimizer, discriminator_optimizer = (
        solver.build_optimizer(network, base_lr=settings["lr"]) for network in (generator, discriminator)
    )
    image = torch.rand(1, 3, size, size).mul(2).sub(1)
    labels, target = torch.randint(0, 2, (2, 1, settings["num_cls"])).float()
    components = [
        solver.assign_gmm_componet(bits, num_cls=settings["num_cls"], mode=settings["dataset_name"])
        for bits in (labels, target)
    ]
    networks, mask = (discriminator, generator), settings["gen"]["use_attention"]

    def step() -> None:
        loss, _ = solver.compute_d_loss(*networks, settings, image, None, labels, *components, mask, CPU)
        update(loss, discriminator, discriminator_optimizer)
        loss, _ = solver.compute_g_loss(*networks, settings, image, None, labels, target, *components, mask, device=CPU)
        update(loss, generator, generator_optimizer)

    return step


def update(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One update of a network, its gradient clipped."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()


def rows(code: Path, size: int, steps: int) -> list[dict[str, Any]]:
    """The figures, a contender a row."""
    contenders: dict[str, Callable[[], object]] = {THEIRS: their_step(code, size)}
    config = load_config("paper-celeba-128", overrides=["translation.weights.isometry=0", f"data.size={size}"])
    for name, precision in OURS.items():
        contenders[name] = update_of(config, precision, CPU, "stage 1")
    flops = {name: count_flops(step) for name, step in contenders.items()}
    measure(contenders, WARM_UP - 1, CPU)
    seconds = measure(contenders, steps, CPU)
    found = []
    for name, taken in seconds.items():
        median, ratios = statistics.median(taken), zip(seconds[THEIRS], taken, strict=True)
        found.append(
            {
                "contender": name,
                "precision": OURS.get(name, "32-true"),
                "size": size,
                "steps": steps,
                "seconds": median,
                "gflop": flops[name] / 1e9,
                "gflop_per_second": flops[name] / 1e9 / median,
                "ratio": statistics.median(theirs / ours for theirs, ours in ratios),
            }
        )
    return found


def main() -> None:
    """Print one line a contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, metavar="DIR", help="a clone of yhlleo/RG-UNIT; none: nothing is done")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="pixels, a multiple of 64")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if arguments.steps < 1 or (arguments.threads or 1) < 1:
        parser.error("--steps and --threads take a number from 1")
    if arguments.size < 64 or arguments.size % 64:
        parser.error(f"--size takes a multiple of 64, not {arguments.size}")
    if arguments.code is None:
        print("Give --code DIR, a clone of the GitHub repository yhlleo/RG-UNIT, to time its code beside ours.")
        return
    check(arguments.code)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{'contender':12} {'precision':11} s/step  GFLOP  GFLOP/s  ratio")
    found = rows(arguments.code, arguments.size, arguments.steps)
    for row in found:
        print(
            f"{row['contender']:12} {row['precision']:11} {row['seconds']:6.3f} {row['gflop']:6.1f} "
            f"{row['gflop_per_second']:8.1f} {row['ratio']:6.2f}"
        )
    if arguments.json is not None:
        machine: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}
        machine |= {"torch": torch.__version__, "load": os.getloadavg()[0]}
        arguments.json.write_text(json.dumps({"machine": machine, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
