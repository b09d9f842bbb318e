"""What a program imports of translation is there, and `import translation` alone loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import translation


def test_every_public_name_is_there() -> None:
    for name in translation.__all__:
        assert getattr(translation, name) is not None
    assert sorted(translation.__all__) == sorted(name for names in translation._HOMES.values() for name in names)


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, translation; assert 'torch' not in sys.modules and 'faiss' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
