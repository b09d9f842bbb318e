"""Guidance as a part: how retrieved content maps join the source's as the generator's input (RG-UNIT, Section 3.3).

Every kind takes content [B, C, h, w] and neighbours' content [B, k, C, h, w] and gives content [B, C, h, w]. Without
neighbours (k = 0), or for images to which they are not shown, it gives E_c(x) itself, bit for bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from index_store.errors import RgunitError
from translation.networks.blocks import InstanceNorm, convolution, instance_norm
from translation.sections import GuidedConfig

HEADS = 2  # few and wide: on a CPU attention's time goes with heads · queries · keys
POSITIONS = 32  # patches are looked for in at most 32×32 places, of a content map averaged down where it is larger
KEYS = 16  # a neighbour's map is averaged down to at most 16×16 keys, the size it has at 64 px
CELL = 4  # pixels a side of one position of a content map
PIXELS = 3 * CELL * CELL
PLACES = 64  # width of the code of a place
SHARPNESS = 50.0
FAINT = 28.0  # a key so far below the best one is looked at with less than e⁻²⁸, a 10¹²th
PAINTER = 32
QUERIES = 4096  # so many places look at once: of large maps the weights would not fit into memory


class Window(NamedTuple):
    """Where a tile of a content map lies in the whole one: its first place, and the whole's height and width."""

    top: int
    left: int
    height: int
    width: int


class Guided(NamedTuple):
    """What the generator is given: content [B, C, h, w]; look [B, 3, 4h, 4w] in [−1, 1], a picture put together from
    patches of the neighbours, for guidance that brings one; shown [B], the images that it is for (None: all)."""

    content: Tensor
    look: Tensor | None = None
    shown: Tensor | None = None


@dataclass(frozen=True)
class Guide:
    """What one translation is shown: neighbours' content [B, k, C, h, w] (C + 48 where guidance wants pixels), how much
    they count, in [0, 1], the images [B] that see theirs (None: all), and where the content lies if it is a tile."""

    neighbours: Tensor
    strength: float = 1.0
    shown: Tensor | None = None
    window: Window | None = None


class Guidance(nn.Module, ABC):
    """What the kinds share. `takes` is the number of neighbours it must be given, None for any; `pixels`: neighbours
    come with their pixels, as 48 further channels of their maps (`with_pixels`)."""

    takes: int | None = None
    pixels: bool = False

    @abstractmethod
    def branches(self, content: Tensor, neighbours: Tensor, window: Window | None = None) -> tuple[Tensor, Tensor]:
        """The source's and the neighbours' parts [B, C, h, w]; their sum is what `fuse` gives before a last ReLU.

        `window`: where the content lies, if it is a tile of a larger map.
        """

    def fuse(self, content: Tensor, neighbours: Tensor, window: Window | None = None) -> Tensor:
        """c_total [B, C, h, w] of k ≥ 1 neighbours."""
        source, theirs = self.branches(content, neighbours, window)
        return source + theirs

    @abstractmethod
    def gate(self) -> Tensor:
        """How far the way of the neighbours is open, a detached scalar; 0: not at all."""

    def step(self, side: int) -> int:
        """How many places of the content, to a side, look together, where neighbours' maps are `side`×`side`."""
        return 1

    def look(self, content: Tensor, neighbours: Tensor, window: Window | None = None) -> Tensor | None:
        """A picture [B, 3, 4h, 4w] of neighbours' patches in the places of the source's; None: this kind has none."""
        return None

    def paint(self, prediction: Tensor, mask: Tensor, guided: Guided, images: Tensor) -> Tensor:
        """The generator's prediction [B, 3, H, W] with what is taken over from the look; as it is without one."""
        return prediction

    def forward(
        self, content: Tensor, neighbours: Tensor, shown: Tensor | None = None, window: Window | None = None
    ) -> Guided:
        """c_total and look where `shown` [B] (bool; None: everywhere), E_c(x) elsewhere and where k = 0."""
        k = neighbours.shape[1]
        if k == 0:
            return Guided(content)
        if self.takes not in (None, k):
            raise RgunitError(
                f"guidance by convolution takes the {self.takes} neighbours it was trained with, not {k}: "
                "attention and patches take any number (--set guided.guidance=attention)"
            )
        fused, look = self.fuse(content, neighbours, window), self.look(content, neighbours, window)
        if shown is not None:
            fused = torch.where(shown[:, None, None, None], fused, content)
        return Guided(fused, look, shown)


class ConvolutionFusion(Guidance):
    """The paper's: c_r = ReLU(conv3×3([E_c(r1) … E_c(rk)])), c_total = conv3×3([E_c(x), c_r]).

    `paper`: a last ReLU (Table 8), which clips the signed E_c(x), and a random start. Else no last ReLU, and the second
    convolution starts as [identity, `start` · He's random weights]: at start 0 the first step equals stage 1.
    """

    def __init__(self, channels: int, neighbours: int, *, paper: bool = False, start: float = 0.0) -> None:
        super().__init__()
        self.takes, self.clip = neighbours, paper
        self.gather = convolution(neighbours * channels, channels, 3)
        self.merge = convolution(2 * channels, channels, 3)
        for layer in (self.gather, self.merge):
            nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if not paper:
            with torch.no_grad():
                self.merge.weight.mul_(start)
                self.merge.weight[:, :channels] = 0
                self.merge.weight[:, :channels, 1, 1].copy_(torch.eye(channels))

    def fuse(self, content: Tensor, neighbours: Tensor, window: Window | None = None) -> Tensor:
        retrieved = F.relu(self.gather(neighbours.flatten(1, 2)))
        fused: Tensor = self.merge(torch.cat([content, retrieved], dim=1))
        return F.relu(fused) if self.clip else fused

    def branches(self, content: Tensor, neighbours: Tensor, window: Window | None = None) -> tuple[Tensor, Tensor]:
        retrieved = F.relu(self.gather(neighbours.flatten(1, 2)))
        source: Tensor = self.merge(torch.cat([content, torch.zeros_like(retrieved)], dim=1))
        return source, self.merge(torch.cat([content, retrieved], dim=1)) - source

    def gate(self) -> Tensor:
        """Norm of the merge's weights on the neighbours over that on the source."""
        ours, theirs = self.merge.weight.detach().chunk(2, dim=1)
        share: Tensor = theirs.norm() / ours.norm()
        return share


class AttentionFusion(Guidance):
    """Cross-attention: each position of E_c(x) looks at all positions of all neighbours, for any k and in any order.

    c_total = E_c(x) + tanh(γ) · W_o · attention. Keys start as the queries' projection of instance-normalised content,
    with sine-cosine places added: at first a position looks where the content is alike and the place is near. Values
    are the neighbours' maps themselves, and W_o starts as the identity, so that what comes through an opened gate is
    content that the generator knows. tanh(γ) starts at `start`; at 0 the first step equals stage 1.
    """

    def __init__(self, channels: int, *, start: float = 0.0) -> None:
        super().__init__()
        width = channels // HEADS
        self.query, self.key, self.out = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(3))
        # A place's own code adds 4 to its logit, softmax's e⁴ ≈ 55 times the weight of a far one.
        self.place = nn.Parameter(torch.full((HEADS, 1, 1), math.sqrt(4 * math.sqrt(width))))
        self.openness = nn.Parameter(torch.full((1,), math.atanh(start)))
        self.norm = InstanceNorm()  # of the source's content: a module, so that tiles can be given the whole's numbers
        with torch.no_grad():
            self.query.weight.normal_(0.0, channels**-0.5)
            self.key.weight.copy_(self.query.weight)
            self.out.weight[:, :, 0, 0].copy_(torch.eye(channels))

    def branches(self, content: Tensor, neighbours: Tensor, window: Window | None = None) -> tuple[Tensor, Tensor]:
        k, side = neighbours.shape[1], max(neighbours.shape[3:])
        seen = neighbours.flatten(0, 1)  # [B·k, C, h, w]
        if side > KEYS:
            seen = F.avg_pool2d(seen, math.ceil(side / KEYS))
        queries = self._headed(self.query(self.norm(content)), 1) + self._places(content, 1, window)
        keys = self._headed(self.key(instance_norm(seen)), k) + self._places(seen, k)
        values = self._headed(seen, k)
        kind = torch.promote_types(queries.dtype, keys.dtype)
        looked = F.scaled_dot_product_attention(queries.to(kind), keys.to(kind), values.to(kind))
        attended: Tensor = self.out(looked.transpose(2, 3).reshape(content.shape))
        return content, torch.tanh(self.openness) * attended

    def gate(self) -> Tensor:
        """tanh(γ)."""
        return torch.tanh(self.openness.detach())[0]

    def _headed(self, maps: Tensor, k: int) -> Tensor:
        """[B·k, C, h, w] → [B, heads, k·h·w, C / heads]."""
        n, channels, h, w = maps.shape
        parts = maps.reshape(n // k, k, HEADS, channels // HEADS, h * w)
        return parts.permute(0, 2, 1, 4, 3).flatten(2, 3)

    def _places(self, maps: Tensor, k: int, window: Window | None = None) -> Tensor:
        """Scaled codes of the positions of k maps [heads, k·h·w, C / heads], the same for each map."""
        codes = places(maps.shape[1] // HEADS, maps.shape[2], maps.shape[3], maps.device, window)
        return (self.place * codes).to(maps.dtype).repeat(1, k, 1)


class PatchGuidance(Guidance):
    """The neighbours' own pixels, moved to where they fit: copying, where the other kinds describe.

    Each position of E_c(x) looks for the position of a neighbour whose content is alike and whose place is near, as
    in `AttentionFusion` but sharply, and takes the 8×8 pixels there (of maps above 32×32 fewer places and larger
    patches); overlaps averaged. This picture, the look, has the neighbours' style in the source's composition
    (CoCosNet, Zhang et al. 2020, warps one exemplar so). A small network sees prediction, look, source and mask and
    says for each pixel what share α of the prediction the look replaces, and what to add so that seams do not show:
    x̃′ = x̃ + α·(look − x̃) + r. α starts at `start`, r at 0; at 0 the first step equals stage 1. The content is
    left as it is, and so is the reconstruction: another's pixels would only be punished there, and one's own be
    copied.
    """

    pixels = True

    def __init__(self, channels: int, *, start: float = 0.0) -> None:
        super().__init__()
        self.query, self.key = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))
        # Logits are SHARPNESS · (cosine of contents + 2 · product of places) at first.
        self.sharpness = nn.Parameter(torch.full((1,), math.log(SHARPNESS)))
        self.place = nn.Parameter(torch.full((1,), math.log(2.0)))
        self.norm = InstanceNorm()  # of the source's content, as in `AttentionFusion`
        self.painted = convolution(PAINTER, 4, 3)  # α before its tanh, and r
        self.painter = nn.Sequential(
            convolution(10, PAINTER, 3),
            nn.LeakyReLU(0.1, inplace=True),
            convolution(PAINTER, PAINTER, 3),
            nn.LeakyReLU(0.1, inplace=True),
        )
        with torch.no_grad():
            for layer in (self.query, self.key):
                layer.weight[:, :, 0, 0].copy_(torch.eye(channels))
            for parameter in self.painted.parameters():
                parameter.zero_()
            self._bias()[0] = math.atanh(start)

    def branches(self, content: Tensor, neighbours: Tensor, window: Window | None = None) -> tuple[Tensor, Tensor]:
        return content, torch.zeros_like(content)

    def step(self, side: int) -> int:
        return next(n for n in range(math.ceil(side / POSITIONS), side + 1) if side % n == 0)

    def look(self, content: Tensor, neighbours: Tensor, window: Window | None = None) -> Tensor:
        """The content may be of another size than the neighbours': patches are as large as in training."""
        b, k = neighbours.shape[:2]
        height, width = (CELL * side for side in content.shape[2:])
        seen, pixels = torch.split(neighbours.flatten(0, 1), [content.shape[1], PIXELS], dim=1)
        pixels = F.pixel_shuffle(pixels.float(), CELL)
        coarse = self.step(neighbours.shape[3])
        if coarse > 1:
            content, seen = F.avg_pool2d(_filled(content, coarse), coarse), F.avg_pool2d(seen, coarse)
            if window is not None:
                top, left, *whole = window
                window = Window(top // coarse, left // coarse, *(math.ceil(side / coarse) for side in whole))
        cell, overlap = coarse * CELL, coarse * CELL // 2
        h, w = content.shape[2:]
        with torch.autocast(content.device.type, enabled=False):  # sharp attention needs all of the logits' bits
            queries = self._described(self.query, self.norm(content.float()), window)  # [B, h·w, C + C′]
            keys = self._described(self.key, instance_norm(seen.float())).view(b, -1, queries.shape[2])
            patches = _cut(F.pad(pixels, (overlap,) * 4, mode="reflect"), cell)
            values = patches.view(b, k, *patches.shape[1:]).transpose(2, 3).flatten(1, 2)  # [B, keys, 3·(2·cell)²]
            found = attend(queries, keys, values).transpose(1, 2)
            look = _laid(found, h, w, cell) / _laid(torch.ones_like(found[:1]), h, w, cell)
            return look[:, :, overlap : overlap + height, overlap : overlap + width]

    def paint(self, prediction: Tensor, mask: Tensor, guided: Guided, images: Tensor) -> Tensor:
        if guided.look is None:
            return prediction
        kind = prediction.dtype
        look = guided.look.to(kind)
        out = self.painted(self.painter(torch.cat([prediction, look, images.to(kind), mask], dim=1)))
        painted = prediction + torch.tanh(out[:, :1]) * (look - prediction) + out[:, 1:]
        return painted if guided.shown is None else torch.where(guided.shown[:, None, None, None], painted, prediction)

    def gate(self) -> Tensor:
        """α as it is where nothing that is seen speaks for more or less."""
        return torch.tanh(self._bias().detach()[0])

    def _bias(self) -> Tensor:
        assert self.painted.bias is not None
        return self.painted.bias

    def _described(self, projection: nn.Module, maps: Tensor, window: Window | None = None) -> Tensor:
        """Directions of normalised contents and of places, scaled so that products are logits: [n, h·w, C + C′]."""
        n, _, h, w = maps.shape
        contents = F.normalize(projection(maps), dim=1).flatten(2).transpose(1, 2)
        codes = places(PLACES, h, w, maps.device, window).expand(n, -1, -1)
        scale = (0.5 * self.sharpness).exp()
        return torch.cat([scale * contents, scale * (0.5 * self.place).exp() * codes], dim=2)


CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def _cut(pictures: Tensor, cell: int) -> Tensor:
    """Patches of 2×2 cells at each cell, [n, 3·(2·cell)², h·w], of pictures [n, 3, (h + 1)·cell, (w + 1)·cell].

    As `F.unfold`, of which ONNX has no form for any batch, up to the order within a patch.
    """
    blocks = F.pixel_unshuffle(pictures, cell)
    h, w = blocks.shape[2] - 1, blocks.shape[3] - 1
    return torch.cat([blocks[:, :, top : top + h, left : left + w] for top, left in CORNERS], dim=1).flatten(2)


def _laid(patches: Tensor, h: int, w: int, cell: int) -> Tensor:
    """The pictures [n, 3, (h + 1)·cell, (w + 1)·cell] that such patches add up to, as `F.fold` does."""
    parts = patches.reshape(patches.shape[0], -1, h, w).chunk(4, dim=1)
    moved = [F.pad(part, (left, 1 - left, top, 1 - top)) for part, (top, left) in zip(parts, CORNERS, strict=True)]
    return F.pixel_shuffle(moved[0] + moved[1] + moved[2] + moved[3], cell)


def with_pixels(content: Tensor, images: Tensor) -> Tensor:
    """Content [n, C, h, w] and the pixels [n, 3, 4h, 4w] under each position: [n, C + 48, h, w]."""
    return torch.cat([content, F.pixel_unshuffle(images, CELL).to(content.dtype)], dim=1)


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention [B, n, d′] of queries [B, n, d] to keys [B, m, d] with values [B, m, d′]; the products are the logits.

    On a CPU faint keys get no weight at all: sharp logits give weights so small that products with them are denormal
    numbers, which some CPUs compute far slower. On CUDA torch's own attention need not hold all weights at once; here
    `QUERIES` of them are held.
    """
    if queries.device.type == "cuda":
        return F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    if queries.shape[1] > QUERIES:
        return torch.cat([attend(some, keys, values) for some in torch.split(queries, QUERIES, 1)], dim=1)
    logits = queries @ keys.transpose(1, 2)
    faint = logits.detach() < logits.detach().amax(2, keepdim=True) - FAINT
    return logits.masked_fill(faint, -math.inf).softmax(2) @ values


def _filled(maps: Tensor, step: int) -> Tensor:
    """Maps [n, C, h, w] with the last row and column repeated until both sides are multiples of `step`."""
    right, below = -maps.shape[3] % step, -maps.shape[2] % step
    return F.pad(maps, (0, right, 0, below), mode="replicate") if right or below else maps


def places(width: int, h: int, w: int, device: torch.device | str = "cpu", window: Window | None = None) -> Tensor:
    """Sine-cosine codes [h·w, width] of the cells of an h×w map; norm 1 (0 where width < 4).

    The product of two codes depends on their offset alone and falls with it. Coordinates run from 0 to 1 whatever the
    map's size, the frequencies from a quarter turn over the map to a quarter turn in a sixteenth of it. `window`: the
    map is a tile of a larger one.
    """
    n = width // 4
    turns = 2.0 ** torch.linspace(0, 4, n, device=device) * (math.pi / 2)
    top, left, height, whole = window or Window(0, 0, h, w)
    spans = ((top, h, height), (left, w, whole))
    y, x = ((torch.arange(start, start + n, device=device) + 0.5) / of for start, n, of in spans)
    cells = y.repeat_interleave(w), x.repeat(h)
    angles = torch.cat([ordinate[:, None] * turns for ordinate in cells], dim=1)  # [h·w, 2n]
    codes = torch.cat([angles.sin(), angles.cos()], dim=1) / math.sqrt(max(1, 2 * n))
    return F.pad(codes, (0, width - 4 * n))


def build_guidance(guided: GuidedConfig, channels: int) -> Guidance | None:
    """A fresh guidance for content maps of so many channels; None for the kind `none`."""
    if guided.guidance == "none":
        return None
    if guided.guidance == "patches":
        return PatchGuidance(channels, start=guided.neighbour_start)
    if guided.guidance == "attention":
        return AttentionFusion(channels, start=guided.neighbour_start)
    return ConvolutionFusion(channels, guided.neighbours, paper=guided.fusion == "paper", start=guided.neighbour_start)


def fuse(guidance: Guidance | None, content: Tensor, guide: Guide | None) -> Guided:
    """The generator's input: (1 − g)·E_c(x) + g·c_total, g = the guide's strength; E_c(x) without guidance or guide."""
    if guidance is None or guide is None:
        return Guided(content)
    guided: Guided = guidance(content, guide.neighbours, guide.shown, guide.window)
    if guide.strength == 1:
        return guided
    return guided._replace(content=torch.lerp(content.float(), guided.content.float(), guide.strength))


def paint(
    guidance: Guidance | None, prediction: Tensor, mask: Tensor, guided: Guided, images: Tensor, strength: float = 1.0
) -> Tensor:
    """The generator's prediction [B, 3, H, W] with `strength` of what guidance takes over from its look."""
    if guidance is None or guided.look is None:
        return prediction
    painted = guidance.paint(prediction, mask, guided, images)
    return painted if strength == 1 else torch.lerp(prediction.float(), painted.float(), strength)
