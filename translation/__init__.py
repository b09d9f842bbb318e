"""What a program imports of translation: the functions that the commands call, and a trained translator.

    from translation import train_translation, translate_images

Each name is loaded when it is asked for, so that `import translation` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from translation.config import load_config
    from translation.evaluation.arms import open_arms
    from translation.evaluation.generator import evaluate_generator
    from translation.evaluation.judging import evaluate_retrieval_run, evaluate_translation_runs
    from translation.generator import generate_images
    from translation.generator_stages import train_generator, train_miner
    from translation.indexing import fill_index
    from translation.inference import translate_images
    from translation.methods import METHODS, find_method
    from translation.pipeline import run_all, run_demo
    from translation.stages import train_extractor, train_guided, train_retrieval, train_translation
    from translation.translator import Translator

__all__ = [
    "METHODS",
    "Translator",
    "evaluate_generator",
    "evaluate_retrieval_run",
    "evaluate_translation_runs",
    "fill_index",
    "find_method",
    "generate_images",
    "load_config",
    "open_arms",
    "run_all",
    "run_demo",
    "train_extractor",
    "train_generator",
    "train_guided",
    "train_miner",
    "train_retrieval",
    "train_translation",
    "translate_images",
]
_HOMES = {
    "config": ("load_config",),
    "evaluation.arms": ("open_arms",),
    "evaluation.generator": ("evaluate_generator",),
    "evaluation.judging": ("evaluate_retrieval_run", "evaluate_translation_runs"),
    "generator": ("generate_images",),
    "generator_stages": ("train_generator", "train_miner"),
    "inference": ("translate_images",),
    "methods": ("METHODS", "find_method"),
    "pipeline": ("run_all", "run_demo"),
    "indexing": ("fill_index",),
    "stages": ("train_extractor", "train_guided", "train_retrieval", "train_translation"),
    "translator": ("Translator",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"translation.{home}"), name)
    raise AttributeError(f"module 'translation' has no attribute {name!r}")
