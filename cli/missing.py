"""What a machine that only searches does without, and what to say where it is asked for."""

from __future__ import annotations

NOT_FOR_SEARCH = (
    "torch",
    "torchvision",
    "torchmetrics",
    "lightning_fabric",
    "pytorch_metric_learning",
    "sklearn",
    "onnx",
)
"""What requirements/search.txt does without."""


def told(error: BaseException) -> str | None:
    """The line for a module that is not installed, None for any other failure."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in NOT_FOR_SEARCH:
        return (
            f"this needs {error.name}, which is not installed here: install requirements/run.txt (searching does "
            "without, once `rgunit index build` has written the run's graphs)"
        )
    return None
