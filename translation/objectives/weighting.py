"""How much each image of a batch counts in a loss: the batch is averaged last, so that a weight is an image's own."""

from __future__ import annotations

from torch import Tensor


def average(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the images of `weight` [B] times an image's mean of `values` [B, …]; None: the mean of all.

    Not divided by the weights' sum: they come with mean 1 or mean to count less. No gradient flows through them.
    ValueError: not one weight an image.
    """
    if weight is None:
        return values.mean()
    if weight.shape != values.shape[:1]:
        raise ValueError(f"{tuple(weight.shape)} weights for {len(values)} images: give one an image")
    return (values.reshape(len(values), -1).mean(1) * weight.detach()).mean()
