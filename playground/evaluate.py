"""Measures the playground: the gates of the base model, and what each method does. One JSON line to standard output."""

import argparse
import importlib
import json
import logging
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..host.tokens import rows_for_entry
from . import metrics, world
from .command_line import add_sampling
from .sampling import Playground
from .segment_rows import SegmentRows

log = logging.getLogger("wan_conductor.playground")
BASE_GATES = {"colour": 0.97, "shape": 0.90, "motion": 0.85, "two_objects": 0.95, "word_locality": 0.70}
OWN_COMMAND_LINES = ("temporal", "events", "homeostasis", "composition", "blend")  # evaluate_<name>.py


def held_out(kind: str, count: int, seed: int, **options: int) -> list[world.Clip]:
    """`count` clips of a kind whose captions training never saw; distinct captions as far as the world has them."""
    rng, clips, seen = random.Random(seed), [], set()
    for attempt in range(200 * count):
        clip = world.held_out_clip(rng, kind=kind, **options)
        if len(clips) == count:
            break
        if clip.caption not in seen or attempt > 50 * count:
            seen.add(clip.caption)
            clips.append(clip)
    return clips


def figure(values: list[float], groups: list[int] | None = None) -> dict[str, Any]:
    """Mean, 95 % interval and count of the values that are known (not NaN, not None)."""
    mean, interval = metrics.interval(np.array(values), None if groups is None else np.array(groups))
    plain = [None if np.isnan(v) else round(float(v), 4) for v in (mean, *interval)]  # JSON has no NaN
    return {"value": plain[0], "interval": plain[1:], "count": int(np.isfinite(np.array(values, dtype=float)).sum())}


def in_batches(
    playground: Playground, clips: list[world.Clip], seed: int, rows: Callable[[list[world.Clip]], Any] | None = None, size: int = 4
) -> Tensor:
    """One plain video per clip, "n f c h w"; `rows` makes the conditioning (default: the captions')."""
    videos = []
    for start in range(0, len(clips), size):
        part = clips[start : start + size]
        positive = rows(part) if rows else playground.encode([c.caption for c in part])
        videos.append(playground.sample(positive, len(part), seed + start)[0])
        log.info("%d of %d", start + len(part), len(clips))
    return torch.cat(videos)


def retold_rows(playground: Playground, clips: list[world.Clip]) -> Any:
    """Conditioning of two-event captions whose event phrases have the rows of the caption that tells them the other way round."""
    rows = []
    for clip in clips:
        first, second = told_events(clip)
        retold = clip.caption.replace(f"{first} then {second}", f"{second} then {first}")
        here, there = (playground.encode([caption])[0] for caption in (clip.caption, retold))
        context = here[0].clone()
        for own, other in ((first, second), (second, first)):  # the other caption has `other` where this one has `own`
            context[:, list(rows_for_entry(here, own))] = there[0][:, list(rows_for_entry(there, other))]
        rows.append(context)
    return [[torch.cat(rows), {}]]


def told_events(clip: world.Clip) -> tuple[str, ...]:
    return tuple(text for text, kind in clip.phrases if kind == "event")


def shown_events(video: Tensor, clip: world.Clip) -> tuple[str | None, ...]:
    """What the one subject of the clip does in each segment of the canvas video "f c h w"."""
    return tuple(metrics.events_in_segments(metrics.color_areas(video)[clip.subjects[0].color], len(told_events(clip))))


def word_locality(playground: Playground, clips: list[world.Clip], seed: int) -> list[tuple[tuple, tuple]]:
    """What is shown of each two-event clip while its first half sees the rows of the first event told, and its second half those of the
    second (`SegmentRows`); and the same with the two phrases' rows exchanged.

    Attention over all rows does not see their order, so that to exchange rows that every frame sees would change nothing by itself.
    """
    shown = []
    for index, clip in enumerate(clips):
        positive = playground.encode([clip.caption])
        pair = [
            playground.sample(positive, 1, seed + index, SegmentRows(told_events(clip), exchanged))[0][0] for exchanged in (False, True)
        ]
        shown.append((shown_events(pair[0], clip), shown_events(pair[1], clip)))
        if index % 10 == 9:
            log.info("%d of %d", index + 1, len(clips))
    return shown


def evaluate_base(playground: Playground, count: int, seed: int) -> dict[str, Any]:
    """The gates: colour, shape, single motion, two objects, word locality, each over `count` held-out captions."""
    one = held_out("one", count, seed)
    areas = [metrics.color_areas(v) for v in in_batches(playground, one, seed)]
    subjects = [c.subjects[0] for c in one]
    colour = [
        float(max(a, key=lambda name: float(a[name].sum())) == s.color and metrics.presence(a[s.color]).any())
        for a, s in zip(areas, subjects)
    ]
    shape = [float(metrics.main_shape(a[s.color]) == s.shape) for a, s in zip(areas, subjects)]
    moving = held_out("motion", count, seed + 1)
    areas = [metrics.color_areas(v) for v in in_batches(playground, moving, seed + 1)]
    motion = [float(metrics.whole_motion(a[c.subjects[0].color]) == c.subjects[0].events[0]) for a, c in zip(areas, moving)]
    two = held_out("several", count, seed + 2, objects=2)
    areas = [metrics.color_areas(v) for v in in_batches(playground, two, seed + 2)]
    both = [[float(metrics.presence(a[s.color]).sum() >= 2) for s in c.subjects] for a, c in zip(areas, two)]
    pairs = held_out("events", count, seed + 3, events=2)
    told = [told_events(c) for c in pairs]
    plain, retold = (
        [shown_events(v, c) for v, c in zip(in_batches(playground, pairs, seed + 3, rows), pairs)]
        for rows in (None, lambda part: retold_rows(playground, part))
    )
    local = word_locality(playground, pairs, seed + 3)
    figures = {
        "colour": figure(colour),
        "shape": figure(shape),
        "motion": figure(motion),
        "two_objects": figure([v for pair in both for v in pair], [i for i, pair in enumerate(both) for _ in pair]),
        "two_objects_jointly": figure([float(all(pair)) for pair in both]),
        "word_locality": figure([float(own == t and other == t[::-1]) for (own, other), t in zip(local, told)]),
        "two_events_scheduled": figure([float(own == t) for (own, _), t in zip(local, told)]),
        "two_events_shown": figure([float(sorted(map(str, v)) == sorted(t)) for v, t in zip(plain, told)]),
        "two_events_in_told_order": figure([float(v == t) for v, t in zip(plain, told)]),
        "two_events_retold": figure([float({v, w} == {t, t[::-1]}) for v, w, t in zip(plain, retold, told)]),
    }
    passed = {gate: figures[gate]["value"] >= bound for gate, bound in BASE_GATES.items()}
    return {
        **{name: f["value"] for name, f in figures.items()},
        "interval": {name: f["interval"] for name, f in figures.items()},
        "gates": passed,
        "count": count,
    }


def main(arguments: list[str] | None = None) -> None:
    if arguments and arguments[0] in OWN_COMMAND_LINES:
        return importlib.import_module(f".evaluate_{arguments[0]}", __package__).main(arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["base", *OWN_COMMAND_LINES])
    add_sampling(parser, captions=200)
    options = parser.parse_args(arguments)
    result = evaluate_base(Playground(options.steps, options.cfg), options.captions, options.seed)
    sys.stdout.write(json.dumps(result) + "\n")
