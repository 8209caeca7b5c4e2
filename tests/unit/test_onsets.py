"""Onsets of drawn sounds: known strokes are found within a video frame, and what is none is not."""

import math

import pytest
import torch
from wan_conductor.guidance.onsets import hop_seconds, hops, loud_stretches, loudness, onset_strength, pick_onsets
from wan_conductor.guidance.sound import Sound, smoothed

RATE, SECONDS, FPS, FRAMES = 22050, 5.0625, 16.0, 81


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


def axis(rate=RATE, seconds=SECONDS):
    return torch.arange(round(rate * seconds)) / rate


def strokes(*times, gains=None, rate=RATE, seconds=SECONDS, decay=0.02, noise=0.0):
    """Bursts of noise "1 t" that start at `times` and die away."""
    t = axis(rate, seconds)
    sound = noise * torch.randn(len(t))
    for time, gain in zip(times, gains or [1.0] * len(times), strict=True):
        sound += gain * (t >= time) * torch.exp(-(t - time).clamp(min=0) / decay) * torch.randn(len(t))
    return sound[None]


def tone(hz, start=0.0, end=math.inf, rate=RATE):
    t = axis(rate)
    return (torch.sin(2 * math.pi * hz * t) * (t >= start) * (t < end))[None]


def found(sound, rate=RATE, threshold=0.3, gap=0.1, **band):
    step = hop_seconds(rate)
    return [hop * step for hop in pick_onsets(onset_strength(sound, rate, **band), step, threshold, gap)]


def assert_found(sound, times, **options):
    got = found(sound, **options)
    assert len(got) == len(times), got
    assert all(abs(a - b) < 1 / FPS / 2 for a, b in zip(got, times)), got  # half a frame: rounding then keeps it within one


@pytest.mark.parametrize("times", [[2.31], [0.7, 4.0], [0.7, 1.5, 4.0], [0.5, 1.13, 2.37, 4.9]])
@pytest.mark.parametrize("seed", range(4))
def test_one_to_four_strokes_are_found(times, seed):
    torch.manual_seed(seed)
    assert_found(strokes(*times), times)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000, 96000])
def test_any_sample_rate(rate):
    assert_found(strokes(0.7, 2.31, 4.0, rate=rate), [0.7, 2.31, 4.0], rate=rate)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_strokes_in_noise_are_found_and_nothing_else(noise, seed):
    torch.manual_seed(seed)
    assert_found(strokes(0.7, 1.5, 2.31, 4.0, noise=noise), [0.7, 1.5, 2.31, 4.0])


@pytest.mark.parametrize("gain", [0.2, 0.1, 0.05])
def test_weak_strokes_are_found_until_the_threshold_says_otherwise(gain):
    sound = strokes(0.7, 1.5, 2.31, gains=[1.0, gain, 1.0])
    assert_found(sound, [0.7, 1.5, 2.31])
    assert_found(sound, [0.7, 2.31], threshold=0.85)


def test_strokes_that_ring_into_each_other_are_found():
    """Equal strokes into a sound that still rings: the second brings 6 dB, not 40."""
    assert_found(strokes(0.7, 1.5, 2.3, 3.1, decay=0.4), [0.7, 1.5, 2.3, 3.1], threshold=0.2)


def test_of_strokes_nearer_than_the_gap_the_strongest_counts():
    close = strokes(1.0, 1.06, 2.0, gains=[0.05, 1.0, 1.0])
    assert_found(close, [1.06, 2.0])
    assert_found(close, [1.0, 1.06, 2.0], gap=0.03, threshold=0.15)


def test_tones_start_but_do_not_stop():
    beeps = sum(tone(880, start, start + 0.3) for start in (0.5, 1.5, 3.0))
    assert_found(beeps, [0.5, 1.5, 3.0])


@pytest.mark.parametrize(
    "sound",
    [torch.zeros(1, RATE), torch.zeros(1, 0), torch.zeros(1, 7), tone(440), tone(40), strokes(noise=0.1), strokes(noise=1e-4)],
    ids=["silence", "nothing", "seven samples", "steady tone", "steady bass", "steady noise", "dither"],
)
def test_what_does_not_strike_up_has_no_onset(sound):
    assert found(sound) == []


def test_a_sound_cut_from_its_middle_has_no_onset_at_its_start_and_a_stroke_has():
    assert_found(strokes(2.0, noise=0.1), [2.0])
    assert_found(strokes(0.0, 2.0), [0.0, 2.0])


def test_channels_are_joined_by_power_so_that_opposite_phases_do_not_cancel():
    left = strokes(0.7, 2.31)
    torch.testing.assert_close(onset_strength(torch.cat([left, -left]), RATE), onset_strength(left, RATE))
    assert_found(torch.cat([strokes(0.7), strokes(2.31)]), [0.7, 2.31])


def test_a_band_hears_only_its_own_strokes():
    low, high = tone(80, 1.0, 1.4), tone(6000, 2.5, 2.6)
    assert_found(low + high, [1.0, 2.5])
    assert_found(low + high, [2.5], low_hz=3000.0)
    assert_found(low + high, [1.0], high_hz=150.0)
    assert found(low + high, low_hz=10900.0, high_hz=10901.0) == []  # between two bins


def test_strength_is_loudness_free_and_bounded():
    sound = strokes(0.7, 2.31, noise=0.05)
    torch.testing.assert_close(onset_strength(sound * 0.1, RATE), onset_strength(sound, RATE), rtol=1e-3, atol=1e-4)
    assert 0 <= onset_strength(sound, RATE).min() and onset_strength(sound, RATE).max() <= 1


def test_magnitude_and_loudness_of_a_sine():
    rate = 20000
    sound = 0.5 * tone(1000, rate=rate)
    magnitudes, frequencies = hops(sound, rate)
    assert frequencies[magnitudes[:, 100].argmax()] == pytest.approx(1000, abs=rate / 460)
    assert magnitudes[:, 100].max() == pytest.approx(0.5, rel=0.02)
    assert loudness(sound, rate)[100] == pytest.approx(0.5 / math.sqrt(2), rel=0.02)


def test_loud_stretches_are_half_open_and_bridge_short_pauses():
    level = torch.tensor([0.0, 1.0, 0.8, 0.1, 0.9, 0.0, 0.0, 0.0, 0.5])
    assert loud_stretches(level, 0.01, 0.5, gap=0.0) == [(1, 3), (4, 5), (8, 9)]
    assert loud_stretches(level, 0.01, 0.5, gap=0.01) == [(1, 5), (8, 9)]
    assert loud_stretches(torch.zeros(9), 0.01, 0.5, gap=0.01) == []


def spans(sound, frames=FRAMES, **knobs):
    return [span.frames(frames, FPS) for span in Sound(sound, RATE, **knobs).spans(frames, FPS)]


def test_onsets_become_windows_in_pixel_frames():
    assert spans(strokes(0.75, 2.5), width=0.5) == [(12, 20), (40, 48)]
    assert spans(strokes(0.75, 2.5), width=0.0) == [(12, 13), (40, 41)]  # at least one frame


def test_windows_are_cut_at_the_end_of_the_video_and_vanish_outside():
    assert spans(strokes(4.75), width=0.5) == [(76, 81)]
    assert spans(strokes(4.75), width=0.5, offset=1.0) == []
    assert spans(strokes(0.25), width=0.5, offset=-0.5) == [(0, 4)]


def test_offset_moves_every_onset():
    assert spans(strokes(0.75, 2.5), width=0.5, offset=-0.25) == [(8, 16), (36, 44)]


def test_until_the_next_and_until_the_end():
    sound = strokes(0.75, 2.5, 4.0)
    assert spans(sound, shape="until the next") == [(12, 40), (40, 64), (64, 81)]
    assert spans(sound, shape="until the next", beats="1, 3") == [(12, 40), (64, 81)]
    assert spans(sound, shape="until the end", beats="2") == [(40, 81)]


def test_beats_count_in_time_and_the_strongest_in_strength():
    sound = strokes(0.75, 2.5, 4.0, gains=[1.0, 0.1, 1.0])
    assert [start for start, _ in spans(sound, beats="last")] == [64]
    assert [start for start, _ in spans(sound, strongest=2)] == [12, 64]
    assert [start for start, _ in spans(sound, strongest=2, beats="2")] == [64]
    with pytest.raises(ValueError, match=r"`beats` = '4', but 3 found in the 5\.06 s"):
        spans(sound, beats="4")


def test_the_sound_is_trimmed_to_the_clip_before_anything_is_measured():
    """The loud stroke behind the end must not make the quiet one before it negligible, nor move any in time."""
    sound = strokes(0.75, 4.5, gains=[0.01, 1.0])
    assert spans(sound, frames=33, width=0.5) == [(12, 20)]
    assert spans(sound, width=0.5) == [(72, 80)]


def test_after_a_sound_that_ends_early_there_is_silence():
    short = strokes(0.75, seconds=1.0)
    assert spans(short, width=0.5) == [(12, 20)]
    assert Sound(tone(300)[:, :RATE], RATE, shape="envelope", measure="loudness").mask(21, FPS)[-1] < 0.01


def test_loudness_is_seen_while_it_lasts():
    sound = tone(300, 1.0, 2.0) + 0.1 * tone(300, 3.0, 4.0)
    (start, end), = spans(sound, measure="loudness", width=0.0)
    assert abs(start - 16) <= 1 and abs(end - 32) <= 1
    assert len(spans(sound, measure="loudness", width=0.0, threshold=0.05)) == 2
    assert spans(sound, measure="loudness", width=2.0)[0][1] == start + 32


def test_the_envelope_keeps_peaks_and_smooths_the_rest():
    sound = Sound(strokes(0.75, 2.5, gains=[1.0, 0.2]), RATE, shape="envelope", keep=0.9, smoothing=0.25)
    s, envelope = sound.frames(FRAMES, FPS), sound.envelope(FRAMES, FPS)
    kept = s >= 0.9
    assert kept.any() and torch.equal(envelope[kept], s[kept])
    reference = []
    for p in range(FRAMES):
        weights = [math.exp(-((p - q) ** 2) / (2 * 4**2)) for q in range(FRAMES)]  # 0.25 s are 4 frames
        reference.append(sum(weight * s[q].item() for q, weight in enumerate(weights)) / sum(weights))
    torch.testing.assert_close(envelope[~kept], torch.tensor(reference)[~kept], rtol=1e-4, atol=1e-5)


def test_a_latent_of_an_envelope_is_as_strong_as_its_strongest_frame():
    mask = Sound(strokes(0.75, 2.5), RATE, shape="envelope").mask(21, FPS)
    assert mask.argmax() in (3, 10)
    assert (mask > 0.7).nonzero().flatten().tolist() == [3, 10]  # frames 12 and 40, each one of four


@pytest.mark.parametrize("fps", [8.0, 16.0, 24.0, 240.0])
def test_the_curve_of_a_sound_peaks_at_its_stroke_at_any_frame_rate(fps):
    curve = Sound(strokes(2.5), RATE).frames(round(5 * fps) // 4 * 4 + 1, fps)
    assert curve.max() == 1 and curve.min() == 0
    assert curve.argmax() / fps == pytest.approx(2.5, abs=max(1 / fps, 0.02))


@pytest.mark.parametrize("shape", ["windows", "until the next", "until the end", "envelope"])
@pytest.mark.parametrize("measure", ["onsets", "loudness"])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_silence_gives_an_empty_mask(shape, measure, binary, threshold):
    for sound in (torch.zeros(2, RATE), torch.zeros(1, 0)):
        assert not Sound(sound, RATE, shape=shape, measure=measure, threshold=threshold).mask(21, FPS, binary).any()


@pytest.mark.parametrize("rate", [1, 50, 999])
def test_a_sample_rate_too_low_for_sound_is_no_crash(rate):
    for shape in ("windows", "envelope"):
        assert Sound(torch.rand(2, 5 * rate), rate, shape=shape).mask(21, FPS).isfinite().all()


def test_a_one_latent_clip():
    assert Sound(strokes(0.75), RATE).mask(1, FPS).tolist() == [0.0]


def test_smoothing_keeps_a_constant_and_zero_changes_nothing():
    torch.testing.assert_close(smoothed(torch.full((9,), 0.4), 2.0), torch.full((9,), 0.4))
    values = torch.rand(9)
    assert torch.equal(smoothed(values, 0.0), values)


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"threshold": 1.5}, "`threshold` = 1.5"),
        ({"gap": float("nan")}, "`gap` = nan"),
        ({"width": -1.0}, "`width` = -1"),
        ({"measure": "pitch"}, "`measure` = 'pitch'"),
        ({"shape": "dots"}, "`shape` = 'dots'"),
        ({"beats": "0"}, "`beats` = '0'"),
        ({"beats": "1;2"}, "`beats` = '1;2'"),
        ({"low_hz": 500.0, "high_hz": 500.0}, "`high_hz` = 500"),
        ({"rate": 0}, "sample rate of 0"),
        ({"waveform": torch.zeros(1, 1, 9)}, r"shape \(1, 1, 9\)"),
        ({"waveform": torch.full((1, 9), float("nan"))}, "not finite"),
    ],
)
def test_bad_knobs_are_refused_by_name_and_value(knobs, words):
    with pytest.raises(ValueError, match=f"Audio to Timing: .*{words}"):
        Sound(**{"waveform": torch.zeros(1, 9), "rate": RATE, **knobs})
