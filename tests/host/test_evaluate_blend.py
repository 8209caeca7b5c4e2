"""`playground evaluate blend`: who rules which frames, the host's windows as its node makes them, attention by position, and the keys."""

import json
import math

import comfy.context_windows
import pytest
import torch
from wan_conductor.guidance.patch import VideoGrid
from wan_conductor.playground import evaluate, network
from wan_conductor.playground.blend_attention import attention_between_windows, by_position, object_to_itself, object_tokens
from wan_conductor.playground.blend_stories import stories
from wan_conductor.playground.evaluate_blend import BLEND, VARIANTS, compared, host_prompt_weights, host_windows, sample_variant, spans_of
from wan_conductor.playground.sampling import Playground

with_weights = pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")


def test_each_prompt_rules_where_its_windows_weigh_most():
    assert spans_of("blend", 2, BLEND) == [range(14), range(14, 27)]
    # windows at 0, 7 and 14, the first two in the first half; pyramids 4 and 3 meet at frame 16, 3 and 4 at frame 17
    assert spans_of("host_windows", 2, BLEND) == [range(17), range(17, 27)]
    weights = host_prompt_weights(2, BLEND)
    assert weights[:, 16].tolist() == [4, 3] and weights[:, 17].tolist() == [3, 4]


def test_the_host_s_windows_are_those_of_its_own_node():
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    class Given:
        def __init__(self):
            self.model_options = {}

        def clone(self):
            return self

        def add_wrapper_with_key(self, *_):
            pass

    knobs = {"context_length": 49, "context_overlap": 24, "context_schedule": "standard_static", "context_stride": 1, "closed_loop": False}
    made = WanContextWindowsManualNode.execute(Given(), **knobs, fuse_method="pyramid", freenoise=False, split_conds_to_windows=True)
    theirs, ours = made.args[0].model_options["context_handler"], host_windows(BLEND)
    assert isinstance(theirs, comfy.context_windows.IndexListContextHandler)
    for name in ("context_length", "context_overlap", "dim", "split_conds_to_windows", "closed_loop", "freenoise"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert theirs.context_schedule.name == ours.context_schedule.name and theirs.fuse_method.name == ours.fuse_method.name
    assert getattr(theirs, "causal_window_fix", True) is ours.causal_window_fix is True
    assert host_windows(BLEND, causal_fix=False).causal_window_fix is False


GRID = VideoGrid(3, 2, 2)


def test_attention_that_knows_positions_alone_is_found_whole_and_lifts_nothing():
    n = GRID.token_count
    here, there = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    here[5], there[6] = True, True
    places = torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(2)).float()
    apart = (places[:, None] - places[None]).abs() @ torch.tensor([0.9, 0.4, 1.3])
    even = (-apart).exp()[None] * torch.ones(2, 1, 1)
    found = by_position(even, GRID, here, there)
    assert torch.allclose(found, even / even.sum(-1, keepdim=True), atol=1e-6)
    share, alone = object_to_itself(torch.full_like(even, 1 / n), GRID, here, there)
    assert torch.allclose(share, alone) and torch.allclose(share, torch.full([2], 1 / n))
    semantic = even.clone()
    semantic[:, 5, 6] *= 8  # the object looks at itself
    semantic = semantic / semantic.sum(-1, keepdim=True)
    share, alone = object_to_itself(semantic, GRID, here, there)
    assert torch.allclose(share, semantic[:, 5, 6]) and (share > 3 * alone).all()


def test_the_object_s_tokens_are_those_it_covers_a_quarter_of():
    video = torch.tensor([-0.8, -0.8, -0.7]).view(1, 3, 1, 1).repeat(3, 1, 16, 16)
    video[1, :, 4:8, 8:10] = torch.tensor([1.0, -0.6, -0.6]).view(3, 1, 1)  # half of the token in row 1, column 2
    video[1, :, 0:1, 0:3] = torch.tensor([1.0, -0.6, -0.6]).view(3, 1, 1)  # three cells of sixteen: too few
    tokens = object_tokens(video, "red", VideoGrid(2, 4, 4), 1)
    assert tokens.nonzero().flatten().tolist() == [6]


@with_weights
def test_the_command_prints_every_variant_with_every_key(capsys):
    evaluate.main(["blend", "--json", "--captions", "1", "--seeds", "1", "--steps", "2", "--others", "1", "--prompts", "3"])
    result = json.loads(capsys.readouterr().out)
    keys = {"smoothness", "seam", "cscv", "prompt_accuracy", "identity"}
    assert {"single", "hard_cut", "host_windows", "blend", "blend_kv", "blend_masked"} <= set(VARIANTS) <= set(result)
    for part in (result, result["abrupt"], result["by_prompts"]["3"], result["repeated"]):
        for name in ("host_windows", "blend", "blend_kv"):
            assert keys <= set(part[name]) and set(part[name]["interval"]) == keys
    assert set(result["blend_kv"]["minus_host_windows"]) == {*keys, "interval"} == set(result["blend"]["minus_single"])
    assert result["repeated"]["blend"]["seam"] is None and result["single"]["seam"] is None
    assert (result["blend"]["smoothness"] - result["host_windows"]["smoothness"]) == pytest.approx(
        result["blend"]["minus_host_windows"]["smoothness"], abs=2e-4
    )


@with_weights
def test_attention_between_windows_is_measured_and_drawn(tmp_path):
    from PIL import Image

    playground = Playground(2)
    found = attention_between_windows(playground, tmp_path / "attention.png", 1000, count=1)
    assert len(found["lift_by_block"]) == len(found["lift_by_head"]) == 5 and all(len(row) == 6 for row in found["lift_by_head"])
    assert all(0 < share < 1 for share in (*found["object_to_object"], *found["by_position_alone"]))
    assert Image.open(tmp_path / "attention.png").size[0] == 1200
    story = stories(1, 1000)[0]
    plain, shared = (sample_variant(playground, name, story, 1, 1, BLEND) for name in ("blend", "blend_kv"))
    assert plain.shape[1] == BLEND.latent_frames and not torch.equal(plain, shared)


def test_figures_are_also_told_by_what_changes_each_beside_the_others_on_the_same_stories():
    told = stories(4, 3, 2, ("colour", "added"))
    row = lambda right, seam: {"prompt_accuracy": right, "seam": seam}  # noqa: E731
    rows = {
        "single": [row(1.0, math.nan)] * 4,
        "host_windows": [row(0.5, 0.6), row(0.0, 0.6), row(1.0, 0.8), row(0.5, 0.6)],
        "blend": [row(1.0, 0.9), row(0.0, 0.7), row(1.0, 0.9), row(0.0, 0.7)],
    }
    found = compared(rows, [0, 1, 2, 3], told)["blend"]
    colour, added = (found["by_change"][change] for change in ("colour", "added"))
    assert (colour["seam"], colour["prompt_accuracy"], added["prompt_accuracy"]) == (0.9, 1.0, 0.0)
    assert colour["minus_host_windows"]["seam"] == pytest.approx(0.2) and added["minus_host_windows"]["seam"] == pytest.approx(0.1)
    assert added["minus_single"]["prompt_accuracy"] == -1 and found["minus_host_windows"]["prompt_accuracy"] == 0
    assert sorted(found["by_change"]) == ["added", "colour"]
