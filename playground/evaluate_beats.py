"""Objects on the beats of a sound, through what Audio to Timing makes of it: clicks at known times, and on each an object that appears.

What is judged is the time of the clicks as they were made, not what was heard of them.
"""

import random
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..guidance.latent_time import pixel_frames
from ..guidance.mask_sources import TimedPhrase, Timing
from ..guidance.sound import Sound
from ..guidance.temporal_mask import TemporalMask
from ..guidance.timeline import Timeline
from . import metrics, world
from .evaluate_temporal import Comparison, Row, Variant, clips_of, judge
from .sampling import Playground

RATE, FPS = 16000, 16.0
# clear: equal clicks in silence; uneven: from 30 % loudness up, over a tone and noise that fade in; overlapping: each rings into the next
KINDS = ("clear", "uneven", "overlapping")
OBJECTS = (1, 2, 3, 4)
DECAY = {"clear": 0.02, "uneven": 0.02, "overlapping": 0.4}  # seconds in which a click falls to 1/e


def beat_frames(rng: random.Random, count: int) -> list[int]:
    """Latent frames in which the clicks fall: at least two apart, and two at either end of the clip."""
    while True:
        beats = sorted(rng.sample(range(2, world.LATENT_FRAMES - 1), count))
        if all(later - earlier >= 2 for earlier, later in zip(beats, beats[1:])):
            return beats


def clicks(beats: list[int], kind: str, seed: int) -> Tensor:
    """A sound "1 t" as long as the clip: a burst of noise at the first pixel frame of each latent frame of `beats`."""
    generator = torch.Generator().manual_seed(seed)
    samples = round(pixel_frames(world.LATENT_FRAMES) / FPS * RATE)
    noise = torch.randn(len(beats) + 1, samples, generator=generator)
    loudness = torch.ones(len(beats)) if kind == "clear" else 0.3 + 0.7 * torch.rand(len(beats), generator=generator)
    time = torch.arange(samples) / RATE
    sound = torch.zeros(samples)
    if kind == "uneven":
        sound += (0.05 * torch.sin(2 * torch.pi * 220 * time) + 0.002 * noise[-1]) * (2 * time).clamp(max=1)
    for beat, loud, burst in zip(beats, loudness, noise):
        since = time - pixel_frames(beat) / FPS
        sound += torch.where(since >= 0, 0.3 * loud * burst * (-since.clamp(min=0) / DECAY[kind]).exp(), 0.0)
    return sound[None]


def timing_of(names: list[str], sound: Tensor) -> Timing:
    """Object i appears on beat i and stays; as Audio to Timing does it with its defaults."""
    return Timing(
        tuple(TimedPhrase(name, Sound(sound, RATE, beats=str(index + 1), shape="until the end")) for index, name in enumerate(names))
    )


def heard(timing: Timing, masks: list[np.ndarray]) -> tuple[Timing, list[bool]]:
    """The phrases whose beat was found at all, and of each phrase whether its mask is the known one."""
    found, right = [], []
    for phrase, known in zip(timing.phrases, masks, strict=True):
        try:
            mask = phrase.source.mask(world.LATENT_FRAMES, FPS, binary=True)
        except ValueError:  # fewer beats were heard than were made
            right.append(False)
            continue
        found.append(phrase)
        right.append(np.array_equal(mask.numpy(), known))
    return Timing(tuple(found)), right


def judge_beats(clip: world.Clip, masks: dict[str, np.ndarray], was_heard: list[bool], videos: Tensor, plain: Tensor) -> list[Row]:
    """As `judge`, means over the objects; and on_beat: those first seen in the very latent frame of their click; heard: clicks whose mask
    was right."""
    rows = []
    for video, row in zip(videos, judge(clip, masks, videos, plain), strict=True):
        areas = metrics.color_areas(video)
        on_beat = []
        for color, mask in masks.items():
            here = metrics.presence(areas[color]).numpy()
            on_beat.append(bool(here.any()) and here.argmax() == mask.argmax())
        rows.append({**row, "on_beat": float(np.mean(on_beat)), "heard": float(np.mean(was_heard))})
    return rows


def evaluate_beats(playground: Playground, count: int, seeds: int, seed: int, variants: dict[str, Variant]) -> dict[str, Any]:
    """Plain against guided on the same noises: `count` held-out captions of 1 to 4 objects x `seeds` noises, a click for each object."""
    clips = [clip for objects in OBJECTS for clip in clips_of(objects, -(-count // len(OBJECTS)), seed)][:count]
    rng = random.Random(seed)
    comparison = Comparison(playground, variants, seeds)
    for index, clip in enumerate(clips):
        beats = beat_frames(rng, len(clip.subjects))
        wanted = [(np.arange(world.LATENT_FRAMES) >= beat).astype(float) for beat in beats]
        masks = {subject.color: mask for subject, mask in zip(clip.subjects, wanted, strict=True)}
        sound = clicks(beats, KINDS[index % len(KINDS)], seed + index)
        timing, was_heard = heard(timing_of([subject.name for subject in clip.subjects], sound), wanted)
        mask = TemporalMask(Timeline(()), mask="binary", timing=timing)
        comparison.add(clip.caption, mask, seed + index, partial(judge_beats, clip, masks, was_heard))
    return comparison.result(("accuracy", "on_beat", "shape")) | {"captions": len(clips), "kinds": list(KINDS)}
