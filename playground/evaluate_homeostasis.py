"""Measures Spectral Homeostasis: tension within calls and across paired runs, and what it does to the drawn world. One JSON line."""

import argparse
import json
import logging
import math
import sys
from dataclasses import asdict
from typing import Any

import comfy.ldm.wan.model
import comfy.ops
import comfy.sd
import numpy as np
import torch
from torch import Tensor

from ..guidance.homeostasis import SpectralHomeostasis
from ..guidance.report import GuidanceReport, finite
from ..guidance.spectral_record import SpectralRecord
from ..guidance.spectral_statistics import paired_calls, video_tests, within_call_test
from ..host.attach import attach
from ..host.stages import Settings, Stage, sample_stages
from . import metrics, world
from .command_line import add_sampling
from .evaluate import figure, held_out
from .sampling import Playground

log = logging.getLogger("wan_conductor.playground")
TAUS = (0.0, 0.1, 0.2, 0.4, 1.0)
DEFAULT = 0.2  # whose figures stand at the top, the paper's
PER_HEAD = SpectralHomeostasis(DEFAULT, per_head=True)  # the paper's proposed extension, appendix K
DEPTHS = (30, 40)  # of Wan 1.3B and 14B
WIDTH, TEXT_WIDTH = 256, 4096
BATCH = 10  # videos sampled together; a caption's noise depends on it


def evaluate(playground: Playground, count: int, seeds: int, seed: int) -> dict[str, Any]:
    """`count` held-out captions of a still and as many of a moving object x `seeds` noises, each at every one of TAUS and PER_HEAD."""
    methods = [SpectralHomeostasis(tau) for tau in TAUS] + [PER_HEAD]
    clips = [clip for pair in zip(held_out("one", count, seed), held_out("motion", count, seed), strict=True) for clip in pair]
    records: dict[SpectralHomeostasis, list[SpectralRecord]] = {method: [] for method in methods}
    rows: dict[SpectralHomeostasis, list[dict[str, float]]] = {method: [] for method in methods}
    groups: list[int] = []  # the caption of each video
    for start in range(0, len(clips), BATCH):
        part = clips[start : start + BATCH]
        positive = playground.encode([clip.caption for clip in part])
        for noise in range(seeds):
            plain = None
            for method in methods:
                videos, report = playground.sample(positive, len(part), seed + seeds * start + noise, method)
                plain = videos if plain is None else plain
                records[method] += records_of(report)
                rows[method] += [judge(*of_video) for of_video in zip(videos, part, plain, strict=True)]
            groups += range(start, start + len(part))
        log.info("%d of %d captions", start + len(part), len(clips))
    figures = {method: figures_of(method, methods[0], records, rows, groups) for method in methods}
    by_tau = {f"{method.tau:g}": of for method, of in figures.items() if method != PER_HEAD}
    named = {key: by_tau[f"{DEFAULT:g}"][key] for key in ("tension_active", "videos_improved", "videos_improved_across_runs")}
    return {
        **named,
        "tau": DEFAULT,
        "by_tau": by_tau,
        "per_head": figures[PER_HEAD],
        "layers": records[PER_HEAD][0].layers,
        "captions": len(clips),
        "seeds": seeds,
        "steps": playground.steps,
        "cfg": playground.cfg,
    }


def figures_of(
    method: SpectralHomeostasis, plain: SpectralHomeostasis, records: dict[SpectralHomeostasis, list[SpectralRecord]],
    rows: dict[SpectralHomeostasis, list[dict[str, float]]], groups: list[int],
) -> dict[str, Any]:
    """`minus_plain` pairs each video with that of `plain` and the same noise."""
    of_world = {name: figure([row[name] for row in rows[method]], groups) for name in rows[method][0]}
    result = {"world": of_world, **tension(records[method])}
    if method != plain:
        result |= {
            "reduction_active": figure([of_video["reduction_active"] for of_video in summaries(records[method])], groups),
            **improved(records[plain], records[method]),
            "minus_plain": {
                name: figure([row[name] - of_plain[name] for row, of_plain in zip(rows[method], rows[plain], strict=True)], groups)
                for name in of_world
            },
        }
    return result


def improved(plains: list[SpectralRecord], guideds: list[SpectralRecord]) -> dict[str, Any]:
    """Shares of the videos whose |T| fell, within active calls (A.5) and between the two runs (C.1), and all tests of figure C."""
    within, across = within_call_test(guideds), video_tests(paired_calls(plains, guideds))
    return {
        "videos_improved": within.better / len(guideds),
        "videos_improved_p": within.p,
        "videos_improved_across_runs": across["abs_tension"].better / len(guideds),
        "across_runs": {metric: asdict(test) for metric, test in across.items()},
    }


def tension(records: list[SpectralRecord]) -> dict[str, Any]:
    """|T| of all active calls of all videos (A.1, A.3) and its spread over heads (figure K); `wrong_sign`: calls whose gamma went the wrong
    way, must be 0."""
    column = lambda name: np.concatenate([record[name] for record in records])  # noqa: E731
    signed, active = column("tension_before"), column("active")
    before, after = np.abs(signed)[active], column("abs_tension_after")[active]
    mean = lambda values: float(values.mean()) if len(values) else None  # noqa: E731
    return {
        "calls": len(active),
        "active_share": float(active.mean()),
        "fragmented_share": float((signed < 0).mean()),
        "fragmented_share_active": mean(signed[active] < 0),
        "tension_active": {"before": mean(before), "after": mean(after)},
        "head_spread_active": {side: mean(column(f"head_spread_{side}")[active]) for side in ("before", "after")},
        "calls_with_more_tension": int((after > before).sum()),
        "wrong_sign": sum(of_video["wrong_sign"] for of_video in summaries(records)),
    }


def judge(video: Tensor, clip: world.Clip, plain: Tensor) -> dict[str, float]:
    """One video "f c h w" of one object.

    identity: share of the frames that show anything in which the told shape has the told colour. present: share of the frames that show
    the told colour. background: flicker, mean absolute change from frame to frame of the cells without object, as a share of the value
    range. smoothness: mean acceleration of the object's centre in canvas cells per frame^2. Lower is better in both. motion: whether it
    does what is told (moving captions). change: of the background against the plain video.
    """
    areas, subject = metrics.color_areas(video), clip.subjects[0]
    area = areas[subject.color]
    shown = torch.stack([metrics.presence(of_color) for of_color in areas.values()]).any(0).tolist()
    right = [verdict == subject.shape for verdict, any_there in zip(metrics.shape_verdicts(area), shown) if any_there]
    told = subject.events[0] if subject.events else None
    return {
        "identity": float(np.mean(right)) if right else math.nan,
        "present": float(metrics.presence(area).float().mean()),
        "background": background_flicker(video, areas),
        "smoothness": acceleration(area),
        "motion": float(metrics.whole_motion(area) == told) if told in world.MOTIONS else math.nan,
        "change": metrics.background_change(video, plain, [subject.color]),
    }


def background_flicker(video: Tensor, areas: dict[str, Tensor]) -> float:
    """Over the cells that hold no colour, rims included, in both of two neighbouring frames."""
    held = torch.nn.functional.max_pool2d(torch.stack(list(areas.values())).amax(0)[:, None], 3, 1, 1)[:, 0] >= 0.05
    free = ~(held[1:] | held[:-1])
    change = (video[1:] - video[:-1]).abs().mean(1)
    return float(change[free].mean() / 2) if free.any() else math.nan


def acceleration(area: Tensor) -> float:
    """Over runs of three frames that show the object; NaN where there is none."""
    x, y, _ = metrics.centroid(area)
    here = metrics.presence(area)
    seen = here[2:] & here[1:-1] & here[:-2]
    second = torch.stack([place[2:] - 2 * place[1:-1] + place[:-2] for place in (x, y)]).norm(dim=0)
    return float(second[seen].mean()) if seen.any() else math.nan


def records_of(report: GuidanceReport) -> list[SpectralRecord]:
    """Of each video of the batch."""
    measured = report.patches[0].measured
    assert measured is not None  # a link asks for it
    return [SpectralRecord.from_dict(video) for video in measured["videos"]]


def summaries(records: list[SpectralRecord]) -> list[dict[str, Any]]:
    return [record.summary() for record in records]


@torch.inference_mode()
def at_real_depth(layers: int, steps: int, seed: int) -> dict[str, Any]:
    """A random Wan of real depth and small width: does tension fall, and in which layers? Says nothing of trained attention."""
    generator = torch.Generator().manual_seed(seed)
    model = random_wan(layers, generator)
    positive, negative = ([[torch.randn(1, 24, TEXT_WIDTH, generator=generator), {}]] for _ in range(2))
    settings = Settings(seed, steps, "euler", "simple", positive, negative, None)
    plains, guideds = (
        records_of(
            sample_stages(
                [Stage(attach(model, SpectralHomeostasis(tau)), "model", 4.0, 0, steps, True, True)],
                {"samples": torch.zeros(1, 16, 9, 8, 8)},
                settings,
            )[1]
        )
        for tau in (0.0, DEFAULT)
    )
    by_depth = summaries(guideds)[0]["relative_reduction_by_depth"]
    return {**tension(guideds), **improved(plains, guideds), "relative_reduction_by_depth": by_depth}


def random_wan(layers: int, generator: torch.Generator) -> Any:
    """Matrices of unit gain; norms of queries and keys above 1, so that attention is neither flat nor one-hot."""
    shapes = comfy.ldm.wan.model.WanModel(
        model_type="t2v", dim=WIDTH, ffn_dim=2 * WIDTH, num_heads=WIDTH // 128, num_layers=layers, in_dim=16, out_dim=16, device="meta",
        dtype=torch.float32, operations=comfy.ops.disable_weight_init,
    ).state_dict()  # fmt: skip
    weights = {}
    for name, like in shapes.items():
        noise = torch.randn(like.shape, generator=generator)
        if name.endswith(("norm_q.weight", "norm_k.weight")):
            weights[name] = 1.5 + 0.1 * noise
        elif name.endswith("norm3.weight"):
            weights[name] = torch.ones(like.shape)
        else:
            weights[name] = noise * (noise[0].numel() ** -0.5 if noise.ndim > 1 and "modulation" not in name else 0.05)
    return comfy.sd.load_diffusion_model_state_dict(weights)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py playground evaluate homeostasis", description=__doc__)
    add_sampling(parser, captions=15, seeds=1, told="of each kind: still and moving")
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS, help="layers of random Wans that are measured too")
    options = parser.parse_args(arguments)
    result = evaluate(Playground(options.steps, options.cfg), options.captions, options.seeds, options.seed)
    result["random_weights"] = {str(layers): at_real_depth(layers, options.steps, options.seed) for layers in options.depths}
    sys.stdout.write(json.dumps(finite(result), allow_nan=False) + "\n")
