"""The evaluation of Event Schedule: its verdicts on drawn videos, what it compares, and the rival's penalty."""

import json
import random
from dataclasses import replace

import pytest
import torch
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.patch import AttentionCall, AttentionSite, ModelCall, PromptRows, VideoGrid
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.latent_edit import rows_of_entries
from wan_conductor.host.tokens import encode_with_tokens
from wan_conductor.playground import codec, evaluate_events, network, sockets, world
from wan_conductor.playground.time_penalty import TimePenalty

with_weights = pytest.mark.skipif(not (network.WEIGHTS / "wan.safetensors").is_file(), reason="weights are not made yet")


@pytest.mark.parametrize("group", evaluate_events.GROUPS)
def test_drawn_videos_in_the_told_order_are_all_right_and_in_another_are_not(group):
    for clip in evaluate_events.clips_of(group, 12, 5):
        drawn = world.draw([clip])[0]
        true = [(s.name, list(s.events)) for s in clip.subjects]
        verdict = evaluate_events.judge(drawn, true)
        assert verdict["all_in_order"] == verdict["event_accuracy"] == verdict["colour"] == verdict["continuity"] == 1.0
        assert verdict["shape"] > 0.8 and verdict["subject"] > 0.9 and verdict["background"] == pytest.approx(1.0, abs=5e-3)
        turned = [(name, events[::-1]) for name, events in true]
        if turned != true:
            assert evaluate_events.judge(drawn, turned)["all_in_order"] == 0.0


def test_a_subject_that_jumps_vanishes_or_changes_its_looks_is_marked_down():
    (clip,) = evaluate_events.clips_of("2", 1, 5)
    subject, drawn = clip.subjects[0], world.draw([clip])[0]
    told = [(subject.name, list(subject.events))]
    gone, other = drawn.clone(), drawn.clone()
    gone[6:] = torch.tensor(world.BACKGROUND).view(3, 1, 1)
    assert evaluate_events.judge(gone, told)["colour"] == pytest.approx(6 / 13)
    assert evaluate_events.judge(gone, told)["all_in_order"] == 0.0
    shape = next(s for s in world.SHAPES if s != subject.shape)
    assert evaluate_events.judge(drawn, [(f"{subject.color} {shape}", told[0][1])])["shape"] < 0.2
    other[6] = torch.roll(drawn[6], 8, dims=-1)
    other[1::2] += 0.2
    assert evaluate_events.judge(other, told)["continuity"] < 1.0
    assert evaluate_events.judge(other, told)["background"] < 0.95


@with_weights
@pytest.mark.parametrize("group", evaluate_events.GROUPS)
def test_every_variant_of_every_caption_finds_its_words_in_one_prompt(group):
    clip_model = sockets.load_clip()
    for clip in evaluate_events.clips_of(group, 10, 7):
        told = evaluate_events.told_events(clip)
        assert sorted(e for _, events in told for e in events) == sorted(e for s in clip.subjects for e in s.events)
        encoded = encode_with_tokens(clip_model, clip.caption)
        for name, make in evaluate_events.variants(told, clip.caption, {"strength": 0.5}).items():
            patch = make()
            if patch is None:
                assert name == "plain"
                continue
            assert patch.skip_reason(world.LATENT_FRAMES, 16.0) is None
            schedule = getattr(patch, "schedule", patch)
            schedule.check_prompts(rows_of_entries(encoded, patch.phrases))
            assert schedule.strength == (1.0 if name == "paper" else 0.5)


def test_given_spans_are_the_latent_frames_in_which_the_world_draws_each_event():
    for count in (1, 2, 3, 4):
        events = list(random.Random(count).sample(world.MOTIONS, count))
        text = evaluate_events.drawn_segments([("red circle", events)])
        (weights,) = EventSchedule(parse_timeline(text)).weights(world.LATENT_FRAMES, 16.0)
        assert torch.equal(weights, torch.nn.functional.one_hot(torch.tensor(world.segment_of_frame(count)), count).T.float())


def model_call(**changes):
    told = PromptRows(torch.tensor([False, True]), {0: (0,), 1: (1,), 2: (2, 3)}, None)
    call = ModelCall(VideoGrid(5, 1, 2), tuple(range(5)), 5, 1.0, 0.0, 2, (told,), None, 16.0)
    return replace(call, **changes)


def test_the_time_penalty_is_a_gaussian_of_the_distance_to_the_span_on_positive_rows_alone():
    torch.manual_seed(0)
    schedule = EventSchedule(parse_timeline("cat:\n 0% - 50% jumps\n 50% - end sits down"))
    q, k, v = torch.randn(2, 10, 8), torch.randn(2, 6, 8), torch.randn(2, 6, 8)

    def dense(row, penalty):
        outs = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            logits = q[row, :, part] @ k[row, :, part].T / 2 + penalty
            outs.append(logits.softmax(-1) @ v[row, :, part])
        return torch.cat(outs, -1)

    plain = torch.stack([dense(0, 0), dense(1, 0)])
    handler = TimePenalty(schedule, width=2.0).handler(model_call(), None)
    call = AttentionCall(q, k, v, 2)
    out = handler(AttentionSite(0, "text"), call, lambda _: plain)
    # jumps is current in latents 0, 1, 2 of 5, sits down in 3, 4
    jumps, sits = [0, 0, 0, 1, 2], [3, 2, 1, 0, 0]
    penalty = torch.zeros(10, 6)
    for token in range(10):
        penalty[token, 1] = -(jumps[token // 2] ** 2) / 8
        penalty[token, [2, 3]] = -(sits[token // 2] ** 2) / 8
    torch.testing.assert_close(out[1], dense(1, penalty))
    assert torch.equal(out[0], plain[0])
    assert handler(AttentionSite(0, "self"), call, lambda _: plain) is None


def test_the_penalty_acts_everywhere_or_where_the_schedule_does():
    schedule = EventSchedule(parse_timeline("cat:\n 0% - 50% jumps\n 50% - end sits down"), blocks="odd", end_percent=0.3)
    call = AttentionCall(*(torch.randn(2, n, 8) for n in (10, 6, 6)), 2)
    for alike, end, blocks in ((False, 1.0, [0, 1]), (True, 0.3, [1])):
        penalty = TimePenalty(schedule, alike=alike)
        handler = penalty.handler(model_call(), None)
        assert (penalty.start_percent, penalty.end_percent) == (0.0, end)
        assert [b for b in (0, 1) if handler(AttentionSite(b, "text"), call, lambda c: c.q) is not None] == blocks


@with_weights
def test_a_first_frame_that_is_given_stays_as_it_is_drawn():
    from wan_conductor.playground.sampling import Playground

    playground = Playground(steps=2, cfg=1.0)
    (clip,) = evaluate_events.clips_of("2", 1, 5)
    latent = evaluate_events.first_frame_given(playground, clip, 2)
    videos, _ = playground.sample(playground.encode([clip.caption]), 2, 0, latent=latent)
    drawn = world.draw([clip])
    through = codec.canvas_of_latent(codec.latent_of_canvas(drawn, playground.matrices), playground.matrices)
    torch.testing.assert_close(videos[:, 0], through[:, 0].expand(2, -1, -1, -1), atol=1e-2, rtol=0)
    assert (videos[0, 1:] - videos[1, 1:]).abs().max() > 0.05


@with_weights
def test_the_command_prints_what_the_issue_asks_for(capsys):
    evaluate_events.main(["--captions", "2", "--seeds", "1", "--steps", "1", "--end-percent", "0.6", "--blocks", "all", "--json"])
    result = json.loads(capsys.readouterr().out)
    compared = {
        "plain", "guided", "paper", "given", "planned", "no_motion_mask", "no_reinforcement", "no_rearrangement", "no_raising",
        "time_penalty", "time_penalty_alike",
    }  # fmt: skip
    assert compared <= result.keys() and result["knobs"] == {"end_percent": 0.6, "blocks": "all"}
    for name in compared:
        assert {"event_accuracy", "all_in_order", "subject", "background", "by_events"} <= result[name].keys()
        assert ("minus_plain" in result[name]) == (name != "plain")
    assert result["i2v"].keys() == {"plain", "guided", "captions"}


@with_weights
def test_only_what_is_chosen_is_compared_and_plain_always_is(capsys):
    evaluate_events.main(["--captions", "1", "--seeds", "1", "--steps", "1", "--variants", "paper"])
    result = json.loads(capsys.readouterr().out)
    assert {"plain", "paper"} <= result.keys() and not {"guided", "time_penalty", "i2v"} & result.keys()
