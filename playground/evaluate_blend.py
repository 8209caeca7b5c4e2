"""Measures Multi Prompt Blend on the drawn world, beside one long prompt, a hard cut and the host's own context windows. One JSON line."""

import argparse
import copy
import json
import logging
import math
import random
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import comfy.context_windows
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..guidance.blend import MultiPromptBlend, prompt_weights
from ..guidance.kv_sharing import KVSharing
from ..guidance.objective import PhraseRef
from ..guidance.report import finite
from ..host.blend_prompts import window_conditioning
from . import metrics, world
from .command_line import add_sampling
from .evaluate import figure
from .evaluate_homeostasis import acceleration
from .sampling import LATENT_SHAPE, Playground

log = logging.getLogger("wan_conductor.playground")
VARIANTS = ("single", "hard_cut", "host_windows", "blend", "blend_kv", "blend_masked")
BLEND = MultiPromptBlend(window=world.LATENT_FRAMES, overlap=6, repeats=(1, 1), sharing=None)  # the paper's window
CSCV_LAMBDA = 10.0  # table 3
SEAM = 4  # latent frames on each side of the change in which smoothness is measured


@dataclass(frozen=True)
class Story:
    """One object that does one thing after another, each told by a prompt of its own."""

    color: str
    shape: str
    events: tuple[str, ...]

    @property
    def object(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def prompts(self) -> list[str]:
        return [f"a {self.object} {event}" for event in self.events]

    @property
    def told_at_once(self) -> str:
        return f"a {self.object} {' then '.join(self.events)}"


def stories(count: int, seed: int) -> list[Story]:
    """Two different events each; their prompts are captions of the world."""
    rng = random.Random(seed)
    looks = [(color, shape) for color in world.COLORS for shape in world.SHAPES]
    return [Story(*rng.choice(looks), tuple(rng.sample((*world.MOTIONS, world.STILL), 2))) for _ in range(count)]


def evaluate_blend(playground: Playground, count: int, seeds: int, seed: int) -> dict[str, Any]:
    """`count` stories of two prompts x `seeds` noises, each at every one of VARIANTS."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    told = stories(count, seed)
    for index, story in enumerate(told):
        for name in VARIANTS:
            videos = sample_variant(playground, name, story, seeds, seed + index)
            rows[name] += [judge(video, story) for video in videos]
        log.info("%d of %d stories", index + 1, count)
    groups = [index for index in range(count) for _ in range(seeds)]
    result: dict[str, Any] = {}
    for name, values in rows.items():
        figures = {key: figure([row[key] for row in values], groups) for key in values[0]}
        result[name] = {key: of["value"] for key, of in figures.items()}
        result[name]["interval"] = {key: of["interval"] for key, of in figures.items()}
    settings = {"steps": playground.steps, "cfg": playground.cfg, "latent_frames": BLEND.latent_frames}
    return result | {"stories": count, "seeds": seeds} | settings


def sample_variant(playground: Playground, name: str, story: Story, seeds: int, seed: int) -> Tensor:
    """Videos "b f c h w" of one variant; f is the blend's length, for a hard cut a window for each prompt."""
    encoded = [playground.encode([prompt]) for prompt in story.prompts]
    if name == "hard_cut":
        parts = [playground.sample(prompt, seeds, seed + 7919 * number)[0] for number, prompt in enumerate(encoded)]
        return torch.cat(parts, dim=1)
    latent = {"samples": torch.zeros(seeds, LATENT_SHAPE[0], BLEND.latent_frames, *LATENT_SHAPE[2:])}
    if name == "single":
        return playground.sample(playground.encode([story.told_at_once]), seeds, seed, latent=latent)[0]
    if name == "host_windows":
        windowed = copy.copy(playground)
        windowed.model = in_host_windows(playground.model)
        return windowed.sample([entry for prompt in encoded for entry in prompt], seeds, seed, latent=latent)[0]
    sharing = {"blend": None, "blend_kv": KVSharing(), "blend_masked": KVSharing(phrase=PhraseRef(story.object))}[name]
    blend = replace(BLEND, sharing=sharing)
    return playground.sample(window_conditioning(encoded, blend), seeds, seed, blend, latent=latent)[0]


def in_host_windows(model: Any) -> Any:
    """ComfyUI's context windows with a prompt for each region, as long and as far overlapped as the blend's."""
    windows = comfy.context_windows
    windowed = model.clone()
    windowed.model_options["context_handler"] = windows.IndexListContextHandler(
        windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=BLEND.window, context_overlap=BLEND.overlap, dim=2, split_conds_to_windows=True,
    )
    return windowed


def judge(video: Tensor, story: Story) -> dict[str, float]:
    """One video "f c h w".

    smoothness: mean acceleration of the object's centre around the change, in canvas cells per frame^2, lower is better. cscv: the paper's
    formula on drawn cells in place of CLIP, 1 for even change; a frozen video has 1 too. prompt_accuracy: share of the prompts whose event
    the object does where that prompt is the strongest. identity: share of the frames that show anything in which it has the told looks.
    """
    areas = metrics.color_areas(video)
    area = areas[story.color]
    spans = strongest_frames(len(video))
    shown = torch.stack([metrics.presence(of_color) for of_color in areas.values()]).any(0).tolist()
    looks = [verdict == story.shape for verdict, any_there in zip(metrics.shape_verdicts(area), shown) if any_there]
    done = [metrics.event_between(area, span.start, span.stop - 1) == event for span, event in zip(spans, story.events)]
    change = spans[1].start
    return {
        "smoothness": acceleration(area[max(change - SEAM, 0) : change + SEAM]),
        "cscv": cscv(video),
        "prompt_accuracy": float(np.mean(done)),
        "identity": float(np.mean(looks)) if looks else math.nan,
    }


def strongest_frames(frames: int) -> list[range]:
    """The frames of a video in which each prompt is the strongest; a hard cut changes in its middle."""
    share = int((prompt_weights(BLEND).argmax(0) == 0).sum()) if frames == BLEND.latent_frames else frames // 2
    return [range(share), range(share, frames)]


def cscv(video: Tensor) -> float:
    """1 / (1 + lambda CV) of the similarities of neighbouring frames, CV = std / mean; a frame is its difference from the background."""
    frames = (video - torch.tensor(world.BACKGROUND).view(3, 1, 1)).flatten(1)
    similar = torch.stack([functional.cosine_similarity(a, b, dim=0) for a, b in pairwise(frames)])
    mean = float(similar.mean())
    return 1 / (1 + CSCV_LAMBDA * float(similar.std(correction=0)) / mean) if mean > 0 else 0.0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py playground evaluate blend", description=__doc__)
    add_sampling(parser, captions=200, told="stories of two prompts")
    options = parser.parse_args(arguments)
    result = evaluate_blend(Playground(options.steps, options.cfg), options.captions, options.seeds, options.seed)
    sys.stdout.write(json.dumps(finite(result), allow_nan=False) + "\n")
