"""A workspace in a `DataLoader` with workers, forked and started anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from index_store.workspace import Workspace
from tests.places import ROOT


class Pictures(Dataset[Any]):
    """Pictures with their nearest neighbours."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.ids = workspace.images("origin=real").ids
        self.encoder = "r2"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        store, number = self.workspace.store(), self.ids[[row]]
        found = store.search(store.vectors(number, encoder=self.encoder), k=1, encoder=self.encoder)
        return self.workspace.load(number, 16)[0], int(found.ids[0, 0])


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_a_loader_with_workers_over_a_workspace(staged: Workspace, start: str) -> None:
    pictures = Pictures(staged)
    expected = [pictures[row] for row in range(len(pictures))]  # the parent has searched
    loader = DataLoader(pictures, batch_size=8, num_workers=2, multiprocessing_context=start)
    for _ in range(2):
        batches = list(loader)
        pixels = torch.cat([batch[0] for batch in batches]).numpy()
        assert np.array_equal(pixels, np.stack([one for one, _ in expected]))
        assert torch.cat([batch[1] for batch in batches]).tolist() == [found for _, found in expected]


def test_the_loader_of_the_guide(
    staged: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "demo").symlink_to(staged.path)
    monkeypatch.chdir(tmp_path)
    block = (ROOT / "docs" / "python.md").read_text().split("```python\n")[3].split("```")[0]
    exec(compile(block, "python.md", "exec"), {"__name__": "guide"})
    assert capsys.readouterr().out.startswith("torch.Size([32, 64, 64, 3]) torch.Size([32, ")
