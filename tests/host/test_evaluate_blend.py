"""`playground evaluate blend`: its verdicts on drawn videos, and the keys that scripts read."""

import json
import math
from dataclasses import replace

import pytest
import torch
from wan_conductor.playground import evaluate, world
from wan_conductor.playground.evaluate_blend import BLEND, VARIANTS, Story, cscv, judge, stories, strongest_frames

STORY = Story("red", "circle", ("moves right", "moves down"))


def drawn(places, story=STORY):
    """Video "f c h w" of the story's object with its centre at `places` (x, y)."""
    x, y = (torch.tensor([place[axis] for place in places]) for axis in (0, 1))
    shape = torch.tensor(world.SHAPES.index(story.shape)).expand(len(places))
    alpha = world.coverage(shape, x, y, torch.full([len(places)], 2.5))[:, None]
    background, color = (torch.tensor(c).view(1, 3, 1, 1) for c in (world.BACKGROUND, world.COLORS[story.color]))
    return background * (1 - alpha) + color * alpha


def told(frames):
    """Right, then down, without a jump."""
    change = strongest_frames(frames)[1].start
    return [(4 + 0.4 * min(f, change), 4 + 0.4 * max(f - change, 0)) for f in range(frames)]


def test_a_story_as_told_is_right_smooth_and_itself():
    found = judge(drawn(told(BLEND.latent_frames)), STORY)
    assert found["prompt_accuracy"] == found["identity"] == 1
    assert found["smoothness"] < 0.15
    wrong = judge(drawn(told(BLEND.latent_frames)), replace(STORY, events=("moves right", "moves up")))
    assert wrong["prompt_accuracy"] == 0.5
    assert judge(drawn(told(BLEND.latent_frames)), replace(STORY, shape="cross"))["identity"] == 0


def test_a_jump_at_the_change_is_rough_and_one_far_from_it_is_not_counted():
    frames = BLEND.latent_frames
    change = strongest_frames(frames)[1].start
    jump = [(x + 4 * (f >= change), y) for f, (x, y) in enumerate(told(frames))]
    early = [(x + 4 * (f >= 4), y) for f, (x, y) in enumerate(told(frames))]
    smooth, rough, elsewhere = (judge(drawn(places), STORY)["smoothness"] for places in (told(frames), jump, early))
    assert rough > smooth + 0.5 and elsewhere == pytest.approx(smooth, abs=0.05)


def test_cscv_is_the_papers_formula():
    video = drawn([(5.0, 5.0), (6.0, 5.0), (9.0, 5.0), (9.0, 9.0)])
    plain = (video - torch.tensor(world.BACKGROUND).view(3, 1, 1)).flatten(1)
    similar = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(plain, plain[1:])]
    mean = sum(similar) / 3
    std = math.sqrt(sum((s - mean) ** 2 for s in similar) / 3)
    assert cscv(video) == pytest.approx(1 / (1 + 10 * std / mean), rel=1e-4)
    assert cscv(drawn([(5.0, 5.0)] * 4)) == pytest.approx(1, abs=1e-3)


def test_prompts_share_the_video_and_a_hard_cut_changes_in_its_middle():
    blended = strongest_frames(BLEND.latent_frames)
    assert abs(len(blended[0]) - len(blended[1])) <= 1 and blended[1].stop == BLEND.latent_frames
    assert strongest_frames(26) == [range(13), range(13, 26)]


def test_stories_change_what_happens_and_not_to_whom():
    for story in stories(20, 1):
        assert len(set(story.events)) == 2 and all(story.object in prompt for prompt in story.prompts)


def test_the_command_prints_every_variant_with_every_key(capsys):
    evaluate.main(["blend", "--json", "--captions", "1", "--seeds", "1", "--steps", "2"])
    result = json.loads(capsys.readouterr().out)
    assert set(VARIANTS) == {"single", "hard_cut", "host_windows", "blend", "blend_kv", "blend_masked"} <= set(result)
    for name in VARIANTS:
        assert set(result[name]) == {"smoothness", "cscv", "prompt_accuracy", "identity", "interval"}
    assert result["latent_frames"] == 27
