"""What Multi Prompt Blend costs on the playground: passes, time over as many plain windows, memory, and how they grow with the prompts."""

import argparse
from dataclasses import replace
from typing import Any, get_args

import torch

from ...guidance.blend import MultiPromptBlend, Plan
from ...guidance.kv_sharing import KVSharing
from ...host.blend_prompts import window_conditioning
from ...playground import world
from ...playground.evaluate_blend import BLEND
from ...playground.sampling import LATENT_SHAPE, Playground
from ..measuring import PLAIN, Work, interleaved, milliseconds, peak_bytes, ratios, show
from ..wan_block import FRAMES, HEIGHT, SHAPES, WIDTH, Shape

PROMPTS = (2, 3, 5, 10)
BLENDED = "blended"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench blend", description=__doc__)
    parser.add_argument("--prompts", nargs="+", type=int, default=PROMPTS, help="how many; the keys of by_prompts")
    parser.add_argument("--plan", choices=get_args(Plan), default="fast")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5, help="of each kind, interleaved; medians count")
    parser.add_argument("--json", action="store_true", help="on one line")
    options = parser.parse_args(arguments)
    if min(options.prompts) < 2:
        parser.error(f"--prompts {min(options.prompts)}: one prompt has one window, and nothing to blend; take 2 or more")
    playground = Playground(options.steps)
    by_prompts = {str(count): measure(playground, count, options.plan, options.repeats) for count in sorted(options.prompts)}
    result = {
        "passes_per_step": next(iter(by_prompts.values()))["passes_per_step"],
        "time_ratio": max(of["time_ratio"] for of in by_prompts.values()),
        "kv_bytes": max(of["kv_bytes"] for of in by_prompts.values()),
        "by_prompts": by_prompts,
        "kv_bytes_real": {name: real_kv_bytes(SHAPES[name]) for name in ("1.3B", "14B")},
        "plan": options.plan, "steps": options.steps, "repeats": options.repeats, "device": str(playground.model.load_device),
    }  # fmt: skip
    show(result, options.json)


def measure(playground: Playground, count: int, plan: Plan, repeats: int) -> dict[str, Any]:
    """`count` prompts with a transition between each two.

    time_ratio: over one run of a single window with as many model calls in all, so that nothing is set up for each window.
    """
    blend = replace(BLEND, repeats=(1,) * count, sharing=KVSharing(), plan=plan)
    windows, kinds = len(blend.prompts), kinds_of(playground, blend)
    on_gpu = playground.model.load_device.type == "cuda"
    seconds = interleaved(kinds, repeats, on_gpu)
    ratio, (_, report) = ratios(seconds[PLAIN], seconds[BLENDED]), kinds[BLENDED]()
    measured = report.patches[0].measured
    median = milliseconds(seconds)
    return {
        "windows": windows,
        "passes_per_step": round(measured["passes"] / playground.steps, 3),
        "time_ratio": ratio["median"],
        "time_ratio_spread": ratio["spread"],
        "milliseconds": median,
        "milliseconds_per_window": round(median[BLENDED] / windows, 3),
        "kv_bytes": measured["kv_bytes"],
        "peak_bytes": {kind: peak_bytes(work, on_gpu) for kind, work in kinds.items()},
    }


def kinds_of(playground: Playground, blend: MultiPromptBlend) -> dict[str, Work]:
    """A run of the blend, and a plain one of one window with as many steps as that has windows and steps."""
    count, windows = len(blend.repeats), len(blend.prompts)
    events = (*world.MOTIONS, world.STILL)
    prompts = [playground.encode([f"a red circle {events[number % len(events)]}"]) for number in range(count)]
    positive = window_conditioning(prompts, blend)
    one_window = replace(playground, steps=windows * playground.steps)

    def blended() -> Any:
        latent = {"samples": torch.zeros(1, LATENT_SHAPE[0], blend.latent_frames, *LATENT_SHAPE[2:])}
        return playground.sample(positive, 1, 0, blend, latent=latent)

    return {PLAIN: lambda: one_window.sample(prompts[0], 1, 0), BLENDED: blended}


def real_kv_bytes(shape: Shape) -> int:
    """What waits for the next window of 81 frames of 832 x 480 with CFG, in 16 bits: k and v of both sides in the shared blocks."""
    tokens, bytes_each = FRAMES * HEIGHT * WIDTH, 2
    return 2 * 2 * len(KVSharing().blocks(shape.blocks)) * tokens * shape.width * bytes_each
