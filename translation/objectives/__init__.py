"""Every term of every loss, as pure functions of tensors: no networks, no weights, no state; one idea a file."""

from translation.objectives.adversarial import adversarial_discriminator, adversarial_generator, gradient_penalty
from translation.objectives.domain import domain
from translation.objectives.reconstruction import absolute_difference, blend, perceptual
from translation.objectives.style import isometry, kl_to_component

__all__ = [
    "absolute_difference",
    "adversarial_discriminator",
    "adversarial_generator",
    "blend",
    "domain",
    "gradient_penalty",
    "isometry",
    "kl_to_component",
    "perceptual",
]
