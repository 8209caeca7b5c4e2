"""Measures Composition Guide on the drawn world: does the told relation hold, given that everything it is about is there? One JSON line.

Captions tell the relation where the world has words for it; training captions told places wrongly in 30 % (`world.WRONG_RELATION_RATE`).
With `--untold` they do not tell it: places not at all, and motions as one of two, in an order that cannot be trusted, where guidance
asks for one of them in the first half.
"""

import argparse
import json
import logging
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..guidance.budget import GuidanceBudget
from ..guidance.classifier import Classifier
from ..guidance.classifier_file import load_classifier
from ..guidance.composition import Composition
from ..guidance.report import finite
from ..guidance.timeline import parse_timeline
from ..host.map_features import model_identity
from . import metrics, world
from .command_line import add_budget, add_knobs, add_sampling, budget_of, given
from .evaluate import figure
from .sampling import Playground

log = logging.getLogger("wan_conductor.playground")
TURNED = 60.0  # degrees between two ways


@dataclass(frozen=True)
class Track:
    """One object of a drawn video: where it is, "f" each in canvas cells, x to the right and y downwards, and in which frames at all."""

    area: Tensor
    x: Tensor
    y: Tensor
    here: Tensor

    @classmethod
    def of(cls, area: Tensor) -> "Track":
        x, y, _ = metrics.centroid(area)
        return cls(area, x, y, metrics.presence(area))


Verdicts = Callable[[Sequence[Track], Tensor], Tensor]


def lies(direction: tuple[int, int]) -> Verdicts:
    """As the world draws it: the first lies further from the second in this direction than across it."""

    def verdict(tracks: Sequence[Track], frames: Tensor) -> Tensor:
        dx, dy = tracks[0].x - tracks[1].x, tracks[0].y - tracks[1].y
        return (dx * direction[0] + dy * direction[1] > (dx * direction[1]).abs() + (dy * direction[0]).abs())[frames]

    return verdict


def beneath(tracks: Sequence[Track], frames: Tensor) -> Tensor:
    """Lower, with its centre over a column that the second covers."""
    covered = tracks[1].area.sum(1) >= 0.5  # "f w"
    axis = torch.arange(covered.shape[-1]) + 0.5
    left, right = (torch.where(covered, axis, edge) for edge in (torch.inf, -torch.inf))
    over = (tracks[0].x >= left.amin(-1) - 0.5) & (tracks[0].x <= right.amax(-1) + 0.5)
    return (over & (tracks[0].y > tracks[1].y))[frames]


def between(tracks: Sequence[Track], frames: Tensor) -> Tensor:
    """From the first, both others are seen more than a right angle apart."""
    (bx, by), (cx, cy) = ((other.x - tracks[0].x, other.y - tracks[0].y) for other in tracks[1:])
    return (bx * cx + by * cy < 0)[frames]


def event(name: str) -> Verdicts:
    """What the world calls so, between the first and the last frame that shows the object."""
    return lambda tracks, frames: torch.tensor([metrics.event_between(tracks[0].area, int(frames[0]), int(frames[-1])) == name])


def nears(sign: int) -> Verdicts:
    """The distance of both has shrunk (1) or grown (-1) by as much as counts as a motion."""

    def verdict(tracks: Sequence[Track], frames: Tensor) -> Tensor:
        distance = torch.hypot(tracks[0].x - tracks[1].x, tracks[0].y - tracks[1].y)[frames]
        return (sign * (distance[:1] - distance[-1:])) >= metrics.MOVED

    return verdict


def turns(tracks: Sequence[Track], frames: Tensor) -> Tensor:
    """It moves in both halves, in directions more than 60 degrees apart."""
    places = torch.stack([tracks[0].x, tracks[0].y], dim=-1)[frames]
    middle = len(places) // 2
    first, second = places[middle] - places[0], places[-1] - places[middle]
    moved = min(float(first.norm()), float(second.norm())) >= metrics.MOVED
    cosine = float(torch.nn.functional.cosine_similarity(first, second, dim=0))
    return torch.tensor([moved and cosine < math.cos(math.radians(TURNED))])


@dataclass(frozen=True)
class Case:
    """One relation in the world: which captions ask for it, and what is true of a drawing. `least_frames` that must show all of it.
    halved: asked for and judged in the first half of the clip, where the first of two events happens."""

    kind: str
    things: int
    verdict: Verdicts
    fits: Callable[[world.Clip], bool]
    options: dict[str, int] = field(default_factory=dict)
    least_frames: int = 1
    halved: bool = False

    @property
    def span(self) -> str:
        return "0% - 50%" if self.halved else "always"

    def seen_of(self, video: Tensor) -> Tensor:
        """The latent frames "f ..." in which it is judged."""
        return video[world.segment_of_frame(2, len(video)) == 0] if self.halved else video


def told(clip: world.Clip, kind: str = "event") -> list[str]:
    return [words for words, told_kind in clip.phrases if told_kind == kind]


def one_step(clip: world.Clip) -> bool:
    """The first object of two does one motion across the picture."""
    return len(clip.subjects[0].events) == 1 and clip.subjects[0].events[0] in world.STEP


def corner(clip: world.Clip) -> bool:
    return all(words in world.STEP for words in told(clip))


def says(words: str) -> Callable[[world.Clip], bool]:
    return lambda clip: f" {words} " in f"{clip.caption} "


TWO, THREE = {"objects": 2}, {"objects": 3}
CASES: dict[str, Case] = {
    **{name: Case("several", 2, lies(direction), says(name), TWO) for name, direction in world.RELATIONS.items()},
    "beneath": Case("several", 2, beneath, says("below"), TWO),
    "between": Case("several", 3, between, lambda clip: True, THREE),
    **{name: Case("motion", 1, event(name), says(name), least_frames=2) for name in world.STEP},
    "grows": Case("motion", 1, event("gets bigger"), says("gets bigger"), least_frames=2),
    "shrinks": Case("motion", 1, event("gets smaller"), says("gets smaller"), least_frames=2),
    "toward": Case("two_movers", 2, nears(1), one_step, least_frames=2),
    "away": Case("two_movers", 2, nears(-1), one_step, least_frames=2),
    "turns": Case("events", 1, turns, corner, {"events": 2}, least_frames=3),
}


WORDS = {"grows": "gets bigger", "shrinks": "gets smaller"}
MOVES = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks")
UNTOLD: dict[str, Case] = {
    **{name: replace(CASES[name], fits=lambda clip: clip.relation is None) for name in (*world.RELATIONS, "beneath")},
    **{name: CASES[name] for name in ("between", "toward", "away")},
    **{name: replace(CASES[name], kind="events", fits=says(WORDS.get(name, name)), options={"events": 2}, halved=True) for name in MOVES},
}


def clips_of(case: Case, count: int, seed: str) -> list[world.Clip]:
    """Held-out clips, their captions distinct, that ask for the relation, or with those of `UNTOLD` leave it open."""
    rng = random.Random(seed)
    found: dict[str, world.Clip] = {}
    while len(found) < count:
        clip = world.held_out_clip(rng, kind=case.kind, **case.options)
        if case.fits(clip):
            found.setdefault(clip.caption, clip)
    return list(found.values())


def judge(video: Tensor, case: Case, colors: Sequence[str]) -> dict[str, float]:
    """One canvas video "f c h w": accuracy, the share of the frames that show all of `colors` in which the relation holds (motions: whether
    it happens between the first and the last of them; NaN where too few show all), and presence, the share of such frames."""
    video = case.seen_of(video)
    areas = metrics.color_areas(video)
    tracks = [Track.of(areas[color]) for color in colors]
    frames = torch.stack([track.here for track in tracks]).all(0).nonzero().flatten()
    holds = case.verdict(tracks, frames).float().mean() if len(frames) >= case.least_frames else math.nan
    return {"accuracy": float(holds), "presence": len(frames) / len(video)}


def looks(video: Tensor, subjects: Sequence[world.Subject]) -> dict[str, float]:
    """Of one canvas video "f c h w", over those things that it shows (NaN: none): shape, the share whose shape is the told one; once, the
    share of their frames with one of them and not two. Which colour is whose needs no figure: things are found by it."""
    areas = metrics.color_areas(video)
    shown = [subject for subject in subjects if metrics.presence(areas[subject.color]).any()]
    if not shown:
        return {"shape": math.nan, "once": math.nan}
    shapes = [metrics.main_shape(areas[subject.color]) == subject.shape for subject in shown]
    pieces = torch.cat([metrics.pieces(area)[metrics.presence(area)] for area in (areas[subject.color] for subject in shown)])
    return {"shape": sum(shapes) / len(shapes), "once": float((pieces < 2).float().mean())}


def constraint_text(name: str, case: Case, clip: world.Clip) -> str:
    first, *others = (subject.name for subject in clip.subjects[: case.things])
    return " | ".join([f"{case.span}  {first}", name, *others])


def variants_of(
    name: str, case: Case, clip: world.Clip, knobs: dict[str, Any], classifier: Classifier | None
) -> dict[str, Composition | None]:
    """What is sampled for one caption: nothing, analytic guidance, and the classifier's where it knows the relation."""
    guidance = Composition(parse_timeline(constraint_text(name, case, clip)), **knobs)
    known = classifier is not None and classifier.place(name) is not None
    return {"plain": None, "analytic": guidance} | ({"classifier": replace(guidance, classifier=classifier)} if known else {})


def evaluate_composition(
    playground: Playground, names: Sequence[str], count: int, seeds: int, seed: int, knobs: dict[str, Any], budget: GuidanceBudget,
    classifier: Classifier | None = None, untold: bool = False,
) -> dict[str, Any]:
    """Plain against guided on the same noises: `count` captions over all relations x `seeds` noises."""
    rows: dict[str, list[dict[str, float]]] = {}
    plain_of: dict[str, list[dict[str, float]]] = {}  # of the same captions and noises
    owner: dict[str, list[int]] = {}
    kinds: dict[str, list[str]] = {}
    seconds: dict[str, float] = {}
    cases = UNTOLD if untold else CASES
    asked = [(name, clip) for name in names for clip in clips_of(cases[name], -(-count // len(names)), f"{name} {seed}")]
    for index, (name, clip) in enumerate(asked):
        positive = playground.encode([clip.caption])
        case = cases[name]
        subjects = clip.subjects[: case.things]
        colors = [subject.color for subject in subjects]
        plain: list[dict[str, float]] = []
        for variant, objective in variants_of(name, case, clip, knobs, classifier).items():
            started = time.perf_counter()
            videos, _ = playground.sample(positive, seeds, seed + index, objective, budget)
            seconds[variant] = seconds.get(variant, 0.0) + time.perf_counter() - started
            judged = [judge(video, case, colors) | looks(video, subjects) for video in videos]
            plain = plain or judged
            rows.setdefault(variant, []).extend(judged)
            plain_of.setdefault(variant, []).extend(plain)
            owner.setdefault(variant, []).extend([index] * seeds)
            kinds.setdefault(variant, []).extend([name] * seeds)
        log.info("%d of %d captions", index + 1, len(asked))
    result: dict[str, Any] = {variant: figures_of(values, owner[variant], kinds[variant]) for variant, values in rows.items()}
    for variant, values in rows.items():
        result[variant]["seconds_per_run"] = round(seconds[variant] / len(set(owner[variant])), 3)
        if variant != "plain":
            both = [{key: one[key] - plain[key] for key in one} for one, plain in zip(values, plain_of[variant], strict=True)]
            result[variant]["minus_plain"] = figures_of(both, owner[variant], kinds[variant])
    if classifier is not None:
        result["leakage_gap"] = classifier.card["accuracy"]["leakage_gap"]
    sampling = {"seeds": seeds, "steps": playground.steps, "cfg": playground.cfg}
    return result | {"captions": len(asked), **sampling, "untold": untold, "knobs": knobs}


def figures_of(values: list[dict[str, float]], owner: list[int], kinds: list[str]) -> dict[str, Any]:
    """All that is told of `values`, over all videos, accuracy and presence also by relation, with their 95 % intervals, captions drawn
    whole. `judged`: videos that show enough to have an accuracy."""

    def of(key: str, name: str | None = None) -> dict[str, Any]:
        chosen = [index for index, kind in enumerate(kinds) if name in (None, kind)]
        return figure([values[index][key] for index in chosen], [owner[index] for index in chosen])

    def part(side: str) -> dict[str, Any]:
        names = list(dict.fromkeys(kinds))
        return {
            **{key: of(key)[side] for key in values[0]},
            "by_relation": {name: of("accuracy", name)[side] for name in names},
            "presence_by_relation": {name: of("presence", name)[side] for name in names},
        }

    judged = sum(not math.isnan(value["accuracy"]) for value in values)
    return {**part("value"), "interval": part("interval"), "judged": judged}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py playground evaluate composition", description=__doc__)
    add_sampling(parser, captions=210, told="over all relations")
    add_budget(parser)
    add_knobs(parser, "margin", "tau", "lambda_presence", told="of Composition Guide, instead of its own")
    parser.add_argument("--relations", nargs="+", choices=list(CASES), metavar="RELATION", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--classifier", type=Path, help="a file of `dev.py composition train`: also guide by it what it knows")
    parser.add_argument("--untold", action="store_true", help="captions that do not tell the relation")
    options = parser.parse_args(arguments)
    cases = UNTOLD if options.untold else CASES
    if unknown := [name for name in options.relations or () if name not in cases]:
        parser.error(f"--untold: {', '.join(unknown)}: captions leave open {', '.join(cases)}")
    knobs = given(options, "margin", "tau", "lambda_presence")
    playground = Playground(options.steps, options.cfg)
    classifier = None if options.classifier is None else load_classifier(options.classifier)
    if classifier is not None:
        classifier.check_model(model_identity(playground.model), "dev.py playground evaluate composition", "the playground's model")
    result = evaluate_composition(
        playground, options.relations or list(cases), options.captions, options.seeds, options.seed, knobs, budget_of(options), classifier,
        options.untold,
    )
    sys.stdout.write(json.dumps(finite(result), allow_nan=False) + "\n")
