"""`bench temporal`: the official way gives the same maps and edits at a higher price, plain is plain, and the keys that scripts read."""

import json
from dataclasses import replace

import pytest
import torch
from wan_conductor.development.benchmarks import temporal
from wan_conductor.development.naive_temporal_mask import NAIVE_BUDGET, full_maps, naive_guidance
from wan_conductor.development.wan_block import SHAPES, Setting, random_blocks
from wan_conductor.guidance.attention_maps import phrase_attention
from wan_conductor.guidance.patch import VideoGrid
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host import capture, latent_edit
from wan_conductor.playground import network
from wan_conductor.playground.sampling import Playground

pytestmark = pytest.mark.outside_inference_mode
SMALL = ["--models", "tiny", "--frames", "2", "--height", "4", "--width", "4", "--repeats", "2", "--json"]


def tiny_blocks():
    return random_blocks(SHAPES["tiny"], Setting(("tiny",), VideoGrid(2, 4, 4), 1, 1, "cpu"), 2)


def test_full_maps_are_the_same_maps():
    torch.manual_seed(0)
    q, k = torch.randn(2, 6, 8), torch.randn(2, 9, 8)
    k[:, 5:] = k[:1, 5:6]
    groups = ((0, 1), (3,))
    torch.testing.assert_close(full_maps(q, k, 2, groups), phrase_attention(q, k, 2, groups, slice(5, 9)))


def test_both_ways_have_the_same_gradient_and_ours_keeps_less():
    blocks = tiny_blocks()
    ours = temporal.iteration(blocks, phrase_attention, "balanced")
    assert ours.abs().max() > 0
    torch.testing.assert_close(temporal.iteration(blocks, full_maps, "fast"), ours, rtol=1e-3, atol=1e-5 * float(ours.abs().max()))
    plain = blocks.run({})
    assert not plain.requires_grad and not blocks.model.blocks[0].cross_attn._forward_pre_hooks  # undone


@pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")
def test_a_naively_guided_run_makes_the_same_video_with_one_more_pass_for_each():
    playground, budget = Playground(2), replace(NAIVE_BUDGET, iterations=2)
    positive = playground.encode([temporal.CAPTION])
    mask = TemporalMask(parse_timeline(temporal.TIMELINE), tau_corr=1.0)
    calls = []
    hook = playground.model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        ours, report = playground.sample(positive, 1, 0, mask, budget)
        of_ours = len(calls)
        with naive_guidance():
            naive, naive_report = playground.sample(positive, 1, 0, mask, budget)
    finally:
        hook.remove()
    (step,), (naive_step,) = report.steps, naive_report.steps
    assert naive_step.loop.forwards == step.loop.forwards and naive_step.loop.backwards == step.loop.backwards
    assert len(calls) - of_ours == of_ours + step.loop.forwards
    torch.testing.assert_close(naive, ours, rtol=0, atol=2e-3)
    assert capture.phrase_attention is phrase_attention and latent_edit.attention_capture is capture.attention_capture


@pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")
def test_the_command_prints_the_keys_of_the_issue(capsys, monkeypatch):
    seconds = {"plain": [1.0, 2.0], "guided": [1.5, 3.0], "at_most": [2.0, 4.0], "naive": [7.0, 14.0]}
    reports = {}

    def once_each(kinds, repeats, on_gpu):
        if "at_most" in kinds:
            reports.update({name: work() for name, work in kinds.items()})
        return {name: seconds[name] for name in kinds}

    monkeypatch.setattr(temporal, "interleaved", once_each)
    monkeypatch.setattr(temporal, "NAIVE_BUDGET", replace(NAIVE_BUDGET, iterations=1))  # of ten, which need no more memory
    temporal.main([*SMALL, "--steps", "2", "--runs", "2"])
    result = json.loads(capsys.readouterr().out)
    block = result["blocks"]["tiny"]
    for figures in (result, block):
        assert (figures["time_ratio"], figures["naive_time_ratio"]) == (1.5, 7.0)
        # a gradient pass holds one prompt, plain sampling both: in few blocks ours need not be the larger
        assert figures["naive_memory_ratio"] > figures["peak_memory_ratio"] > 0.9
    assert (result["time_ratio_at_most"], result["blocks"]["tiny"]["blocks_in_use"]) == (2.0, {"guided": 21, "naive": 30})
    assert not reports["plain"].steps and reports["guided"].steps and reports["naive"].steps
    assert result["forward_equivalents"]["at_most"] >= result["forward_equivalents"]["guided"] > 1
