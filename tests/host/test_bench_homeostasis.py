"""`bench homeostasis`: a block as the host has it, and the keys that scripts read."""

import json

import torch
from wan_conductor.development import wan_block
from wan_conductor.development.benchmarks import homeostasis
from wan_conductor.guidance.attention_maps import find_pad_rows
from wan_conductor.guidance.patch import VideoGrid

SMALL = ["--models", "tiny", "--frames", "3", "--height", "4", "--width", "4", "--repeats", "2", "--json"]


def test_tokens_are_rotated_as_the_host_does(t2v):
    host = t2v.model.diffusion_model.rope_encode(3, 8, 12, device="cpu", dtype=torch.float32)
    torch.testing.assert_close(wan_block.rope(VideoGrid(3, 4, 6), "cpu").to(host.dtype), host)


def test_shapes_are_those_of_wan():
    assert {name: (shape.width, shape.ffn, shape.blocks) for name, shape in wan_block.SHAPES.items() if name != "tiny"} == {
        "1.3B": (1536, 8960, 30), "14B": (5120, 13824, 40),
    }


def test_the_text_ends_in_equal_rows_as_padding_does():
    setting = wan_block.Setting(("tiny",), VideoGrid(2, 2, 2), 2, 1, "cpu")
    context = wan_block.random_blocks(wan_block.SHAPES["tiny"], setting).context
    assert context.shape == (2, 512, 128) and find_pad_rows(context) == slice(wan_block.WORDS, 512)


def test_the_command_prints_the_keys_of_the_issue(capsys):
    homeostasis.main(SMALL)
    result = json.loads(capsys.readouterr().out)
    block = result["blocks"]["tiny"]
    assert set(block["milliseconds"]) == {"plain", "corrected", "recorded", "alone"} and result["run_ratio"] == block["run_ratio"]
    assert 1 < block["run_ratio_alone"] < 1 + block["alone"]["median"]  # of the calls that are corrected, not of all
    # q and k of 16 positions x 3 frames x 128 in fp32, and 16 operators of 3 x 3
    assert block["operator_megabytes"] == round((2 * 16 * 3 * 128 * 4 + 16 * 9 * 4) / 1e6, 2)
    assert block["peak_megabytes"]["corrected"] >= block["peak_megabytes"]["plain"] > 0
