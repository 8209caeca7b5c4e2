"""The timeline parser against the shared vectors, against random text, and against an independent count of covered frames."""

import json
import random
from pathlib import Path

import pytest
import torch
from wan_conductor.guidance.latent_time import binary, frames_per_second, latent_weights, pixel_frames
from wan_conductor.guidance.timeline import (
    BULLET,
    Timeline,
    TimelineError,
    TimelineLine,
    check_timeline,
    line_mask,
    line_weights,
    normalise,
    parse_timeline,
    sources,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "timeline.json").read_text(encoding="utf-8"))
FRAGMENTS = [
    *"0123456789.:-#%|x[](),\t\n\r ",
    *("s ", "f ", " - ", "–", "～", "０", "：", "end", "always", " x1.5", " x-1", " xnan"),
    *("cat", "猫", "\ufeff", "0s - 2s ", "[00:00-00:10]", "\u0301"),
]


def named(section: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[section], ids=lambda vector: vector.get("name") or repr(vector.get("text", ""))[:30])


@named("parse")
def test_text_reads_as_the_shared_vectors_say(vector):
    timeline = parse_timeline(vector["text"])
    assert timeline.equal_shares == vector["equal_shares"]
    assert len(timeline.lines) == len(vector["lines"])
    for line, expected in zip(timeline.lines, vector["lines"], strict=True):
        assert (line.subject, line.body, line.line) == (expected["subject"], expected["body"], expected["line"])
        assert line.strength == expected["strength"]
        if expected["spans"] is not None:
            assert [str(span) for span in line.spans] == expected["spans"]


@named("parse")
def test_normal_form_is_as_the_shared_vectors_say_and_reads_back(vector):
    timeline = parse_timeline(vector["text"])
    assert timeline.format() == vector["format"]
    assert parse_timeline(timeline.format()) == timeline


@named("errors")
def test_an_error_names_line_and_column_and_points_at_it(vector):
    with pytest.raises(TimelineError) as caught:
        parse_timeline(vector["text"])
    error = caught.value
    assert (error.line, error.column) == (vector["line"], vector["column"])
    first, shown, caret = str(error).split("\n")
    assert vector["says"] in first
    assert f"line {vector['line']}" in first
    assert shown.strip() == vector["text"].split("\n")[vector["line"] - 1].strip()
    assert caret.strip() == "^"


def test_the_caret_stands_under_the_column_behind_tabs_and_wide_characters():
    with pytest.raises(TimelineError) as caught:
        parse_timeline("\talways 猫 x-1")
    _, shown, caret = str(caught.value).split("\n")
    assert shown == "   always 猫 x-1"
    assert caret.index("^") == shown.index("-1") + 1  # 猫 is one character and two columns wide


@named("outside")
def test_spans_outside_the_video_are_refused_once_its_length_is_known(vector):
    with pytest.raises(TimelineError) as caught:
        check_timeline(parse_timeline(vector["text"]), vector["latent_frames"], vector["fps"])
    assert (caught.value.line, caught.value.column) == (vector["line"], vector["column"])
    assert vector["says"] in str(caught.value)


@named("inside")
def test_spans_inside_the_video_pass(vector):
    check_timeline(parse_timeline(vector["text"]), vector["latent_frames"], vector["fps"])


@named("normalise")
def test_pasted_text_becomes_plain_lines(vector):
    assert normalise(vector["text"], lists=vector["lists"]) == vector["gives"]


@named("normalise")
def test_normal_lines_are_stable(vector):
    assert normalise(vector["gives"], lists=vector["lists"]) == vector["gives"]


@named("latent_weights")
def test_latent_weights_are_covered_shares(vector):
    weights = latent_weights(vector["start_frame"], vector["end_frame"], vector["latent_frames"])
    torch.testing.assert_close(weights, torch.tensor(vector["weights"], dtype=torch.float32))
    assert binary(weights).tolist() == vector["binary"]


@named("line_weights")
def test_line_weights_and_masks(vector):
    lines = parse_timeline(vector["text"]).lines
    for line, weights, mask in zip(lines, vector["weights"], vector["binary"], strict=True):
        torch.testing.assert_close(line_weights(line, vector["latent_frames"], vector["fps"]), torch.tensor(weights, dtype=torch.float32))
        assert line_mask(line, vector["latent_frames"], vector["fps"]).tolist() == mask


def test_latent_weights_agree_with_counting_hundredths_of_frames():
    generator = random.Random(0)
    for _ in range(50):
        latent_frames = generator.randint(1, 9)
        start, end = sorted(generator.randint(0, 100 * pixel_frames(latent_frames)) for _ in range(2))
        inside = [start <= tick < end for tick in range(100 * pixel_frames(latent_frames))]
        counted = [sum(inside[100 * first : 100 * last]) / (100 * (last - first)) for first, last in frames_of_latents(latent_frames)]
        torch.testing.assert_close(latent_weights(start / 100, end / 100, latent_frames), torch.tensor(counted, dtype=torch.float32))


def frames_of_latents(latent_frames: int) -> list[tuple[int, int]]:
    """(first, last + 1) pixel frame of each latent, as Wan's VAE chunks a video: one frame, then fours."""
    chunks = [1] + [4] * (latent_frames - 1)
    return [(sum(chunks[:j]), sum(chunks[: j + 1])) for j in range(latent_frames)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 13, 30])
def test_equal_shares_cover_every_latent_once_and_each_keeps_one(count):
    lines = parse_timeline("\n".join(f"event {index}" for index in range(count))).lines
    torch.testing.assert_close(sum(line_weights(line, 13, 16) for line in lines), torch.ones(13))
    assert all(line_mask(line, 13, 16).sum() >= 1 for line in lines)


def test_fps_is_the_nodes_or_follows_the_latent_channels():
    assert frames_per_second(16) == 16
    assert frames_per_second(48) == 24
    assert frames_per_second(48, 0) == 24
    assert frames_per_second(16, 30) == 30
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="fps"):
            frames_per_second(16, wrong)


def test_random_text_reads_or_raises_a_timeline_error_and_its_normal_form_reads_back():
    generator = random.Random(0)
    read = 0
    for _ in range(8000):
        text = "".join(generator.choices(FRAGMENTS, k=generator.randint(0, 24)))
        try:
            timeline = parse_timeline(text)
        except TimelineError as error:
            assert 1 <= error.line and 1 <= error.column
            continue
        read += bool(timeline.lines)
        assert parse_timeline(timeline.format()) == timeline, repr(text)
        assert parse_timeline(timeline.format()).format() == timeline.format()
    assert read > 1000


def test_random_code_points_read_or_raise_a_timeline_error():
    generator = random.Random(1)
    for _ in range(3000):
        ranges = [(0, 0x2FF), (0, 0xD7FF), (0xE000, 0x1FFFF)]
        text = "".join(chr(generator.randint(*generator.choice(ranges))) for _ in range(12))
        for candidate in (text, f"always {text}", f"{text}:\n0s - 1s {text}"):
            normalise(candidate, lists=True)
            try:
                timeline = parse_timeline(candidate)
            except TimelineError:
                continue
            assert parse_timeline(timeline.format()) == timeline, repr(candidate)


def test_random_text_survives_normalising():
    generator = random.Random(2)
    for _ in range(3000):
        text = "".join(generator.choices(FRAGMENTS, k=generator.randint(0, 24)))
        try:
            timeline = parse_timeline(text)
        except TimelineError:
            continue
        if not any(BULLET.match(source.plain, source.indent) for source in sources(text)):
            assert parse_timeline(normalise(text)) == timeline, repr(text)


def test_a_long_line_is_read_in_linear_time():
    parse_timeline("always " + " " * 200_000 + "a" + " x" * 100_000)
    parse_timeline("a\n" * 2000)


def test_line_fields_are_checked():
    with pytest.raises(ValueError, match="body"):
        TimelineLine(None, "  ", ())
    with pytest.raises(ValueError, match="strength = -1"):
        TimelineLine(None, "cat", (), -1)


def test_errors_of_a_timeline_made_in_code_need_no_text():
    made = parse_timeline("4s - 5s cat").lines
    with pytest.raises(TimelineError, match="starts after the end"):
        check_timeline(Timeline(made), 13, 16)
