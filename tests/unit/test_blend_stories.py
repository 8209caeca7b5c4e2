"""Stories for Multi Prompt Blend, and the verdicts on drawn videos of them."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from wan_conductor.playground import world
from wan_conductor.playground.blend_stories import CHANGES, SEAM, Story, Told, cscv, holds, is_at, judge, similarities, stories

FRAMES = 26
SPANS = [range(13), range(13, 26)]
RED = ("red", "circle")
STORY = Story("motion", (Told((RED,), event="moves right"), Told((RED,), event="moves down")))


def drawn(*tracks):
    """Video "f c h w" of objects, each (colour, shape, places): a place (x, y) or None for each frame."""
    frames = len(tracks[0][2])
    video = torch.tensor(world.BACKGROUND).view(1, 3, 1, 1).expand(frames, 3, world.CANVAS, world.CANVAS)
    for color, shape, places in tracks:
        x, y = (torch.tensor([(place or (8.0, 8.0))[axis] for place in places]) for axis in (0, 1))
        index = torch.tensor(world.SHAPES.index(shape)).expand(frames)
        alpha = world.coverage(index, x, y, torch.full([frames], 2.5))[:, None]
        alpha = alpha * torch.tensor([float(place is not None) for place in places]).view(-1, 1, 1, 1)
        video = video * (1 - alpha) + torch.tensor(world.COLORS[color]).view(1, 3, 1, 1) * alpha
    return video


def still(place=(8.0, 8.0), frames=FRAMES):
    return [place] * frames


def as_told(jump_at=None):
    """Right, then down; with a jump of four cells to the right from frame `jump_at` on."""
    paths = [(3 + 0.5 * min(f, 13), 4 + 0.5 * max(f - 13, 0)) for f in range(FRAMES)]
    return [(x + 4 * (jump_at is not None and f >= jump_at), y) for f, (x, y) in enumerate(paths)]


def test_a_story_as_told_is_right_and_itself():
    found = judge(drawn((*RED, as_told())), STORY, SPANS)
    assert found["prompt_accuracy"] == found["identity"] == 1
    wrong = replace(STORY, told=(STORY.told[0], Told((RED,), event="moves up")))
    assert judge(drawn((*RED, as_told())), wrong, SPANS)["prompt_accuracy"] == 0.5
    for other in (("red", "cross"), ("blue", "circle")):
        changed = replace(STORY, told=tuple(replace(told, objects=(other,)) for told in STORY.told))
        found = judge(drawn((*RED, as_told())), changed, SPANS)
        assert found["prompt_accuracy"] == found["identity"] == 0


def test_a_seam_is_looked_for_around_changes_alone():
    smooth, at_change, far = (judge(drawn((*RED, as_told(at))), STORY, SPANS) for at in (None, 13, 4))
    assert at_change["seam"] < smooth["seam"] - 0.2 and far["seam"] == pytest.approx(smooth["seam"], abs=0.05)
    assert at_change["cscv"] < smooth["cscv"] and at_change["smoothness"] < smooth["smoothness"]
    found = [judge(drawn((*RED, as_told(at))), STORY, SPANS)["seam"] for at in (13 - SEAM, 14 - SEAM, 12 + SEAM, 13 + SEAM)]
    assert [seam < smooth["seam"] - 0.1 for seam in found] == [False, True, True, False]
    assert math.isnan(judge(drawn((*RED, still())), replace(STORY, told=STORY.told[:1]), [range(FRAMES)])["seam"])


def test_cscv_is_the_papers_formula_on_pixels():
    video = drawn((*RED, [(5.0, 5.0), (6.0, 5.0), (9.0, 5.0), (9.0, 9.0)]))
    pixels = [((frame + 1) / 2).flatten().double() for frame in video]
    similar = [float(a @ b / (a @ a).sqrt() / (b @ b).sqrt()) for a, b in zip(pixels, pixels[1:])]
    mean = sum(similar) / 3
    std = math.sqrt(sum((one - mean) ** 2 for one in similar) / 3)
    assert similarities(video).tolist() == pytest.approx(similar, rel=1e-4)
    assert cscv(similarities(video)) == pytest.approx(1 / (1 + 10 * std / mean), rel=1e-3)
    assert cscv(similarities(drawn((*RED, still(frames=4))))) == pytest.approx(1, abs=1e-3)


def test_what_is_told_must_all_be_there_and_nothing_else():
    blue = ("blue", "square", still((12.0, 12.0)))
    alone, both = drawn((*RED, still((4.0, 4.0)))), drawn((*RED, still((4.0, 4.0))), blue)
    one, two = Told((RED,)), Told((RED, ("blue", "square")))
    assert holds(alone, one) and holds(both, two) and not holds(alone, two) and not holds(both, one)
    assert not holds(both, Told((RED, ("blue", "cross")))) and not holds(drawn((*RED, [None] * FRAMES)), one)
    half = drawn((*RED, still((4.0, 4.0))), ("blue", "square", [(12.0, 12.0)] * 8 + [None] * 18))
    assert holds(half, one) and not holds(half, two)  # there in less than half of the frames


@pytest.mark.parametrize("place, at", [("on the left", (3.0, 8.0)), ("on the right", (13.0, 8.0)), ("at the top", (8.0, 3.0)),
                                       ("at the bottom", (8.0, 13.0))])  # fmt: skip
def test_places_are_sides_of_the_middle(place, at):
    told = Told((RED,), place=place)
    assert holds(drawn((*RED, still(at))), told) and not holds(drawn((*RED, still((8.0, 8.0)))), told)
    others = [other for other in world.PLACES if other not in (place, "in the middle")]
    assert not any(holds(drawn((*RED, still(at))), replace(told, place=other)) for other in others)
    from wan_conductor.playground import metrics

    assert is_at(metrics.color_areas(drawn((*RED, still(at))))["red"], place)


def test_what_no_prompt_changes_must_stay():
    """The place of an object whose colour changes, its shape; of one that moves only its looks."""
    story = Story("colour", (Told((RED,)), Told((("blue", "circle"),))))

    def video(after, shape="circle"):
        return drawn((*RED, [(4.0, 4.0)] * 13 + [None] * 13), ("blue", shape, [None] * 13 + [after] * 13))

    assert judge(video((4.0, 4.0)), story, SPANS)["identity"] == judge(video((4.0, 4.0)), story, SPANS)["prompt_accuracy"] == 1
    assert judge(video((10.0, 4.0)), story, SPANS)["identity"] == 0.5
    assert judge(video((4.0, 4.0), "cross"), story, SPANS)["identity"] == 0.5
    gone = drawn((*RED, [(4.0, 4.0)] * 13 + [None] * 13))
    assert judge(gone, story, SPANS)["identity"] == 1 and judge(gone, story, SPANS)["prompt_accuracy"] == 0.5
    assert math.isnan(judge(drawn((*RED, [None] * FRAMES)), story, SPANS)["identity"])


def test_stories_of_a_kind_change_that_alone_and_are_captions_of_the_world():
    words = {word for change in CHANGES for story in stories(40, 1, 4, (change,)) for prompt in story.prompts for word in prompt.split()}
    rng = __import__("random").Random(0)
    assert words <= {word for _ in range(3000) for word in world.sample_clip(rng).caption.split()}
    for change in CHANGES:
        for story in stories(20, 1, 4, (change,)):
            told = story.told
            same = {
                "colour": len(story.colors) == 1, "shape": len(story.shapes) == 1, "place": len({t.place for t in told}) == 1,
                "motion": len({t.event for t in told}) == 1, "added": len({len(t.objects) for t in told}) == 1,
            }  # fmt: skip
            assert [key for key, one in same.items() if not one] == ["added" if change == "removed" else change]
            assert all(one != other for one, other in zip(told, told[1:]))
            assert all(story.name in prompt for prompt in story.prompts) and story.name
    assert [len(t.objects) for t in stories(1, 1, 3, ("added",))[0].told] == [1, 2, 1]
    assert [len(t.objects) for t in stories(1, 1, 3, ("removed",))[0].told] == [2, 1, 2]
    assert Counter(story.change for story in stories(12, 1)) == dict.fromkeys(CHANGES, 2)


def test_long_stories_keep_moving_objects_on_the_canvas():
    moves = {**world.STEP, "gets bigger": (0, 0), "gets smaller": (0, 0), world.STILL: (0, 0)}
    for story in stories(50, 2, 10, ("motion",)):
        at = np.cumsum([moves[told.event] for told in story.told], axis=0)
        sizes = np.cumsum([{"gets bigger": 1, "gets smaller": -1}.get(told.event, 0) for told in story.told])
        assert abs(at).max() <= 1 and abs(sizes).max() <= 1
