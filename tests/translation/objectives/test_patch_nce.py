"""PatchNCE against three loops written as the paper's formula, and what it must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from translation.objectives import gather_positions, mirrored, patch_nce, patch_nce_over_layers, sample_positions


def vectors(images: int, places: int, dim: int = 5, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(images, places, dim, generator=torch.Generator().manual_seed(seed)), dim=2)


def by_loops(query: Tensor, key: Tensor, temperature: float, across_batch: bool) -> list[float]:
    """For each image, place and wrong key: −log of the right score's share, as CUT, Eq. 2 and 3."""
    losses = []
    for image in range(len(query)):
        total = 0.0
        for place in range(query.shape[1]):
            q = query[image, place]
            right = math.exp(float(q @ key[image, place]) / temperature)
            wrong = 0.0
            for other_image in range(len(key)) if across_batch else [image]:
                for other in range(key.shape[1]):
                    if (other_image, other) != (image, place):
                        wrong += math.exp(float(q @ key[other_image, other]) / temperature)
            total -= math.log(right / (right + wrong))
        losses.append(total / query.shape[1])
    return losses


@pytest.mark.parametrize("images, places", [(1, 2), (3, 4), (2, 9)])
@pytest.mark.parametrize("across_batch", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_it_is_the_papers_formula(images: int, places: int, across_batch: bool, temperature: float) -> None:
    query, key = vectors(images, places), vectors(images, places, seed=1)
    found = patch_nce(query, key, temperature, across_batch)
    assert found.shape == (images,)
    assert found.tolist() == pytest.approx(by_loops(query, key, temperature, across_batch), rel=1e-5, abs=1e-6)


def test_one_place_a_crop_is_enough_across_the_batch() -> None:
    """The released setting for single images: one position, told from the other crops'."""
    query, key = vectors(4, 1), vectors(4, 1, seed=1)
    assert patch_nce(query, key, across_batch=True).tolist() == pytest.approx(
        by_loops(query, key, 0.07, True), rel=1e-5
    )
    for images, across in ((4, False), (1, True)):
        with pytest.raises(ValueError, match="nothing to be told from"):
            patch_nce(query[:images], key[:images], across_batch=across)


def test_the_diagonal() -> None:
    """Query = key: log(1 + (P − 1)·e^(−1/τ)) where places are at right angles, log P where they are all alike."""
    apart = torch.eye(6)[None]
    wanted = math.log(1 + 5 * math.exp(-1 / 0.5))
    assert patch_nce(apart, apart, 0.5).item() == pytest.approx(wanted, rel=1e-5)
    alike = torch.full((2, 6, 4), 0.5)
    assert patch_nce(alike, alike).tolist() == pytest.approx([math.log(6)] * 2, rel=1e-5)
    assert patch_nce(alike, alike, across_batch=True).tolist() == pytest.approx([math.log(12)] * 2, rel=1e-5)


def test_only_the_query_learns() -> None:
    query, key = vectors(2, 4).requires_grad_(), vectors(2, 4, seed=1).requires_grad_()
    patch_nce(query, key).sum().backward()  # type: ignore[no-untyped-call]
    assert query.grad is not None and query.grad.abs().sum() > 0
    assert key.grad is None


def test_scores_are_float32_under_mixed_precision() -> None:
    query, key = vectors(2, 64, 32), vectors(2, 64, 32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = patch_nce(query, key, across_batch=True)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, patch_nce(query, key, across_batch=True), rtol=1e-6, atol=0)
    half = patch_nce(query.bfloat16(), key.bfloat16())
    torch.testing.assert_close(half, patch_nce(query.bfloat16().float(), key.bfloat16().float()), rtol=1e-6, atol=0)


def test_the_order_of_positions_does_not_matter() -> None:
    query, key = vectors(2, 8), vectors(2, 8, seed=1)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(patch_nce(query[:, order], key[:, order]), patch_nce(query, key))


def test_images_do_not_meet_unless_asked_to() -> None:
    query, key = vectors(3, 4), vectors(3, 4, seed=1)
    alone = torch.cat([patch_nce(query[i : i + 1], key[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(patch_nce(query, key), alone)
    assert (patch_nce(query, key, across_batch=True) > alone).all(), "more wrong keys"


def test_layers_are_averaged_then_images_by_their_weight() -> None:
    queries = [vectors(2, 4), vectors(2, 6, 3)]
    keys = [vectors(2, 4, seed=1), vectors(2, 6, 3, seed=1)]
    first, second = (patch_nce(q, k) for q, k in zip(queries, keys, strict=True))
    each = (first + second) / 2
    torch.testing.assert_close(patch_nce_over_layers(queries, keys), each.mean())
    weight = torch.tensor([0.5, 1.5], requires_grad=True)
    queries[0].requires_grad_()
    weighted = patch_nce_over_layers(queries, keys, weight=weight)
    torch.testing.assert_close(weighted, (0.5 * each[0] + 1.5 * each[1]) / 2)
    weighted.backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None and queries[0].grad is not None


def test_positions_are_different_and_at_most_all() -> None:
    draw = lambda places, count, seed=0: sample_positions(places, count, torch.Generator().manual_seed(seed))  # noqa: E731
    some = draw(64, 10)
    assert some.dtype == torch.int64 and len(set(some.tolist())) == 10 and some.min() >= 0 and some.max() < 64
    assert sorted(draw(6, 256).tolist()) == list(range(6))
    assert torch.equal(some, draw(64, 10)) and not torch.equal(some, draw(64, 10, seed=1))


@pytest.mark.parametrize("lies", [torch.contiguous_format, torch.channels_last])
def test_gathered_vectors_stand_at_their_row_and_column(lies: torch.memory_format) -> None:
    maps = torch.randn(2, 3, 4, 5).to(memory_format=lies)
    there = gather_positions(maps, torch.tensor([0, 7, 19]))
    assert there.shape == (2, 3, 3)
    for i, (row, column) in enumerate([(0, 0), (1, 2), (3, 4)]):
        assert torch.equal(there[:, i], maps[:, :, row, column])


def test_a_mirrored_pair_at_mirrored_positions_has_the_same_loss() -> None:
    """FastCUT's flip equivariance, with a network that is equivariant itself: a kernel that is its own mirror image."""
    kernel = torch.randn(8, 3, 3, 3)
    kernel = kernel + kernel.flip(3)

    def encode(images: Tensor) -> Tensor:
        return F.relu(F.conv2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), kernel))

    source, output = torch.randn(2, 3, 6, 7), torch.randn(2, 3, 6, 7)
    positions = sample_positions(6 * 7, 12, torch.Generator().manual_seed(0))

    def loss(mirror_output: bool, at: Tensor) -> Tensor:
        made = output.flip(3) if mirror_output else output
        query, key = gather_positions(encode(made), at), gather_positions(encode(source), positions)
        return patch_nce(F.normalize(query, dim=2), F.normalize(key, dim=2))

    assert torch.equal(mirrored(mirrored(positions, 7), 7), positions)
    torch.testing.assert_close(loss(True, mirrored(positions, 7)), loss(False, positions))
    assert not torch.allclose(loss(True, positions), loss(False, positions))
