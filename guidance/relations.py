"""Relations between entities as differentiable measures on their attention maps: places, extents, motions, bindings. No training.

CVG (arXiv 2605.14988) reads relations from cross-attention maps with a trained classifier; these read them from geometry. A relation is one
or more margins: signed, 0 where it begins to hold, in halves of the frame's shorter side unless said otherwise. x grows to the right, y
downwards, and the frame's middle is the origin.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor

CONTRAST = 3.0  # power that lifts an object out of the even attention around it; on drawn videos it finds centres best (r .98, plain .96)
GATE_FLOOR = 0.1  # share of its say that a frame keeps however little of an entity it shows
MARGIN = 0.15  # asked for by default
BEYOND = 0.45  # how far beyond the margin asked for a part of a thing still counts; without an end, the edges of the frame would draw it on
OVERLAP = 0.5  # correlation of two maps from which on they count as bound
TINY = 1e-8


@dataclass(frozen=True)
class Scene:
    """Where every entity g is in every latent frame, softly.

    maps "b g f h w"; share "b g f h w": of each thing, how much is in each place, sum 1; named "b g f": 0 where it has no attention at
    all, for no prompt of that time names it (Multi Prompt Blend), else 1;
    centre "b g f 2" (x, y); excess "b g f": attention above the even level, which a present thing has and an absent one
    lacks; radius "b g f": of the even disc that is spread as widely; camera "b f 2": how far the background has moved since frame 0;
    margin: how clearly its relations are asked to hold.
    """

    maps: Tensor
    share: Tensor
    centre: Tensor
    radius: Tensor
    excess: Tensor
    camera: Tensor
    named: Tensor
    margin: float

    def path(self, entity: int) -> Tensor:
        """Its centre with the camera's motion taken off: "b f 2"."""
        return self.centre[:, entity] - self.camera

    def between(self, start: int, end: int) -> Tensor:
        """The way from one entity to another: "b f 2"."""
        return self.centre[:, end] - self.centre[:, start]

    def size(self, entity: int) -> Tensor:
        """Natural logarithm of its size, "b f": mean of what its radius and what its mass say (mass goes with the square)."""
        mass = reduce(self.maps[:, entity], "b f h w -> b f", "mean")
        return (self.radius[:, entity].clamp_min(TINY).log() + mass.clamp_min(TINY).log() / 2) / 2


def scene_of(maps: Tensor, camera: Tensor | None = None, margin: float = MARGIN) -> Scene:
    """Soft centroid, spread and excess of attention `maps` "b g f h w"; `camera` "b f 2", nothing: it stands still."""
    p = (maps / maps.detach().amax((-2, -1), keepdim=True).clamp_min(TINY)) ** CONTRAST
    p = p / reduce(p, "b g f h w -> b g f 1 1", "sum").clamp_min(TINY)
    places = grid_places(maps)
    centre = einsum(p, places, "b g f h w, h w c -> b g f c")
    above = (maps - even_level(maps)).clamp_min(0)
    excess = reduce(above, "b g f h w -> b g f", "mean")
    away = (places - rearrange(centre, "b g f c -> b g f 1 1 c")).square().sum(-1)
    spread = reduce(above * away, "b g f h w -> b g f", "mean") / excess.clamp_min(TINY)
    radius = (2 * spread + TINY).sqrt()  # an even disc has mean square distance R^2 / 2
    if camera is None:
        camera = torch.zeros_like(centre[:, 0])
    named = (maps.detach().amax((-2, -1)) > 0).to(maps)
    return Scene(maps, p, centre, radius, excess, camera, named, margin)


def grid_places(maps: Tensor) -> Tensor:
    """(x, y) of every cell's middle, "h w 2", in halves of the frame's shorter side."""
    height, width = maps.shape[-2:]
    x, y = ((2 * torch.arange(n, device=maps.device) + 1 - n).to(maps.dtype) / min(height, width) for n in (width, height))
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)


def even_level(maps: Tensor) -> Tensor:
    return reduce(maps, "... h w -> ... 1 1", "mean")


def presence_gate(excess: Tensor, span: Tensor) -> Tensor:
    """How much of a thing each frame of `span` "b f" shows, 0.1..1 of its best frame there: excess "b f" -> "b f", without gradient.

    Relative, because at high noise all maps are nearly even, and those are the steps that are guided; without gradient, so that a relation
    is never met by hiding what it is about.
    """
    best = (excess * span).amax(-1, keepdim=True).clamp_min(torch.finfo(excess.dtype).tiny)
    return (excess / best).clamp(GATE_FLOOR, 1).detach()


def camera_path(background: Tensor, things: Tensor) -> Tensor:
    """How far the picture has moved since frame 0, "b f 2": least squares over what `background` "b f h w" does where no thing is.

    One translation d for each step: minimal sum of free (grad B d + dB)^2, grad B by the mean of both frames. `things` "b g f h w" are the
    entities' maps; free is 0 at their peaks. No gradient: guidance must move things, not the background.
    """
    if background.shape[1] < 2 or min(background.shape[-2:]) < 2:
        return background.new_zeros(*background.shape[:2], 2)
    background, things = background.detach(), things.detach()
    background = background / background.mean((-3, -2, -1), keepdim=True).clamp_min(TINY)
    free = (1 - things / things.amax((-2, -1), keepdim=True).clamp_min(TINY)).prod(1)
    weight = free[:, 1:] * free[:, :-1]
    cell = 2 / min(background.shape[-2:])
    middle, change = (background[:, 1:] + background[:, :-1]) / 2, background[:, 1:] - background[:, :-1]
    slope_x, slope_y = torch.gradient(middle, spacing=cell, dim=(-1, -2))

    def over_the_frame(one: Tensor, other: Tensor) -> Tensor:
        return reduce(weight * one * other, "b f h w -> b f", "mean")

    xx, yy, xy = over_the_frame(slope_x, slope_x), over_the_frame(slope_y, slope_y), over_the_frame(slope_x, slope_y)
    x, y = over_the_frame(slope_x, change), over_the_frame(slope_y, change)
    ridge = 1e-3 * (xx + yy) + 1e-6  # where the background has no structure to follow, it stands still
    xx, yy = xx + ridge, yy + ridge
    steps = torch.stack([xy * y - yy * x, xy * x - xx * y], dim=-1) / (xx * yy - xy * xy)[..., None]
    return torch.cat([steps.new_zeros(steps.shape[0], 1, 2), steps.cumsum(1)], dim=1)


# Measures. `who` are the places of the entities in the scene, in the order of the text; `when` "b f" sums to 1 over the frames of the span.
# Those of states give margins "b c f" (c conditions that must all hold), those of motions "b c".

Measure = Callable[[Scene, tuple[int, ...], Tensor], Tensor]
LEFT, RIGHT, UP, DOWN = (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)


def length(vector: Tensor) -> Tensor:
    return (vector.square().sum(-1) + TINY).sqrt()


def mainly(vector: Tensor, direction: tuple[float, float]) -> Tensor:
    """How much more `vector` "... 2" goes in `direction` than across it."""
    along = vector[..., 0] * direction[0] + vector[..., 1] * direction[1]
    across = vector[..., 0] * direction[1] - vector[..., 1] * direction[0]
    return along - (across.square() + TINY).sqrt()


def opposed(one: Tensor, other: Tensor) -> Tensor:
    """(|v - u| - |u + v|) / 2 of "... 2": for opposite directions the shorter length, for the same one minus that, at right angles 0."""
    return (length(other - one) - length(other + one)) / 2


def travel(path: Tensor, when: Tensor) -> Tensor:
    """Least-squares straight motion over the span: path "b f ..." -> "b ...", from the span's first frame to its last."""
    t = torch.arange(when.shape[-1], device=when.device, dtype=when.dtype)
    late = t - (when * t).sum(-1, keepdim=True)
    weight = when * late / (when * late.square()).sum(-1, keepdim=True).clamp_min(TINY)
    first, last = ends_of(when)
    slope = einsum(weight, path, "b f, b f ... -> b ...")
    return slope * (last - first).view(-1, *[1] * (slope.ndim - 1))


def ends_of(when: Tensor) -> tuple[Tensor, Tensor]:
    """First and last frame of the span, "b" each."""
    t = torch.arange(when.shape[-1], device=when.device, dtype=when.dtype)
    inside = when > 0
    return torch.where(inside, t, torch.inf).amin(-1), torch.where(inside, t, -torch.inf).amax(-1)


def part_of(when: Tensor, start: float, end: float) -> Tensor:
    """`when` over a part of the span, 0..1 of its length, both ends in it; sums to 1."""
    t = torch.arange(when.shape[-1], device=when.device, dtype=when.dtype)
    first, last = (edge[:, None] for edge in ends_of(when))
    rounding = 1e-4
    kept = when * ((t >= first + start * (last - first) - rounding) & (t <= first + end * (last - first) + rounding))
    return kept / kept.sum(-1, keepdim=True).clamp_min(TINY)


def mean_over(path: Tensor, when: Tensor) -> Tensor:
    return einsum(when, path, "b f, b f ... -> b ...")


def lies(direction: tuple[float, float]) -> Measure:
    """The first lies from the second in this direction, more than across it: mean over every part of the one, seen from the other's centre,
    and of the other, each counted up to `BEYOND` the margin. Of centres alone a second copy on the wrong side could be outweighed by
    going further."""

    def measure(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
        places = grid_places(scene.maps)

        def parts(one: int, other: int, sign: int) -> Tensor:
            ways = sign * (places - rearrange(scene.centre[:, other], "b f c -> b f 1 1 c"))
            return (scene.share[:, one] * mainly(ways, direction).clamp(max=scene.margin + BEYOND)).sum((-2, -1))

        return (parts(who[0], who[1], 1) + parts(who[1], who[0], -1))[:, None] / 2

    return measure


def beneath(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    """Lower than the second, and within its width."""
    x, y = scene.between(who[1], who[0]).unbind(-1)
    return torch.stack([y, scene.radius[:, who[1]] - x.abs()], dim=1)


def inside(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    """The disc of the first lies in the disc of the second: R_b - R_a - |c_a - c_b|."""
    a, b = who
    return (scene.radius[:, b] - scene.radius[:, a] - length(scene.between(a, b)))[:, None]


def between(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    """The first lies in the circle over the way from the second to the third: |c_b - c_c|/2 - |c_a - (c_b + c_c)/2|."""
    a, b, c = who
    return opposed(scene.between(a, b), scene.between(a, c))[:, None]


def in_front_of(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    """Both discs overlap, and where both reach, attention is the first's: sum W (A_a - A_b)/(A_a + A_b), A over their means, in -1..1."""
    a, b = who
    overlapping = scene.radius[:, a] + scene.radius[:, b] - length(scene.between(a, b))
    places = grid_places(scene.maps)

    def reach(entity: int) -> Tensor:
        away = (places - rearrange(scene.centre[:, entity], "b f c -> b f 1 1 c")).square().sum(-1)
        return rearrange(-away / rearrange(scene.radius[:, entity].square(), "b f -> b f 1 1"), "b f h w -> b f (h w)")

    shared = rearrange((reach(a) + reach(b)).softmax(-1), "b f (h w) -> b f h w", h=places.shape[0])
    seen_a, seen_b = ((m := scene.maps[:, entity]) / even_level(m).clamp_min(TINY) for entity in who)
    return torch.stack([overlapping, (shared * (seen_a - seen_b) / (seen_a + seen_b).clamp_min(TINY)).sum((-2, -1))], dim=1)


def behind(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    return in_front_of(scene, who[::-1], when)


def bound(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    """Both words look at the same place: correlation of their maps over the frame, less 0.5. Even maps have none."""
    one, other = ((m := scene.maps[:, entity]) / even_level(m).clamp_min(TINY) - 1 for entity in who)
    norms = (one.square().mean((-2, -1)) * other.square().mean((-2, -1)) + 1e-12).sqrt()  # so that rounding correlates with nothing
    return ((one * other).mean((-2, -1)) / norms - OVERLAP)[:, None]


def moves(direction: tuple[float, float]) -> Measure:
    return lambda scene, who, when: mainly(travel(scene.path(who[0]), when), direction)[:, None]


def nears(sign: float) -> Measure:
    """The distance of both shrinks (sign 1) or grows (-1); a moving camera changes nothing."""
    return lambda scene, who, when: -sign * travel(length(scene.between(*who)), when)[:, None]


def turns(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    """It moves in both halves of the span, in directions more than 60 degrees apart: (|e_2 - e_1| - 1)/2 = sin(angle/2) - 1/2."""
    halves = [travel(scene.path(who[0]), part_of(when, start, start + 0.5)) for start in (0.0, 0.5)]
    directions = [way / length(way)[:, None] for way in halves]
    return torch.stack([(length(directions[1] - directions[0]) - 1) / 2, *map(length, halves)], dim=1)


def jumps_over(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    """Before and after on different sides of the second; in between above it, and higher than before and after."""
    a, b = who
    way = scene.between(b, a)
    parts = [part_of(when, *part) for part in ((0.0, 0.25), (0.26, 0.74), (0.75, 1.0))]
    before, over, after = (mean_over(way, part) for part in parts)
    height = [-mean_over(scene.path(a)[..., 1], part) for part in parts]
    return torch.stack([opposed(before[:, :1], after[:, :1]), -over[:, 1], height[1] - (height[0] + height[2]) / 2], dim=1)


def resizes(sign: float) -> Measure:
    """Its size, as a natural logarithm, goes up (sign 1) or down (-1)."""
    return lambda scene, who, when: sign * travel(scene.size(who[0]), when)[:, None]


@dataclass(frozen=True)
class Relation:
    """`name` as it is written between bars, with `entities` phrases around it: one before, the others behind.

    least_frames: latent frames that its span must have; states need one. clear: whether the margin knob asks for more than just holding,
    for each condition. aliases: other ways to write it.
    """

    name: str
    entities: int
    measure: Measure
    motion: bool = False
    least_frames: int = 1
    aliases: tuple[str, ...] = ()
    clear: tuple[bool, ...] = (True,)


def _motion(
    name: str, entities: int, measure: Measure, *aliases: str, least_frames: int = 2, clear: tuple[bool, ...] = (True,)
) -> Relation:
    return Relation(name, entities, measure, True, least_frames, aliases, clear)


def _state(name: str, entities: int, measure: Measure, *aliases: str, clear: tuple[bool, ...] = (True,)) -> Relation:
    return Relation(name, entities, measure, False, 1, aliases, clear)


RELATIONS: tuple[Relation, ...] = (
    _state("left of", 2, lies(LEFT), "to the left of", "on the left of"),
    _state("right of", 2, lies(RIGHT), "to the right of", "on the right of"),
    _state("above", 2, lies(UP), "over"),
    _state("below", 2, lies(DOWN), "under"),
    _state("beneath", 2, beneath, "underneath", clear=(True, False)),
    _state("inside", 2, inside, "in", clear=(False,)),
    _state("between", 3, between),
    _state("in front of", 2, in_front_of, clear=(False, True)),
    _state("behind", 2, behind, clear=(False, True)),
    _state("has colour", 2, bound, "has color", "is", clear=(False,)),
    _state("does action", 2, bound, "does", clear=(False,)),
    _motion("moves left", 1, moves(LEFT)),
    _motion("moves right", 1, moves(RIGHT)),
    _motion("moves up", 1, moves(UP)),
    _motion("moves down", 1, moves(DOWN)),
    _motion("toward", 2, nears(1), "towards", "moves toward", "moves towards"),
    _motion("away", 2, nears(-1), "away from", "moves away from"),
    _motion("turns", 1, turns, least_frames=3, clear=(False, True, True)),
    _motion("jumps over", 2, jumps_over, least_frames=3, clear=(True, True, True)),
    _motion("grows", 1, resizes(1), "gets bigger"),
    _motion("shrinks", 1, resizes(-1), "gets smaller"),
)
