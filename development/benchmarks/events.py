"""What Event Schedule costs at the paper's settings: controlled calls of blocks of Wan's real shapes, and whole runs of the playground."""

import argparse
from dataclasses import replace
from typing import Any

import torch

from ...guidance.event_trace import EventMeasurement
from ...guidance.events import EventSchedule
from ...guidance.patch import ModelCall, PromptRows
from ...guidance.timeline import parse_timeline
from ...host.attention import attention_sites
from ...playground.evaluate_events import clips_of, equal_shares, told_events
from ...playground.sampling import Playground
from ..measuring import PLAIN, Work, interleaved, milliseconds, peak_bytes, ratios, show
from ..wan_block import SHAPES, TEXT_ROWS, WORDS, Setting, Shape, add_setting, random_blocks, setting_of

STEPS = 40  # section 4
TIMELINE = "cat:\n  watches a bowl\n  dips its paw\n  takes it out\n"
PHRASE_ROWS = {0: (4,), 1: (5, 6, 7), 2: (12, 13, 14), 3: (22, 23, 24)}  # the cat and its events among the text rows
CONTROLLED = "controlled"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench events", description=__doc__)
    add_setting(parser)
    parser.add_argument("--runs", type=int, default=5, help="of the playground, of each kind; 0: none")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the playground's runs")
    options = parser.parse_args(arguments)
    setting, schedule = setting_of(parser, options), EventSchedule(parse_timeline(TIMELINE))
    with torch.inference_mode():
        blocks = {name: measure(SHAPES[name], schedule, setting) for name in setting.models}
    worst = {key: max(block[key] for block in blocks.values()) for key in ("call_ratio", "run_ratio")}
    whole = {"playground": of_playground(options.steps, options.runs)} if options.runs else {}
    show({**worst, "blocks": blocks, **whole, **setting.told()}, options.json)


def measure(shape: Shape, schedule: EventSchedule, setting: Setting) -> dict[str, Any]:
    """One block. call_ratio: a controlled call over a plain one; run_ratio: what that makes of a run, of whose calls few are controlled."""
    record = schedule.new_record()
    kinds = kinds_of(shape, schedule, setting, record)
    seconds = interleaved({kind: kinds[kind] for kind in (PLAIN, CONTROLLED)}, setting.repeats, setting.on_gpu)
    ratio, share = ratios(seconds[PLAIN], seconds[CONTROLLED]), controlled_share(schedule, shape.blocks, setting.rows)
    peaks = {kind: round(peak_bytes(kinds[kind], setting.on_gpu) / 1e6, 2) for kind in (PLAIN, CONTROLLED)}
    kinds["recorded"]()
    assert record.trace is not None
    return {
        "call_ratio": ratio["median"],
        "call_ratio_spread": ratio["spread"],
        "share_of_calls_controlled": round(share, 4),
        "run_ratio": round(1 + (ratio["median"] - 1) * share, 5),
        "milliseconds": milliseconds(seconds),
        "share_of_tokens_controlled": round(float(record.trace.motion().mean()), 4),
        "peak_megabytes": peaks,
    }


def controlled_share(schedule: EventSchedule, blocks: int, rows: int) -> float:
    """Of the calls of blocks in a run with CFG. With one row a call the negative prompt has calls of its own."""
    steps = sum(schedule.start_percent <= step / STEPS < schedule.end_percent for step in range(STEPS))
    return len(schedule.controlled_blocks(blocks)) / blocks * steps / STEPS * rows / 2


def kinds_of(shape: Shape, schedule: EventSchedule, setting: Setting, record: EventMeasurement) -> dict[str, Work]:
    """The same block and input plain and controlled, and what the control measures when a report is wanted.

    Each controlled call also pays what a run pays once for all blocks of a model call: hooks, words, tables.
    """
    blocks, grid = random_blocks(shape, setting), setting.grid
    padding = slice(WORDS, TEXT_ROWS)
    positive = PromptRows(torch.arange(setting.rows) == 0, PHRASE_ROWS, padding)
    call = ModelCall(grid, tuple(range(grid.frames)), grid.frames, 1.0, 0.0, 1, (positive,), padding, 16.0)
    this_block = replace(schedule, blocks="all")

    def controlled(record: EventMeasurement | None) -> torch.Tensor:
        handler = this_block.handler(call, record)
        assert handler is not None
        with attention_sites(blocks.model, {}, handler) as transformer_options:
            return blocks.run(transformer_options)

    return {PLAIN: lambda: blocks.run({}), CONTROLLED: lambda: controlled(None), "recorded": lambda: controlled(record)}


def of_playground(steps: int, runs: int) -> dict[str, Any]:
    """Whole runs, where the tensors are so small that calling an operation costs more than the operation."""
    playground, (clip,) = Playground(steps), clips_of("2", 1, 0)
    positive = playground.encode([clip.caption])
    schedule = EventSchedule(parse_timeline(equal_shares(told_events(clip))))
    kinds: dict[str, Work] = {
        PLAIN: lambda: playground.sample(positive, 1, 0),
        CONTROLLED: lambda: playground.sample(positive, 1, 0, schedule),
    }
    seconds = interleaved(kinds, runs, on_gpu=playground.model.load_device.type == "cuda")
    return {"run_ratio": ratios(seconds[PLAIN], seconds[CONTROLLED]), "milliseconds": milliseconds(seconds), "steps": steps}
