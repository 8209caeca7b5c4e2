"""What Spectral Homeostasis costs: blocks of Wan's real shapes with random weights, plain, corrected, and corrected and recorded."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.ldm.wan.model
import comfy.ops
import torch
from comfy.ldm.flux.layers import EmbedND

from ...guidance.homeostasis import NEGLIGIBLE, SpectralHomeostasis
from ...guidance.patch import ModelCall, VideoGrid
from ...guidance.spectral_record import SpectralRecord
from ...host.attention import attention_sites

HEAD_DIM, TEXT_ROWS, STEPS = 128, 512, 50
HEIGHT, WIDTH = 30, 52  # tokens of 832 x 480
KINDS = ("plain", "corrected", "recorded")


@dataclass(frozen=True)
class Shape:
    heads: int
    ffn: int
    blocks: int


SHAPES = {"1.3B": Shape(12, 8960, 30), "14B": Shape(40, 13824, 40), "tiny": Shape(1, 256, 30)}


def main(arguments: list[str]) -> None:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="dev.py bench homeostasis", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["1.3B", "14B"])
    parser.add_argument("--frames", type=int, default=21 if on_gpu else 3, help="latent frames; 21 are 81 frames of video")
    parser.add_argument("--height", type=int, default=HEIGHT, help="tokens")
    parser.add_argument("--width", type=int, default=WIDTH, help="tokens")
    parser.add_argument("--rows", type=int, default=2 if on_gpu else 1, help="of the batch: 2 with CFG")
    parser.add_argument("--repeats", type=int, default=15 if on_gpu else 3, help="of each kind, interleaved; medians count")
    parser.add_argument("--operator", choices=("slices", "blocks"), default="slices")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of text")
    options = parser.parse_args(arguments)
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    grid, method = VideoGrid(options.frames, options.height, options.width), SpectralHomeostasis(operator=options.operator)
    with torch.inference_mode():
        blocks = {name: measure(SHAPES[name], method, grid, options.rows, options.repeats, device, dtype) for name in options.models}
    result = {
        "run_ratio": max(block["run_ratio"] for block in blocks.values()),
        "blocks": blocks,
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "dtype": str(dtype).removeprefix("torch."),
        "frames": grid.frames, "height": grid.height, "width": grid.width, "rows": options.rows, "repeats": options.repeats,
    }  # fmt: skip
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, block in blocks.items():
        low, high = block["ratio"]["spread"]
        sys.stdout.write(
            f"{name}: block {block['milliseconds']['plain']:.1f} ms, x{block['ratio']['median']:.4f} corrected ({low:.4f} to {high:.4f}), "
            f"x{block['ratio_recorded']['median']:.4f} recorded; a run x{block['run_ratio']:.4f}\n"
        )


def measure(
    shape: Shape, method: SpectralHomeostasis, grid: VideoGrid, rows: int, repeats: int, device: str, dtype: torch.dtype
) -> dict[str, Any]:
    """One block at full strength: milliseconds, ratios to plain with quartiles, memory; and what that makes of a whole run."""
    kinds = runs_of(shape, method, grid, rows, device, dtype)
    clock = time.perf_counter if device == "cuda" else time.process_time  # a busy machine disturbs the processor's own time least
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for repeat in range(repeats + 1):  # interleaved, to and fro, so that other work on the machine touches all alike; the first warms up
        for kind in KINDS if repeat % 2 else KINDS[::-1]:
            began = clock()
            kinds[kind]()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                seconds[kind].append(clock() - began)
    corrected, recorded = (ratios(seconds["plain"], seconds[kind]) for kind in KINDS[1:])
    cells = [method.tau_eff(layer, shape.blocks, step / STEPS) for step in range(STEPS) for layer in range(shape.blocks)]
    share = sum(cell >= NEGLIGIBLE for cell in cells) / len(cells)
    return {
        "milliseconds": {kind: round(1000 * statistics.median(values), 3) for kind, values in seconds.items()},
        "ratio": corrected,
        "ratio_recorded": recorded,
        "share_of_calls_corrected": round(share, 4),
        "run_ratio": round(1 + (corrected["median"] - 1) * share, 5),
        **memory(kinds, shape, method, grid, rows, device),
    }


def runs_of(
    shape: Shape, method: SpectralHomeostasis, grid: VideoGrid, rows: int, device: str, dtype: torch.dtype
) -> dict[str, Callable[[], None]]:
    """The same block and input in each of KINDS."""
    torch.manual_seed(0)
    width, settings = shape.heads * HEAD_DIM, {"operations": comfy.ops.disable_weight_init, "device": device, "dtype": dtype}
    block = comfy.ldm.wan.model.WanAttentionBlock(
        "t2v_cross_attn", width, shape.ffn, shape.heads, cross_attn_norm=True, operation_settings=settings
    )
    for name, weight in block.named_parameters():
        weight.data.normal_(std=weight.shape[-1] ** -0.5) if weight.ndim > 1 else weight.data.fill_(float(name.endswith("weight")))
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList([block])
    x, context = (torch.randn(rows, tokens, width, device=device, dtype=dtype) for tokens in (grid.token_count, TEXT_ROWS))
    modulation, rotations = torch.zeros(rows, 6, width, device=device, dtype=dtype), rope(grid, device)
    # blocks=1: this block is the deepest, and progress 0 the first step, so the strength is all of tau
    call = ModelCall(grid, tuple(range(grid.frames)), grid.frames, 1.0, 0.0, 1, (), None, 16.0)

    def forward(transformer_options: dict[str, Any]) -> None:
        block(x, modulation, rotations, context, context_img_len=None, transformer_options=transformer_options)

    def patched(record: SpectralRecord | None) -> None:
        handler = method.handler(call, record)
        assert handler is not None
        with attention_sites(model, {}, handler) as transformer_options:
            forward(transformer_options)

    return {"plain": lambda: forward({}), "corrected": lambda: patched(None), "recorded": lambda: patched(SpectralRecord())}


def rope(grid: VideoGrid, device: str) -> torch.Tensor:
    """Wan's rotations of every token, in the host's form."""
    sizes = (grid.frames, grid.height, grid.width)
    places = torch.cartesian_prod(*(torch.arange(size, device=device, dtype=torch.float32) for size in sizes))
    axes = [HEAD_DIM - 4 * (HEAD_DIM // 6), 2 * (HEAD_DIM // 6), 2 * (HEAD_DIM // 6)]
    return EmbedND(dim=HEAD_DIM, theta=10000.0, axes_dim=axes)(places[None]).movedim(1, 2)


def ratios(plain: list[float], other: list[float]) -> dict[str, Any]:
    """Of neighbours in time: their median, and the quartiles as spread."""
    values = sorted(after / before for before, after in zip(plain, other, strict=True))
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": round(statistics.median(values), 5), "spread": [round(quartiles[0], 5), round(quartiles[2], 5)]}


def memory(
    kinds: dict[str, Callable[[], None]], shape: Shape, method: SpectralHomeostasis, grid: VideoGrid, rows: int, device: str
) -> dict[str, Any]:
    """Megabytes of the sampled q and k and of the operators (`slices`), and on a GPU what the block's peak grows by."""
    positions = min(method.positions or grid.height * grid.width, grid.height * grid.width)
    sampled, operators = 8 * positions * grid.frames * HEAD_DIM, 4 * positions * grid.frames**2
    known = {"operator_megabytes": round(rows * shape.heads * (sampled + operators) / 1e6, 2)} if method.operator == "slices" else {}
    if device != "cuda":
        return known
    peaks = {}
    for kind, run in kinds.items():
        torch.cuda.reset_peak_memory_stats()
        run()
        peaks[kind] = torch.cuda.max_memory_allocated()
    return {**known, "peak_growth_megabytes": {kind: round((peaks[kind] - peaks["plain"]) / 1e6, 2) for kind in KINDS[1:]}}
