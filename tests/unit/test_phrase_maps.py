"""The maps behind Attention Preview: which evaluations are kept, how large they get, and where the picture draws them."""

import json
from itertools import chain

import numpy as np
import pytest
import torch
from wan_conductor.guidance.latent_time import frames_of_latent, pixel_frames
from wan_conductor.guidance.objective import PhraseAt, PhraseRef, RestOfPrompt
from wan_conductor.guidance.phrase_maps import MOST_TOKENS, Evaluations, PhraseMaps, StepMaps, depth_agreement, small
from wan_conductor.guidance.preview_pictures import LEFT, RIGHT, preview_figure, preview_numbers, shown_frame
from wan_conductor.guidance.report import GuidanceReport, GuidedStep, IterationRecord, LoopHistory, ObjectiveRecord

CAT, DOG = PhraseRef("cat"), PhraseRef("dog")
FRAMES = 6
TILE = (1200 - LEFT - RIGHT) / FRAMES


def maps(evaluation, phrases=2, videos=2, frames=FRAMES, h=3, w=5):
    """ "b g f h w" whose numbers tell evaluation, video and phrase apart."""
    tag = torch.zeros(videos, phrases, frames, h, w) + evaluation
    return tag + 0.25 * torch.arange(videos)[:, None, None, None, None] + 0.0625 * torch.arange(phrases)[:, None, None, None]


def report_of(of_run, mask=(0.0, 0.0, 0.0, 1.0, 1.0, 1.0)):
    traces = {"correlation": [[0.0]], "attention": [[[0.5] * FRAMES]], "mask": [list(mask)]}
    record = IterationRecord(0, (ObjectiveRecord("Temporal Mask", [1.0], {}, [False], traces),), [False])
    step = GuidedStep(0, 1.0, "model", [["cat"]], 1.0, True, LoopHistory((record,), [0], [0.0], ["satisfied"], 1, 0))
    return GuidanceReport(fps=16.0, latent_frames=FRAMES, steps=[step], maps=of_run)


def one_hot(latent, y, x, when="after", h=4, w=4):
    """Maps of one step with all attention on one token."""
    both = {"before": torch.zeros(1, FRAMES, h, w), "after": torch.zeros(1, FRAMES, h, w)}
    both[when][0, latent, y, x] = 0.5
    step = StepMaps(0, **{name: values.half() for name, values in both.items()})
    return {CAT: PhraseMaps(step, step)}


def test_latent_frames_share_out_every_pixel_frame_in_order():
    assert list(chain.from_iterable(frames_of_latent(latent) for latent in range(FRAMES))) == list(range(pixel_frames(FRAMES)))
    assert [list(frames_of_latent(latent)) for latent in (0, 1, 20)] == [[0], [1, 2, 3, 4], [77, 78, 79, 80]]
    assert all(shown_frame(latent) in frames_of_latent(latent) for latent in range(30))


def test_before_is_the_first_evaluation_and_after_the_one_that_each_video_kept():
    of_run = {}
    evaluations = Evaluations([CAT, DOG], of_run)
    for number in range(3):
        given = maps(number)
        assert evaluations.seen(given) is given
    evaluations.keep(4, [1, 3])  # the second video's last update was measured by nothing
    kept = of_run[DOG].first
    assert kept.step == 4 and kept is of_run[DOG].last
    assert torch.equal(kept.before.float(), maps(0)[:, 1])
    assert torch.equal(kept.after.float(), torch.stack([maps(1)[0, 1], maps(2)[1, 1]]))


def test_the_agreement_by_depth_is_the_correlation_of_mean_maps():
    by_block = torch.rand(4, 2, 3, 50, generator=torch.Generator().manual_seed(0))
    found = depth_agreement(by_block)
    assert found.shape == (4, 2, 3)
    for depth in range(4):
        first, every = by_block[: depth + 1].mean(0)[1, 2], by_block.mean(0)[1, 2]
        assert found[depth, 1, 2].item() == pytest.approx(np.corrcoef(first.numpy(), every.numpy())[0, 1], abs=1e-5)
    assert depth_agreement(torch.ones(2, 1, 1, 50)).abs().max() == 0  # a flat map tells nothing


def test_of_several_steps_the_first_and_the_last_that_measured_a_phrase_stay():
    of_run = {}
    for step, phrases in ((0, [CAT]), (1, [CAT, DOG]), (2, [CAT, DOG]), (3, [DOG])):
        evaluations = Evaluations(phrases, of_run)
        evaluations.seen(maps(step, len(phrases)))
        evaluations.keep(step, [0, 0])
    assert {ref: (of.first.step, of.last.step) for ref, of in of_run.items()} == {CAT: (0, 2), DOG: (1, 3)}


def test_only_phrases_that_somebody_named_are_kept_each_under_its_own_name():
    of_run = {}
    evaluations = Evaluations([RestOfPrompt(), CAT, PhraseAt("cat", block=1), DOG], of_run)
    evaluations.seen(maps(0, 4))
    evaluations.keep(0, [0, 0])
    assert {ref: float(of.first.before[0].mean()) for ref, of in of_run.items()} == {CAT: 0.0625, DOG: 3 * 0.0625}


def test_nothing_is_copied_where_nobody_will_look(monkeypatch):
    monkeypatch.setattr("wan_conductor.guidance.phrase_maps.small", lambda maps: pytest.fail("copied"))
    for evaluations in (Evaluations([CAT], None), Evaluations([RestOfPrompt()], {})):
        evaluations.seen(maps(0, 1))
        evaluations.keep(0, [0, 0])


def test_a_kept_map_is_bounded_by_averaging_and_takes_two_bytes_a_number():
    large = torch.zeros(1, 1, 2, 3 * MOST_TOKENS, 20)
    large[0, 0, 1, 3:6, 4] = 0.5  # one column of the second row of blocks of three
    kept = small(large)
    assert kept.dtype == torch.float16 and kept.shape == (1, 1, 2, MOST_TOKENS, 20)
    expected = torch.zeros(2, MOST_TOKENS, 20)
    expected[1, 1, 4] = 0.5
    assert torch.equal(kept[0, 0].float(), expected)
    assert kept[0, 0, 0].nbytes * 4 <= 32 * 1024


def test_the_json_of_a_report_does_not_grow_by_its_maps():
    with_maps, without = report_of(one_hot(2, 1, 1)), report_of(None)
    assert with_maps.to_json() == without.to_json() and "maps" not in json.loads(without.to_json())
    assert with_maps.maps, "and the report itself keeps them"
    assert GuidanceReport.from_json(with_maps.to_json()) == with_maps


def heat_in(of_run):
    """Pixels "n 2" (y, x) of the red-brown of heat, which is neither grey nor the mask's blue, over white frames."""
    picture = preview_figure(report_of(of_run), np.full((pixel_frames(FRAMES), 40, 40, 3), 1.0)).astype(int)
    return np.argwhere((picture[..., 0] - picture[..., 2] > 60) & (picture[..., 0] > 150))


@pytest.mark.parametrize("latent, y, x", [(1, 0, 3), (4, 3, 0), (5, 1, 1)])
def test_heat_stands_in_the_column_of_its_latent_the_row_of_its_time_and_the_place_of_its_token(latent, y, x):
    before, after = (heat_in(one_hot(latent, y, x, when)).mean(0) for when in ("before", "after"))
    for _, middle in (before, after):
        assert (middle - LEFT) / TILE == pytest.approx(latent + (x + 0.5) / 4, abs=0.05)
    assert after[0] - before[0] == pytest.approx(TILE, abs=2)
    (higher, _), (lower, _) = (heat_in(one_hot(latent, row, x)).mean(0) for row in (0, 3))
    assert lower - higher == pytest.approx(0.75 * TILE, abs=0.05 * TILE)


def test_a_column_shows_a_frame_that_its_latent_covers():
    frames = np.zeros((pixel_frames(FRAMES), 8, 8, 3))
    frames[list(frames_of_latent(3))] = (0.0, 1.0, 0.0)
    picture = preview_figure(report_of(one_hot(0, 0, 0)), frames)
    green = np.argwhere((picture == (0, 255, 0)).all(-1))
    assert LEFT + 3 * TILE - 2 <= green[:, 1].min() and green[:, 1].max() <= LEFT + 4 * TILE
    assert len(green) > 0.9 * TILE**2


def test_the_first_latent_frame_has_no_say_in_the_scale():
    of_run = one_hot(2, 1, 1)
    of_run[CAT].first.before[0, 0] = 100.0
    assert np.isin(2, (heat_in(of_run)[:, 1] - LEFT) // TILE)


def test_frames_of_another_length_are_refused():
    with pytest.raises(ValueError, match="20 frames: a video of 6 latent frames has 21"):
        preview_figure(report_of(one_hot(0, 0, 0)), np.zeros((20, 8, 8, 3)))


def test_the_numbers_are_mean_shares_of_each_latent_frame():
    (told,) = preview_numbers(report_of(one_hot(2, 1, 1)))
    assert told["phrase"] == "cat" and told["mask"] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert told["last"]["after"] == [0.0, 0.0, 0.5 / 16, 0.0, 0.0, 0.0] and told["last"]["before"] == [0.0] * 6


def test_a_long_video_goes_on_in_a_second_line_and_more_phrases_make_the_picture_taller():
    def picture(latents, *refs):
        step = StepMaps(0, torch.rand(1, latents, 2, 2).half(), torch.rand(1, latents, 2, 2).half())
        frames = np.zeros((pixel_frames(latents), 8, 8, 3))
        frames[list(frames_of_latent(latents - 1))] = (0.0, 1.0, 0.0)
        drawn = preview_figure(GuidanceReport(16.0, latents, maps=dict.fromkeys(refs, PhraseMaps(step, step))), frames)
        return drawn, np.argwhere((drawn == (0, 255, 0)).all(-1))

    (short, _), (one_line, _), (two_lines, last), (long, _) = (picture(latents, CAT) for latents in (5, 13, 21, 61))
    assert len(two_lines) > 1.9 * len(one_line) and len(long) < 1.2 * len(two_lines)
    assert last[:, 0].min() > len(two_lines) / 2  # the tenth of that line, whose columns are as wide as the first line's eleven
    assert (last[:, 1].mean() - LEFT) / ((1200 - LEFT - RIGHT) / 11) == pytest.approx(9.5, abs=0.05)
    assert len(picture(13, CAT, DOG)[0]) > len(one_line) + 90
    assert {drawn.shape[1] for drawn in (short, one_line, two_lines, long)} == {1200}
