"""Every source of masks against the timeline and against sums written out; what does not fit is refused."""

import math

import pytest
import torch
from wan_conductor.guidance.curve import Curve, parse_curve
from wan_conductor.guidance.latent_time import curve_mask, curve_weights, latent_frames_of, pixel_frames
from wan_conductor.guidance.mask_sources import FrameValues, TimedPhrase, Timing, Together, WrittenSpans, full_range
from wan_conductor.guidance.sound import Sound
from wan_conductor.guidance.temporal_mask import TemporalMask
from wan_conductor.guidance.timeline import parse_timeline

FPS = 16.0
RATE = 8000


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


def written(start, end):
    return WrittenSpans(parse_timeline(f"{start}f - {end}f  cat").lines[0])


def stroke(frame, frames):
    """A burst of noise that starts with pixel frame `frame`."""
    t = torch.arange(round(frames / FPS * RATE)) / RATE
    return ((t >= frame / FPS) * torch.exp(-(t - frame / FPS).clamp(min=0) / 0.02) * torch.randn(len(t)))[None]


def by_values(start, end, frames):
    return FrameValues(tuple(float(start <= frame < end) for frame in range(frames)))


def by_points(start, end, frames):
    """Step curve that is 1 in [start, end)."""
    return parse_curve(f"0s 0\n{start}f 1\n{end}f 0" if start else f"0s 1\n{end}f 0", "step")


def by_jumps(start, end, frames):
    """Straight lines with two points at each edge."""
    return parse_curve(f"{start}f 0\n{start}f 1\n{end}f 1\n{end}f 0", "linear")


def by_sound(start, end, frames):
    return Sound(stroke(start, frames), RATE, width=(end - start) / FPS)


@pytest.mark.parametrize("make", [by_values, by_points, by_jumps, by_sound])
@pytest.mark.parametrize("start, end", [(1, 5), (13, 29), (14, 15), (18, 27), (20, 33)])
@pytest.mark.parametrize("binary", [False, True])
def test_every_source_gives_the_mask_of_the_same_span_of_the_timeline(make, start, end, binary):
    torch.testing.assert_close(make(start, end, 33).mask(9, FPS, binary), written(start, end).mask(9, FPS, binary))


@pytest.mark.parametrize("make", [by_values, by_points, by_jumps])
def test_a_span_from_the_first_frame_includes_the_first_latent(make):
    assert make(0, 3, 9).mask(3, FPS).tolist() == [1.0, 0.5, 0.0]
    assert make(0, 1, 9).mask(3, FPS).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("make", [by_values, by_points, by_jumps])
def test_a_one_latent_clip_is_one_frame(make):
    assert make(0, 1, 1).mask(1, FPS).tolist() == [1.0]
    assert make(0, 1, 1).mask(1, FPS, binary=True).tolist() == [1.0]


@pytest.mark.parametrize("latent_frames", [1, 2, 9, 21])
def test_latents_are_means_of_their_frames_and_events_their_greatest(latent_frames):
    frames = pixel_frames(latent_frames)
    curve = torch.rand(frames)
    groups = [[0]] + [list(range(4 * j - 3, 4 * j + 1)) for j in range(1, latent_frames)]
    mean = [sum(curve[p].item() for p in group) / len(group) for group in groups]
    torch.testing.assert_close(curve_weights(curve), torch.tensor(mean))
    assert curve_weights(curve, strongest=True).tolist() == [max(curve[p].item() for p in group) for group in groups]
    assert latent_frames_of(frames) == latent_frames


def test_binary_keeps_a_latent_for_each_stretch_and_none_for_what_stays_below_half():
    curve = torch.zeros(33)
    curve[6] = curve[19] = 1.0  # one frame of latent 2, one of latent 5
    curve[25:29] = 0.49
    assert curve_mask(curve).nonzero().flatten().tolist() == [2, 5]


def test_values_are_for_pixel_frames_or_latents_as_their_number_says():
    per_latent = torch.rand(9).tolist()
    torch.testing.assert_close(FrameValues(tuple(per_latent)).mask(9, FPS), torch.tensor(per_latent))
    assert FrameValues((0.2, 0.5, 1.0)).mask(3, FPS, binary=True).tolist() == [0.0, 1.0, 1.0]
    for count in (8, 10, 32, 34):
        with pytest.raises(ValueError, match=rf"{count} values, but the video has 33 frames \(9 latent frames\).*`fit`"):
            FrameValues((0.0,) * count).mask(9, FPS)


def test_hold_cuts_or_holds_the_last_value():
    rising = FrameValues((0.0, 0.5, 1.0), fit="hold")
    assert rising.frames(9, FPS).tolist() == [0.0, 0.5, *[1.0] * 7]
    assert FrameValues((0.0,) * 5 + (1.0,) * 50, fit="hold").frames(9, FPS).tolist() == [0.0] * 5 + [1.0] * 4


def test_stretch_spreads_values_over_the_video_without_mixing_them():
    assert FrameValues((0.0, 1.0, 0.5), fit="stretch").frames(9, FPS).tolist() == [0.0] * 3 + [1.0] * 3 + [0.5] * 3
    assert FrameValues((0.0,) * 50 + (1.0,) * 50, fit="stretch").frames(5, FPS).tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_values_outside_0_to_1_are_refused_with_their_place(value):
    with pytest.raises(ValueError, match=rf"masks: {value:g} at frame 1: must lie in 0\.\.1"):
        FrameValues((0.0, value), name="masks")


def test_rounding_just_outside_the_range_is_cut():
    mask = FrameValues((1.0005, -0.0005), fit="stretch").mask(3, FPS)
    assert mask.min() == 0 and mask.max() == 1


def test_full_range_moves_the_lowest_to_0_and_the_highest_to_1():
    assert full_range((3.0, 5.0, 4.0)) == (0.0, 1.0, 0.5)
    assert full_range((2.0, 2.0)) == (0.0, 0.0)
    assert full_range(()) == ()


def test_a_linear_curve_has_the_value_at_the_middle_of_each_frame():
    curve = parse_curve("0s 0\n1s 1")  # 16 frames
    expected = [min((frame + 0.5) / 16, 1) for frame in range(33)]
    torch.testing.assert_close(curve.frames(33, FPS), torch.tensor(expected))


def test_a_curve_is_constant_before_its_first_and_after_its_last_point():
    for interpolation in ("linear", "smooth", "step"):
        values = parse_curve("8f 0.25\n16f 0.75", interpolation).frames(33, FPS)
        assert values[:8].tolist() == [0.25] * 8 and values[16:].tolist() == [0.75] * 17
        assert parse_curve("4f 0.4", interpolation).frames(5, FPS).tolist() == pytest.approx([0.4] * 5)


def test_a_smooth_curve_passes_its_points_is_monotone_between_them_and_never_overshoots():
    points = [(0, 0.0), (4, 0.1), (12, 0.7), (16, 0.8), (24, 0.2), (32, 0.2)]
    curve = parse_curve("\n".join(f"{time + 0.5}f {value}" for time, value in points), "smooth")
    values = curve.frames(33, FPS).double()
    for time, value in points:
        assert values[time].item() == pytest.approx(value, abs=1e-6)
    assert (values[:17].diff() >= 0).all() and (values[16:25].diff() <= 0).all()
    assert values[24:].tolist() == pytest.approx([0.2] * 9)
    straight = parse_curve("\n".join(f"{time + 0.5}f {value}" for time, value in points)).frames(33, FPS)
    assert (values - straight).abs().max() > 0.02


def test_a_smooth_curve_through_points_of_a_line_is_the_line():
    text = "0.5f 0\n8.5f 0.25\n20.5f 0.625\n32.5f 1"
    torch.testing.assert_close(parse_curve(text, "smooth").frames(33, FPS), parse_curve(text).frames(33, FPS))


def test_a_smooth_curve_with_a_jump_stays_in_range():
    values = parse_curve("0s 0\n1s 0.2\n1s 0.8\nend 1", "smooth").frames(33, FPS)
    assert values[15] <= 0.2 and values[16] >= 0.8
    assert values[16:].diff().min() >= 0


def test_curve_text_takes_every_unit_comments_and_separators():
    curve = parse_curve("# fade\n0 0\n\n 0:01 : 0.5  # clock\n24f, 1\n75%=.5\nend 0.\n")
    assert [(str(point.time), point.value) for point in curve.points] == [
        ("0s", 0.0), ("1s", 0.5), ("24f", 1.0), ("75%", 0.5), ("end", 0.0)
    ]
    assert curve.times(33, FPS) == [0.0, 16.0, 24.0, 24.75, 33.0]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no points"),
        ("# nothing", "no points"),
        ("0s 0\nsoon 1", "line 2.*write a time and a value"),
        ("1s", "line 1.*write a time and a value"),
        ("1s 0.5 x2", "line 1.*write a time and a value"),
        ("1q 0.5", "line 1.*write a time and a value"),
        ("2 0.5", "line 1.*`2` has no unit"),
        ("-1s 0.5", "line 1.*negative time `-1s`"),
        ("120% 0.5", "line 1.*`120%` lies outside"),
        ("1s 1.5", r"line 1.*value `1\.5`.*0\.\.1"),
        ("1s -0.5", r"line 1.*value `-0\.5`"),
    ],
)
def test_bad_curve_text_names_line_and_remedy(text, words):
    with pytest.raises(ValueError, match=words):
        parse_curve(text)


def test_points_out_of_order_or_outside_the_video_are_refused():
    with pytest.raises(ValueError, match="`1s` comes after `50%`, but is earlier"):
        parse_curve("0s 0\n50% 1\n1s 0").mask(9, FPS)
    parse_curve("0s 0\n50% 1\n1s 0").mask(5, FPS)
    with pytest.raises(ValueError, match="`3s` lies outside the video: the video has 33 frames"):
        parse_curve("0s 0\n3s 1").mask(9, FPS)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="`interpolation` = 'wavy'"):
        Curve(parse_curve("0s 1").points, "wavy")


def test_together_is_seen_whenever_one_says_so():
    both = Together((written(1, 5), written(13, 17)))
    assert both.mask(9, FPS).tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["soft", "binary"])
def test_temporal_mask_from_other_sources_has_the_loss_of_the_timeline(kind):
    timing = Timing((TimedPhrase("cat", by_values(13, 29, 33)), TimedPhrase("dog", by_points(5, 18, 33), 1.5)))
    made = TemporalMask(parse_timeline(""), timing=timing, mask=kind)
    said = TemporalMask(parse_timeline("13f - 29f cat\n5f - 18f dog x1.5"), mask=kind)
    maps = torch.rand(2, 2, 9, 2, 2) * 0.02
    assert made.phrases == said.phrases and made.strength == said.strength == 1.5
    torch.testing.assert_close(made.loss(maps, FPS).total, said.loss(maps, FPS).total)


def test_fps_of_the_node_counts_for_curves_and_sounds():
    objective = TemporalMask(parse_timeline(""), timing=Timing((TimedPhrase("cat", parse_curve("0s 0\n1s 1", "step")),)), fps=4.0)
    assert objective.masks(3, 16.0).tolist() == [[0.0, 0.25, 1.0]]  # on from frame 4


def test_what_does_not_fit_is_refused_before_a_run_starts():
    objective = TemporalMask(parse_timeline(""), timing=Timing((TimedPhrase("cat", FrameValues((1.0,) * 7)),)))
    with pytest.raises(ValueError, match="Temporal Mask: input `timing`: .*7 values"):
        objective.skip_reason(9, FPS)
    assert objective.skip_reason(7, FPS) is None


def test_strength_0_is_off_and_nonsense_is_refused():
    off = TemporalMask(parse_timeline(""), timing=Timing((TimedPhrase("cat", written(1, 5), 0.0),)))
    assert off.phrases == () and off.skip_reason(9, FPS)
    for strength in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="`strength`"):
            TimedPhrase("cat", written(1, 5), strength)
    with pytest.raises(ValueError, match="`phrase` is empty"):
        TimedPhrase(" ", written(1, 5))


def test_timings_add_up_in_order_and_are_values():
    one, two = Timing((TimedPhrase("cat", by_values(1, 5, 9)),)), Timing((TimedPhrase("dog", parse_curve("0s 1")),))
    assert [timed.phrase for timed in (one + two).phrases] == ["cat", "dog"]
    assert one == Timing((TimedPhrase("cat", by_values(1, 5, 9)),)) != two
    assert len({one, two, one + two}) == 3
