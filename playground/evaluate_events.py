"""Measures Event Schedule on the drawn world: is every told event in its part of the video, and is the subject still the same?

The wanted order is the told one; training captions told it wrongly in half of the clips, so the plain model does not know it.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..guidance.event_attention import Erode, HoldBack, Statistics
from ..guidance.event_plan import plan_timeline
from ..guidance.events import END_PERCENT_I2V, EventSchedule
from ..guidance.latent_time import pixel_frames
from ..guidance.timeline import parse_timeline
from . import codec, metrics, world
from .command_line import add_knobs, add_sampling, given
from .evaluate import figure, held_out
from .sampling import Playground
from .time_penalty import TimePenalty

log = logging.getLogger("wan_conductor.playground")
FIGURES = ("event_accuracy", "all_in_order", "subject", "background")
PARTS = ("colour", "shape", "continuity")  # of `subject`
GROUPS = ("2", "3", "4", "two_subjects")
I2V = "i2v"  # a comparison of its own, on other captions
VARIANTS = (
    "plain", "guided", "paper", "given", "planned", "no_motion_mask", "no_reinforcement", "no_rearrangement",
    "no_raising", "time_penalty", "time_penalty_alike", I2V,
)  # fmt: skip
LONGEST_STEP = 3.0  # canvas cells; the fastest told motion covers 1.7 in one latent frame

Told = list[tuple[str, list[str]]]  # each subject's name and its events in the order of the caption


def told_events(clip: world.Clip) -> Told:
    told: Told = []
    for words, kind in clip.phrases:
        if kind == "object":
            told.append((words, []))
        elif kind == "event":
            told[-1][1].append(words)
    return told


def one_owner_each(told: Told) -> bool:
    """No two subjects share an event: the caption has no words that would tell theirs apart."""
    events = [set(events) for _, events in told]
    return all(not (a & b) for i, a in enumerate(events) for b in events[:i])


def equal_shares(told: Told) -> str:
    return "\n".join(f"{name}:\n" + "\n".join(f"  {event}" for event in events) for name, events in told)


def drawn_segments(told: Told) -> str:
    """The very latent frames in which the world would draw each event."""
    lines = []
    for name, events in told:
        segment = world.segment_of_frame(len(events))
        lines.append(f"{name}:")
        for index, event in enumerate(events):
            frames = np.nonzero(segment == index)[0]
            start, end = int(frames[0]), int(frames[-1]) + 1
            lines.append(f"  {start and pixel_frames(start)}f - {pixel_frames(end)}f  {event}")
    return "\n".join(lines)


def judge(video: Tensor, told: Told) -> dict[str, float]:
    """The figures of one canvas video "f c h w".

    event_accuracy: share of segments whose event is the told one; all_in_order: whether all are; subject: mean of colour (frames in which
    the told colour is there), shape (of these, those with the told shape) and continuity (steps without a jump); background: 1 - mean
    change from frame to frame of cells without an object, as a share of the value range.
    """
    areas = metrics.color_areas(video)
    right, parts = [], []
    for name, events in told:
        color, shape = name.split()
        area = areas[color]
        right += [verdict == event for verdict, event in zip(metrics.events_in_segments(area, len(events)), events, strict=True)]
        here = metrics.presence(area).bool()
        x, y, _ = metrics.centroid(area)
        both = here[1:] & here[:-1]
        steps = torch.maximum(x.diff().abs(), y.diff().abs())[both] < LONGEST_STEP
        verdicts = np.array(metrics.shape_verdicts(area), dtype=object)[here.numpy()]
        parts.append([
            float(here.float().mean()),
            float((verdicts == shape).mean()) if len(verdicts) else 0.0,
            float(steps.float().sum() / max(1, len(both))),
        ])
    colour, shapes, continuity = np.mean(parts, axis=0)
    moving = metrics.background_change(video[1:], video[:-1], [name.split()[0] for name, _ in told])
    return {
        "event_accuracy": float(np.mean(right)), "all_in_order": float(all(right)), "subject": float((colour + shapes + continuity) / 3),
        "background": 1 - moving, "colour": float(colour), "shape": float(shapes), "continuity": float(continuity),
    }


def variants(told: Told, caption: str, knobs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """What is compared, by the name in the result; a plan may fail to be read, so each is made when it is its turn.

    `paper` has the paper's settings, all others `knobs`. The penalty acts in all blocks and steps, or in those of `guided` (`_alike`).
    """

    def schedule(text: str, **changes: Any) -> EventSchedule:
        return EventSchedule(parse_timeline(text), **{**knobs, **changes})

    shares = equal_shares(told)
    return {
        "plain": lambda: None,
        "guided": lambda: schedule(shares),
        "paper": lambda: EventSchedule(parse_timeline(shares)),
        "given": lambda: schedule(drawn_segments(told)),
        "planned": lambda: schedule(plan_timeline(caption)),
        "no_motion_mask": lambda: schedule(shares, without=frozenset({"motion mask"})),
        "no_reinforcement": lambda: schedule(shares, without=frozenset({"reinforcement"})),
        "no_rearrangement": lambda: schedule(shares, without=frozenset({"rearrangement"})),
        "no_raising": lambda: schedule(shares, raising=0.0),
        "time_penalty": lambda: TimePenalty(schedule(shares)),
        "time_penalty_alike": lambda: TimePenalty(schedule(shares), alike=True),
    }


def clips_of(group: str, count: int, seed: int) -> list[world.Clip]:
    """Held-out clips of one group: `2`, `3` or `4` events of one subject, or `two_subjects`, who have three or more between them."""
    if group != "two_subjects":
        return held_out("events", count, seed, events=int(group))
    told = [(clip, told_events(clip)) for clip in held_out("two_movers", 6 * count, seed)]
    # a subject that is told to do nothing is no event to control
    fitting = [clip for clip, events in told if one_owner_each(events) and all(e for _, e in events) and sum(len(e) for _, e in events) > 2]
    return fitting[:count]


def first_frame_given(playground: Playground, clip: world.Clip, batch: int) -> dict[str, Tensor]:
    """A latent whose first frame is the drawn one and stays as it is: what I2V asks for, with a T2V model."""
    drawn = codec.latent_of_canvas(world.draw([clip]), playground.matrices)
    samples = torch.zeros(batch, *drawn.shape[1:])
    samples[:, :, :1] = playground.model.model.process_latent_out(drawn[:, :, :1])
    mask = torch.ones(batch, 1, *drawn.shape[2:])
    mask[:, :, 0] = 0
    return {"samples": samples, "noise_mask": mask}


def evaluate_events(
    playground: Playground, count: int, seeds: int, seed: int, knobs: dict[str, Any], chosen: Sequence[str] = VARIANTS
) -> dict[str, Any]:
    """Plain and the `chosen` variants on the same noises: `count` held-out captions over all groups x `seeds` noises."""
    rows: dict[str, list[dict[str, float]]] = {}
    owner, kinds, seconds = [], [], {}
    ranked = [(rank, group, clip) for group in GROUPS for rank, clip in enumerate(clips_of(group, -(-count // len(GROUPS)), seed))]
    captions = [(group, clip) for _, group, clip in sorted(ranked, key=lambda caption: caption[0])][:count]  # groups in turn
    for index, (group, clip) in enumerate(captions):
        told, positive = told_events(clip), playground.encode([clip.caption])
        makers = variants(told, clip.caption, knobs)
        for name in dict.fromkeys(("plain", *(name for name in chosen if name != I2V))):
            started = time.perf_counter()
            videos, _ = playground.sample(positive, seeds, seed + index, makers[name]())
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
            rows.setdefault(name, []).extend(judge(video, told) for video in videos)
        owner += [index] * seeds
        kinds += [group] * seeds
        so_far = ", ".join(f"{name} {np.mean([v['all_in_order'] for v in values]):.2f}" for name, values in rows.items())
        log.info("%d of %d captions, all in order: %s", index + 1, len(captions), so_far)
    result: dict[str, Any] = {name: compared(values, rows["plain"], owner) for name, values in rows.items()}
    for name, values in rows.items():
        result[name]["seconds_per_run"] = round(seconds[name] / len(captions), 3)
        result[name]["by_events"] = {
            group: {key: figure([v[key] for v, kind in zip(values, kinds) if kind == group])["value"] for key in FIGURES}
            for group in dict.fromkeys(kinds)
        }
    if I2V in chosen:
        result[I2V] = evaluate_first_frame(playground, -(-count // 2), seeds, seed, knobs)
    return result | {
        "captions": len(captions), "seeds": seeds, "steps": playground.steps, "cfg": playground.cfg,
        "knobs": knobs,
    }


def evaluate_first_frame(playground: Playground, count: int, seeds: int, seed: int, knobs: dict[str, Any]) -> dict[str, Any]:
    """Plain against guided with the first frame given, on captions of two events; guided for the 40 % that the paper takes there.

    Clips told in their true order: only from their first frame can what is told go on.
    """
    drawn = held_out("events", 4 * count, seed + 1, events=2)
    clips = [clip for clip in drawn if tuple(told_events(clip)[0][1]) == clip.subjects[0].events]
    knobs_of_i2v: dict[str, Any] = {"end_percent": END_PERCENT_I2V, **knobs}
    rows: dict[str, list[dict[str, float]]] = {"plain": [], "guided": []}
    owner = []
    for index, clip in enumerate(clips[:count]):
        told, positive = told_events(clip), playground.encode([clip.caption])
        schedule = EventSchedule(parse_timeline(equal_shares(told)), **knobs_of_i2v)
        for name, patch in (("plain", None), ("guided", schedule)):
            videos, _ = playground.sample(positive, seeds, seed + index, patch, latent=first_frame_given(playground, clip, seeds))
            rows[name] += [judge(video, told) for video in videos]
        owner += [index] * seeds
    return {name: compared(values, rows["plain"], owner) for name, values in rows.items()} | {"captions": len(clips[:count])}


def compared(values: list[dict[str, float]], plain: list[dict[str, float]], owner: list[int]) -> dict[str, Any]:
    """Means with their 95 % intervals, captions drawn whole; and the paired difference to plain."""
    figures = {key: figure([v[key] for v in values], owner) for key in (*FIGURES, *PARTS)}
    told: dict[str, Any] = {key: f["value"] for key, f in figures.items()}
    told["interval"] = {key: f["interval"] for key, f in figures.items()}
    if values is not plain:
        paired = {key: figure([v[key] - p[key] for v, p in zip(values, plain, strict=True)], owner) for key in FIGURES}
        told["minus_plain"] = {key: f["value"] for key, f in paired.items()}
        told["minus_plain"]["interval"] = {key: f["interval"] for key, f in paired.items()}
    return told


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py playground evaluate events", description=__doc__)
    add_sampling(parser, captions=200)
    add_knobs(parser, "strength", "r_max", "end_percent", "top_fraction", "raising", told="of Event Schedule, instead of the paper's")
    parser.add_argument("--blocks", choices=("odd", "all"), help="of Event Schedule, instead of the paper's")
    parser.add_argument("--erode", choices=get_args(Erode), help="of Event Schedule, instead of the paper's")
    parser.add_argument("--statistics", choices=get_args(Statistics), help="of Event Schedule, instead of the paper's")
    parser.add_argument("--hold-back", choices=get_args(HoldBack), help="of Event Schedule, instead of the paper's")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="what is compared with plain")
    options = parser.parse_args(arguments)
    knobs = given(options, "strength", "r_max", "end_percent", "top_fraction", "raising", "blocks", "erode", "statistics", "hold_back")
    playground = Playground(options.steps, options.cfg)
    result = evaluate_events(playground, options.captions, options.seeds, options.seed, knobs, options.variants)
    sys.stdout.write(json.dumps(result) + "\n")
