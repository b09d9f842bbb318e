"""Every term of every loss, as pure functions of tensors: no networks, no weights, no state; one idea a file."""

from translation.objectives.adversarial import (
    adversarial_discriminator,
    adversarial_generator,
    gradient_penalty,
    logistic_discriminator,
    logistic_generator,
)
from translation.objectives.domain import domain
from translation.objectives.patch_nce import (
    gather_positions,
    mirrored,
    patch_nce,
    patch_nce_over_layers,
    sample_positions,
)
from translation.objectives.reconstruction import absolute_difference, blend, perceptual
from translation.objectives.semantic import semantic
from translation.objectives.style import isometry, kl_to_component
from translation.objectives.weighting import average

__all__ = [
    "absolute_difference",
    "adversarial_discriminator",
    "adversarial_generator",
    "average",
    "blend",
    "domain",
    "gather_positions",
    "gradient_penalty",
    "isometry",
    "kl_to_component",
    "logistic_discriminator",
    "logistic_generator",
    "mirrored",
    "patch_nce",
    "patch_nce_over_layers",
    "perceptual",
    "sample_positions",
    "semantic",
]
