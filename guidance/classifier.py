"""The trained classifier of CVG (arXiv 2605.14988): attention maps of a few blocks and heads become p(y) over relations.

Maps of all layers and heads at one step are mixed into one spatio-temporal volume for each thing (aggregation, training phase (c)), the
volumes of several steps are put side by side, phi = Concat(A_t1, A_t2, ...), and a head reads y from phi (d). The relation's own word has
no map here: nothing is measured but the words of the things.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional

from .classifier_vision import Backbone, VisionHead
from .labels import Label
from .objective import PhraseAt, PhraseRef

EVEN = 0.02  # of a map's mean: a spread below this is noise, and is not blown up to full size


@dataclass(frozen=True)
class FeaturePlan:
    """Which maps are read: `blocks`, shares of heads in each, coarse `grid` (f, h, w), and at which `sigmas`, from noise on."""

    blocks: tuple[int, ...]
    head_groups: int
    grid: tuple[int, int, int]
    sigmas: tuple[float, ...]

    def places(self, ref: PhraseRef) -> tuple[PhraseAt, ...]:
        """The maps of one phrase, layer by layer."""
        shares = product(self.blocks, range(self.head_groups))
        return tuple(PhraseAt(ref.phrase, ref.occurrence, block, group, self.head_groups) for block, group in shares)

    def slot(self, sigma: float) -> int:
        """The trained step that is nearest to `sigma`."""
        return min(range(len(self.sigmas)), key=lambda index: abs(self.sigmas[index] - sigma))

    def features(self, maps: Tensor) -> Tensor:
        """Maps "b (r l k) f h w" of r things in the order of `places`, as the network reads them: "b r l k f h w" on the grid.

        Coarse, and of one size for every layer: (A - mean) / (std + 0.02 mean) over the video. Ranges thus do not tell layers or models
        apart, and an even map has no pattern.
        """
        maps = rearrange(maps, "b (r l k) f h w -> b r l k f h w", l=len(self.blocks), k=self.head_groups)
        b, r, l, k = maps.shape[:4]
        coarse = functional.adaptive_avg_pool3d(rearrange(maps, "b r l k f h w -> (b r l k) f h w"), self.grid)
        coarse = rearrange(coarse, "(b r l k) f h w -> b r l k f h w", b=b, r=r, l=l, k=k)
        mean = coarse.mean((-3, -2, -1), keepdim=True)
        spread = ((coarse - mean).square().mean((-3, -2, -1), keepdim=True) + (1e-3 * EVEN * mean).square() + 1e-20).sqrt()
        return (coarse - mean) / (spread + EVEN * mean)


@dataclass(frozen=True)
class Size:
    """Widths and depths of one size of the network. volumes: of each thing at each step; channels: of the head's convolutions."""

    width: int
    depth: int
    attention_heads: int
    volumes: int
    channels: tuple[int, ...]
    hidden: int
    dropout: float


SIZES = {
    "small": Size(width=48, depth=2, attention_heads=4, volumes=2, channels=(16, 24, 32), hidden=64, dropout=0.1),
    "full": Size(width=128, depth=4, attention_heads=8, volumes=4, channels=(64, 96, 128), hidden=256, dropout=0.2),
}


class Aggregation(nn.Module):
    """theta_agg: a transformer over the maps of all layers and heads of one thing at one step says how they are mixed."""

    def __init__(self, plan: FeaturePlan, size: Size):
        super().__init__()
        cells = plan.grid[0] * plan.grid[1] * plan.grid[2]
        self.read = nn.Linear(cells, size.width)
        self.layer = nn.Parameter(0.02 * torch.randn(len(plan.blocks), 1, size.width))
        self.head = nn.Parameter(0.02 * torch.randn(plan.head_groups, size.width))
        self.time = nn.Parameter(0.02 * torch.randn(len(plan.sigmas), size.width))
        block = nn.TransformerEncoderLayer(
            size.width, size.attention_heads, 2 * size.width, size.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, size.depth, enable_nested_tensor=False)
        self.share = nn.Linear(size.width, size.volumes)

    def forward(self, maps: Tensor, slot: int, layers: Tensor | None = None) -> Tensor:
        """ "n l k f h w" at the trained step `slot` -> "n c f h w". layers: bool "l", those that are heard; nothing: all."""
        rows = rearrange(maps, "n l k f h w -> n (l k) (f h w)")
        known = rearrange(self.layer + self.head, "l k d -> (l k) d") + self.time[slot]
        heard = None if layers is None else ~layers.repeat_interleave(maps.shape[2])
        x = self.encoder(self.read(rows) + known, src_key_padding_mask=None if heard is None else heard.expand(len(rows), -1))
        shares = self.share(x)
        if heard is not None:
            shares = shares.masked_fill(heard[:, None], -torch.inf)
        mixed = einsum(shares.softmax(1), rows, "n m c, n m v -> n c v")
        return rearrange(mixed, "n c (f h w) -> n c f h w", f=maps.shape[3], h=maps.shape[4])


class Head(nn.Module):
    """phi "b s r c f h w" -> logits "b y": convolutions over space and time, then a linear reading."""

    def __init__(self, plan: FeaturePlan, size: Size, roles: int, labels: int):
        super().__init__()
        given = len(plan.sigmas) * roles
        widths = (given * size.volumes, *size.channels)
        layers: list[nn.Module] = []
        grid = list(plan.grid)
        for index, (ahead, behind) in enumerate(zip(widths, widths[1:])):
            stride = 2 if index else 1
            layers += [nn.Conv3d(ahead, behind, 3, stride=stride, padding=1), nn.GELU()]
            grid = [-(-n // stride) for n in grid]
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Linear(widths[-1] * grid[0] * grid[1] * grid[2] + given, size.hidden)
        self.dropout = nn.Dropout(size.dropout)
        self.label = nn.Linear(size.hidden, labels)

    def forward(self, phi: Tensor, present: Tensor) -> Tensor:
        """present "b s r": 1 where a volume was measured, else 0."""
        seen = self.convolutions(rearrange(phi, "b s r c f h w -> b (s r c) f h w"))
        x = torch.cat([seen.flatten(1), present.flatten(1)], dim=1)
        return self.label(self.dropout(functional.gelu(self.hidden(x))))


class CompositionNetwork(nn.Module):
    """C(phi(z_t, p)) of the paper: aggregation and head, the head through a frozen vision model or straight."""

    def __init__(self, plan: FeaturePlan, size: Size, labels: Sequence[Label], backbone: Backbone | None = None):
        super().__init__()
        self.plan, self.roles = plan, max(label.entities for label in labels)
        self.aggregation = Aggregation(plan, size)
        if backbone is None:
            self.head: nn.Module = Head(plan, size, self.roles, len(labels))
        else:
            steps, frames = len(plan.sigmas), plan.grid[0]
            given = (steps, frames, size.volumes, size.width, size.hidden, size.dropout, self.roles, len(labels))
            self.head = VisionHead(*given, backbone)
        # what decides between labels about one thing, about two, about three: "3 y"
        rivals = torch.tensor([[label.entities == count for label in labels] for count in (1, 2, 3)])
        self.register_buffer("rivals", rivals, persistent=False)

    def volume(self, features: Tensor, slot: int, layers: Tensor | None = None) -> Tensor:
        """A-hat of one step: features "b r l k f h w" -> "b r c f h w"."""
        found = self.aggregation(rearrange(features, "b r ... -> (b r) ..."), slot, layers)
        return rearrange(found, "(b r) ... -> b r ...", r=features.shape[1])

    def log_probabilities(self, volumes: Mapping[int, Tensor], things: Tensor) -> Tensor:
        """log p(y) "b y" among the labels about as many things: volumes "b r c f h w" by trained step; things "b": how many of r count."""
        some = next(iter(volumes.values()))
        phi = some.new_zeros(len(some), len(self.plan.sigmas), self.roles, *some.shape[2:])
        present = some.new_zeros(len(some), len(self.plan.sigmas), self.roles)
        here = (torch.arange(self.roles, device=some.device) < things[:, None]).to(some)
        for slot, volume in volumes.items():
            count = volume.shape[1]
            phi[:, slot, :count] = volume * here[:, :count, None, None, None, None]
            present[:, slot] = here
        logits = self.head(phi, present)
        return logits.masked_fill(~self.rivals[things - 1], -torch.inf).log_softmax(-1)

    def forward(self, features: Tensor, things: Tensor, slots: Sequence[int], layers: Tensor | None = None) -> Tensor:
        """log p(y) "b y" of features "b s r l k f h w" at the trained steps `slots` alone."""
        return self.log_probabilities({slot: self.volume(features[:, slot], slot, layers) for slot in slots}, things)


@dataclass(frozen=True)
class ModelIdentity:
    """Whose attention a classifier has learned to read."""

    family: str
    kind: str
    width: int
    blocks: int
    heads: int

    def differences(self, other: "ModelIdentity") -> list[str]:
        return [f"{name} {mine}, not {theirs}" for name, mine in vars(self).items() if mine != (theirs := getattr(other, name))]

    def __str__(self) -> str:
        return f"{self.family} {self.kind}, width {self.width}, {self.blocks} blocks of {self.heads} heads"


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network and what must be known to use it. `card`: what else its file tells, such as its accuracy."""

    network: CompositionNetwork
    size: str
    plan: FeaturePlan
    labels: tuple[Label, ...]
    model: ModelIdentity
    card: dict[str, Any]

    def place(self, label: str) -> int | None:
        return next((place for place, one in enumerate(self.labels) if one.name == label), None)

    def volume(self, maps: Tensor, span: Tensor, slot: int) -> Tensor:
        """A-hat of maps "b (r l k) f h w", over the frames of `span` "f" (0 or 1) from its first to its last."""
        inside = span.nonzero().flatten()
        features = self.plan.features(maps[:, :, int(inside[0]) : int(inside[-1]) + 1])
        return self.network.to(features.device).volume(features, slot)

    def log_probability(self, volumes: Mapping[int, Tensor], label: str) -> Tensor:
        """log p(label) "b" of volumes "b r c f h w"."""
        place = self.place(label)
        if place is None:
            raise ValueError(f"this classifier knows no `{label}`: it knows {', '.join(one.name for one in self.labels)}")
        some = next(iter(volumes.values()))
        things = torch.full((len(some),), self.labels[place].entities, device=some.device)
        return self.network.log_probabilities(volumes, things)[:, place]

    def check_model(self, model: ModelIdentity, node: str, input_name: str) -> None:
        """Raise ValueError, naming node, input and each difference, unless the maps of `model` are those it was trained on."""
        if differences := model.differences(self.model):
            raise ValueError(
                f"{node}: input `classifier` = trained on another model than `{input_name}`, which has {'; '.join(differences)}: choose a "
                "classifier of this model, or train one with Train Composition Classifier"
            )


@dataclass(frozen=True)
class ClassifiedStep:
    """Where a run stands that a classifier guides: the trained step of this one, and what `memory` keeps of the run for each constraint:
    its volume "b r c f h w" at every trained step so far, as the likeliest latent of that step had it."""

    slot: int
    memory: dict[str, Any]

    @classmethod
    def begun(cls, slot: int, memory: dict[str, Any]) -> "ClassifiedStep":
        """A later step at the same trained one takes its place."""
        for slots in memory.values():
            slots.pop(slot, None)
        return cls(slot, memory)

    def with_earlier(self, constraint: int, volume: Tensor) -> dict[int, Tensor]:
        earlier = {slot: kept for slot, (kept, _) in self.memory.get(str(constraint), {}).items()}
        return {**earlier, self.slot: volume}

    def remember(self, constraint: int, volume: Tensor, answer: Tensor) -> None:
        slots = self.memory.setdefault(str(constraint), {})
        volume, answer = volume.detach(), answer.detach()
        if self.slot in slots:
            kept, best = slots[self.slot]
            better = (answer > best).view(-1, *[1] * (volume.ndim - 1))
            volume, answer = torch.where(better, volume, kept), torch.maximum(answer, best)
        slots[self.slot] = (volume, answer)


def head_groups_of(heads: int, most: int = 6) -> int:
    """Even shares of a block's heads, at most `most`."""
    return max(count for count in range(1, most + 1) if heads % count == 0)


def middle_blocks(blocks: int, most: int = 6) -> tuple[int, ...]:
    """Blocks from the middle three fifths, evenly: those tell best where things are (TTOM finds large differences between layers)."""
    inside = range(blocks // 5, max(blocks - blocks // 5, 1))
    count = min(most, len(inside))
    return tuple(inside[(2 * index + 1) * len(inside) // (2 * count)] for index in range(count))
