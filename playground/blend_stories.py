"""Stories for Multi Prompt Blend: prompts of which one thing changes at a time, and verdicts on videos of them."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from . import metrics, world

CHANGES = ("colour", "shape", "motion", "place", "added", "removed")
CSCV_LAMBDA = 10.0  # DiTCtrl, table 3
SEAM = 4  # latent frames on each side of a change in which its seam is looked for
SIDES = tuple(place for place in world.PLACES if place != "in the middle")


@dataclass(frozen=True)
class Told:
    """What one prompt says: the objects (colour, shape), where the first one is, what it does."""

    objects: tuple[tuple[str, str], ...]
    place: str | None = None
    event: str | None = None

    @property
    def prompt(self) -> str:
        """A caption of the drawn world."""
        objects = " and ".join(f"a {color} {shape}" for color, shape in self.objects)
        return " ".join(words for words in (objects, self.place, self.event) if words)


@dataclass(frozen=True)
class Story:
    """Prompts in their order. `change` is what differs from each to the next, one of CHANGES, or `nothing`."""

    change: str
    told: tuple[Told, ...]

    @property
    def prompts(self) -> list[str]:
        return [told.prompt for told in self.told]

    @property
    def colors(self) -> set[str]:
        """Of the first object, in all prompts."""
        return {told.objects[0][0] for told in self.told}

    @property
    def shapes(self) -> set[str]:
        return {told.objects[0][1] for told in self.told}

    @property
    def name(self) -> str:
        """The first object's words that all prompts share."""
        return " ".join(next(iter(words)) for words in (self.colors, self.shapes) if len(words) == 1)

    @property
    def stands(self) -> bool:
        """Whether no prompt tells where the first object is or goes, so that it should stay where it is."""
        return all(told.place is None and told.event is None for told in self.told)


def stories(count: int, seed: int, prompts: int = 2, changes: Sequence[str] = CHANGES) -> list[Story]:
    """`count` stories of so many prompts, of every kind of change in turn."""
    rng = random.Random(seed)
    return [_story(rng, changes[index % len(changes)], prompts) for index in range(count)]


def _story(rng: random.Random, change: str, prompts: int) -> Story:
    color, other_color = rng.sample(list(world.COLORS), 2)
    shape, other_shape = (rng.choice(world.SHAPES) for _ in range(2))
    one, two = ((color, shape),), ((color, shape), (other_color, other_shape))
    if change == "colour":
        told = [Told(((name, shape),)) for name in _unlike(rng, list(world.COLORS), prompts)]
    elif change == "shape":
        told = [Told(((color, name),)) for name in _unlike(rng, world.SHAPES, prompts)]
    elif change == "motion":
        told = [Told(one, event=event) for event in _events(rng, prompts)]
    elif change == "place":
        told = [Told(one, place=place) for place in _unlike(rng, SIDES, prompts)]
    elif change in ("added", "removed"):  # with more prompts it comes and goes
        told = [Told(two if (number % 2 == 1) == (change == "added") else one) for number in range(prompts)]
    else:
        told = [Told(one, place=rng.choice(SIDES))] * prompts
    return Story(change, tuple(told))


def _unlike(rng: random.Random, choices: Sequence[str], count: int) -> list[str]:
    """No two neighbours equal."""
    chosen: list[str] = []
    while len(chosen) < count:
        chosen.append(rng.choice([choice for choice in choices if choice not in chosen[-1:]]))
    return chosen


def _events(rng: random.Random, count: int) -> list[str]:
    """No two neighbours equal, and no way nor size further than one event from where it began."""
    at, chosen = np.zeros(3), []
    moves = {**{event: (*step, 0) for event, step in world.STEP.items()}, "gets bigger": (0, 0, 1), "gets smaller": (0, 0, -1)}
    moves[world.STILL] = (0, 0, 0)
    while len(chosen) < count:
        event = rng.choice(list(moves))
        if event not in chosen[-1:] and (abs(at + moves[event]) <= 1).all():
            at = at + moves[event]
            chosen.append(event)
    return chosen


def holds(video: Tensor, told: Told) -> bool:
    """Whether everything that the prompt tells, and no other object, is in the canvas video "f c h w".

    An object is there if it is in half of the frames that show any: the world's objects come and go untold.
    """
    areas = metrics.color_areas(video)
    there = {color: metrics.presence(area) for color, area in areas.items()}
    shown = torch.stack(list(there.values())).any(0)
    if not shown.any():
        return False
    seen = {color for color in areas if float(there[color][shown].float().mean()) >= 0.5}
    if seen != {color for color, _ in told.objects} or any(metrics.main_shape(areas[color]) != shape for color, shape in told.objects):
        return False
    area = areas[told.objects[0][0]]
    if told.event is not None and metrics.event_between(area, 0, len(video) - 1) != told.event:
        return False
    return told.place is None or is_at(area, told.place)


def is_at(area: Tensor, place: str) -> bool:
    """Whether the object "f h w" lies on that side of the middle, by its median centre, by as much as counts as a motion."""
    here = metrics.presence(area)
    centre = [float(at[here].median()) - world.CANVAS / 2 for at in metrics.centroid(area)[:2]]
    return sum(side * at for side, at in zip(world.PLACES[place], centre)) >= metrics.MOVED


def judge(video: Tensor, story: Story, spans: Sequence[range]) -> dict[str, float]:
    """One canvas video "f c h w" whose prompt number i rules the latent frames spans[i].

    smoothness: mean similarity of neighbouring frames. seam: the lowest within SEAM frames of a change, mean over the changes; NaN without
    changes. cscv: the paper's formula. prompt_accuracy: share of the prompts that hold in their spans. identity: share of the frames
    that show anything in which what no prompt changes holds: colour, shape, and the place of an object that none moves.
    """
    similar = similarities(video)
    changes = [span.start for span in spans[1:]]
    told_right = [holds(video[span.start : span.stop], told) for span, told in zip(spans, story.told, strict=True)]
    seams = [float(similar[max(change - SEAM, 0) : change + SEAM - 1].min()) for change in changes]
    return {
        "smoothness": float(similar.mean()),
        "seam": float(np.mean(seams)) if seams else math.nan,
        "cscv": cscv(similar),
        "prompt_accuracy": float(np.mean(told_right)),
        "identity": identity(video, story),
    }


def similarities(video: Tensor) -> Tensor:
    """Cosine of each frame and the next, "f - 1", of the drawn cells as pixels in 0..1, in place of CLIP's features."""
    frames = ((video + 1) / 2).clamp(0, 1).flatten(1)
    return torch.stack([functional.cosine_similarity(one, other, dim=0) for one, other in pairwise(frames)])


def cscv(similar: Tensor) -> float:
    """1 / (1 + lambda CV) of the similarities of neighbours, CV = std / mean: 1 for even change; a frozen video has 1 too."""
    return 1 / (1 + CSCV_LAMBDA * float(similar.std(correction=0) / similar.mean()))


def identity(video: Tensor, story: Story) -> float:
    """See `judge`; NaN where no frame shows anything."""
    areas = metrics.color_areas(video)
    shown = torch.stack([metrics.presence(area) for area in areas.values()]).any(0)
    area = torch.stack([areas[color] for color in story.colors]).sum(0)
    right = metrics.presence(area)
    if len(story.shapes) == 1:
        right &= torch.tensor([verdict in story.shapes for verdict in metrics.shape_verdicts(area)])
    if story.stands and right.any():
        centre = torch.stack(metrics.centroid(area)[:2])
        right &= ((centre - centre[:, right].median(1, keepdim=True).values).abs() < metrics.MOVED).all(0)
    return float(right[shown].float().mean()) if shown.any() else math.nan


def mean_of(verdicts: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of each key over several videos, NaNs left out."""
    columns = {key: np.array([verdict[key] for verdict in verdicts], dtype=float) for key in verdicts[0]}
    return {key: float(np.nanmean(column)) if np.isfinite(column).any() else math.nan for key, column in columns.items()}
