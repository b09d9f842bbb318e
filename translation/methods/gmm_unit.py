"""GMM-UNIT, and RG-UNIT on top of it: the networks with one update of each (RG-UNIT, Eq. 1–7; `methods.md`, 1 and 3).

One step encodes the source once and makes the fake once: the discriminator sees it detached, the generator's loss
uses it with gradient. RG-UNIT is the same step with a fused content as the generator's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from translation import objectives
from translation.config import Config, StageConfig, Weights
from translation.guidance import Guidance, Guided, hide
from translation.networks.gmm_unit import ContentEncoder, Discriminator, Generator, StyleEncoder, initialise
from translation.networks.vgg import VGG
from translation.objectives.style import STANDARD_DEVIATION, style_labels, style_mean
from translation.training.processes import shared_mean

TINY = 1e-8  # no division by 0


@dataclass(frozen=True)
class Batch:
    """One step's inputs on the device. A attributes, k neighbours, C×h×w content.

    images [B, 3, H, W] in [−1, 1]; labels and target [B, A] in {1, 0, −1 = unknown} (target has no unknown); noise and
    second_noise [B, 8·A] ~ N(0, 1) for the target's style, source_noise for E_s's sample. `encoded`: what frozen
    encoders gave for the images: content [B, C, h, w], style mean and log variance [B, 8·A].

    With guidance: neighbours retrieved for the target's style and for the source's own, [B, k, C, h, w]; shown bool
    [B], which images see theirs (None: all); hidden bool [B, 1, h, w], what reconstruction does not see of the
    source's content; further real images for D [B, 3, H, W] with their labels [B, A].
    """

    images: Tensor
    labels: Tensor
    target: Tensor
    noise: Tensor
    second_noise: Tensor
    source_noise: Tensor
    neighbours: Tensor | None = None
    source_neighbours: Tensor | None = None
    shown: Tensor | None = None
    hidden: Tensor | None = None
    real_images: Tensor | None = None
    real_labels: Tensor | None = None
    neighbour_style: Tensor | None = None
    encoded: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def style(self) -> Tensor:
        """The target's [B, 8·A]: its neighbours', or a draw."""
        if self.neighbour_style is not None:
            return self.neighbour_style
        return style_mean(self.target) + STANDARD_DEVIATION * self.noise


def build_networks(config: Config, attributes: int, *, discriminator: bool = True) -> dict[str, nn.Module]:
    """Freshly initialised content_encoder, style_encoder, generator and (unless inference only) discriminator."""
    n = config.networks
    networks: dict[str, nn.Module] = {
        "content_encoder": ContentEncoder(n.width, n.content_blocks),
        "style_encoder": StyleEncoder(attributes, n.width),
        "generator": Generator(attributes, n.width, n.generator_blocks),
    }
    for network in networks.values():
        initialise(network, "kaiming")
    if discriminator:
        networks["discriminator"] = Discriminator(
            config.data.size, attributes, n.discriminator_width, n.discriminator_scales, n.discriminator_slope
        )
        initialise(networks["discriminator"], "normal")
    return networks


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Gradients pass through the network but stop at its weights."""
    flags = [p.requires_grad for p in network.parameters()]
    network.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in zip(network.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)


@dataclass
class GmmUnit:
    """The update rule: one discriminator step, one generator step, on a `Batch`.

    `fusion` makes it RG-UNIT; an optimiser of that name updates it at its own rate. `train_encoders=False` (stage 3)
    keeps E_c and E_s as they are. `scaler` keeps gradients in the range of fp16.
    """

    networks: Mapping[str, nn.Module]
    stage: StageConfig
    autocast: Callable[[], AbstractContextManager[object]]
    groups: Sequence[Sequence[int]] = ()
    fusion: Guidance | None = None
    train_encoders: bool = True
    vgg: VGG | None = None
    scaler: torch.amp.GradScaler | None = None

    def generator_input(self, content: Tensor, neighbours: Tensor | None, shown: Tensor | None = None) -> Guided:
        """c_total where neighbours are `shown`, else E_c(x): the only place where guidance enters (Eq. 2–7)."""
        if self.fusion is None or neighbours is None:
            return Guided(content)
        return self.fusion(content, neighbours, shown)  # type: ignore[no-any-return]

    def generate(self, guided: Guided, style: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """x̃ [B, 3, H, W] (with what guidance copies into it) and mask M [B, 1, H, W]."""
        prediction, mask = self.networks["generator"](guided.content, style)
        if self.fusion is not None:
            prediction = self.fusion.paint(prediction, mask, guided, images)
        return prediction, mask

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """content [B, C, h, w], style mean and log variance [B, 8·A] of the source, with gradient in stage 1 only."""
        with torch.set_grad_enabled(self.train_encoders and torch.is_grad_enabled()):
            content = self.networks["content_encoder"](images)
            mean, log_variance = self.networks["style_encoder"](images)
        return content, mean, log_variance

    def step(
        self,
        batch: Batch,
        optimizers: Mapping[str, torch.optim.Optimizer],
        kl_weight: float,
    ) -> dict[str, Tensor]:
        """Update discriminator, then generator (and encoders, fusion); named terms, detached."""
        weights = self.stage.weights
        discriminator = self.networks["discriminator"]
        with self.autocast():
            content, mean, log_variance = batch.encoded or self.encode(batch.images)
            source_style = sampled(mean, log_variance, batch.source_noise)
            guided = self.generator_input(content, batch.neighbours, batch.shown)
            prediction, mask = self.generate(guided, batch.style, batch.images)
            fake = objectives.blend(prediction, mask, batch.images)
            d_terms = self.discriminator_losses(discriminator, batch, fake.detach())
        d_loss = weighted(d_terms, weights, kl_weight)
        self._update([optimizers["discriminator"]], d_loss)

        with frozen(discriminator), self.autocast():
            g_terms = self.generator_losses(batch, content, guided, mean, log_variance, source_style, fake)
        g_loss = weighted(g_terms, weights, kl_weight)
        self._update([optimizers[name] for name in ("generator", "fusion") if name in optimizers], g_loss)

        terms = _named(d_terms, g_terms)
        terms |= {"mask_mean": mask.detach().float().mean(), "kl_weight": torch.full((), kl_weight, device=mask.device)}
        return terms | self._style_accuracy(mean, batch.labels)

    @torch.no_grad()
    def watch(self, batch: Batch) -> dict[str, Tensor]:
        """Whether guidance is used, right after a step on the batch; nothing without it.

        neighbour_gate: how far its way is open. neighbour_share: ‖neighbours' part‖ / ‖source's part‖ of c_total, where
        they enter there.
        fusion_gradient: norm of the step's gradient. neighbour_swap (batches of 2 or more): how much the translation
        changes when each image is given another's neighbours, ‖x̂(r) − x̂(r′)‖ / ‖x̂(r) − x‖.
        """
        if self.fusion is None or batch.neighbours is None:
            return {}
        images = []
        with self.autocast():
            content = batch.encoded[0] if batch.encoded else self.encode(batch.images)[0]
            for neighbours in (batch.neighbours, batch.neighbours.roll(1, 0))[: len(batch.images)]:
                prediction, mask = self.generate(self.fusion(content, neighbours), batch.style, batch.images)
                images.append(objectives.blend(prediction, mask, batch.images))
        gradients = [p.grad.float().norm() for p in self.fusion.parameters() if p.grad is not None]
        measured = {
            "neighbour_gate": self.fusion.gate().float(),
            "fusion_gradient": torch.stack(gradients).norm() if gradients else content.new_zeros(()),
        }
        if not self.fusion.pixels:
            source, theirs = (part.float() for part in self.fusion.branches(content, batch.neighbours))
            measured["neighbour_share"] = theirs.norm() / source.norm().clamp(min=TINY)
        if len(images) > 1:
            change = (images[0] - batch.images).norm().clamp(min=TINY)
            measured["neighbour_swap"] = (images[0] - images[1]).norm() / change
        return measured

    def warm_up(
        self, batch: Batch, optimizers: Mapping[str, torch.optim.Optimizer], kl_weight: float
    ) -> dict[str, Tensor]:
        """A cheap first step: reconstruct, classify real images, read their styles; nothing is translated.

        From scratch the mask closes at once: E_s and D cannot tell styles apart yet, so the only gradient it feels is
        that of the content and adversarial terms, which copying satisfies. It is not trained here and stays open.
        """
        weights, discriminator = self.stage.weights, self.networks["discriminator"]
        with self.autocast():
            content, mean, log_variance = self.encode(batch.images)
            own, mask = self.networks["generator"](content, sampled(mean, log_variance, batch.source_noise))
            d_terms = {"domain": self._domain(discriminator(batch.images), batch.labels)}
            g_terms = {
                "reconstruction": objectives.absolute_difference(own, batch.images),
                "kl": objectives.kl_to_component(mean, log_variance, batch.labels),
            }
        for name, loss in (
            ("discriminator", weights.domain * d_terms["domain"]),
            ("generator", weighted(g_terms, weights, kl_weight)),
        ):
            self._update([optimizers[name]], loss)
        terms = _named(d_terms, g_terms)
        terms |= {"mask_mean": mask.detach().float().mean(), "kl_weight": torch.full((), kl_weight, device=mask.device)}
        return terms | self._style_accuracy(mean, batch.labels)

    def discriminator_losses(self, discriminator: nn.Module, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Least squares on real and (detached) fake, classification of real images' known attributes, R1.

        The gradient penalty is measured on every fourth image: it costs a second derivative, and changes slowly.
        Several processes measure it on the images that one would if the batch of each is a multiple of four.
        """
        images, labels = batch.images, batch.labels
        if batch.real_images is not None and batch.real_labels is not None:
            images, labels = torch.cat([images, batch.real_images]), torch.cat([labels, batch.real_labels])
        real, made = discriminator(images), discriminator(fake)
        terms = {
            "adversarial": objectives.adversarial_discriminator([r for r, _ in real], [f for f, _ in made]),
            "domain": self._domain(real, labels),
        }
        if self.stage.weights.gradient_penalty:
            with torch.autocast(images.device.type, enabled=False):  # second derivatives want full precision
                seen = batch.images[::4].detach().requires_grad_()
                judged = discriminator.forward(seen)  # not by a compiled call, which has no second derivative
                terms["gradient_penalty"] = objectives.gradient_penalty([r for r, _ in judged], seen)
        return terms

    def generator_losses(
        self,
        batch: Batch,
        content: Tensor,
        guided: Guided,
        mean: Tensor,
        log_variance: Tensor,
        source_style: Tensor,
        fake: Tensor,
    ) -> dict[str, Tensor]:
        """Every term whose weight is not 0, unweighted; `guided` is the generator's input for `fake`.

        Reconstruction and cycle are measured on the *unblended* prediction: blended, M = 0 would make both 0.
        """
        weights, generator = self.stage.weights, self.networks["generator"]
        judged = self.networks["discriminator"](fake)
        recovered = self.networks["content_encoder"](fake)
        recovered_style, _ = self.networks["style_encoder"](fake)
        terms = {
            "adversarial": objectives.adversarial_generator([realness for realness, _ in judged]),
            "domain": self._domain(judged, batch.target),
            "content": objectives.absolute_difference(recovered, content),
            "style": objectives.absolute_difference(recovered_style, batch.style),
        }
        if weights.reconstruction:
            seen = self.generator_input(hide(content, batch.hidden), batch.source_neighbours, batch.shown)
            own, _ = self.generate(seen, source_style, batch.images)
            terms["reconstruction"] = objectives.absolute_difference(own, batch.images)
        if weights.cycle or weights.perceptual:
            cycled, _ = generator(recovered, source_style)  # the way back is unfused, as printed
            terms["cycle"] = objectives.absolute_difference(cycled, batch.images)
            if weights.perceptual and self.vgg is not None:
                with torch.no_grad():
                    features = self.vgg(batch.images)
                terms["perceptual"] = objectives.perceptual(features, self.vgg(cycled))
        if self.train_encoders and weights.kl:
            terms["kl"] = objectives.kl_to_component(mean, log_variance, batch.labels)
        if weights.isometry:
            second = style_mean(batch.target) + STANDARD_DEVIATION * batch.second_noise
            prediction, mask = self.generate(guided, second, batch.images)
            other, _ = self.networks["style_encoder"](objectives.blend(prediction, mask, batch.images))
            terms["isometry"] = objectives.isometry(batch.style, second, recovered_style, other)
        return terms

    def _update(self, optimizers: Sequence[torch.optim.Optimizer], loss: Tensor) -> None:
        scaler = self.scaler
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
        for optimizer in optimizers:
            if scaler is None:
                optimizer.step()
            else:
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
        if scaler is not None:
            scaler.update()

    @torch.no_grad()
    def _style_accuracy(self, mean: Tensor, labels: Tensor) -> dict[str, Tensor]:
        known = labels >= 0
        right = (style_labels(mean) == labels) & known
        return {"style_accuracy_train": right.sum() / known.sum().clamp(min=1)}

    def _domain(self, judged: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> Tensor:
        """The classification of what D [(realness, logits) a scale] says of images with these labels."""
        groups = self.groups if self.stage.domain_softmax else ()
        return objectives.domain([logits for _, logits in judged], labels, groups, shared_mean)


def sampled(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """E_s's sample μ + σ·noise [B, 8·A], in full precision: exp() overflows early in half."""
    return mean.float() + (0.5 * log_variance.float()).exp() * noise


def _named(discriminator: Mapping[str, Tensor], generator: Mapping[str, Tensor]) -> dict[str, Tensor]:
    terms = {f"discriminator/{name}": value.detach() for name, value in discriminator.items()}
    return terms | {f"generator/{name}": value.detach() for name, value in generator.items()}


def weighted(terms: Mapping[str, Tensor], weights: Weights, kl_weight: float) -> Tensor:
    """Σ weight·term over the terms that are there."""
    factors = {**weights.model_dump(), "kl": kl_weight}
    return torch.stack([factors[name] * value for name, value in terms.items()]).sum()
