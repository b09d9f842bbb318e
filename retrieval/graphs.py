"""Networks written as ONNX graphs, each checked against PyTorch before it is kept.

The one idea: a graph takes any batch, and what it answers is compared at several batch sizes with what the network
answers; one that differs by more than `PARITY` is not kept. Torch's tracing exporter writes them: a graph in half a
second, where the exporter by `torch.export` takes ten (both measured here), and nothing more to install than `onnx`.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from index_store.errors import RgunitError
from retrieval.network import Network, content_vector
from retrieval.onnx import session
from retrieval.protocol import Encoders
from retrieval.reading import COMPONENT, EMBEDDING, ENCODER, FOLDER, LABELS, GraphSearcher, keep_about, marks_of
from retrieval.retriever import Retriever
from retrieval.tensors import to_tensor

PARITY = 1e-4
"""The largest difference of a number that a graph and its network may give."""
OPSET = 18
BATCHES = (1, 3)


class Traced(nn.Module):
    """A function of tensors with the networks that it uses, so that their weights are the graph's."""

    def __init__(self, networks: Mapping[str, nn.Module], made: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.made = made

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return self.made(*given)


def encoder_graph(encoders: Encoders, networks: Mapping[str, nn.Module]) -> Traced:
    """images [n, 3, S, S] → content [n, C, h, h] and, where there is a style, its μ [n, S]."""

    def read(images: Tensor) -> tuple[Tensor, ...]:
        content = encoders.content(images)
        return (content, encoders.style(images)) if encoders.style_dim else (content,)

    return Traced(networks, read)


def component_graph(encoders: Encoders) -> Traced:
    """labels float [n, A] in {1, 0, −1} → style [n, S]: the middle of what is drawn for them."""
    return Traced({}, lambda labels: (encoders.style_mean(labels),))


def labels_graph(encoders: Encoders) -> Traced:
    """style [n, S] → labels int8 [n, A] read off it."""
    return Traced({}, lambda style: (encoders.style_labels(style),))


def embedding_graph(network: Network) -> Traced:
    """content [n, C, h, h], style [n, S] (left out where S = 0) → embedding [n, d], content vector [n, c]."""

    def embed(content: Tensor, *style: Tensor) -> tuple[Tensor, ...]:
        given = style[0] if style else content.new_zeros(content.shape[0], 0)
        return network(content, given), content_vector(network, content)

    return Traced({"embedding": network}, embed)


@torch.no_grad()
def write_search(
    folder: Path, encoders: Encoders, networks: Mapping[str, nn.Module], network: Network | None, images: Tensor
) -> float:
    """The graphs that asking needs, checked on images float [3, 3, S, S]; `networks` are those behind the encoders.

    Returns the largest difference. Without `network` those of the encoders alone.
    """
    content, style = encoders.content(images), encoders.style(images).float()
    styled = bool(encoders.style_dim)
    told = ("content", "style") if styled else ("content",)
    worst = [write_graph(folder / ENCODER, encoder_graph(encoders, networks), {"images": images}, told)]
    if styled:
        labels = encoders.style_labels(style).float()
        worst.append(write_graph(folder / COMPONENT, component_graph(encoders), {"labels": labels}, ("style",)))
        worst.append(write_graph(folder / LABELS, labels_graph(encoders), {"style": style}, ("labels",)))
    if network is not None:
        given = {"content": content, **({"style": style} if styled else {})}
        worst.append(write_graph(folder / EMBEDDING, embedding_graph(network), given, ("embedding", "content_vector")))
    return max(worst)


def keep_graphs(retriever: Retriever) -> str | None:
    """Keep a run's graphs in its folder, so that it can be asked without torch, unless they are there already.

    Returns why not, where it cannot be: something of it has no ONNX form.
    """
    workspace, record, encoders = retriever.workspace, retriever.run, retriever.encoders
    if GraphSearcher.of(workspace, record) is not None:
        return None
    if retriever.style_dim != encoders.style_dim:
        return "the style of its translation model says nothing of the domain"
    networks = getattr(encoders, "networks", None)
    ids = workspace.images("origin=real|unlabelled").ids[: max(BATCHES)]
    if networks is None or len(ids) < max(BATCHES) or encoders.device.type != "cpu":
        return None
    folder = record.path / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        images = to_tensor(workspace.load(ids, encoders.size))
        write_search(folder, encoders, networks, retriever.network, images)
    except RgunitError as error:
        shutil.rmtree(folder, ignore_errors=True)
        return str(error)
    about = {
        "fingerprint": retriever.fingerprint,
        "marks": marks_of(workspace, record),
        "attributes": list(encoders.schema.names),
        "size": encoders.size,
        "style_dim": encoders.style_dim,
    }
    keep_about(folder, about)
    return None


@torch.no_grad()
def write_graph(path: Path, graph: Traced, given: Mapping[str, Tensor], names: Sequence[str]) -> float:
    """Write a graph for inputs like `given` [3 or more, …] by name; `names` are those of its outputs.

    Returns the largest difference from PyTorch over `BATCHES` of `given`. RgunitError, and no file, where something of
    it has no ONNX form or the difference is larger than `PARITY`.
    """
    try:
        import onnx  # noqa: F401  torch asks for it only at the end
    except ModuleNotFoundError:
        raise RgunitError(
            "writing ONNX needs the package onnx: install the requirements again (`make setup`)"
        ) from None
    graph.eval()
    inputs = {name: tensor[: max(BATCHES)].cpu().float().contiguous() for name, tensor in given.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # shapes that are numbers: the batches below tell whether that was right
            torch.onnx.export(
                graph,
                tuple(inputs.values()),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(names),
                dynamic_axes={name: {0: "n"} for name in (*inputs, *names)},
            )
        return _difference(path, graph, inputs)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, RgunitError) or not isinstance(error, Exception):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RgunitError(f"{path.name}: not every part of it has an ONNX form ({reason[:160]})") from error


def _difference(path: Path, graph: Traced, inputs: Mapping[str, Tensor]) -> float:
    """The largest difference of a float output. RgunitError where it passes `PARITY`, or shapes differ."""
    told, worst = session(path), 0.0
    for size in BATCHES:
        part = {name: tensor[:size].contiguous() for name, tensor in inputs.items()}
        wanted = graph(*part.values())
        answers = told.run(None, {name: tensor.numpy() for name, tensor in part.items()})
        for answer, tensor in zip(answers, wanted, strict=True):
            right = tensor.numpy()
            if answer.shape != right.shape:
                raise RgunitError(f"{path.name}: of {size} it gives {list(answer.shape)}, not {list(right.shape)}")
            if right.dtype.kind == "f" and right.size:
                worst = max(worst, float(np.abs(answer - right).max()))
    if not worst <= PARITY:
        raise RgunitError(f"{path.name}: its numbers differ from PyTorch's by {worst:.1g}, more than {PARITY:g}")
    return worst
