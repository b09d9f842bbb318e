import pytest
import torch
from torch import nn

from index_store.errors import RgunitError
from retrieval.config import RetrievalConfig
from retrieval.network import EmbeddingNetwork, make_network, strides


def shapes_of(network: EmbeddingNetwork, content: torch.Tensor, style: torch.Tensor) -> list[tuple[int, ...]]:
    """Output shapes of the convolutions and linear layers, in order."""
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.AdaptiveAvgPool2d):
            module.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    network(content, style)
    return seen


def test_the_shapes_are_those_of_table_5() -> None:
    network = make_network(RetrievalConfig(), content_channels=256, content_size=32, style_dim=40)
    assert shapes_of(network, torch.randn(2, 256, 32, 32), torch.randn(2, 40)) == [
        (128, 32, 32),
        (128, 16, 16),
        (64, 16, 16),
        (64, 8, 8),
        (32, 8, 8),
        (32, 4, 4),
        (32, 4, 4),  # the pooling has nothing to do here
        (512,),
        (512,),
        (100,),
    ]
    assert network.mlp[0].in_features == 512 + 40
    kernels = [(m.kernel_size[0], m.stride[0]) for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(3, 1), (4, 2)] * 3
    widths = [(256, 128, 3), (128, 128, 4), (128, 64, 3), (64, 64, 4), (64, 32, 3), (32, 32, 4)]
    convolutions = sum(i * o * k * k + o for i, o, k in widths)
    linear = sum(i * o + o for i, o in ((512 + 40, 512), (512, 512), (512, 100)))
    assert sum(p.numel() for p in network.parameters()) == convolutions + linear == 1_328_676


@pytest.mark.parametrize(
    ("side", "expected"),
    [(4, (1, 1, 1)), (8, (2, 1, 1)), (16, (2, 2, 1)), (24, (2, 2, 1)), (32, (2, 2, 2)), (64, (2, 2, 2))],
)
def test_strides_stop_where_the_map_would_fall_under_4x4(side: int, expected: tuple[int, int, int]) -> None:
    assert strides(side) == expected


@pytest.mark.parametrize("norm", ["instance", "layer"])
@pytest.mark.parametrize("side", [4, 8, 16, 24, 64])
def test_every_resolution_embeds_and_reaches_all_its_weights(side: int, norm: str) -> None:
    config = RetrievalConfig(widths=(8, 8, 4), hidden=16, dim=7, norm=norm)  # type: ignore[arg-type]
    network = make_network(config, content_channels=6, content_size=side, style_dim=16)
    out = network(torch.randn(3, 6, side, side), torch.randn(3, 16))
    assert out.shape == (3, 7)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.mlp[0].weight.grad[:, -16:].abs().sum() > 0  # the style's columns


def test_content_under_4x4_is_refused_with_the_limit() -> None:
    with pytest.raises(RgunitError, match=r"at least 4×4"):
        make_network(RetrievalConfig(), content_channels=4, content_size=2, style_dim=8)


def test_an_embedding_depends_on_content_and_on_style_but_not_on_the_batch() -> None:
    network = EmbeddingNetwork(6, 8, 16, widths=(8, 8, 4), hidden=16, dim=5).eval()
    content, style = torch.randn(4, 6, 8, 8), torch.randn(4, 16)
    whole = network(content, style)
    torch.testing.assert_close(network(content[1:2], style[1:2]), whole[1:2])
    assert not torch.allclose(network(content, style.flip(0)), whole)
    assert not torch.allclose(network(content.flip(0), style), whole)
