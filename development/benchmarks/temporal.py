"""What Temporal Mask costs over plain sampling, beside TempoControl's own way: playground runs with 30 steps and CFG, and real blocks."""

import argparse
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor

from ...guidance.attention_maps import phrase_attention
from ...guidance.budget import DEFAULT_PRESET, PRESETS, GuidanceBudget, MemoryMode
from ...guidance.patch import AttentionCall, AttentionSite, Proceed
from ...guidance.temporal_mask import TemporalMask
from ...guidance.timeline import parse_timeline
from ...host.attention import site_tags, with_override
from ...host.blocks import BlockOutputs, measured_blocks
from ...host.capture import blocks_in_use
from ...host.gradient import frozen_weights, gradient_mode
from ...playground.sampling import Playground
from ..measuring import PLAIN, Work, interleaved, milliseconds, peak_bytes, ratios, show
from ..naive_temporal_mask import NAIVE_BUDGET, full_maps, naive_guidance
from ..wan_block import SHAPES, TEXT_ROWS, WORDS, RandomBlocks, Setting, Shape, add_setting, random_blocks, setting_of

CAPTION = "a red circle and a blue square"
TIMELINE = "0s - 1.5s red circle\n1.5s - end blue square"
GROUPS = ((4, 5), (8, 9))  # text rows of two phrases
GUIDED, NAIVE, AT_MOST = "guided", "naive", "at_most"

Maps = Callable[[Tensor, Tensor, int, Sequence[Sequence[int]], slice | None], Tensor]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench temporal", description=__doc__)
    add_setting(parser, cpu_frames=2)
    parser.add_argument("--steps", type=int, default=30, help="of the playground's runs")
    parser.add_argument("--runs", type=int, default=5, help="of the playground, of each kind, each on a noise of its own")
    parser.add_argument("--preset", choices=list(PRESETS), default=DEFAULT_PRESET)
    options = parser.parse_args(arguments)
    setting, budget = setting_of(parser, options), PRESETS[options.preset]
    whole = of_playground(options.steps, options.runs, budget)
    blocks = {name: measure(SHAPES[name], setting, budget) for name in setting.models}
    show({**whole, "blocks": blocks, "preset": options.preset, **setting.told()}, options.json)


def of_playground(steps: int, runs: int, budget: GuidanceBudget) -> dict[str, Any]:
    """Whole runs. guided stops where the attention follows, as a user's run does; at_most and naive spend all that they may.

    Ratios are over plain; peak memory is that of tensors beside the weights.
    """
    playground = Playground(steps)
    on_gpu = playground.model.load_device.type == "cuda"
    kinds = kinds_of_runs(playground, budget)
    seconds = interleaved(kinds, runs, on_gpu)
    peaks = {kind: peak_bytes(work, on_gpu) for kind, work in kinds.items()}
    time_ratios = {kind: ratios(seconds[PLAIN], seconds[kind], 3) for kind in (GUIDED, AT_MOST, NAIVE)}
    return {
        "time_ratio": time_ratios[GUIDED]["median"],
        "peak_memory_ratio": round(peaks[GUIDED] / peaks[PLAIN], 3),
        "naive_time_ratio": time_ratios[NAIVE]["median"],
        "naive_memory_ratio": round(peaks[NAIVE] / peaks[PLAIN], 3),
        "time_ratio_at_most": time_ratios[AT_MOST]["median"],
        "time_ratio_spread": {kind: ratio["spread"] for kind, ratio in time_ratios.items()},
        "forward_equivalents": {kind: round(kinds[kind]().cost_factor, 3) for kind in (GUIDED, AT_MOST)},
        "milliseconds": milliseconds(seconds),
        "peak_megabytes": {kind: round(peak / 1e6, 3) for kind, peak in peaks.items()},
        "steps": steps, "runs": runs,
    }  # fmt: skip


def kinds_of_runs(playground: Playground, budget: GuidanceBudget) -> dict[str, Work]:
    """Each gives the report of its run, and takes another noise every time."""
    positive, timeline = playground.encode([CAPTION]), parse_timeline(TIMELINE)
    stopping, going_on = TemporalMask(timeline), TemporalMask(timeline, tau_corr=1.0)

    def kind(*guidance: Any) -> Work:
        noises = iter(range(1000))  # the same for every kind
        return lambda: playground.sample(positive, 1, next(noises), *guidance)[1]

    naively = kind(going_on, NAIVE_BUDGET)

    def naive() -> Any:
        with naive_guidance():
            return naively()

    return {PLAIN: kind(), GUIDED: kind(stopping, budget), AT_MOST: kind(going_on, budget), NAIVE: naive}


def measure(shape: Shape, setting: Setting, budget: GuidanceBudget) -> dict[str, Any]:
    """One iteration of the loop in one block, forward and backward, over one plain forward of the positive prompt; naive likewise.

    Memory: two blocks show what each further one keeps until the backward pass; the ratios are those of all blocks in use, where plain
    sampling keeps nothing from block to block.
    """
    budgets = {GUIDED: budget, NAIVE: NAIVE_BUDGET}
    kinds = kinds_of_iterations(random_blocks(shape, setting), budget.memory_mode)
    seconds = interleaved(kinds, setting.repeats, setting.on_gpu)
    one = {kind: peak_bytes(work, setting.on_gpu) for kind, work in kinds.items()}
    del kinds
    two_blocks = kinds_of_iterations(random_blocks(shape, setting, 2), budget.memory_mode)
    two = {kind: peak_bytes(two_blocks[kind], setting.on_gpu) for kind in (GUIDED, NAIVE)}
    used = {kind: len(blocks_in_use(SimpleNamespace(blocks=range(shape.blocks)), of.depth)) for kind, of in budgets.items()}
    peaks = {PLAIN: one[PLAIN]} | {kind: one[kind] + (used[kind] - 1) * (two[kind] - one[kind]) for kind in two}
    time_ratios = {kind: ratios(seconds[PLAIN], seconds[kind], 3) for kind in two}
    return {
        "time_ratio": time_ratios[GUIDED]["median"],
        "peak_memory_ratio": round(peaks[GUIDED] / peaks[PLAIN], 3),
        "naive_time_ratio": time_ratios[NAIVE]["median"],
        "naive_memory_ratio": round(peaks[NAIVE] / peaks[PLAIN], 3),
        "time_ratio_spread": {kind: ratio["spread"] for kind, ratio in time_ratios.items()},
        "milliseconds": milliseconds(seconds),
        "peak_megabytes": {kind: round(peak / 1e6, 1) for kind, peak in peaks.items()},
        "megabytes_of_each_block": {kind: round((two[kind] - one[kind]) / 1e6, 1) for kind in two},
        "blocks_in_use": used,
    }


def kinds_of_iterations(blocks: RandomBlocks, memory_mode: MemoryMode) -> dict[str, Work]:
    """On the first row of the batch, the positive prompt's."""
    row = RandomBlocks(blocks.model, blocks.x[:1], blocks.modulation[:1], blocks.rotations, blocks.context[:1])

    def plain() -> None:
        with torch.inference_mode():
            row.run({})

    def naive() -> None:
        plain()  # stands for the negative prompt's
        iteration(row, full_maps, NAIVE_BUDGET.memory_mode)

    return {PLAIN: plain, GUIDED: lambda: iteration(row, phrase_attention, memory_mode), NAIVE: naive}


def iteration(blocks: RandomBlocks, maps: Maps, memory_mode: MemoryMode) -> Tensor:
    """The gradient, in what enters the blocks, of some loss on the mean of their maps, as AttentionCapture and the loop take it."""
    outputs = BlockOutputs()

    def measure_text(site: AttentionSite, call: AttentionCall, proceed: Proceed) -> None:
        if site.kind == "text":
            outputs.add(maps(call.q, call.k, call.heads, GROUPS, slice(WORDS, TEXT_ROWS)))

    with (
        gradient_mode(), frozen_weights(blocks.model), measured_blocks(blocks.model, outputs, memory_mode), site_tags(blocks.model) as tags,
    ):
        x = blocks.x.clone().requires_grad_()
        blocks.run(with_override({}, tags, [measure_text], backend=attention_pytorch), x)
        return torch.autograd.grad(torch.stack(outputs.of_pass).mean(0)[:, 0].square().mean(), x)[0]
