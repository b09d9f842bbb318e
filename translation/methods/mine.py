"""MineGAN: miners that find in the noise of trained generators what looks like a target (Wang et al. 2020; thesis, 3).

Critic and miners use only the image of each supersample (one from each generator) that the critic values most; how
often each generator had it is the selector. The generators stay as they are until they are released.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from translation.methods import Draws, Loss, Player, Steps
from translation.methods.parts import collapse, diversity
from translation.methods.wgan_gp import MinerConfig, penalty
from translation.networks.wgan import Miner, Miners, ResNetGenerator
from translation.sampling import Batch

if TYPE_CHECKING:
    from index_store.attributes import AttributeSchema


class Mine:
    """networks: miner (`Miners`), generator (a list of N), discriminator (the critic).

    Each `generators[i]` takes noise [B, Y] and shares of classes [B, K] and gives images. Their norms keep the
    statistics that they came with, also when released: a few images would spoil them.
    """

    draws: ClassVar[Draws] = "images"

    networks: dict[str, nn.Module]

    def __init__(
        self,
        generators: Sequence[nn.Module],
        discriminator: nn.Module | None,
        miner: Miners,
        stage: MinerConfig,
        schema: AttributeSchema,
    ) -> None:
        self.networks = {"miner": miner, "generator": nn.ModuleList(generators).eval()}
        if discriminator is not None:
            self.networks["discriminator"] = discriminator
        self.stage, self.schema = stage, schema

    @classmethod
    def of(
        cls,
        generators: Sequence[ResNetGenerator],
        discriminator: nn.Module | None,
        noise: int,
        stage: MinerConfig,
        schema: AttributeSchema,
    ) -> Mine:
        """Fresh miners before generators; without a critic for use alone."""
        miners = [Miner(noise, one.noise, one.classes, stage.layers) for one in generators]
        for miner, generator in zip(miners, generators, strict=True):
            miner.hide(generator.seen)
        return cls(generators, discriminator, Miners(miners), stage, schema)

    @property
    def players(self) -> dict[str, Player]:
        s = self.stage

        def rate(own: float | None) -> float:
            return s.learning_rate if own is None else own

        return {
            "miner": Player(("miner",), s.learning_rate, s.betas, lambda step: 1.0),
            "generator": Player(("generator",), rate(s.generator_learning_rate), s.betas, lambda step: 1.0),
            "discriminator": Player(("discriminator",), rate(s.discriminator_learning_rate), s.betas, lambda step: 1.0),
        }

    @property
    def averaged(self) -> tuple[str, ...]:
        return "miner", "generator"

    @property
    def noise(self) -> tuple[int, int]:
        return 2 * len(self.generators), self.noise_length - 1

    @property
    def batches(self) -> int:
        return self.stage.critic_steps

    @property
    def miner(self) -> Miners:
        miner = self.networks["miner"]
        assert isinstance(miner, Miners)
        return miner

    @property
    def probabilities(self) -> Tensor:
        """The selector: how often an image is drawn from each generator, [N]."""
        return self.miner.probabilities

    @property
    def generators(self) -> nn.ModuleList:
        generators = self.networks["generator"]
        assert isinstance(generators, nn.ModuleList)
        return generators

    def step(self, batch: Batch, t: int) -> Steps:
        """`critic_steps` turns of the critic, then one of the miners and, from `release` on, of the generators."""
        stage, turns, count = self.stage, self.stage.critic_steps, len(self.generators)
        size = len(batch.images) // turns
        for turn, (real, noise) in enumerate(
            zip(batch.images.chunk(turns), batch.noise[:count].chunk(turns, dim=1), strict=True)
        ):
            with torch.no_grad():
                fake, _ = self.best(self.supersamples(noise), t * (turns + 1) + turn)
            terms = {"gradient_penalty": penalty(self.networks["discriminator"], real, fake)}
            made, seen = (self.networks["discriminator"](images)[0].float().mean() for images in (fake, real))
            terms["adversarial"] = made - seen
            yield Loss(("discriminator",), terms, stage.weights.model_dump())
        fake, value = self.best(self.supersamples(batch.noise[count:, :size]), t * (turns + 1) + turns)
        released = stage.release > 0 and t >= stage.release
        yield Loss(("miner", "generator") if released else ("miner",), {"adversarial": -value.mean()})
        shares = self.miner.probabilities.unbind()
        told = {f"selector_{number}": share for number, share in enumerate(shares)} if count > 1 else {}
        yield Loss((), {"diversity": diversity(fake, batch.images[:size]), **told})
        return fake.detach()

    def supersamples(self, noise: Tensor) -> Tensor:
        """Noise [N, B, Z] of each generator's own → images [N, B, 3, H, W]."""
        each = zip(self.miner.miners, self.generators, noise, strict=True)
        return torch.stack([generator(*miner(u)) for miner, generator, u in each])

    def best(self, images: Tensor, minibatch: int) -> tuple[Tensor, Tensor]:
        """Of supersamples [N, B, 3, H, W] the images [B, 3, H, W] of the highest critic value, and that [B] (Eq. 3.5).

        Which generator they are of is recorded.
        """
        values: Tensor = self.networks["discriminator"](images.flatten(0, 1))[0].float().view(images.shape[:2])
        value, winners = values.max(0)
        self.miner.record(winners, minibatch)
        return images.gather(0, winners.view(1, -1, 1, 1, 1).expand(1, *images.shape[1:]))[0], value

    def health(self, metrics: Mapping[str, float]) -> str | None:
        return collapse(metrics)

    # In use: `Generates`

    @property
    def noise_length(self) -> int:
        """The miners' own, and one number more that chooses the generator."""
        first = self.miner.miners[0]
        assert isinstance(first, Miner)
        return first.noise + 1

    def generate(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Noise [n, Z + 1] → images [n, 3, H, W] in [−1, 1], each of a generator that the selector draws."""
        limits = self.miner.probabilities.cumsum(0)[:-1].contiguous()
        share = torch.special.ndtr(noise[:, -1].contiguous())
        chosen = torch.bucketize(share, limits)
        made = self.supersamples(noise[:, :-1].expand(len(self.generators), -1, -1))
        return made.gather(0, chosen.view(1, -1, 1, 1, 1).expand(1, *made.shape[1:]))[0]

    def draw_labels(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """None: what is mined is one domain."""
        return wanted.new_zeros(0)

    def settle(self) -> None:
        """Nothing to do: the norms' statistics are the sources'."""
