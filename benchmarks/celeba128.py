"""One GPU, 128 px: `celeba-128` guided and unguided, in one call of at most ten minutes on a bare machine.

    python benchmarks/celeba128.py pack FOLDER LABELS.csv .gpu       # here: what has to be carried, at most 60 MiB
    python3 benchmarks/celeba128.py train .gpu $OUT --minutes 9      # there, where torch is and rgunit is not
    python benchmarks/celeba128.py judge .gpu OUT WORK [-- --judge FILE.onnx …]    # here, of what came back

`pack` writes the pictures again as JPEG of 128 px, the labels, this package and what an image with PyTorch, Lightning,
h5py and ONNX lacks, as wheels for its Python. `train` adds the pictures, trains stages 1 and 2 and both arms of stage 3
(`evaluate guidance --until arms`), and leaves averaged weights in half precision, samples and figures in files of under
16 MB. `judge` unpacks them and ends the same command, with what stands behind `--`. The rehearsal on a CPU: all three,
`pack --no-wheels`, `train --device cpu --steps 3`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

LIMIT_MIB, FILE_MIB = 60, 15
NEEDED = (
    *("alembic", "mako", "sqlalchemy", "greenlet", "pydantic", "pydantic-core", "annotated-types"),
    *("typing-inspection", "typing-extensions", "faiss-cpu", "pytorch-metric-learning", "lightning-fabric"),
)
PLATFORMS = ("2_28", "2_27", "2_24", "2_17")
USED = "Black_Hair,Blond_Hair,Brown_Hair,Male,Young"
SHARES = {"translation": 0.45, "retrieval": 0.05, "arm": 0.13}
"""Of the minutes: stage 1, stage 2 and each of the two arms; the rest is reading, indexing and starting."""


def pack(folder: Path, labels: Path, target: Path, *, size: int, quality: int, python: str, wheels: bool) -> None:
    """Write what has to be carried to `target`, and fail where it is more than `LIMIT_MIB`."""
    from PIL import Image

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with labels.open(newline="", encoding="utf-8") as file:
        names = [row[0] for row in csv.reader(file)][1:]
    with zipfile.ZipFile(target / "images.zip", "w") as whole:
        for name in names:
            kept = io.BytesIO()
            with Image.open(folder / name) as image:
                image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS).save(kept, "JPEG", quality=quality)
            whole.writestr(name, kept.getvalue())
    shutil.copy(labels, target / "labels.csv")
    if wheels:
        here = Path(__file__).parents[1]
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "-w", str(target), str(here)], check=True)
        platforms = [word for one in PLATFORMS for word in ("--platform", f"manylinux_{one}_x86_64")]
        only = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        subprocess.run([*pip, "download", *only, *platforms, "-d", str(target), *NEEDED], check=True)
    mib = {file.name: file.stat().st_size / 2**20 for file in sorted(target.iterdir())}
    for name, one in mib.items():
        print(f"{one:7.1f} MiB  {name}")
    print(f"{sum(mib.values()):7.1f} MiB in all")
    if sum(mib.values()) > LIMIT_MIB:
        sys.exit(f"more than {LIMIT_MIB} MiB: take fewer pictures or a lower --quality")


def train(carried: Path, out: Path, *, minutes: float, steps: int | None, device: str, preset: str, seed: int) -> None:
    """Train everything there, and leave in `out` what is to come back."""
    begun = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as text:
        work, site = Path(text), Path(text) / "site"
        paths = [os.environ.get("PYTHONPATH", "")]
        wheels = [str(file) for file in carried.glob("*.whl")]
        if wheels:
            quiet = ["-q", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
            subprocess.run([sys.executable, "-m", "pip", "install", *quiet, "--target", str(site), *wheels], check=True)
            paths.insert(0, str(site))
        else:
            paths.insert(0, str(Path(__file__).parents[1]))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        common = ["-w", str(work / "faces"), "--seed", str(seed), "--device", device]
        add(carried, work, common)
        left = minutes - (time.monotonic() - begun) / 60
        arm = ["--minutes", f"{SHARES['arm'] * left:.2f}"] if steps is None else ["--steps", str(steps)]
        stages = ["--translation-minutes", f"{SHARES['translation'] * left:.2f}"]
        stages += ["--retrieval-minutes", f"{SHARES['retrieval'] * left:.2f}"]
        if steps is not None:
            stages += ["--set", f"translation.steps={steps}", "--set", f"retrieval.steps={steps}"]
        words = ["evaluate", "guidance", "--rows", "1", "--seeds", str(seed), "--arms", "unguided,guided"]
        words += ["--preset", preset, "--attributes-used", USED, *stages, *arm]
        carry = ["--until", "arms", "--carry", str(work / "small"), "--out", str(work / "results")]
        rgunit(*common, *words, *carry)
        keep(work, out)
        about = {"seconds": time.monotonic() - begun, "minutes": minutes, "seed": seed, "words": words}
        (out / "about.json").write_text(json.dumps(about, indent=1))
    print(f"done in {time.monotonic() - begun:.0f} s")


def keep(work: Path, out: Path) -> None:
    """The slim workspace and the results as a zip file in parts, and each run's last sample."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("small", "results"):
            for path in sorted((work / name).rglob("*")):
                if path.is_file() and not {"cache", "shards", "graphs", "tensorboard"} & set(
                    path.relative_to(work).parts
                ):
                    file.write(path, path.relative_to(work))
    data = whole.getvalue()
    for number, start in enumerate(range(0, len(data), FILE_MIB * 2**20)):
        (out / f"part-{number}").write_bytes(data[start : start + FILE_MIB * 2**20])
    for path in sorted((work / "small" / "runs").glob("*/samples")):
        if last := sorted(path.glob("*.png"))[-1:]:
            shutil.copy(last[0], out / f"{path.parent.name}.png")


def add(carried: Path, work: Path, common: Sequence[str]) -> None:
    """Unpack the pictures and register them."""
    with zipfile.ZipFile(carried / "images.zip") as whole:
        whole.extractall(work / "images")
    labels = ["--attributes", str(carried.absolute() / "labels.csv"), "--groups", "Black_Hair|Blond_Hair|Brown_Hair"]
    rgunit(*common, "add", str(work / "images"), *labels)


def rgunit(*words: str) -> None:
    """The command, in this Python."""
    print("rgunit", *words, flush=True)
    subprocess.run([sys.executable, "-m", "cli", *words], check=True)


def judge(carried: Path, out: Path, work: Path, more: Sequence[str]) -> None:
    """Unpack what came back into `work`, where its pictures are found again by their content, and judge it."""
    data = b"".join(part.read_bytes() for part in sorted(out.glob("part-*"), key=lambda one: int(one.name[5:])))
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        whole.extractall(work)
    about = json.loads((out / "about.json").read_text())
    common = ["-w", str(work / "small"), "--seed", str(about["seed"])]
    add(carried, work, common)
    rgunit(*common, *about["words"], "--out", str(work / "results"), *more)


def main(words: list[str] | None = None) -> None:
    """Pack, train or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    one = kinds.add_parser("pack")
    one.add_argument("folder", type=Path)
    one.add_argument("labels", type=Path)
    one.add_argument("target", type=Path)
    one.add_argument("--size", type=int, default=128)
    one.add_argument("--quality", type=int, default=60)
    one.add_argument("--python", default="3.12", help="version of the Python there")
    one.add_argument("--no-wheels", action="store_true")
    one = kinds.add_parser("train")
    one.add_argument("carried", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--minutes", type=float, default=9.0)
    one.add_argument("--steps", type=int, help="of every stage instead: a rehearsal")
    one.add_argument("--device", default="cuda")
    one.add_argument("--preset", default="celeba-128")
    one.add_argument("--seed", type=int, default=0)
    one = kinds.add_parser("judge")
    one.add_argument("carried", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("work", type=Path)
    one.add_argument("more", nargs="*", help="further options of `evaluate guidance`, behind --")
    args = parser.parse_args(words)
    if args.what == "pack":
        options = {"size": args.size, "quality": args.quality, "python": args.python, "wheels": not args.no_wheels}
        pack(args.folder, args.labels, args.target, **options)
    elif args.what == "train":
        options = {"minutes": args.minutes, "steps": args.steps, "device": args.device, "seed": args.seed}
        train(args.carried, args.out, preset=args.preset, **options)
    else:
        judge(args.carried, args.out, args.work, args.more)


if __name__ == "__main__":
    main()
