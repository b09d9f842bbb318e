"""MineGAN: the selector finds how a target is mixed; the best of a supersample teaches; generators are released."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from index_store.attributes import AttributeSchema
from translation.drawings import Content, draw_face
from translation.methods.mine import Mine
from translation.methods.wgan_gp import MinerConfig
from translation.networks.wgan import Miner, Miners, ResNetGenerator
from translation.sampling import Batch
from translation.training.task import Engine

NOTHING = AttributeSchema(())
Z, SIZE = 8, 32


class FixedPictures(nn.Module):
    """An exact source: of its pictures [n, 3, H, W] the one that noise [B, n] chooses, with a gradient to the noise."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.noise, self.classes = len(pictures), 1
        self.register_buffer("pictures", pictures)

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        soft = noise.softmax(1)
        hard = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
        return torch.einsum("bn,nchw->bchw", hard + soft - soft.detach(), self.pictures)  # type: ignore[operator]


class Means(nn.Module):
    """A critic that sees 8×8 means: enough to tell drawn faces apart, in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(192, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.layers(nn.functional.avg_pool2d(images, SIZE // 8).flatten(1)).squeeze(1), None


def faces(seed: int, **attributes: bool) -> Tensor:
    """Four drawn faces [4, 3, 32, 32] in [−1, 1]."""
    drawn = [draw_face(Content.from_seed(seed + number), attributes, SIZE) for number in range(4)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def miners(sources: list[nn.Module], noise: int = Z) -> Miners:
    return Miners([Miner(noise, int(one.noise), int(one.classes), 2) for one in sources])  # type: ignore[arg-type]


def optimizers(method: Mine, rate: float) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.Adam([{"params": method.networks[name].parameters()}], rate) for name in method.players}


@pytest.mark.parametrize("mix", [0.3, pytest.param(0.7, marks=pytest.mark.slow)])
def test_the_selector_finds_in_which_shares_a_target_is_mixed(mix: float) -> None:
    torch.manual_seed(0)
    first, second = faces(10, Blond_Hair=True), faces(50, Black_Hair=True)
    sources: list[nn.Module] = [FixedPictures(first), FixedPictures(second)]
    stage = MinerConfig(batch=16, critic_steps=2, betas=(0.0, 0.9))
    method = Mine(sources, Means(), miners(sources), stage, NOTHING)
    engine, rng = Engine(optimizers(method, 2e-3)), torch.Generator().manual_seed(1)
    for t in range(100):
        count = stage.batch * stage.critic_steps
        of_first = torch.rand(count, generator=rng) < mix
        which = torch.randint(4, (count,), generator=rng)
        images = torch.where(of_first[:, None, None, None], first[which], second[which])
        noise = torch.randn(4, count, Z, generator=rng)
        engine.run(method.step(Batch(images, torch.zeros(count, 0), torch.zeros(count, 0), noise), t))
    share = float(method.probabilities[0])
    assert abs(share - mix) < 0.1, f"the selector has {share:.2f}, the first source's share of the target is {mix}"


def tiny(release: int = 0) -> tuple[Mine, Batch]:
    torch.manual_seed(0)
    sources: list[nn.Module] = [ResNetGenerator(SIZE, Z, 0.0625) for _ in range(2)]
    stage = MinerConfig(batch=2, critic_steps=1, release=release)
    noise = torch.randn(4, 2, Z)
    batch = Batch(torch.rand(2, 3, SIZE, SIZE) * 2 - 1, torch.zeros(2, 0), torch.zeros(2, 0), noise)
    return Mine(sources, Means(), miners(sources), stage, NOTHING), batch


def test_only_the_best_image_of_each_supersample_has_a_gradient() -> None:
    method, _ = tiny()
    images = torch.rand(2, 3, 3, SIZE, SIZE, requires_grad=True)
    best, value = method.best(images, 0)
    values = method.networks["discriminator"](images.flatten(0, 1))[0].view(2, 3)
    winners = values.argmax(0)
    assert torch.equal(value, values.max(0).values) and torch.equal(best[1], images[winners[1], 1])
    value.sum().backward()
    assert images.grad is not None
    touched = images.grad.flatten(2).abs().sum(2) > 0
    assert torch.equal(touched, nn.functional.one_hot(winners, 2).T == 1)
    assert torch.allclose(method.probabilities, torch.bincount(winners, minlength=2) / 3)


def test_generators_learn_from_the_step_of_their_release_and_their_norms_stay() -> None:
    method, batch = tiny(release=2)
    engine = Engine(optimizers(method, 1e-3))
    for t, moves in enumerate((False, False, True)):
        before = {key: value.clone() for key, value in method.networks["generator"].state_dict().items()}
        engine.run(method.step(batch, t))
        after = method.networks["generator"].state_dict()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert bool(changed) == moves and not any("running" in key for key in changed)


def test_images_are_drawn_from_each_generator_as_often_as_the_selector_says() -> None:
    black, white = (torch.full((2, 3, 4, 4), level) for level in (-1.0, 1.0))
    sources: list[nn.Module] = [FixedPictures(black), FixedPictures(white)]
    method = Mine(sources, None, miners(sources), MinerConfig(), NOTHING)
    method.miner.record(torch.tensor([0, 1, 1, 1]), 0)
    made = method.generate(torch.randn(2000, method.noise_length), torch.zeros(2000, 0))
    assert abs(float((made.mean((1, 2, 3)) < 0).float().mean()) - 0.25) < 0.03
