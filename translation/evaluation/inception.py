"""FID, KID, IS and LPIPS by torchmetrics, with the networks that other papers measure by: their weights are yours.

None is shipped or downloaded. A file is safetensors, or a PyTorch state dictionary that is read without running any
code in it. FID, KID and IS see images resized to 299 px; all follow this project's protocol (half A's translations
against half B's real images), so that they compare arms here, not with a paper's table.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from index_store.errors import RgunitError

CACHE = "cache"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SOURCE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + INCEPTION_FILE
ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ALEXNET_SOURCE = "https://download.pytorch.org/models/" + ALEXNET_FILE
BATCH = 32
KID_SUBSETS, KID_SUBSET = 100, 1000  # torchmetrics' own; fewer images: subsets of half of them
SPLITS = 10  # of the Inception Score
_BACKBONES: dict[tuple[int, ...], str] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}  # by their first kernel


@dataclass(frozen=True)
class Reading:
    """What Inception sees in n images: `features` float32 [n, 2048] and unbiased `logits` float32 [n, 1008]."""

    features: NDArray[np.float32]
    logits: NDArray[np.float32]


class Inception:
    """The Inception v3 of Heusel et al. 2017, as torchmetrics runs it. RgunitError where `weights` is not its file."""

    def __init__(self, weights: str, device: str = "cpu") -> None:
        from torchmetrics.image.fid import NoTrainInceptionV3

        path = find_weights(weights, "--inception-weights", INCEPTION_FILE, INCEPTION_SOURCE)
        state = read_weights(path)
        buffer: Any = io.BytesIO()  # torch-fidelity unpickles what it is given: it gets what was read safely
        torch.save(state, buffer)
        buffer.seek(0)
        try:
            network = NoTrainInceptionV3("inception-v3-compat", ["2048"], buffer)
        except RuntimeError as error:
            raise RgunitError(
                f"{path} does not hold the weights of FID's Inception v3 ({_short(error)}): take {INCEPTION_SOURCE}"
            ) from None
        self.path, self.device = path, torch.device(device)
        self._network: Any = network.to(self.device)

    def read(self, images: NDArray[np.uint8]) -> Reading:
        """Features and logits of n > 0 images [n, S, S, 3]."""
        features = []
        for start in range(0, len(images), BATCH):
            pixels = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2).contiguous()
            with torch.inference_mode():
                features.append(self._network(pixels.to(self.device)))
        found = torch.cat(features)
        return Reading(found.cpu().numpy(), found.mm(self._network.fc.weight.T).cpu().numpy())


class PerceptualDistance:
    """LPIPS (Zhang et al. 2018) with its published linear weights, on an AlexNet or a VGG-16, whichever the file is."""

    def __init__(self, weights: str, device: str = "cpu") -> None:
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        path = find_weights(weights, "--lpips-weights", ALEXNET_FILE, ALEXNET_SOURCE)
        state = read_weights(path)
        first = state.get("features.0.weight")
        kind = None if first is None else _BACKBONES.get(tuple(first.shape))
        try:
            if kind is None:
                raise KeyError("features.0.weight")
            network: Any = _NoTrainLpips(net=kind, pnet_rand=True)  # type: ignore[arg-type]
            backbone = network.net.state_dict()
            wanted = {key: state[f"features.{key.split('.', 1)[1]}"] for key in backbone}
            network.net.load_state_dict(wanted)
        except (KeyError, RuntimeError) as error:
            raise RgunitError(
                f"{path} does not hold torchvision's AlexNet or VGG-16 ({_short(error)}): take {ALEXNET_SOURCE}"
            ) from None
        self.path, self.kind, self.device = path, kind, torch.device(device)
        self._network: Any = network.to(self.device)

    def diversity(self, images: NDArray[np.uint8]) -> float:
        """Mean LPIPS between the pairs of n ≥ 2 images [n, S, S, 3]."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).to(self.device)
        first, second = np.triu_indices(len(images), k=1)
        with torch.inference_mode():
            return float(self._network(pixels[first], pixels[second], normalize=True).mean())


def kernel_distance(a: NDArray[np.float32], b: NDArray[np.float32], seed: int = 0) -> float:
    """KID (Bińkowski et al. 2018): squared MMD of features [n, d] and [m, d], mean over seeded subsets; may be < 0."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(KID_SUBSET, len(a), len(b))
    size = size if size == KID_SUBSET else max(2, size // 2)
    metric = _quiet(KernelInceptionDistance, subsets=KID_SUBSETS, subset_size=size)
    metric.update(torch.from_numpy(a), real=False)
    metric.update(torch.from_numpy(b), real=True)
    return _seeded(metric, seed)


def inception_score(logits: NDArray[np.float32], seed: int = 0) -> float:
    """IS (Salimans et al. 2016) of logits [n, 1008], mean over at most SPLITS parts of seeded order; ≥ 1."""
    from torchmetrics.image.inception import InceptionScore

    metric = _quiet(InceptionScore, splits=max(1, min(SPLITS, len(logits) // 2)))
    metric.update(torch.from_numpy(logits))
    return _seeded(metric, seed)


def find_weights(given: str, option: str, name: str, source: str) -> Path:
    """The file `given`, or `name` in torch's cache for "cache". RgunitError naming file and remedy where it is not."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name if given == CACHE else Path(given)
    if path.is_file():
        return path
    if given == CACHE:
        raise RgunitError(f"torch's cache has no {path}: put the file of {source} there, or give {option} FILE")
    raise RgunitError(f"no weights at {path}: give {option} the file of {source}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file or a PyTorch state dictionary; no code in the file is run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("not a dictionary of tensors")
        return state
    except Exception as error:  # rubbish ends the restricted reading in many ways, IndexError among them
        raise RgunitError(
            f"{path} holds no weights that can be read without running its code ({_short(error)}): "
            "give a safetensors file or a PyTorch state dictionary"
        ) from None


def _quiet(metric: Any, **settings: Any) -> Any:
    """A torchmetrics metric that is given features, without its warning about memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(feature=nn.Identity(), **settings)


def _seeded(metric: Any, seed: int) -> float:
    """The metric's mean; what it draws, it draws from `seed` and nothing else moves."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the standard deviation of a single part
        torch.manual_seed(seed)
        return float(metric.compute()[0])


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100]
