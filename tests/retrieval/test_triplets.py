import pytest
import torch
from torch import Tensor

from retrieval.triplets import EASY, HARD, MEDIUM, OWN_DOMAIN, TripletLoss, Triplets, make_triplets
from tests.retrieval.colours import ColourEncoders

N = 12


def batch(kinds: list[int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    n = len(kinds)
    return {
        "images": torch.rand(n, 3, 32, 32, generator=generator) * 2 - 1,
        "others": torch.rand(n, 3, 32, 32, generator=generator) * 2 - 1,
        "style_target": torch.randn(n, 16, generator=generator),
        "style_negative": torch.randn(n, 16, generator=generator),
        "kind": torch.tensor(kinds),
    }


def made(kinds: list[int]) -> tuple[ColourEncoders, dict[str, Tensor], Triplets]:
    encoders = ColourEncoders()
    given = batch(kinds)
    triplets = make_triplets(encoders, **given)
    return encoders, given, triplets


def test_anchor_and_positive_are_the_query_and_its_translation() -> None:
    encoders, given, triplets = made([EASY, MEDIUM, HARD, OWN_DOMAIN] * 3)
    content = encoders.content(given["images"])
    torch.testing.assert_close(triplets.anchor.content, content)
    torch.testing.assert_close(triplets.anchor.style, given["style_target"])
    translated = encoders.translate(given["images"], content, given["style_target"]).image
    torch.testing.assert_close(triplets.positive.content, encoders.content(translated))
    torch.testing.assert_close(triplets.positive.style, encoders.style(translated))


def negative_one_by_one(encoders: ColourEncoders, given: dict[str, Tensor], row: int) -> tuple[Tensor, Tensor]:
    """The table of methods.md for one triplet, written plainly."""
    x, other = given["images"][row : row + 1], given["others"][row : row + 1]
    target, negative = given["style_target"][row : row + 1], given["style_negative"][row : row + 1]
    kind = int(given["kind"][row])
    if kind == EASY:
        return encoders.content(other), encoders.style(other)
    if kind == MEDIUM:
        moved = encoders.translate(other, encoders.content(other), target).image
        positive = encoders.translate(x, encoders.content(x), target).image
        return encoders.content(moved), encoders.style(positive)
    restyled = encoders.translate(x, encoders.content(x), negative).image
    return encoders.content(restyled), encoders.style(restyled)


@pytest.mark.parametrize(
    "kinds",
    [
        [EASY] * 3,
        [MEDIUM] * 3,
        [HARD] * 3,
        [OWN_DOMAIN] * 3,
        [OWN_DOMAIN, MEDIUM, EASY, HARD, HARD, EASY, MEDIUM, OWN_DOMAIN, EASY],
    ],
)
def test_each_kind_of_negative_is_what_the_table_says(kinds: list[int]) -> None:
    encoders, given, triplets = made(kinds)
    for row in range(len(kinds)):
        content, style = negative_one_by_one(encoders, given, row)
        torch.testing.assert_close(triplets.negative.content[row : row + 1], content)
        torch.testing.assert_close(triplets.negative.style[row : row + 1], style)
    assert triplets.kind.tolist() == kinds


def test_only_the_translations_that_the_kinds_need_are_made() -> None:
    encoders, _, _ = made([EASY] * 5 + [MEDIUM] * 2 + [HARD] * 3)
    assert encoders.painted == [10 + 2 + 3]  # one call; the easy ones cost none
    assert encoders.encoded == [10 + 5 + 2, 10 + 2 + 3]  # sources once, results once


def test_no_gradient_reaches_the_translator() -> None:
    encoders, _, triplets = made([EASY, MEDIUM, HARD, OWN_DOMAIN])
    for pair in (triplets.anchor, triplets.positive, triplets.negative):
        assert not pair.content.requires_grad
        assert not pair.style.requires_grad
    assert all(p.grad is None for p in encoders.parameters())


@pytest.mark.parametrize("n", [3, 64])  # 64: where a matrix product would lose digits
@pytest.mark.parametrize("distance", ["euclidean", "squared"])
def test_the_loss_is_the_formula_of_the_paper(n: int, distance: str) -> None:
    torch.manual_seed(0)
    anchor = (100 + torch.randn(n, 7)).requires_grad_()  # far from 0: normalising would show
    positive, negative = anchor.detach() + 0.1 * torch.randn(n, 7), anchor.detach() + 0.1 * torch.randn(n, 7)
    to_positive = (anchor - positive).norm(dim=1)
    to_negative = (anchor - negative).norm(dim=1)
    if distance == "squared":
        to_positive, to_negative = to_positive**2, to_negative**2
    expected = (0.2 + to_positive - to_negative).clamp(min=0).mean()
    loss, a, b = TripletLoss(0.2, distance)(anchor, positive, negative)  # type: ignore[arg-type]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(a, to_positive.detach())
    torch.testing.assert_close(b, to_negative.detach())
    (wanted,) = torch.autograd.grad(expected, anchor, retain_graph=True)
    (found,) = torch.autograd.grad(loss, anchor)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_satisfied_triplets_count_as_zeros_in_the_mean() -> None:
    anchor = torch.zeros(2, 2)
    positive = torch.tensor([[1.0, 0.0], [0.1, 0.0]])
    negative = torch.tensor([[0.0, 0.5], [0.0, 9.0]])
    loss, _, _ = TripletLoss(0.2)(anchor, positive, negative)
    torch.testing.assert_close(loss, torch.tensor((0.2 + 1.0 - 0.5 + 0.0) / 2))
