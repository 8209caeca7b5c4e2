"""What Spectral Homeostasis costs: blocks of Wan's real shapes with random weights, plain, corrected, and corrected and recorded."""

import argparse
from typing import Any

import torch

from ...guidance.homeostasis import NEGLIGIBLE, SpectralHomeostasis
from ...guidance.patch import AttentionCall, AttentionSite, ModelCall
from ...guidance.spectral_record import BatchRecord
from ...host.attention import attention_sites
from ..measuring import PLAIN, Work, interleaved, milliseconds, peak_bytes, ratios, show
from ..wan_block import HEAD_DIM, SHAPES, Setting, Shape, add_setting, random_blocks, setting_of

STEPS = 50


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench homeostasis", description=__doc__)
    add_setting(parser)
    parser.add_argument("--operator", choices=("slices", "blocks"), default="slices")
    options = parser.parse_args(arguments)
    setting, method = setting_of(parser, options), SpectralHomeostasis(operator=options.operator)
    with torch.inference_mode():
        blocks = {name: measure(SHAPES[name], method, setting) for name in setting.models}
    show({"run_ratio": max(block["run_ratio"] for block in blocks.values()), "blocks": blocks, **setting.told()}, options.json)


def measure(shape: Shape, method: SpectralHomeostasis, setting: Setting) -> dict[str, Any]:
    """One block at full strength: milliseconds, ratios to plain with quartiles, memory; and what that makes of a whole run.

    On a busy machine `ratio`, of two long times, is known less well than the small difference that it is about. So the correction is also
    timed alone: `alone` is its share of the plain block, and `run_ratio_alone` what that makes of a run.
    """
    kinds = kinds_of(shape, method, setting)
    seconds = interleaved(kinds, setting.repeats, setting.on_gpu)
    corrected, recorded, alone = (ratios(seconds[PLAIN], seconds[kind]) for kind in ("corrected", "recorded", "alone"))
    cells = [method.tau_eff(layer, shape.blocks, step / STEPS) for step in range(STEPS) for layer in range(shape.blocks)]
    share = sum(cell >= NEGLIGIBLE for cell in cells) / len(cells)
    return {
        "milliseconds": milliseconds(seconds),
        "ratio": corrected,
        "ratio_recorded": recorded,
        "alone": alone,
        "share_of_calls_corrected": round(share, 4),
        "run_ratio": round(1 + (corrected["median"] - 1) * share, 5),
        "run_ratio_alone": round(1 + alone["median"] * share, 5),
        **operator_memory(shape, method, setting),
        "peak_megabytes": {kind: round(peak_bytes(work, setting.on_gpu) / 1e6, 2) for kind, work in kinds.items()},
    }


def kinds_of(shape: Shape, method: SpectralHomeostasis, setting: Setting) -> dict[str, Work]:
    """The same block and input plain, corrected and recorded, and the correction of a call as large by itself."""
    blocks, grid = random_blocks(shape, setting), setting.grid
    # blocks=1: this block is the deepest, and progress 0 the first step, so the strength is all of tau
    call = ModelCall(grid, tuple(range(grid.frames)), grid.frames, 1.0, 0.0, 1, (), None, 16.0)
    q, k = (torch.randn_like(blocks.x) for _ in range(2))

    def patched(record: BatchRecord | None) -> None:
        handler = method.handler(call, record)
        assert handler is not None
        with attention_sites(blocks.model, {}, handler) as transformer_options:
            blocks.run(transformer_options)

    def alone() -> None:
        handler = method.handler(call, None)
        assert handler is not None
        handler(AttentionSite(0, "self"), AttentionCall(q, k, k, shape.heads), lambda corrected: corrected.q)

    return {
        PLAIN: lambda: blocks.run({}),
        "corrected": lambda: patched(None),
        "recorded": lambda: patched(method.new_record()),
        "alone": alone,
    }


def operator_memory(shape: Shape, method: SpectralHomeostasis, setting: Setting) -> dict[str, float]:
    """Megabytes of the sampled q and k and of the operators, where they are `slices`."""
    if method.operator != "slices":
        return {}
    frames, space = setting.grid.frames, setting.grid.height * setting.grid.width
    positions = min(method.positions or space, space)
    each = 8 * positions * frames * HEAD_DIM + 4 * positions * frames**2
    return {"operator_megabytes": round(setting.rows * shape.heads * each / 1e6, 2)}
