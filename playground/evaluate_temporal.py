"""Measures Temporal Mask on the drawn world: is each object there in its latent frames, and only there? Windows, sweeps of its knobs.

`--movement` and `--audio`: a verb in a window (evaluate_movement.py), objects on the beats of a sound (evaluate_beats.py). One JSON line.
"""

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..guidance.budget import GuidanceBudget
from ..guidance.latent_time import pixel_frames
from ..guidance.report import GuidanceReport
from ..guidance.temporal_bias import BIAS_DEPTH, BIAS_END_PERCENT, BIAS_STRENGTH, Mode, TemporalBias, guidance_of
from ..guidance.temporal_mask import TemporalMask
from ..guidance.timeline import parse_timeline
from . import metrics, world
from .command_line import add_budget, add_knobs, add_sampling, budget_of, given
from .evaluate import figure, held_out
from .sampling import Playground

log = logging.getLogger("wan_conductor.playground")
LAMBDAS = ("lambda_magnitude", "lambda_entropy", "lambda_leakage", "tau_corr")
BIAS = ("bias_strength", "bias_end", "bias_depth")
# lambda_c, lambda_1, lambda_2
ABLATION = {"C": (1.0, 0.0, 0.0), "E": (0.0, 0.0, 10.0), "C+E": (1.0, 0.0, 10.0), "C+E+M": (1.0, 0.3, 10.0)}
# the paper gives no table of any of them
SWEEPS: dict[str, tuple[float, ...]] = {
    "k": (1, 2, 4, 6, 8, 10),
    "l": (1, 2, 4, 6, 8, 10),
    "tau_corr": (0.5, 0.7, 0.8, 0.9, 0.95, 1.0),
    "lambda_1": (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
    "lambda_2": (0.0, 1.0, 3.0, 10.0, 30.0),
}
TABLE = ("accuracy", "presence", "absence", "joint", "colour", "shape", "background_change", "guided_steps", "seconds_per_run")

Row = dict[str, float]


@dataclass(frozen=True)
class Variant:
    """One way to guide: how, with which knobs of the losses, and how much may be spent."""

    budget: GuidanceBudget
    mode: Mode = "gradient"
    knobs: dict[str, Any] = field(default_factory=dict)
    bias_strength: float = BIAS_STRENGTH
    bias_end: float = BIAS_END_PERCENT
    bias_depth: float = BIAS_DEPTH

    def guidance(self, mask: TemporalMask) -> tuple[TemporalMask | TemporalBias, ...]:
        return guidance_of(self.mode, replace(mask, **self.knobs), self.bias_strength, self.bias_end, self.bias_depth)


def clips_of(objects: int, count: int, seed: int) -> list[world.Clip]:
    return held_out("one", count, seed) if objects == 1 else held_out("several", count, seed, objects=objects)


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


def judge(clip: world.Clip, masks: dict[str, np.ndarray], videos: Tensor, plain: Tensor) -> list[dict[str, float]]:
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


def ablation_variants(base: Variant) -> dict[str, Variant]:
    """`base` with the terms of the paper's ablation, which knows no anchor."""
    terms = {
        name: {"lambda_correlation": c, "lambda_magnitude": m, "lambda_entropy": e, "anchor": False}
        for name, (c, m, e) in ABLATION.items()
    }
    return {name: replace(base, knobs={**base.knobs, **knobs}) for name, knobs in terms.items()}


def sweep_variants(name: str, base: Variant, steps: int) -> dict[str, Variant]:
    """`base` at every value of SWEEPS; k counts guided steps of `steps`, l iterations in each."""
    changes: dict[str, Callable[[float], Variant]] = {
        "k": lambda k: replace(base, budget=replace(base.budget, start_percent=0.0, end_percent=min(1.0, k / steps))),
        "l": lambda l: replace(base, budget=replace(base.budget, iterations=int(l))),
        "tau_corr": lambda tau: replace(base, knobs={**base.knobs, "tau_corr": tau}),
        "lambda_1": lambda weight: replace(base, knobs={**base.knobs, "lambda_magnitude": weight}),
        "lambda_2": lambda weight: replace(base, knobs={**base.knobs, "lambda_entropy": weight}),
    }
    return {f"{value:g}": changes[name](value) for value in SWEEPS[name]}


def evaluate_temporal(
    playground: Playground, objects: int, count: int, seeds: int, seed: int, variants: dict[str, Variant]
) -> dict[str, Any]:
    """Plain against guided on the same noises: `count` held-out captions x `seeds` noises, a window per object."""
    clips = clips_of(objects, count, seed)
    rng = random.Random(seed)
    comparison = Comparison(playground, variants, seeds)
    for index, clip in enumerate(clips):
        windows = [(s.name, *temporal_window(rng)) for s in clip.subjects]
        masks = {s.color: np.array([float(a <= j < b) for j in range(world.LATENT_FRAMES)]) for s, (_, a, b) in zip(clip.subjects, windows)}
        mask = TemporalMask(parse_timeline(timeline_of(windows)), mask="binary")
        comparison.add(clip.caption, mask, seed + index, partial(judge, clip, masks))
    return comparison.result(("accuracy", "colour", "shape")) | {
        "captions": len(clips), "distinct_captions": len({c.caption for c in clips}), "objects": objects,
    }


class Comparison:
    """Plain against every variant, caption by caption on the same noises."""

    def __init__(self, playground: Playground, variants: dict[str, Variant], seeds: int) -> None:
        self.playground, self.variants, self.seeds = playground, variants, seeds
        self.rows: dict[str, list[Row]] = {name: [] for name in ("plain", *variants)}
        self.seconds, self.guided_steps = ({name: [] for name in self.rows} for _ in range(2))
        self.groups: list[int] = []

    def add(self, caption: str, mask: TemporalMask, seed: int, judge: Callable[[Tensor, Tensor], Iterable[Row]]) -> None:
        """`judge`: from videos and those without guidance, "b f c h w", a row for each."""
        positive = self.playground.encode([caption])
        plain: Tensor | None = None
        for name, rows in self.rows.items():
            variant = self.variants.get(name)
            started = time.perf_counter()
            guidance, budget = (variant.guidance(mask), variant.budget) if variant else (None, None)
            videos, report = self.playground.sample(positive, self.seeds, seed, guidance, budget)
            self.seconds[name].append(time.perf_counter() - started)
            self.guided_steps[name].append(steps_of(report))
            plain = videos if plain is None else plain
            rows.extend(judge(videos, plain))
        caption_index = len(self.seconds["plain"]) - 1
        self.groups += [caption_index] * self.seeds
        if caption_index % 10 == 9:
            so_far = {name: round(float(np.nanmean([row["accuracy"] for row in rows])), 3) for name, rows in self.rows.items()}
            log.info("%d captions, accuracy %s", caption_index + 1, so_far)

    def result(self, paired: tuple[str, ...]) -> dict[str, Any]:
        """Means with 95 % intervals, captions drawn whole; `minus_plain`: paired differences of the named figures."""
        result: dict[str, Any] = {}
        for name, rows in self.rows.items():
            figures = {key: figure([row[key] for row in rows], self.groups) for key in rows[0]}
            result[name] = told(figures) | {
                "seconds_per_run": round(float(np.mean(self.seconds[name])), 3),
                "guided_steps": round(float(np.mean(self.guided_steps[name])), 2),
            }
            if name != "plain":
                plain = self.rows["plain"]
                result[name]["minus_plain"] = told(
                    {key: figure([row[key] - other[key] for row, other in zip(rows, plain, strict=True)], self.groups) for key in paired}
                )
        return result | {"seeds": self.seeds, "steps": self.playground.steps, "cfg": self.playground.cfg}


def told(figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {key: f["value"] for key, f in figures.items()} | {"interval": {key: f["interval"] for key, f in figures.items()}}


def steps_of(report: GuidanceReport) -> int:
    """How many steps of the schedule guidance acted in."""
    return len({step.step for step in report.steps} | {step for patch in report.patches for step in patch.steps})


def table(result: dict[str, Any], names: Iterable[str]) -> str:
    """The figures of `names` as a Markdown table."""
    keys = [key for key in TABLE if key in result["plain"]]
    lines = [["", *keys], ["---"] * (len(keys) + 1)]
    lines += [[name, *("" if (value := result[name][key]) is None else f"{value:.3g}" for key in keys)] for name in names]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py playground evaluate temporal", description=__doc__)
    add_sampling(parser, captions=200)
    parser.add_argument("--objects", type=int, default=1, choices=[1, 2, 3, 4])
    parser.add_argument("--mode", choices=get_args(Mode), default="gradient")
    add_knobs(parser, *BIAS, told="of mode bias and both, instead of the node's")
    add_knobs(parser, *LAMBDAS, told="instead of the paper's")
    parser.add_argument("--no-anchor", dest="anchor", action="store_false", help="raise active frames without end, as in the paper")
    add_budget(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--ablation", action="store_true", help="the paper's: C, E, C+E, C+E+M, without anchor")
    what.add_argument("--sweep", choices=list(SWEEPS), help="a table over k (guided steps), l (iterations), tau_corr, lambda_1 or lambda_2")
    what.add_argument("--movement", action="store_true", help="a verb in one third of the video, its subject always there")
    what.add_argument("--audio", action="store_true", help="clicks at 1 to 4 known times, an object that appears on each")
    options = parser.parse_args(arguments)
    knobs = {"anchor": options.anchor, **given(options, *LAMBDAS)}
    base = Variant(budget_of(options), options.mode, knobs, **given(options, *BIAS))
    variants = {"guided": base}
    if options.mode == "bias" and (options.ablation or options.sweep):
        parser.error("--sweep and --ablation: mode bias has none of these knobs; choose --mode gradient or both")
    if options.ablation:
        variants = ablation_variants(base)
    if options.sweep:
        variants = sweep_variants(options.sweep, base, options.steps)
    playground = Playground(options.steps, options.cfg)
    sampled = (options.captions, options.seeds, options.seed, variants)
    if options.movement:
        from .evaluate_movement import evaluate_movement  # which needs this module

        result = evaluate_movement(playground, *sampled)
    elif options.audio:
        from .evaluate_beats import evaluate_beats

        result = evaluate_beats(playground, *sampled)
    else:
        result = evaluate_temporal(playground, options.objects, *sampled)
    log.info("\n%s", table(result, ("plain", *variants)))
    result |= {"mode": options.mode} | ({"sweep": options.sweep} if options.sweep else {})
    sys.stdout.write(json.dumps(result) + "\n")
