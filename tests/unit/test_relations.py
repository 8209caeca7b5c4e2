"""Relations on attention maps against an independent reference, their symmetries, and where their gradient leads."""

import math

import pytest
import torch
from wan_conductor.guidance.composition import log_score
from wan_conductor.guidance.constraints import NAMES, Constraint
from wan_conductor.guidance.relations import GATE_FLOOR, RELATIONS, camera_path, presence_gate, scene_of
from wan_conductor.guidance.spans import END, START, Span
from wan_conductor.tests.unit.relation_reference import Thing, margins

FRAMES, HEIGHT, WIDTH = 9, 12, 18
ALWAYS = torch.ones(FRAMES)
BY_NAME = {relation.name: relation for relation in RELATIONS}
# mirrored in x, mirrored in y, played backwards: which relation the picture then shows
MIRRORED = {"left of": "right of", "right of": "left of", "moves left": "moves right", "moves right": "moves left"}
TURNED_OVER = {"above": "below", "below": "above", "moves up": "moves down", "moves down": "moves up"}
BACKWARDS = {
    "moves left": "moves right", "moves right": "moves left", "moves up": "moves down", "moves down": "moves up", "toward": "away",
    "away": "toward", "grows": "shrinks", "shrinks": "grows",
}
SWAPPED = {"left of": "right of", "above": "below", "in front of": "behind", "has colour": "has colour", "toward": "toward"}
NOT_SYMMETRIC = {"beneath", "jumps over"}  # turned over they are other relations, which have no name


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def gaussians(centres, sigma=0.3, strength=0.02, even=0.004, dtype=torch.float64):
    """Maps "1 g f h w" of round things: centres "g f 2" in halves of the shorter side, sigma and strength a number or "g f"."""
    centres = torch.as_tensor(centres, dtype=dtype) if not torch.is_tensor(centres) else centres
    sigma, strength = (torch.as_tensor(v, dtype=dtype).expand(centres.shape[:2])[..., None, None] for v in (sigma, strength))
    x = (2 * torch.arange(WIDTH, dtype=dtype) + 1 - WIDTH) / HEIGHT
    y = (2 * torch.arange(HEIGHT, dtype=dtype) + 1 - HEIGHT) / HEIGHT
    away = (x - centres[..., :1, None]) ** 2 + (y[:, None] - centres[..., 1:, None]) ** 2
    return (even + strength * torch.exp(-away / (2 * sigma**2)))[None]


def still(x, y):
    return [(x, y)] * FRAMES


def going(start, end):
    return [tuple(s + (e - s) * t / (FRAMES - 1) for s, e in zip(start, end)) for t in range(FRAMES)]


def constraint(name, entities="abc"):
    relation = BY_NAME[name]
    return Constraint(relation, tuple(entities[: relation.entities]), Span(START, END))


def measured(name, maps, who=None, when=ALWAYS):
    relation = BY_NAME[name]
    scene = scene_of(maps)
    weights = (when / when.sum()).to(maps)[None].expand(maps.shape[0], -1)
    return relation.measure(scene, tuple(range(relation.entities)) if who is None else who, weights)


def score(name, maps, who=None, when=ALWAYS, scene=None):
    one = constraint(name)
    return log_score(scene or scene_of(maps), one, who or tuple(range(one.relation.entities)), when.to(maps)).exp()


@pytest.mark.parametrize("when", [ALWAYS, torch.tensor([0.0, 0, 1, 1, 1, 1, 1, 0, 0])], ids=["always", "span"])
@pytest.mark.parametrize("name", BY_NAME)
def test_margins_equal_the_words_of_each_relation_written_as_loops(name, when):
    maps = gaussians(torch.rand(3, FRAMES, 2, dtype=torch.float64) * 1.6 - 0.8, torch.rand(3, FRAMES) * 0.3 + 0.2) * (
        1 + 0.2 * torch.rand(1, 3, FRAMES, HEIGHT, WIDTH, dtype=torch.float64)
    )
    things = [Thing(maps[0, g].tolist()) for g in range(BY_NAME[name].entities)]
    expected = margins(name, things, {t: float(w) for t, w in enumerate(when) if w})
    got = measured(name, maps, when=when)[0]
    if BY_NAME[name].motion:
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=2e-4, rtol=2e-3)
    else:
        assert len(expected) == int(when.sum())
        for frame, values in expected.items():
            torch.testing.assert_close(got[:, frame], torch.tensor(values, dtype=torch.float64), atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("dimension, table", [(-1, MIRRORED), (-2, TURNED_OVER), (2, BACKWARDS)], ids=["x", "y", "time"])
@pytest.mark.parametrize("name", sorted(set(BY_NAME) - NOT_SYMMETRIC))
def test_mirrored_turned_over_and_backwards_relations_become_their_counterparts(name, dimension, table):
    maps = gaussians(torch.rand(3, FRAMES, 2, dtype=torch.float64) * 1.6 - 0.8, torch.rand(3, FRAMES) * 0.3 + 0.2)
    torch.testing.assert_close(score(table.get(name, name), maps.flip(dimension)), score(name, maps), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("name", SWAPPED)
def test_a_relation_is_the_counterpart_of_the_swapped_pair(name):
    maps = gaussians(torch.rand(2, FRAMES, 2, dtype=torch.float64) * 1.6 - 0.8, 0.4)
    torch.testing.assert_close(score(SWAPPED[name], maps, who=(1, 0)), score(name, maps, who=(0, 1)))


def test_between_does_not_care_about_the_order_of_the_outer_two():
    maps = gaussians(torch.rand(3, FRAMES, 2, dtype=torch.float64) * 1.6 - 0.8)
    torch.testing.assert_close(score("between", maps, who=(0, 1, 2)), score("between", maps, who=(0, 2, 1)))


TURN = [*going((-0.7, 0), (0.7, 0))[::2], *going((0.7, 0), (-0.7, 0))[2::2]]
CORNER = [*going((-0.7, 0.5), (0.7, 0.5))[::2], *going((0.7, 0.5), (0.7, -0.7))[2::2]]
ARC = [(-0.9 + 1.8 * t / (FRAMES - 1), 0.5 - 1.1 * math.sin(math.pi * t / (FRAMES - 1))) for t in range(FRAMES)]
SLIDE = going((-0.9, 0.5), (0.9, 0.5))
GROWING = [0.2 + 0.3 * t / (FRAMES - 1) for t in range(FRAMES)]
# name: centres and sizes that show it, and ones that do not
SHOWN = {
    "left of": ([still(-0.6, 0), still(0.5, 0.1)], 0.3),
    "right of": ([still(0.6, 0), still(-0.5, 0.1)], 0.3),
    "above": ([still(0.1, -0.6), still(0, 0.5)], 0.3),
    "below": ([still(0.1, 0.6), still(0, -0.5)], 0.3),
    "beneath": ([still(0.1, 0.6), still(0, -0.5)], 0.3),
    "inside": ([still(0.1, 0), still(0, 0)], [[0.15] * FRAMES, [0.6] * FRAMES]),
    "between": ([still(0, 0.1), still(-0.9, 0), still(0.9, 0)], 0.2),
    "moves left": ([going((0.6, 0), (-0.6, 0.1))], 0.3),
    "moves right": ([going((-0.6, 0), (0.6, 0.1))], 0.3),
    "moves up": ([going((0, 0.6), (0.1, -0.6))], 0.3),
    "moves down": ([going((0, -0.6), (0.1, 0.6))], 0.3),
    "toward": ([going((-0.9, 0), (0, 0)), still(0.5, 0)], 0.3),
    "away": ([going((0, 0), (-0.9, 0)), still(0.5, 0)], 0.3),
    "turns": ([TURN], 0.3),
    "jumps over": ([ARC, still(0, 0.5)], 0.2),
    "grows": ([still(0, 0)], [GROWING]),
    "shrinks": ([still(0, 0)], [GROWING[::-1]]),
    "has colour": ([still(0.3, 0), still(0.25, 0.05)], 0.3),
    "does action": ([still(0.3, 0), still(0.25, 0.05)], 0.3),
}
NOT_SHOWN = {
    "left of": [SHOWN["right of"], SHOWN["above"], SHOWN["has colour"]],
    "right of": [SHOWN["left of"], SHOWN["below"]],
    "above": [SHOWN["below"], SHOWN["left of"]],
    "below": [SHOWN["above"], SHOWN["right of"]],
    "beneath": [SHOWN["above"], ([still(-0.9, 0.6), still(0.9, -0.5)], 0.2)],
    "inside": [SHOWN["left of"], ([still(0, 0), still(0, 0)], [[0.6] * FRAMES, [0.15] * FRAMES])],
    "between": [
        ([still(-0.9, 0), still(0, 0), still(0.9, 0)], 0.2), ([still(0, 0.8), still(-0.5, -0.5), still(0.5, -0.5)], 0.2),
        ([still(-0.9, 0), still(-0.9, 0), still(0.9, 0)], 0.2),
    ],
    "moves left": [SHOWN["moves right"], SHOWN["moves up"], SHOWN["grows"]],
    "moves right": [SHOWN["moves left"], SHOWN["moves down"]],
    "moves up": [SHOWN["moves down"], SHOWN["moves left"]],
    "moves down": [SHOWN["moves up"], SHOWN["moves right"]],
    "toward": [SHOWN["away"], SHOWN["left of"]],
    "away": [SHOWN["toward"], SHOWN["left of"]],
    "turns": [SHOWN["moves right"], ([still(0, 0)], 0.3), ([going((-0.2, 0), (0.9, 0))[:5] + [(0.35, 0.0)] * 4], 0.3)],
    "jumps over": [([SLIDE, still(0, 0.5)], 0.2), ([ARC, still(-1.3, 0.9)], 0.2), ([ARC, still(0, -0.8)], 0.2)],
    "grows": [SHOWN["shrinks"], ([still(0, 0)], 0.3)],
    "shrinks": [SHOWN["grows"], ([still(0, 0)], 0.3)],
    "has colour": [SHOWN["left of"], ([still(-0.6, 0), still(0.6, 0)], 0.5)],
    "does action": [SHOWN["above"]],
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_shows_a_relation_scores_above_tau_and_what_does_not_scores_below_a_half(name):
    assert score(name, gaussians(*SHOWN[name], even=1e-4)).item() > 0.8
    for other in NOT_SHOWN[name]:
        assert score(name, gaussians(*other, even=1e-4)).item() < 0.5


def test_a_right_angle_counts_as_a_turn():
    assert score("turns", gaussians([CORNER], even=1e-4)).item() > 0.7


def test_who_hides_the_other_is_in_front_and_things_apart_are_neither():
    near, far = gaussians([still(0.1, 0), still(-0.1, 0)], [[0.4] * FRAMES, [0.5] * FRAMES], even=1e-4).unbind(1)
    hidden = far * (1 - near / near.max())  # attention goes to what is seen
    maps = torch.stack([near, hidden], dim=1)
    assert score("in front of", maps).item() > 0.8 and score("behind", maps).item() < 0.3
    assert score("behind", maps, who=(1, 0)).item() > 0.8
    apart = gaussians([still(-1.2, -0.7), still(1.2, 0.7)], 0.15, even=1e-5)
    assert score("in front of", apart).item() < 0.3 and score("behind", apart).item() < 0.3


def test_even_maps_show_no_binding_and_no_motion():
    even = torch.full((1, 2, FRAMES, HEIGHT, WIDTH), 0.01, dtype=torch.float64)
    for name in ("has colour", "does action", "left of", "moves left", "toward", "grows", "turns"):
        assert score(name, even).item() < 0.5


# What a violated relation must have become, judged by the parameters of the Gaussians themselves: (centre "g f 2", sigma "g f").
DESCENTS = {
    "left of": (SHOWN["right of"], lambda c, s: (c[0, :, 0] < c[1, :, 0]).all()),
    "right of": (SHOWN["left of"], lambda c, s: (c[0, :, 0] > c[1, :, 0]).all()),
    "above": (SHOWN["below"], lambda c, s: (c[0, :, 1] < c[1, :, 1]).all()),
    "below": (SHOWN["above"], lambda c, s: (c[0, :, 1] > c[1, :, 1]).all()),
    "beneath": (
        ([still(-0.9, -0.3), still(0.5, 0.2)], 0.3),
        lambda c, s: (c[0, :, 1] > c[1, :, 1]).all() and ((c[0] - c[1])[:, 0].abs() < 0.8).all(),
    ),
    "inside": (([still(-0.6, 0), still(0.5, 0)], 0.35), lambda c, s: ((c[0] - c[1]).norm(dim=-1) < s[1]).all() and (s[0] < s[1]).all()),
    "between": (
        ([still(-0.9, 0.2), still(0, 0), still(0.9, -0.1)], 0.3),
        lambda c, s: (((c[1] - c[0]) * (c[2] - c[0])).sum(-1) < 0).all(),
    ),
    "moves left": (SHOWN["moves right"], lambda c, s: c[0, -1, 0] < c[0, 0, 0] - 0.1),
    "moves right": (SHOWN["moves left"], lambda c, s: c[0, -1, 0] > c[0, 0, 0] + 0.1),
    "moves up": (SHOWN["moves down"], lambda c, s: c[0, -1, 1] < c[0, 0, 1] - 0.1),
    "moves down": (SHOWN["moves up"], lambda c, s: c[0, -1, 1] > c[0, 0, 1] + 0.1),
    "toward": (SHOWN["away"], lambda c, s: (c[0] - c[1]).norm(dim=-1)[-1] < (c[0] - c[1]).norm(dim=-1)[0] - 0.1),
    "away": (SHOWN["toward"], lambda c, s: (c[0] - c[1]).norm(dim=-1)[-1] > (c[0] - c[1]).norm(dim=-1)[0] + 0.1),
    "turns": (
        ([going((-0.7, -0.1), (0.7, 0.1))], 0.3),
        lambda c, s: torch.nn.functional.cosine_similarity(c[0, 4] - c[0, 0], c[0, -1] - c[0, 4], dim=0) < 0.5,
    ),
    "jumps over": (([SLIDE, still(0, 0.4)], 0.3), lambda c, s: c[0, 4, 1] < c[1, 4, 1] and c[0, 4, 1] < c[0, 0, 1]),
    "grows": (SHOWN["shrinks"], lambda c, s: s[0, -1] > s[0, 0]),
    "shrinks": (SHOWN["grows"], lambda c, s: s[0, -1] < s[0, 0]),
    "has colour": (([still(-0.4, 0), still(0.4, 0)], 0.3), lambda c, s: ((c[0] - c[1]).norm(dim=-1) < 0.45).all()),
    "does action": (([still(-0.4, 0), still(0.4, 0)], 0.3), lambda c, s: ((c[0] - c[1]).norm(dim=-1) < 0.45).all()),
}


@pytest.mark.parametrize("name", DESCENTS)
def test_the_gradient_leads_from_a_violated_relation_to_one_that_holds(name):
    (centres, sigma), holds = DESCENTS[name]
    centres = torch.tensor(centres, dtype=torch.float64)
    logs = torch.as_tensor(sigma, dtype=torch.float64).expand(centres.shape[:2]).log().clone().requires_grad_()
    centres = (centres + 0.01 * torch.randn(centres.shape, dtype=torch.float64)).requires_grad_()
    assert not holds(centres.detach(), logs.detach().exp())
    optimiser = torch.optim.Adam([centres, logs], lr=0.03)
    for _ in range(80):
        optimiser.zero_grad()
        loss = -score(name, gaussians(centres, logs.exp())).log().sum()
        loss.backward()
        optimiser.step()
    assert holds(centres.detach(), logs.detach().exp())


@pytest.mark.parametrize("name", ["left of", "above", "moves left", "toward"])
def test_one_small_step_on_the_map_itself_moves_the_centroid_the_right_way(name):
    """Not through the Gaussian's parameters: the cells are free, as they are in a model."""
    maps = gaussians(*SHOWN[{"left of": "right of", "above": "below", "moves left": "moves right", "toward": "away"}[name]])
    maps.requires_grad_()
    gradient, = torch.autograd.grad(-score(name, maps).log().sum(), maps)
    stepped = (maps - 1e-4 * gradient / gradient.abs().max()).detach()

    def plain_centre(maps, axis):
        places = (2 * torch.arange(maps.shape[axis], dtype=maps.dtype) + 1 - maps.shape[axis]) / HEIGHT
        return (maps.sum(-2 if axis == -1 else -1) * places).sum(-1) / maps.sum((-2, -1))

    axis = -2 if name == "above" else -1
    before, after = (plain_centre(one.detach(), axis)[0] for one in (maps, stepped))
    if name in ("left of", "above"):
        assert (after[0] < before[0]).all() and (after[1] > before[1]).all()
    elif name == "moves left":
        assert after[0, 0] > before[0, 0] and after[0, -1] < before[0, -1]
    else:
        assert ((after[1] - after[0]) - (before[1] - before[0]))[-1] < 0 < ((after[1] - after[0]) - (before[1] - before[0]))[0]


@pytest.mark.parametrize("name", BY_NAME)
def test_gradient_agrees_with_finite_differences(name):
    torch.manual_seed(3)
    maps = (torch.rand(1, 3, 4, 3, 4, dtype=torch.float64) + 0.5).requires_grad_()
    one = constraint(name)
    gates = torch.ones(1, 4, dtype=torch.float64) / 4  # the mass gate has no gradient by design

    def margins_of(maps):
        return one.relation.measure(scene_of(maps), tuple(range(one.relation.entities)), gates)

    assert torch.autograd.gradcheck(margins_of, (maps,), eps=1e-7, atol=1e-4)


def test_frames_that_hardly_show_a_thing_hardly_count():
    centres = [[*still(-0.6, 0)[:5], *still(0.9, 0)[5:]], still(0.5, 0)]
    strength = torch.full((2, FRAMES), 0.02)
    wrong = score("left of", gaussians(centres, strength=strength))
    strength[0, 5:] = 1e-4
    gated = score("left of", gaussians(centres, strength=strength))
    assert wrong < 0.2 and gated > 2 * wrong
    gate = presence_gate(scene_of(gaussians(centres, strength=strength)).excess[:, 0], ALWAYS.double())[0]
    torch.testing.assert_close(gate, torch.tensor([1.0] * 5 + [GATE_FLOOR] * 4).double(), atol=1e-6, rtol=0)


def test_the_gate_looks_only_at_the_span_and_at_even_maps_lets_all_frames_count():
    span = torch.tensor([0.0] * 4 + [1.0] * 5)
    excess = torch.tensor([[9.0, 9, 9, 9, 1, 2, 2, 1, 0.0]])
    torch.testing.assert_close(presence_gate(excess, span)[0, 4:], torch.tensor([0.5, 1, 1, 0.5, GATE_FLOOR]))
    assert presence_gate(torch.zeros(1, FRAMES), ALWAYS).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"grows", "shrinks"}))
def test_no_relation_is_met_by_showing_less_of_a_thing(name):
    maps = gaussians(torch.rand(3, FRAMES, 2, dtype=torch.float64) * 1.6 - 0.8)
    shown = torch.ones(1, 3, FRAMES, 1, 1, dtype=torch.float64, requires_grad=True)
    score(name, maps * shown).log().sum().backward()
    assert shown.grad.abs().max() < 1e-9


def panning(speed, texture):
    """A background "1 f h w" whose texture moves by `speed` (x, y) a frame, in halves of the shorter side."""
    x = (2 * torch.arange(WIDTH) + 1 - WIDTH) / HEIGHT
    y = ((2 * torch.arange(HEIGHT) + 1 - HEIGHT) / HEIGHT)[:, None]
    return torch.stack([texture(x - speed[0] * t, y - speed[1] * t) for t in range(FRAMES)])[None].double()


def waves(x, y):
    return 2 + torch.sin(4 * x + 1) * torch.cos(3 * y) + 0.5 * torch.sin(5 * y)


@pytest.mark.parametrize("speed", [(0.05, 0.0), (-0.06, 0.03), (0.0, -0.05), (0.0, 0.0)])
def test_camera_path_follows_a_moving_background(speed):
    things = gaussians([still(-0.4, 0.2)])
    path = camera_path(panning(speed, waves), things)[0]
    expected = torch.tensor(speed, dtype=torch.float64) * torch.arange(FRAMES)[:, None]
    torch.testing.assert_close(path, expected, atol=0.04, rtol=0.1)


def test_camera_path_ignores_what_a_thing_does_to_the_background():
    things = gaussians([going((-0.8, 0), (0.8, 0))], sigma=0.2, even=0)
    hole = panning((0.0, 0.0), waves) * (1 - things[:, 0] / things.max())
    assert camera_path(hole, things)[0].abs().max() < 0.15  # of 1.6 that the hole has moved


def test_a_background_without_structure_stands_still():
    things = gaussians([going((-0.8, 0), (0.8, 0))])
    assert camera_path(torch.full((1, FRAMES, HEIGHT, WIDTH), 0.3, dtype=torch.float64), things).abs().max() == 0
    assert camera_path(torch.zeros(1, FRAMES, HEIGHT, WIDTH), things.float()).abs().max() == 0


def test_motion_of_the_camera_is_no_motion_of_a_thing():
    speed = (-0.08, 0.0)
    carried = gaussians([[(0.3 + speed[0] * t, 0.0) for t in range(FRAMES)]])
    followed = gaussians([still(0.0, 0.0)])
    background = panning(speed, waves)
    assert score("moves left", carried).item() > 0.8
    assert score("moves left", carried, scene=scene_of(carried, camera_path(background, carried))).item() < 0.4
    assert score("moves right", followed).item() < 0.4
    assert score("moves right", followed, scene=scene_of(followed, camera_path(background, followed))).item() > 0.8


def test_the_camera_has_no_gradient():
    background, things = panning((0.05, 0), waves).requires_grad_(), gaussians([still(0, 0)]).requires_grad_()
    assert not camera_path(background, things).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BY_NAME)
def test_zero_attention_gives_finite_scores_and_gradients(name, dtype):
    maps = torch.zeros(1, 3, FRAMES, 4, 4, dtype=dtype, requires_grad=True)
    value = score(name, maps).log()
    value.sum().backward()
    assert value.isfinite().all() and maps.grad.isfinite().all()


@pytest.mark.parametrize("name", BY_NAME)
def test_scores_do_not_depend_on_resolution_or_on_the_level_of_attention(name):
    maps = gaussians(torch.rand(3, FRAMES, 2, dtype=torch.float64) - 0.5)
    finer = maps.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(score(name, finer), score(name, maps), atol=0.03, rtol=0)
    torch.testing.assert_close(score(name, maps * 1e-3), score(name, maps), atol=1e-3, rtol=0)


def test_every_name_and_alias_is_written_once():
    written = [words for relation in RELATIONS for words in (relation.name, *relation.aliases)]
    assert len(written) == len(set(written)) == len(NAMES)


@pytest.mark.parametrize("far", [1.0, 1.4])
def test_a_second_copy_on_the_wrong_side_is_not_made_good_by_going_further(far):
    a, b = [gaussians([still(x, 0)], 0.15)[:, 0] for x in (-far, 0.9)], gaussians([still(0.2, 0)], 0.15)[:, 0]
    twice = torch.stack([a[0] + a[1], b], 1)
    once = torch.stack([a[0], b], 1)
    assert (measured("left of", twice) < measured("left of", once) - 0.3).all()
    further = torch.stack([gaussians([still(-far - 0.1, 0)], 0.15)[:, 0] + a[1], b], 1)
    moved = (measured("left of", further) - measured("left of", twice)).mean()
    nearer = torch.stack([a[0] + gaussians([still(0.8, 0)], 0.15)[:, 0], b], 1)
    mended = (measured("left of", nearer) - measured("left of", twice)).mean()
    assert mended > 1.5 * moved  # the copy that is wrong counts, not the one that is right already


@pytest.mark.parametrize("name, way", [("left of", (-1, 0)), ("right of", (1, 0)), ("above", (0, -1)), ("below", (0, 1))])
@pytest.mark.parametrize("margin", [0.0, 0.15, 0.4, 0.7])
def test_a_thing_that_stands_clear_of_the_margin_asked_for_scores_tau(name, way, margin):
    apart = (margin + 0.6) / 2
    maps = gaussians([still(apart * way[0], apart * way[1]), still(-apart * way[0], -apart * way[1])], 0.1, even=0.0)
    assert score(name, maps, scene=scene_of(maps, margin=margin)).item() > 0.9
