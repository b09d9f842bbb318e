"""torch.compile as an option: the networks stay the same modules with the same weights, their forward is compiled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from index_store.errors import RgunitError


def compile_networks(networks: Mapping[str, nn.Module]) -> None:
    """Compile each forward in place, on its first call. RgunitError where a trial on the networks' device fails."""
    device = next((p.device for network in networks.values() for p in network.parameters()), torch.device("cpu"))
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RgunitError(
            f"training.compile needs a compiler that works, and here it fails ({reason[0]}): "
            "install g++ (and Triton for a GPU), or leave the setting false"
        ) from None
    for network in networks.values():
        network.compile()
