"""Which maps PatchNCE reads, and that no more of a network runs than they need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from index_store.errors import UsageError
from translation.networks.blocks import initialise
from translation.networks.gmm_unit import ContentEncoder
from translation.networks.patches import (
    PAPER_LAYERS,
    SINGLE_IMAGE_LAYERS,
    PatchProjector,
    Staged,
    features,
    layer_channels,
    usable_layers,
)
from translation.networks.resnet import ResnetDecoder, ResnetEncoder
from translation.networks.single_image import SingleImageDecoder, SingleImageEncoder
from translation.objectives import gather_positions, patch_nce_over_layers, sample_positions

WIDTH = 0.0625


def resnet(blocks: int = 5) -> tuple[ResnetEncoder, ResnetDecoder]:
    torch.manual_seed(0)
    return ResnetEncoder(WIDTH), ResnetDecoder(WIDTH, blocks)


def test_the_papers_layers_have_their_shapes() -> None:
    networks = resnet(9)
    images = torch.rand(2, 3, 32, 48)
    maps = features(networks, images, PAPER_LAYERS)
    assert maps[0] is images
    assert [tuple(m.shape[1:]) for m in maps] == [(3, 32, 48), (8, 16, 24), (16, 8, 12), (16, 8, 12), (16, 8, 12)]
    assert [m.shape[1] for m in maps] == layer_channels(networks, PAPER_LAYERS)


@pytest.mark.parametrize(
    "networks", [resnet(2), (SingleImageEncoder(0.1), SingleImageDecoder(0.1, blocks=2)), (ContentEncoder(WIDTH, 2),)]
)
@torch.no_grad()
def test_maps_are_those_that_the_networks_go_through(networks: tuple[nn.Module, ...]) -> None:
    """For each network that tells its maps: the last of them is what it gives when called."""
    images = torch.rand(2, 3, 32, 32)
    given = images
    for network in networks:
        names = list(network.stage_channels)  # type: ignore[arg-type]
        told = list(network.stages(given))  # type: ignore[operator]
        assert [name for name, _ in told] == names
        assert [m.shape[1] for _, m in told] == list(network.stage_channels.values())  # type: ignore[union-attr, operator]
        given = network(given)
        assert torch.equal(told[-1][1], given)


@torch.no_grad()
def test_one_pass_gives_the_translation_and_its_sources_features() -> None:
    encoder, decoder = resnet()
    images = torch.rand(1, 3, 32, 32)
    *keys, image = features((encoder, decoder), images, (*PAPER_LAYERS, "image"))
    assert torch.equal(image, decoder(encoder(images)))
    for one, other in zip(keys, features((encoder, decoder), images, PAPER_LAYERS), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "layers, blocks", [(("pixels",), 0), (("down2",), 0), (PAPER_LAYERS, 5), (("block2", "pixels"), 2)]
)
def test_nothing_behind_the_last_layer_is_computed(layers: tuple[str, ...], blocks: int) -> None:
    encoder, decoder = resnet(6)
    ran: list[str] = []
    for name, module in [*enumerate(decoder.blocks), *((f"up{i}", layer) for i, layer in enumerate(decoder.up))]:
        module.register_forward_hook(lambda *_, name=name: ran.append(str(name)))
    features((encoder, decoder), torch.rand(1, 3, 16, 16), layers)
    assert ran == [str(i) for i in range(blocks)]


def test_a_network_with_fewer_blocks_is_read_at_fewer_places() -> None:
    assert usable_layers(resnet(4), PAPER_LAYERS) == ("pixels", "down1", "down2", "block1")
    assert usable_layers(resnet(9), PAPER_LAYERS) == PAPER_LAYERS
    single = (SingleImageEncoder(0.1), SingleImageDecoder(0.1))
    assert usable_layers(single, SINGLE_IMAGE_LAYERS) == SINGLE_IMAGE_LAYERS
    assert usable_layers(single, PAPER_LAYERS) == ("pixels", "down1", "block1", "block5")


@pytest.mark.parametrize(
    "layers, told", [(("pixel",), "'pixel' is no layer"), (("block7",), "asked for block7"), ((), "asked for nothing")]
)
def test_layers_that_cannot_be_are_refused(layers: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        usable_layers(resnet(4), layers)


def test_a_layer_that_is_missing_is_not_passed_over() -> None:
    networks = resnet(4)
    with pytest.raises(UsageError, match=r"no layer 'block5'.*block4"):
        features(networks, torch.rand(1, 3, 16, 16), PAPER_LAYERS)
    with pytest.raises(UsageError, match=r"no layer 'block5'.*block4"):
        layer_channels(networks, PAPER_LAYERS)


def test_vectors_have_length_one_also_from_the_papers_first_weights_in_bf16() -> None:
    projector = PatchProjector([3, 16], dim=32)
    initialise(projector, "xavier")
    with torch.autocast("cpu", torch.bfloat16):
        vectors = projector([torch.rand(2, 5, 3), torch.rand(2, 7, 16).bfloat16()])
    assert [tuple(v.shape) for v in vectors] == [(2, 5, 32), (2, 7, 32)]
    for vector in vectors:
        assert vector.dtype == torch.float32
        torch.testing.assert_close(vector.norm(dim=2), torch.ones(vector.shape[:2]))


def test_every_head_is_there_before_the_first_batch() -> None:
    """So that a checkpoint is loaded into a network just made."""
    made, other = PatchProjector([3, 8]), PatchProjector([3, 8])
    other.load_state_dict(made.state_dict())
    assert len(made.state_dict()) == 8


def nce(networks: tuple[Staged, ...], projector: PatchProjector, source: Tensor, output: Tensor, fixed: bool) -> Tensor:
    keys = features(networks, source, PAPER_LAYERS)
    draw = torch.Generator().manual_seed(0)
    positions = [sample_positions(m.shape[2] * m.shape[3], 16, draw) for m in keys]
    k = projector([gather_positions(m, p) for m, p in zip(keys, positions, strict=True)])
    q = projector(
        [gather_positions(m, p) for m, p in zip(features(networks, output, PAPER_LAYERS), positions, strict=True)]
    )
    return patch_nce_over_layers(q, [one.detach() for one in k] if fixed else k)


def test_the_gradient_takes_the_way_of_the_output_alone() -> None:
    """Into the output, the encoder, the blocks that are read and the heads; as if the keys were constants."""
    networks = resnet(5)
    projector = PatchProjector(layer_channels(networks, PAPER_LAYERS), dim=16)
    source, output = (torch.rand(2, 3, 16, 16, requires_grad=True) for _ in range(2))
    learners = [*networks[0].parameters(), *networks[1].blocks.parameters(), *projector.parameters()]
    loss = nce(networks, projector, source, output, fixed=False)
    to_source, to_output = torch.autograd.grad(loss, [source, output], allow_unused=True, retain_graph=True)
    assert to_source is None
    assert to_output.abs().sum() > 0
    found = torch.autograd.grad(loss, learners)
    wanted = torch.autograd.grad(nce(networks, projector, source, output, fixed=True), learners)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert all(g.abs().sum() > 0 for g in found if g.dim() > 1)
