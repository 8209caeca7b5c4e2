"""TempoControl's losses against an independent reference written with loops, and their properties."""

import math
from dataclasses import replace

import pytest
import torch
from wan_conductor.guidance.objective import PhraseRef, shared_phrases
from wan_conductor.guidance.temporal_mask import (
    TemporalMask,
    correlation,
    correlation_loss,
    entropy_loss,
    held_level,
    leakage_loss,
    magnitude_loss,
    temporal_attention,
)
from wan_conductor.guidance.timeline import parse_timeline

FRAMES = 13
STEP = torch.tensor([[0.0] * 6 + [1.0] * 7])  # "g f"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


def random_maps(batch=2, phrases=1, height=3, width=4, dtype=torch.float64):
    return torch.rand(batch, phrases, FRAMES, height, width, dtype=dtype) * 0.02 + 1e-4


def reference(frames_of_maps, mask):
    """(L_corr, L_mag, L_ent) of one phrase: a list of F frames, each a flat list of H W numbers."""
    sums = [sum(frame) * 1560 / len(frame) for frame in frames_of_maps]
    kept_a, kept_m = sums[1:], mask[1:]
    low, high = min(kept_a), max(kept_a)
    tilde = [(value - low) / (high - low) for value in kept_a]
    mean_a, mean_m = sum(tilde) / len(tilde), sum(kept_m) / len(kept_m)
    covariance = sum((x - mean_a) * (y - mean_m) for x, y in zip(tilde, kept_m)) / len(tilde)
    deviation_a = math.sqrt(sum((x - mean_a) ** 2 for x in tilde) / len(tilde))
    deviation_m = math.sqrt(sum((y - mean_m) ** 2 for y in kept_m) / len(kept_m))
    active = [(value, weight) for value, weight in zip(sums, mask)]
    on = sum(value * weight for value, weight in active) / sum(mask)
    off = sum(value * (1 - weight) for value, weight in active) / sum(1 - weight for weight in mask)
    entropy = 0.0
    for frame, weight in zip(frames_of_maps, mask):
        total = sum(frame)
        bits = -sum(value / total * math.log(value / total) for value in frame)
        entropy += weight * (bits - math.log(len(frame)) + math.log(1560)) / sum(mask)
    return -covariance / (deviation_a * deviation_m), off - on, entropy


@pytest.mark.parametrize("mask", [STEP, torch.rand(1, FRAMES, generator=torch.Generator().manual_seed(1))], ids=["binary", "soft"])
def test_terms_equal_the_formulas_written_as_loops(mask):
    maps, mask = random_maps(), mask.double()
    a = temporal_attention(maps)
    got = torch.stack([correlation_loss(a, mask), magnitude_loss(a, mask), entropy_loss(maps, mask)])[..., 0]
    for b in range(2):
        frames = maps[b, 0].flatten(1).tolist()
        # 2e-5: the eps of the official code under the deviations
        torch.testing.assert_close(got[:, b], torch.tensor(reference(frames, mask[0].tolist())).double(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_agrees_with_finite_differences(seed):
    torch.manual_seed(seed)
    maps, mask = (random_maps(1, 2, 2, 2) * 50).requires_grad_(), torch.rand(2, FRAMES, dtype=torch.float64)

    def loss(maps):
        a = temporal_attention(maps)
        return correlation_loss(a, mask) + magnitude_loss(a, mask) + entropy_loss(maps, mask)

    assert torch.autograd.gradcheck(loss, (maps,), eps=1e-7, atol=1e-3)


def test_attention_that_equals_its_mask_has_correlation_loss_minus_one():
    for mask in (STEP, torch.rand(1, FRAMES)):
        torch.testing.assert_close(correlation_loss(mask[None] * 30 + 2, mask), torch.tensor([[-1.0]]), rtol=0, atol=5e-5)
        torch.testing.assert_close(correlation_loss(-mask[None] * 30 + 90, mask), torch.tensor([[1.0]]), rtol=0, atol=5e-5)


def test_the_first_latent_is_dropped_from_the_correlation_and_the_last_is_not():
    a = torch.rand(1, 1, FRAMES)
    first, last = a.clone(), a.clone()
    first[..., 0] += 100
    last[..., -1] += 3
    torch.testing.assert_close(correlation(first, STEP), correlation(a, STEP))
    assert (correlation(last, STEP) - correlation(a, STEP)).abs().item() > 0.01


def test_the_first_latent_counts_in_the_magnitude():
    a = torch.rand(1, 1, FRAMES)
    higher = a.clone()
    higher[..., 0] += 6
    torch.testing.assert_close(magnitude_loss(higher, STEP) - magnitude_loss(a, STEP), torch.tensor([[1.0]]))


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_a_constant_mask_has_zero_correlation_and_zero_gradient(value):
    a = torch.rand(2, 1, FRAMES, requires_grad=True)
    r = correlation(a, torch.full((1, FRAMES), value))
    r.sum().backward()
    assert r.tolist() == [[0.0], [0.0]]
    assert a.grad.abs().max() == 0


def test_a_mask_that_is_off_only_in_the_dropped_frame_counts_as_constant():
    mask = torch.ones(1, FRAMES)
    mask[0, 0] = 0
    assert correlation(torch.rand(1, 1, FRAMES), mask).item() == 0


def test_magnitude_of_a_full_mask_asks_only_for_more_and_of_an_empty_one_only_for_less():
    a = torch.rand(1, 1, FRAMES)
    torch.testing.assert_close(magnitude_loss(a, torch.ones(1, FRAMES)), -a.mean(-1))
    torch.testing.assert_close(magnitude_loss(a, torch.zeros(1, FRAMES)), a.mean(-1))
    assert entropy_loss(random_maps(1), torch.zeros(1, FRAMES)).item() == 0


def test_correlation_does_not_change_with_scale_and_offset():
    a = torch.rand(2, 1, FRAMES, dtype=torch.float64)
    torch.testing.assert_close(correlation(7 * a + 3, STEP.double()), correlation(a, STEP.double()), rtol=1e-4, atol=1e-6)


def test_permuting_frames_after_the_first_together_with_the_mask_changes_nothing():
    maps = random_maps()
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(FRAMES - 1)])
    mask = STEP.double()
    shuffled, a, a_shuffled = maps[:, :, order], temporal_attention(maps), temporal_attention(maps[:, :, order])
    torch.testing.assert_close(correlation_loss(a_shuffled, mask[:, order]), correlation_loss(a, mask))
    torch.testing.assert_close(magnitude_loss(a_shuffled, mask[:, order]), magnitude_loss(a, mask))
    torch.testing.assert_close(entropy_loss(shuffled, mask[:, order]), entropy_loss(maps, mask))
    assert not torch.allclose(correlation_loss(a_shuffled, mask), correlation_loss(a, mask))


def test_terms_do_not_depend_on_resolution():
    maps, mask = random_maps(height=3, width=4), STEP.double()
    finer = maps.repeat_interleave(5, 3).repeat_interleave(2, 4)
    torch.testing.assert_close(temporal_attention(finer), temporal_attention(maps))
    torch.testing.assert_close(entropy_loss(finer, mask), entropy_loss(maps, mask))
    at_reference = maps.repeat_interleave(10, 3).repeat_interleave(13, 4)  # 30x52, the paper's grid: plain sums
    torch.testing.assert_close(temporal_attention(maps), at_reference.sum((-1, -2)))


def test_entropy_is_log_1560_when_spread_and_lowest_at_one_place():
    spread, point = torch.ones(1, 1, FRAMES, 30, 52), torch.zeros(1, 1, FRAMES, 30, 52)
    point[..., 4, 7] = 1
    assert entropy_loss(spread, STEP).item() == pytest.approx(math.log(1560), abs=1e-5)
    assert entropy_loss(point, STEP).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_attention_gives_finite_losses_and_gradients(dtype):
    maps = torch.zeros(1, 2, FRAMES, 2, 2, dtype=dtype, requires_grad=True)
    loss = TemporalMask(parse_timeline("1s - 2s cat\nalways dog"), lambda_leakage=1.0).loss(maps, 16.0)
    loss.total.sum().backward()
    assert loss.total.isfinite().all()
    assert maps.grad.isfinite().all()
    assert not loss.satisfied.any()


def test_loss_is_the_weighted_sum_of_its_terms_averaged_over_phrases():
    objective = TemporalMask(parse_timeline("0.5s - 1.5s cat\n1s - end dog"), lambda_magnitude=0.7, lambda_entropy=2.0, anchor=False)
    maps = random_maps(phrases=2)
    masks = objective.masks(FRAMES, 16.0).double()
    expected = torch.zeros(2, dtype=torch.float64)
    for b in range(2):
        for g in range(2):
            corr, mag, ent = reference(maps[b, g].flatten(1).tolist(), masks[g].tolist())
            expected[b] += (corr + 0.7 * mag + 2.0 * ent) / 2
    torch.testing.assert_close(objective.loss(maps, 16.0).total, expected, rtol=1e-4, atol=1e-5)


def test_defaults_are_the_papers():
    objective = TemporalMask(parse_timeline("1s - 2s cat"))
    assert (objective.lambda_correlation, objective.lambda_magnitude, objective.lambda_entropy, objective.tau_corr) == (1, 0.3, 10, 0.9)


def test_a_line_of_strength_1_5_weighs_1_5_times_its_neighbour_and_scales_the_step():
    plain = TemporalMask(parse_timeline("0.5s - 1s cat\n1s - 2s dog"))
    strong = TemporalMask(parse_timeline("0.5s - 1s cat x1.5\n1s - 2s dog"))
    gradients = []
    for objective in (plain, strong):
        maps = random_maps(1, 2).mul(0).add(torch.linspace(0.01, 0.03, FRAMES)[:, None, None]).requires_grad_()
        objective.loss(maps, 16.0).total.sum().backward()
        gradients.append(maps.grad[0].flatten(1).norm(dim=1))
    ratio = gradients[1] / gradients[0]
    assert (ratio[0] / ratio[1]).item() == pytest.approx(1.5, rel=1e-6)
    assert (plain.strength, strong.strength) == (1.0, 1.5)


def test_satisfied_looks_at_the_worst_timed_phrase_of_each_sample():
    objective = TemporalMask(parse_timeline("1s - end cat\n0s - 1s dog\nalways room"))
    cat, dog, _ = objective.masks(FRAMES, 16.0)
    good = torch.stack([cat, dog, torch.rand(FRAMES)])
    half = torch.stack([cat, cat, torch.rand(FRAMES)])
    maps = (torch.stack([good, half]) * 0.02 + 0.001)[..., None, None].expand(-1, -1, -1, 2, 2)
    assert objective.loss(maps, 16.0).satisfied.tolist() == [True, False]
    assert objective.loss(maps.flip(0), 16.0).satisfied.tolist() == [False, True]


def test_only_static_phrases_are_never_satisfied_and_ask_for_more_attention():
    objective = TemporalMask(parse_timeline("always cat"))
    maps = random_maps().requires_grad_()
    loss = objective.loss(maps, 16.0)
    loss.total.sum().backward()
    assert loss.terms["correlation"].tolist() == [0, 0]
    assert not loss.satisfied.any()
    less = objective.loss(maps.detach() - 1e-8 * maps.grad, 16.0)
    assert (less.total < loss.total).all()


def test_one_latent_frame_is_skipped_cleanly():
    objective = TemporalMask(parse_timeline("always cat"))
    assert "one frame" in objective.skip_reason(1, 16.0)
    assert objective.skip_reason(2, 16.0) is None
    loss = objective.loss(random_maps()[:, :, :1], 16.0)
    assert loss.satisfied.all()
    assert loss.total.isfinite().all()


def test_an_empty_timeline_and_strength_zero_leave_nothing_to_do():
    for text in ("", "1s - 2s cat x0", "# only a comment"):
        objective = TemporalMask(parse_timeline(text))
        assert objective.phrases == ()
        assert objective.skip_reason(FRAMES, 16.0)


def test_lines_about_the_same_phrase_are_one_phrase_with_both_spans():
    objective = TemporalMask(parse_timeline("0s - 0.5s red  Circle\n1s - 2s red circle x2"))
    assert len(objective.phrases) == 1
    mask = objective.masks(FRAMES, 16.0)[0]
    assert mask[1] == mask[6] == 1
    assert mask[3] == mask[10] == 0
    assert objective.strength == 2


def test_the_subject_of_a_header_is_a_static_phrase_unless_it_has_a_line():
    objective = TemporalMask(parse_timeline("cat:\n  1s - 2s jumps"))
    assert objective.phrases == (PhraseRef("jumps"), PhraseRef("cat"))
    assert objective.masks(FRAMES, 16.0)[1].tolist() == [1.0] * FRAMES
    timed = TemporalMask(parse_timeline("cat:\n  1s - 2s jumps\n  1s - end Cat"))
    assert [ref.phrase for ref in timed.phrases] == ["jumps", "Cat"]


def test_soft_masks_are_covered_shares_and_binary_ones_keep_a_latent_per_span():
    timeline = parse_timeline("1.125s - 2s cat")  # pixel frame 18, inside latent 5 = frames 17..20
    soft, hard = TemporalMask(timeline).masks(FRAMES, 16.0)[0], TemporalMask(timeline, mask="binary").masks(FRAMES, 16.0)[0]
    assert soft[4:6].tolist() == [0.0, 0.75]
    assert hard[4:6].tolist() == [0.0, 1.0]
    short = TemporalMask(parse_timeline("20f - 21f cat"), mask="binary").masks(FRAMES, 16.0)[0]
    assert short.sum() == 1


def test_the_report_sees_correlation_attention_and_mask():
    objective = TemporalMask(parse_timeline("1s - 2s cat\nalways dog"))
    maps = random_maps(phrases=2)
    traces = objective.loss(maps, 16.0).traces
    assert traces["correlation"].shape == (2, 2)
    assert traces["attention"].shape == (2, 2, FRAMES)
    assert traces["attention"].min() == 0 and 0.999 < traces["attention"].max() <= 1
    torch.testing.assert_close(traces["mask"], objective.masks(FRAMES, 16.0).double())


def overlap(one, other, weights):
    """Weighted mean of the cosines of two phrases' frames, each a flat list of numbers."""
    total = 0.0
    for a, b, weight in zip(one, other, weights, strict=True):
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
        total += weight * sum(x * y for x, y in zip(a, b, strict=True)) / lengths
    return total / sum(weights)


def test_leakage_is_the_cosine_of_every_pair_in_frames_where_one_of_the_two_is_to_be_seen():
    maps, masks = random_maps(phrases=3), torch.rand(3, FRAMES, dtype=torch.float64)
    masks[:, 4] = 0
    got = leakage_loss(maps, masks, ((0, 2), (1, 2)))
    for b in range(2):
        frames = [maps[b, g].flatten(1).tolist() for g in range(3)]
        weights = [[max(x, y) for x, y in zip(masks[g].tolist(), masks[2].tolist())] for g in (0, 1)]
        expected = (overlap(frames[0], frames[2], weights[0]) + overlap(frames[1], frames[2], weights[1])) / 2
        assert got[b].item() == pytest.approx(expected, rel=1e-9)


def test_leakage_is_0_for_phrases_that_look_elsewhere_and_1_for_the_same_place_whatever_their_sizes():
    places = torch.zeros(1, 3, FRAMES, 2, 2)
    places[:, 0, :, 0, 0], places[:, 1, :, 0, 0], places[:, 2, :, 1, 1] = 0.3, 0.001, 0.3
    always = torch.ones(3, FRAMES)
    assert leakage_loss(places, always, ((0, 1),)).item() == pytest.approx(1)
    assert leakage_loss(places, always, ((0, 2),)).item() == 0
    assert leakage_loss(places, always, ()).item() == 0


def test_less_leakage_moves_two_phrases_apart():
    objective = TemporalMask(
        parse_timeline("1s - 2s cat\nalways dog"), lambda_correlation=0, lambda_magnitude=0, lambda_entropy=0, lambda_leakage=2.0
    )
    maps = random_maps(1, 2).requires_grad_()
    loss = objective.loss(maps, 16.0)
    assert loss.total.item() == pytest.approx(2 * loss.terms["leakage"].item())
    loss.total.sum().backward()
    moved = objective.loss(maps.detach() - 1e-4 * maps.grad / maps.grad.abs().max(), 16.0)
    assert moved.terms["leakage"] < loss.terms["leakage"]


def test_a_subject_may_lie_where_its_own_events_lie_and_nothing_else_may():
    text = "always rain\ncat:\n  0s - 1s jumps\n  1s - 2s sits\ndog:\n  1s - 2s barks"
    objective = TemporalMask(parse_timeline(text))
    names = [ref.phrase for ref in objective.phrases]
    pairs = {frozenset((names[g], names[h])) for g, h in objective.apart}
    own = {frozenset(pair) for pair in (("cat", "jumps"), ("cat", "sits"), ("jumps", "sits"), ("dog", "barks"))}
    every = {frozenset((one, other)) for one in names for other in names if one != other}
    assert pairs == every - own


def anchored_reference(frames_of_maps, found, mask):
    """Anchored L_mag of one phrase, as loops: lists of F frames of H W numbers, now and as the step found them."""
    places, total = range(len(found[0])), sum(mask)

    def mean(of_frames, weights):
        return sum(value * weight for value, weight in zip(of_frames, weights)) / sum(weights)

    sums = [sum(frame) * 1560 / len(frame) for frame in frames_of_maps]
    before = [sum(frame) * 1560 / len(frame) for frame in found]
    inactive = [value for value, weight in zip(before[1:], mask[1:]) if weight < 0.5]
    level = max([mean(before, mask), *inactive])
    path = [sum(weight * frame[place] for frame, weight in zip(found, mask)) / total for place in places]
    away = [1 - (path[place] / max(path)) ** 2 for place in places]
    elsewhere = [sum(frame[place] * away[place] for place in places) * 1560 / len(frame) for frame in frames_of_maps]
    return mean(sums, [1 - weight for weight in mask]) + abs(mean(sums, mask) - level) + mean(elsewhere, mask)


@pytest.mark.parametrize("timeline", ["1s - 2s cat", "0s - 1.1s cat", "2.4s - end cat"])
def test_the_anchored_magnitude_equals_its_formula_written_as_loops(timeline):
    objective = TemporalMask(parse_timeline(timeline), lambda_correlation=0, lambda_entropy=0, lambda_magnitude=1)
    step, mask = objective.at_step(1.0, {}), objective.masks(FRAMES, 16.0)[0].tolist()
    found = random_maps()
    for maps in (found, 0.5 * found, random_maps()):  # the first evaluation is of the latent as it was: later ones are held against it
        expected = [anchored_reference(maps[b, 0].flatten(1).tolist(), found[b, 0].flatten(1).tolist(), mask) for b in range(2)]
        assert step.loss(maps, 16.0).total.tolist() == pytest.approx(expected, rel=1e-5)
    paper = replace(objective, anchor=False).at_step(1.0, {})
    expected = [reference(maps[b, 0].flatten(1).tolist(), mask)[1] for b in range(2)]
    assert paper.loss(maps, 16.0).total.tolist() == pytest.approx(expected, rel=1e-5)


def anchored_step(objective, found):
    """The anchored loss after `found` was what the step began with."""
    step = objective.at_step(1.0, {})
    step.loss(found, 16.0)
    return lambda maps: step.loss(maps, 16.0).terms["magnitude"].item()


def test_anchored_a_second_thing_costs_and_one_that_moves_along_its_path_does_not():
    objective = TemporalMask(parse_timeline("1s - end cat"))
    active = objective.masks(FRAMES, 16.0)[0] > 0.5
    still = torch.full((1, 1, FRAMES, 3, 5), 1e-4)
    still[..., active, 1, 1] = 0.02
    loss = anchored_step(objective, still)
    twice, there = still.clone(), still.clone()
    twice[..., active, 2, 4] = 0.02
    there[..., active, 1, 1] = 0.04  # as much more attention, and where the thing is
    assert loss(twice) > loss(there) + 1
    moving = torch.full((1, 1, FRAMES, 3, 5), 1e-4)
    for frame in range(FRAMES):
        moving[..., frame, 1, frame * 5 // FRAMES] = 0.02
    loss = anchored_step(objective, moving)
    apart = moving.clone()
    apart[..., active, 1, :], apart[..., active, 2, :] = 1e-4, moving[..., active, 1, :]
    assert loss(apart) > loss(moving) + 1


def test_held_frames_do_not_rise_and_a_thing_at_the_wrong_time_is_wanted_at_the_right_one():
    mask = torch.tensor([[0.0] * 6 + [1.0] * 7])
    uneven = torch.linspace(1, 2, FRAMES).expand(1, 1, -1)
    assert held_level(uneven, mask).item() == pytest.approx(uneven[..., 6:].mean().item())
    assert held_level(uneven.flip(-1), mask).item() == pytest.approx(uneven.flip(-1)[..., 1:6].max().item())
    always = torch.ones(1, FRAMES)
    assert held_level(uneven, always).item() == pytest.approx(uneven.mean().item())
    assert held_level(uneven[..., :1], always[:, :1]).item() == 1
    assert held_level(uneven, 0 * always).item() == 0


def test_what_is_at_its_time_from_the_first_frame_on_is_held_as_it_is():
    """The mean that is held is the mean that is drawn to it, the first latent frame's attention included."""
    objective = TemporalMask(parse_timeline("0s - 1.1s cat"), lambda_correlation=0, lambda_entropy=0, lambda_magnitude=1)
    active = objective.masks(FRAMES, 16.0)[0] > 0.5
    maps = torch.full((1, 1, FRAMES, 3, 5), 1e-4)
    maps[..., active, 1, 1] = 0.02
    maps[..., 0, 1, 1] = 0.06
    maps.requires_grad_()
    objective.at_step(1.0, {}).loss(maps, 16.0).total.sum().backward()
    assert maps.grad[..., active, 1, 1].abs().max() == 0


def test_steps_of_the_anchor_share_nothing():
    objective = TemporalMask(parse_timeline("1s - 2s cat"))
    step = objective.at_step(1.0, {})
    step.loss(random_maps(1, 1), 16.0)
    assert step == objective and objective.unedited is None and objective.at_step(1.0, {}).unedited == []


def test_leakage_is_off_by_default():
    objective = TemporalMask(parse_timeline("1s - 2s cat\nalways dog"))
    assert objective.lambda_leakage == 0
    assert "leakage" not in objective.loss(random_maps(phrases=2), 16.0).terms


@pytest.mark.parametrize(
    "knob",
    [
        {"lambda_magnitude": -1}, {"lambda_leakage": -1}, {"lambda_entropy": float("nan")}, {"tau_corr": 1.1}, {"mask": "hard"},
        {"start_percent": 2.0},
    ],
)
def test_knobs_out_of_range_are_refused_by_name_and_value(knob):
    (field, value), = knob.items()
    with pytest.raises(ValueError, match=f"`{field}` = {value!r}".replace(".", r"\.")):
        TemporalMask(parse_timeline("1s - 2s cat"), **knob)


def test_objectives_that_name_the_same_phrase_share_its_map():
    one, two = TemporalMask(parse_timeline("1s - 2s cat\nalways dog")), TemporalMask(parse_timeline("always bird\n0s - 1s cat"))
    phrases, places = shared_phrases([one, two])
    assert [ref.phrase for ref in phrases] == ["cat", "dog", "bird"]
    assert places == ((0, 1), (2, 0))
