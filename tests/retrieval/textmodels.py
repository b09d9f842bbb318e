"""Tiny text-image models as folders: one made of ONNX nodes for the fast tests, where words are colours; and CLIP and
SigLIP with random weights by transformers, exported as they are for Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("red", "green", "blue")
SIDE, TOKENS = 8, 6


def colour_model(folder: Path, *, text_numbers: int = 3) -> Path:
    """A model whose vector of a picture is its mean colour, and of words how often each colour is named."""
    import onnx
    from onnx import TensorProto, helper

    def save(name: str, nodes: Sequence[Any], inputs: Sequence[Any], output: str, constants: Sequence[Any]) -> None:
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", None])]
        graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
        opset = [helper.make_opsetid("", 17)]
        (folder / "onnx").mkdir(parents=True, exist_ok=True)
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "onnx" / name)

    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    mean = helper.make_node("ReduceMean", ["pixel_values"], ["image_embeds"], axes=[2, 3], keepdims=0)
    save("vision_model.onnx", [mean], [pixels], "image_embeds", [])

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    table = np.zeros((len(COLOURS) + 3, text_numbers), np.float32)
    table[3:, :3] = np.eye(3)
    rows = helper.make_tensor("table", TensorProto.FLOAT, table.shape, table.ravel())
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"]),
        helper.make_node("ReduceSum", ["each", "axes"], ["text_embeds"], keepdims=0),
    ]
    save("text_model.onnx", nodes, [ids], "text_embeds", [rows, axes])
    write_json(
        folder / "preprocessor_config.json",
        {
            "size": {"height": SIDE, "width": SIDE},
            "resample": 3,
            "image_mean": [0.0, 0.0, 0.0],
            "image_std": [1.0, 1.0, 1.0],
            "image_processor_type": "SiglipImageProcessor",
        },
    )
    word_tokenizer(folder, ["<pad>", "<end>", "<unk>", *COLOURS], TOKENS)
    return folder


def word_tokenizer(folder: Path, words: Sequence[str], length: int) -> None:
    """A tokenizer of whole words, which are in that order; the first fills up, the second ends."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    made.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"model_max_length": length, "pad_token": "<pad>"})


def write_json(path: Path, told: dict[str, Any]) -> None:
    path.write_text(json.dumps(told))
