"""Our vectors of words and pictures are those of transformers, of CLIP and of SigLIP with random weights, exported."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval.text_models import TextModel

pytestmark = pytest.mark.slow  # importing transformers takes seconds
SIDE, NUMBERS = 32, 24
TEXTS = ("a laughing woman with a hat", "Hat", "hat, woman; HAT!", "a woman with a woman with a hat " * 20)
LAYERS: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def export(folder: Path, vision: Any, text: Any, tokens: int, outputs: tuple[str, str]) -> None:
    """Both networks as graphs, for any number of rows; the last output is the one of the shared space."""
    import torch

    class Out(torch.nn.Module):
        def __init__(self, network: Any, name: str, key: str) -> None:
            super().__init__()
            self.network, self.name, self.key = network, name, key

        def forward(self, given: Any) -> Any:
            answer = self.network(**{self.key: given})
            return answer.last_hidden_state, getattr(answer, self.name)

    (folder / "onnx").mkdir(parents=True)
    for network, file, key, name, given in (
        (vision, "vision_model", "pixel_values", outputs[0], torch.randn(2, 3, SIDE, SIDE)),
        (text, "text_model", "input_ids", outputs[1], torch.randint(0, 9, (2, tokens))),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Out(network.eval(), name, key),
                (given,),
                str(folder / "onnx" / f"{file}.onnx"),
                dynamo=False,
                opset_version=17,
                input_names=[key],
                output_names=["last_hidden_state", name],
                dynamic_axes={one: {0: "batch"} for one in (key, "last_hidden_state", name)},
            )


def clip(folder: Path) -> tuple[Any, Any, Any, Any]:
    """A CLIP of two layers: image processor, tokenizer and both networks."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    merges = [("h", "a"), ("ha", "t</w>"), ("w", "o"), ("wo", "m"), ("wom", "a"), ("woma", "n</w>")]
    words = [*alphabet, *(f"{one}</w>" for one in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {word: place for place, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder / "tokenizer", model_max_length=77)
    end = vocabulary["<|endoftext|>"]
    text = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        projection_dim=NUMBERS,
        max_position_embeddings=77,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
        **LAYERS,
    )
    vision = transformers.CLIPVisionConfig(image_size=SIDE, patch_size=8, projection_dim=NUMBERS, **LAYERS)
    processor = transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    networks = transformers.CLIPVisionModelWithProjection(vision), transformers.CLIPTextModelWithProjection(text)
    export(folder, *networks, 77, ("image_embeds", "text_embeds"))
    return processor, tokenizer, *networks


def siglip(folder: Path) -> tuple[Any, Any, Any, Any]:
    """A SigLIP of two layers, whose tokenizer reads 64 tokens and masks none."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = ["<pad>", "</s>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyz", "▁hat", "▁woman"]
    made = Tokenizer(models.Unigram([(piece, -float(place)) for place, piece in enumerate(pieces)], unk_id=2))
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(",", "")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=64,
        model_input_names=["input_ids"],
    )
    text = transformers.SiglipTextConfig(
        vocab_size=len(pieces), max_position_embeddings=64, projection_size=16, bos_token_id=1, eos_token_id=1, **LAYERS
    )
    vision = transformers.SiglipVisionConfig(image_size=SIDE, patch_size=8, **LAYERS)
    processor = transformers.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}
    )
    networks = transformers.SiglipVisionModel(vision), transformers.SiglipTextModel(text)
    export(folder, *networks, 64, ("pooler_output", "pooler_output"))
    return processor, tokenizer, *networks


@pytest.mark.parametrize("make", [clip, siglip])
def test_vectors_are_those_of_transformers(tmp_path: Path, make: Any) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers", reason="transformers is not installed, so nothing to compare with: make setup")
    torch.manual_seed(0)
    processor, tokenizer, vision, text = make(tmp_path)
    processor.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = TextModel(tmp_path)
    model.check()

    random = np.random.default_rng(0)
    for height, width in ((40, 60), (33, 32), (20, 90), (200, 150)):
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        seen = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
        prepared = model.preparation.pixels(image)[None]
        np.testing.assert_allclose(model.preparation.scaled(prepared), seen.numpy(), atol=1e-5)
        with torch.no_grad():
            told = vision(pixel_values=seen)
        compare(model.pictures(prepared), getattr(told, "image_embeds", getattr(told, "pooler_output", None)))

    for words in TEXTS:
        read = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            told = text(**read)
        compare(model.words(words), getattr(told, "text_embeds", getattr(told, "pooler_output", None)))
    assert [model.cut(words) for words in TEXTS] == [False, False, False, True]


def compare(ours: np.ndarray, theirs: Any) -> None:
    wanted = (theirs / theirs.norm(dim=-1, keepdim=True)).numpy()
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
