"""Measures the playground: the gates of the base model, and what each method does. One JSON line to standard output."""

import argparse
import importlib
import json
import logging
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..guidance.budget import GuidanceBudget
from ..guidance.latent_time import pixel_frames
from ..guidance.temporal_mask import TemporalMask
from ..guidance.timeline import parse_timeline
from ..host.tokens import rows_for_entry
from . import metrics, world
from .command_line import add_budget, add_knobs, add_sampling, budget_of, given
from .sampling import Playground
from .segment_rows import SegmentRows

log = logging.getLogger("wan_conductor.playground")
BASE_GATES = {"colour": 0.97, "shape": 0.90, "motion": 0.85, "two_objects": 0.95, "word_locality": 0.70}
OWN_COMMAND_LINES = ("homeostasis", "composition", "blend")  # evaluate_<name>.py
ABLATION = {"C": (1.0, 0.0, 0.0), "E": (0.0, 0.0, 10.0), "C+E": (1.0, 0.0, 10.0), "C+E+M": (1.0, 0.3, 10.0)}


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
    mean, interval = metrics.interval(np.array(values), None if groups is None else np.array(groups))
    plain = [None if np.isnan(v) else round(float(v), 4) for v in (mean, *interval)]  # JSON has no NaN
    return {"value": plain[0], "interval": plain[1:], "count": len(values)}


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


def timeline_of(windows: list[tuple[str, int, int]]) -> str:
    """Timeline text in pixel frames for latent windows [a, b) of phrases."""
    # the latents before j hold this many pixel frames, so j begins there
    return "\n".join(f"{a and pixel_frames(a)}f - {b and pixel_frames(b)}f {phrase}" for phrase, a, b in windows)


def temporal_window(rng: random.Random) -> tuple[int, int]:
    """As the paper asks: from some moment on; and beyond it: until some moment, or between two. At least three latent frames each way."""
    frames = world.LATENT_FRAMES
    kind = rng.randrange(3)
    if kind == 0:
        return rng.randint(3, frames - 3), frames
    if kind == 1:
        return 0, rng.randint(3, frames - 3)
    length = rng.randint(3, 6)
    start = rng.randint(2, frames - length - 2)
    return start, start + length


def judge(videos: Tensor, clip: world.Clip, masks: dict[str, np.ndarray], plain: Tensor) -> list[dict[str, float]]:
    """Figures of each video of one caption: accuracy and so on, means over the objects."""
    rows = []
    for video, reference in zip(videos, plain):
        areas = metrics.color_areas(video)
        row: dict[str, list[float]] = {k: [] for k in ("accuracy", "presence", "absence", "colour", "shape")}
        right = np.ones(world.LATENT_FRAMES, dtype=bool)
        for subject in clip.subjects:
            wanted = masks[subject.color].astype(bool)
            here = metrics.presence(areas[subject.color]).numpy()
            right &= here == wanted
            row["accuracy"].append(float((here == wanted).mean()))
            row["presence"].append(float(here[wanted].mean()) if wanted.any() else np.nan)
            row["absence"].append(float((~here[~wanted]).mean()) if (~wanted).any() else np.nan)
            # attributes, in the frames where something is there and should be
            total = torch.stack(
                [a.sum((1, 2)) for name, a in areas.items() if name not in {s.color for s in clip.subjects} - {subject.color}]
            )
            anything = (total.amax(0).numpy() >= metrics.PRESENT_AREA) & wanted
            row["colour"].append(float(here[anything].mean()) if anything.any() else np.nan)
            verdicts = np.array(metrics.shape_verdicts(areas[subject.color]), dtype=object)
            seen = here & wanted
            row["shape"].append(float((verdicts[seen] == subject.shape).mean()) if seen.any() else np.nan)
        figures = {k: float(np.nanmean(v)) if not np.isnan(v).all() else np.nan for k, v in row.items()}
        figures["joint"] = float(right.mean())
        figures["background_change"] = metrics.background_change(video, reference, [s.color for s in clip.subjects])
        rows.append(figures)
    return rows


def evaluate_temporal(
    playground: Playground, objects: int, count: int, seeds: int, seed: int, variants: dict[str, dict[str, float]], budget: GuidanceBudget
) -> dict[str, Any]:
    """Plain against guided on the same noises: `count` held-out captions x `seeds` noises, a window per object, variants of the losses."""
    clips = held_out("one", count, seed) if objects == 1 else held_out("several", count, seed, objects=objects)
    rng = random.Random(seed)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("plain", *variants)}
    groups, seconds = [], {name: 0.0 for name in rows}
    for index, clip in enumerate(clips):
        windows = [(s.name, *temporal_window(rng)) for s in clip.subjects]
        masks = {s.color: np.array([float(a <= j < b) for j in range(world.LATENT_FRAMES)]) for s, (_, a, b) in zip(clip.subjects, windows)}
        positive = playground.encode([clip.caption])
        plain = None
        for name in rows:
            objective = (
                None if name == "plain" else replace(TemporalMask(parse_timeline(timeline_of(windows)), mask="binary"), **variants[name])
            )
            started = time.perf_counter()
            videos, report = playground.sample(positive, seeds, seed + index, objective, budget)
            seconds[name] += time.perf_counter() - started
            plain = videos if plain is None else plain
            rows[name] += judge(videos, clip, masks, plain)
        groups += [index] * seeds
        if index % 10 == 9:
            so_far = {name: round(float(np.nanmean([r["accuracy"] for r in values])), 3) for name, values in rows.items()}
            log.info("%d of %d captions, accuracy %s", index + 1, len(clips), so_far)
    result: dict[str, Any] = {}
    for name, values in rows.items():
        figures = {k: figure([v[k] for v in values], groups) for k in values[0]}
        result[name] = {k: f["value"] for k, f in figures.items()} | {"interval": {k: f["interval"] for k, f in figures.items()}}
        result[name]["seconds_per_run"] = round(seconds[name] / len(clips), 3)
        if name != "plain":
            paired = {k: figure([v[k] - p[k] for v, p in zip(values, rows["plain"])], groups) for k in ("accuracy", "colour", "shape")}
            result[name]["minus_plain"] = {k: f["value"] for k, f in paired.items()} | {
                "interval": {k: f["interval"] for k, f in paired.items()}
            }
    return result | {
        "captions": len(clips),
        "distinct_captions": len({c.caption for c in clips}),
        "seeds": seeds,
        "objects": objects,
        "steps": playground.steps,
        "cfg": playground.cfg,
    }


def main(arguments: list[str] | None = None) -> None:
    if arguments and arguments[0] in OWN_COMMAND_LINES:
        return importlib.import_module(f".evaluate_{arguments[0]}", __package__).main(arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["base", "temporal", "events", *OWN_COMMAND_LINES])
    add_sampling(parser, captions=200)
    parser.add_argument("--objects", type=int, default=1, choices=[1, 2, 3, 4])
    parser.add_argument("--ablation", action="store_true", help="the paper's: C, E, C+E, C+E+M")
    add_budget(parser)
    add_knobs(parser, "strength", "r_max", told="of Event Schedule, instead of the paper's")
    add_knobs(parser, "lambda_magnitude", "lambda_entropy", "tau_corr", told="instead of the paper's")
    options = parser.parse_args(arguments)
    playground = Playground(options.steps, options.cfg)
    if options.what == "base":
        result = evaluate_base(playground, options.captions, options.seed)
    elif options.what == "events":
        from .evaluate_events import evaluate_events  # which needs this module

        knobs = given(options, "strength", "r_max", "end_percent")
        result = evaluate_events(playground, options.captions, options.seeds, options.seed, knobs)
    else:
        variants = {"guided": given(options, "lambda_magnitude", "lambda_entropy", "tau_corr")}
        if options.ablation:
            variants = {n: {"lambda_correlation": c, "lambda_magnitude": m, "lambda_entropy": e} for n, (c, m, e) in ABLATION.items()}
        result = evaluate_temporal(playground, options.objects, options.captions, options.seeds, options.seed, variants, budget_of(options))
    sys.stdout.write(json.dumps(result) + "\n")
