"""Movement under Temporal Mask: the verb in one third of the video, its subject always there (TempoControl section 4, movement).

As the paper judges: the second with most movement must be the asked one. Clips have 12 steps between latent frames, so three seconds of
four; chance is a third. No optical flow is needed, for the drawn object is measured itself.
"""

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..guidance.temporal_mask import TemporalMask
from ..guidance.timeline import parse_timeline
from . import metrics, world
from .evaluate import held_out
from .evaluate_temporal import Comparison, Row, Variant, timeline_of
from .sampling import Playground

SECONDS = ((1, 5), (5, 9), (9, 13))  # latent frames [a, b) that a step of that second leads into


def movement_timeline(name: str, event: str, second: int) -> str:
    return f"{name}:\n  {timeline_of([(event, *SECONDS[second])])}"


def told_progress(area: Tensor, event: str) -> np.ndarray:
    """How far the object goes in the told direction (canvas cells) or grows in the told sense (log of its size) into each latent frame
    after the first: "f h w" -> 12 numbers; 0 where it is missing in either frame."""
    x, y, total = metrics.centroid(area)
    here = metrics.presence(area)
    if event in world.STEP:
        along = x * world.STEP[event][0] + y * world.STEP[event][1]
    else:
        along = 0.5 * total.clamp_min(1e-6).log() * float(np.sign(np.log(world.GROWTH[event])))
    return torch.where(here[1:] & here[:-1], along.diff(), 0.0).numpy()


def judge_movement(name: str, event: str, second: int, videos: Tensor, plain: Tensor) -> list[Row]:
    """accuracy: it does what is told, and most of it in the asked second. moves: it does what is told at all. share: of its way in the told
    direction, how much lies in the asked second. there: share of frames in which the subject is there. shape: of these, with its own."""
    color, shape = name.split()
    rows = []
    for video, reference in zip(videos, plain, strict=True):
        area = metrics.color_areas(video)[color]
        progress = told_progress(area, event)
        in_second = np.array([progress[a - 1 : b - 1].sum() for a, b in SECONDS])
        forward = progress.clip(min=0)
        a, b = SECONDS[second]
        moves = metrics.whole_motion(area) == event
        verdicts = [verdict for verdict in metrics.shape_verdicts(area) if verdict]
        rows.append({
            "accuracy": float(moves and in_second.argmax() == second),
            "moves": float(moves),
            "share": float(forward[a - 1 : b - 1].sum() / forward.sum()) if moves else np.nan,
            "there": float(metrics.presence(area).float().mean()),
            "shape": float(np.mean([verdict == shape for verdict in verdicts])) if verdicts else np.nan,
            "background_change": metrics.background_change(video, reference, [color]),
        })
    return rows


def evaluate_movement(playground: Playground, count: int, seeds: int, seed: int, variants: dict[str, Variant]) -> dict[str, Any]:
    """Plain against guided on the same noises: `count` held-out captions of one motion x `seeds` noises, the second drawn by lot."""
    clips = held_out("motion", count, seed)
    rng = random.Random(seed)
    comparison = Comparison(playground, variants, seeds)
    for index, clip in enumerate(clips):
        subject, second = clip.subjects[0], rng.randrange(len(SECONDS))
        event = subject.events[0]
        mask = TemporalMask(parse_timeline(movement_timeline(subject.name, event, second)), mask="binary")
        comparison.add(clip.caption, mask, seed + index, partial(judge_movement, subject.name, event, second))
    return comparison.result(("accuracy", "moves", "shape")) | {"captions": len(clips), "chance": 1 / len(SECONDS)}
