"""What a slim checkpoint keeps of each tensor."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from translation.evaluation.experiments.slim import slim_checkpoint


def test_encoders_and_what_half_cannot_hold_stay_in_full_precision(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    kept = {
        "average.encoder.weight": torch.tensor([0.1, 1.0]),
        "average.decoder.weight": torch.tensor([0.1, 1.0]),
        "average.decoder.whiten": torch.tensor([0.1, 1e5]),
        "average.decoder.count": torch.tensor([3]),
    }
    dropped = {"networks.decoder.weight": torch.ones(2), "optimizers.generator.0.exp_avg": torch.ones(2)}
    save_file(kept | dropped, file, metadata={"rgunit": "{}"})
    slim_checkpoint(file, ["encoder"])
    slim = load_file(file)
    assert slim.keys() == kept.keys()
    for name in kept.keys() - {"average.decoder.weight"}:
        assert slim[name].dtype == kept[name].dtype and torch.equal(slim[name], kept[name])
    assert torch.equal(slim["average.decoder.weight"], kept["average.decoder.weight"].half())
