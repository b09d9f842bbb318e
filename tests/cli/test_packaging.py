"""What the package promises before it does anything: pinned, typed, layered, quick to start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.places import ROOT

LAYERS = ("index_store", "retrieval", "translation", "cli")  # each may import those before it
HEAVY = ("torch", "torchvision", "numpy", "sqlalchemy", "pydantic", "rich", "h5py", "faiss", "PIL", "lightning_fabric")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def modules_after(code: str) -> set[str]:
    """The top-level packages that a fresh Python has imported after some code."""
    listing = f"{code}\nimport sys\nprint('modules:', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("modules:")[1].split())


def imported_packages(file: Path) -> set[str]:
    """The top-level packages that a source file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("name", ["run.txt", "dev.txt", "search.txt", "docs.txt", "uv.txt"])
def test_requirements_are_pinned_by_hash_and_name_no_index(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"^\s*(-i\b|--index-url|--extra-index-url|--find-links|--trusted-host)", text, re.MULTILINE)
    assert "://" not in text
    logical = re.sub(r"\\\n\s*", " ", text).splitlines()
    packages = [line for line in logical if line and not line.lstrip().startswith("#")]
    assert packages
    for line in packages:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]+\])?==", line), line
        assert "--hash=sha256:" in line, line


def test_what_builds_the_site_goes_into_the_same_environment() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / name).read_text()
        return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.MULTILINE))

    site, rest = pins("docs.txt"), pins("dev.txt")
    assert "mkdocs-material" in site
    assert not {name for name in site.keys() & rest.keys() if site[name] != rest[name]}


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_one_way(package: str) -> None:
    above = set(LAYERS[LAYERS.index(package) + 1 :])
    for file in (ROOT / package).rglob("*.py"):
        assert not imported_packages(file) & above, file


def test_the_store_never_imports_torch() -> None:
    for file in (ROOT / "index_store").rglob("*.py"):
        assert not imported_packages(file) & {"torch", "torchvision", "lightning_fabric"}, file
    assert "torch" not in modules_after("import index_store.store, index_store.workspace")


def test_help_imports_nothing_heavy() -> None:
    loaded = modules_after("from cli.main import main\nassert main(['--help']) == 0")
    assert not loaded & set(HEAVY)


def test_info_needs_no_torch(labelled: Path) -> None:
    loaded = modules_after(f"from cli.main import main\nassert main(['-w', {str(labelled)!r}, 'info', '--json']) == 0")
    assert not loaded & {"torch", "torchvision", "lightning_fabric", "faiss"}


def test_the_version_is_the_projects(process) -> None:
    answer = process("--version")
    assert (answer.status, answer.out) == (0, f"rgunit {PROJECT['version']}\n")


def test_every_package_says_that_it_is_typed() -> None:
    assert all((ROOT / package / "py.typed").exists() for package in LAYERS)


def test_the_licence_is_there_and_the_one_named() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_no_file_names_a_machine_or_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("no git checkout")
    words = ("/wo" + "rk/", "/ro" + "ot/", "files.python" + "hosted", "py" + "pi.org/simple")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ".j2", ".json"} and path.is_file():
            text = path.read_text()
            assert not [word for word in words if word in text], name
