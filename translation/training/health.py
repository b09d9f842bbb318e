"""A training that goes wrong says so while it runs, and what to change: the same for every method.

Measured where metrics are logged, on the step's own batch; judged over some logs, so that one bad moment says nothing.
A method's own `health` (a mask that has closed) is told in the same way.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from translation.methods import Encodes, Trains, Watches, Won
from translation.sampling import Batch
from translation.sections import StageConfig

PATIENCE = 3  # logs in a row before it is told; then again after ten times as many
ALIKE = 0.03  # outputs differ by less than this share of what inputs differ by: they have collapsed
COPIED = 0.01  # a translation differs from its source by less than this share of what two inputs differ by
DRAWS = 1e-3  # likewise two draws of one translation
GONE = 1e-7  # norm of the generator's gradient
GROWN, LEAST = 100.0, 0.1  # a term so many times its first values, or this where they are smaller, diverges
FIRST = 5  # logs that the first values are of
LOOKED_AT = 4  # images of the batch that are translated twice
TINY = 1e-8


@torch.no_grad()
def look(method: Trains, batch: Batch, made: Tensor, before: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
    """What is measured of the images `made` [B, 3, H, W] in the step on the batch.

    made_diversity: mean |x̂ᵢ − x̂ⱼ| over mean |xᵢ − xⱼ|, each image and the next; a batch of one has no next, but that of
    the log `before` [1, 3, H, W] and what was made of it. made_change: mean |x̂ − x| over the same, of images whose
    labels should change (1 where none should). draws_diversity: likewise two draws of the style for one image, where it
    is drawn. generator_gradient: norm of the last one.
    """
    images, fakes = batch.images.float(), made.float()
    found = {"generator_gradient": _gradient(method, "generator")}
    others = before if len(images) == 1 else (images.roll(1, 0), fakes.roll(1, 0))
    if others is None or images.shape != fakes.shape:
        return found
    apart = (images - others[0]).abs().mean().clamp(min=TINY)
    found["made_diversity"] = (fakes - others[1]).abs().mean() / apart
    if not isinstance(method, Encodes):
        return found
    asked = (batch.labels != batch.target).any(1) if batch.references is None else torch.ones_like(images[:, 0, 0, 0])
    changed = (fakes - images).abs().mean(dim=(1, 2, 3)) / apart
    change = (changed * asked).sum() / asked.sum().clamp(min=1)
    found["made_change"] = torch.where(asked.sum() > 0, change, torch.ones_like(change))
    if method.style_dim:
        labels, shown = batch.target[:LOOKED_AT].cpu(), images[:LOOKED_AT]
        one, other = (method.sample_style(labels, torch.Generator().manual_seed(i)).to(images.device) for i in (1, 2))
        if not torch.equal(one, other):
            content = method.content(shown)
            first, second = (method.decode(content, style, shown).image.float() for style in (one, other))
            found["draws_diversity"] = (first - second).abs().mean() / apart
    return found


def _gradient(method: Trains, player: str) -> Tensor:
    weights = [p for name in method.players[player].networks for p in method.networks[name].parameters()]
    norms = [p.grad.float().norm() for p in weights if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.ones(())


class Health:
    """Warnings about the logged metrics of one training, with settings of the section `name`, which `stage` is."""

    def __init__(self, method: Trains, stage: StageConfig, name: str) -> None:
        self.method, self.stage, self.name = method, stage, name
        self.first: dict[str, list[float]] = {}
        self.phase = 0
        self.counts: dict[str, int] = {}

    def judge(self, metrics: Mapping[str, float]) -> str | None:
        """What is to be told now, or None; to be called once a log."""
        found = {"won": self._won(metrics), "grown": self._grown(metrics), **self._looks(metrics)}
        if isinstance(self.method, Watches):
            found["own"] = self.method.health(metrics)
        told = [text for kind, text in found.items() if self._lasts(kind, text) and text is not None]
        return "; ".join(told) or None

    def _lasts(self, kind: str, text: str | None) -> bool:
        """Whether it is time to tell: after some logs in a row, then ten times as many, and so on."""
        self.counts[kind] = count = 0 if text is None else self.counts.get(kind, 0) + 1
        patience = 1 if kind in ("own", "grown") else PATIENCE
        while count > patience:
            patience *= 10
        return count == patience

    def _won(self, metrics: Mapping[str, float]) -> str | None:
        won: Won | None = getattr(self.method, "won", None)
        ours, theirs = metrics.get("generator/adversarial"), metrics.get("discriminator/adversarial")
        if metrics.get("generator_gradient", 1.0) < GONE:
            return f"no gradient reaches the generator any more: start again with a lower {self.name}.learning_rate"
        if won is None or ours is None or theirs is None or theirs > won.discriminator or ours < won.generator:
            return None
        return (
            f"the discriminator has won (its loss {theirs:.3f}, the generator's {ours:.2f}): the generator learns "
            f"nothing from it; lower {self.name}.discriminator_learning_rate{self._or_raise('gradient_penalty')}"
        )

    def _grown(self, metrics: Mapping[str, float]) -> str | None:
        """A term that is far above its first values, in a method of phases above those of the phase."""
        if (phase := getattr(self.method, "phase", 0)) != self.phase:
            self.phase, self.first = phase, {}
        worst, factor = "", GROWN
        unbounded = getattr(self.method, "won", None) is None  # a critic's values begin at 0 and have no scale
        for name, value in metrics.items():
            player, _, term = name.partition("/")
            if player not in self.method.players or (unbounded and term == "adversarial"):
                continue
            first = self.first.setdefault(name, [])
            if len(first) < FIRST:
                first.append(abs(value))
            elif (times := abs(value) / max(LEAST, statistics.median(first))) > factor:
                worst, factor = name, times
        if not worst:
            return None
        return f"{worst} is {factor:.0f} times what it was: the training diverges; lower {self.name}.learning_rate"

    def _looks(self, metrics: Mapping[str, float]) -> dict[str, str | None]:
        diversity, change = metrics.get("made_diversity", 1.0), metrics.get("made_change", 1.0)
        draws, found = metrics.get("draws_diversity", 1.0), dict[str, str | None]()
        found["alike"] = (
            f"the outputs have collapsed (they differ by {diversity:.1%} of what the inputs do): lower the rates"
            f"{self._or_raise('reconstruction', 'cycle', 'content', 'nce', 'latent')}"
            if diversity < ALIKE
            else None
        )
        found["copied"] = (
            f"the input is copied (changed by {change:.2%} of what two inputs differ by): lower the weights that keep "
            f"the source{self._or_raise('domain', 'mismatch', 'adversarial')}"
            if change < COPIED
            else None
        )
        found["draws"] = (
            f"every draw gives the same picture (two differ by {draws:.2%} of what two inputs do): train longer"
            f"{self._or_raise('latent', 'isometry', 'style')}"
            if draws < DRAWS <= change  # where nothing is changed at all, that has been said
            else None
        )
        return found

    def _or_raise(self, *names: str) -> str:
        """Of these weights those that the method has."""
        known: Sequence[str] = [f"{self.name}.weights.{name}" for name in names if hasattr(self.stage.weights, name)]
        return f", or raise {' or '.join(known)}" if known else ""
