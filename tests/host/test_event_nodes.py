"""Event Schedule, Plan Events and Event Report as nodes: what they refuse, pass on, show and draw."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_wan
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from guided_prompts import prompt
from test_event_schedule import CAT, JUMPS, JUMPS_ROW, SITS, SITS_ROW, TEXT, TIMELINE, observed
from wan_conductor.guidance.event_trace import MOST_TOKENS, EventMeasurement, EventRecord, EventTrace, pooled
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.objective import Objective, PhraseRef
from wan_conductor.guidance.patch import AttentionSite, Patch
from wan_conductor.guidance.report import GuidanceReport, PatchReport, SkippedStep
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.attach import attached
from wan_conductor.nodes import event_schedule as event_schedule_node
from wan_conductor.nodes.event_report import EventReport
from wan_conductor.nodes.event_schedule import EventScheduleNode
from wan_conductor.nodes.guided_ksampler import GuidedKSampler
from wan_conductor.nodes.plan_events import PlanEvents
from wan_conductor.tests.unit import event_reference

pytestmark = pytest.mark.usefixtures("host_folders")
STEPS = 6


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


@pytest.fixture(scope="module")
def low():
    return tiny_wan.load(layers=2, seed=5)


def events(model, timeline=TIMELINE, conditioning=None, **knobs):
    return EventScheduleNode.execute(model, conditioning or prompt(TEXT), timeline, **knobs)


def attached_to(output, place=0):
    (schedule,) = attached(output.args[place].model_options)
    return schedule


def text_of(output):
    return output.ui.as_dict()["text"][0]


def guided(model, low=None, batch=1, size=(8, 6), positive=None, **knobs):
    empty = {"samples": torch.zeros(batch, 16, 5, *size)}
    return GuidedKSampler.execute(
        model, "enable", 7, STEPS, 3.0, "euler", "simple", positive or prompt(TEXT), prompt("bad", seed=2), empty, 0, 10000, "disable",
        {"budget": "auto"}, {"switch_at": "t2v"}, model_low_noise=low, **knobs,
    ).args


def test_it_is_a_patch_and_no_objective(model):
    schedule = attached_to(events(model))
    assert isinstance(schedule, Patch)
    assert not isinstance(schedule, Objective)


@pytest.mark.parametrize("kind, end", [("t2v", 0.2), ("5B", 0.2), ("vace", 0.2), ("i2v", 0.4), ("i2v_2.2", 0.4)])
def test_the_papers_span_follows_the_kind_of_model_unless_it_is_given(kind, end):
    model = tiny_wan.load(kind, layers=1)
    assert (attached_to(events(model)).start_percent, attached_to(events(model)).end_percent) == (0.0, end)
    assert attached_to(events(model, end_percent=0.7)).end_percent == 0.7


def test_knobs_reach_the_method_and_the_node_s_defaults_are_the_methods(model):
    assert attached_to(events(model)) == EventSchedule(parse_timeline(TIMELINE))
    knobs = {"strength": 0.5, "erode": "full", "blocks": "all", "start_percent": 0.1, "end_percent": 0.3, "r_max": 2.0, "fps": 8.0}
    knobs |= {"top_fraction": 0.8, "statistics": "words", "hold_back": "everywhere", "raising": 0.5}
    schedule = attached_to(events(model, occurrence=" First ", **knobs))
    assert {name: getattr(schedule, name) for name in knobs} == knobs and schedule.occurrence == "first"
    assert attached_to(events(model, occurrence="1")).occurrence == 1
    defaults = {one.id: one.default for one in EventScheduleNode.GET_SCHEMA().inputs if hasattr(one, "default")}
    assert (defaults["strength"], defaults["erode"], defaults["blocks"], defaults["r_max"]) == (1.0, "isolated", "odd", 1.5)


def test_both_experts_carry_one_schedule_and_without_a_second_the_output_says_what_to_connect(model, low):
    pair = events(model, model_low_noise=low)
    assert attached_to(pair, 0) is attached_to(pair, 1)
    for output in (events(model), events(model, "")):
        assert isinstance(output.args[1], ExecutionBlocker) and "model_low_noise" in output.args[1].message


@pytest.mark.parametrize("timeline, strength", [("", 1.0), ("# nothing yet", 1.0), ("cat:\n always jumps x0", 1.0), (TIMELINE, 0.0)])
def test_a_schedule_that_asks_for_nothing_returns_the_very_models(model, low, timeline, strength):
    output = events(model, timeline, strength=strength, model_low_noise=low)
    assert output.args[0] is model and output.args[1] is low
    assert "unchanged" in text_of(output)


def test_it_shows_tokens_spans_and_the_controlled_part(model):
    text = text_of(events(model, "cat:\n  0s - 0.5s  jumps x1.5\n  50% - end  sits"))
    cat, jumps, sits, last = text.splitlines()
    assert cat.startswith("cat: ") and "1" in cat and not cat.startswith(" ")
    assert jumps.startswith("  jumps: ") and jumps.endswith("|  0s - 0.5s x1.5")
    assert sits.startswith("  sits: ") and sits.endswith("|  50% - end")
    assert last == "seconds at 16 fps, controlled from 0% to 20%"


def test_equal_shares_are_shown_without_the_digits_of_a_float(model):
    _, *events_shown, _ = text_of(events(model, "cat:\n  jumps\n  sits\n  jumps")).splitlines()
    assert [line.split("|")[1].strip() for line in events_shown] == ["0% - 33.3%", "33.3% - 66.7%", "66.7% - end"]


def test_pasted_forms_are_read_and_shown_as_they_were_read(model):
    text = text_of(events(model, "cat:\n  jumps | sits"))
    assert "read as:\ncat:\n  jumps\n  sits" in text
    assert "0% - 50%" in text and "read as" not in text_of(events(model))


def test_the_default_timeline_works_with_the_prompt_it_tells_of(model):
    told = prompt("a cat watches a bowl then dips its paw and takes it out", rows=32)
    assert len(attached_to(events(model, event_schedule_node.TIMELINE, told)).phrases) == 4


@pytest.mark.parametrize(
    "change, words",
    [
        ({"timeline": "cat:\n 5s - 2s  jumps"}, "Event Schedule.*line 2"),
        ({"timeline": "always jumps"}, "Event Schedule.*without a subject"),
        ({"timeline": "cat:\n always jumps\ndog:\n always jumps"}, "already belongs to `cat`"),
        ({"timeline": "cat:\n always elephant"}, "Event Schedule: input `conditioning`: .*elephant"),
        ({"timeline": "dog:\n always jumps"}, "dog"),
        ({"timeline": "cat:\n always jumps\ntheir dog:\n always dog jumps", "conditioning": prompt("a cat and their dog jumps")},
         "same word of the prompt"),
        ({"conditioning": tiny_wan.conditioning()}, "Conductor Text Encode"),
        ({"conditioning": prompt("a cat") + prompt("it jumps and sits")}, "`cat` and its events .*different prompts: write both into one"),
        ({"occurrence": "third"}, "third"),
        ({"start_percent": 0.5}, "`end_percent` = 0.2: must not lie before `start_percent` = 0.5"),
    ],
    ids=str,
)
def test_bad_input_is_refused_by_the_node_itself(model, change, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        events(model, **change)


def test_models_that_are_not_wan_are_refused_by_name(model):
    class Flux:
        model = None

    with pytest.raises(ValueError, match="Event Schedule: input `model` = "):
        events(Flux())
    with pytest.raises(ValueError, match="Event Schedule: input `model_low_noise` = "):
        events(model, model_low_noise=Flux())


def test_spans_beyond_the_video_are_refused_before_the_first_step(model):
    with pytest.raises(ValueError, match="Event Schedule.*outside the video|Event Schedule.*after the end"):
        guided(events(model, "cat:\n 0s - 9s jumps\n 9s - end sits").args[0])


def test_a_plan_is_shown_and_is_what_event_schedule_reads(model):
    words = "a cat watches a bowl, then dips its paw and finally takes it out"
    output = PlanEvents.execute(words)
    assert output.args[0] == text_of(output)
    assert output.args[0].startswith("cat:\n  0% - 33.3%") and "takes it out" in output.args[0]
    (context, keys), = prompt(words.replace(",", ""), rows=32)
    assert attached_to(events(model, output.args[0], [[context, keys]])).subjects[0].phrase == "cat"


def test_a_prompt_without_events_is_refused_by_the_planner():
    with pytest.raises(ValueError, match="Plan Events: input `prompt` = 'rain'.*write the timeline by hand"):
        PlanEvents.execute("rain")


def test_the_report_holds_the_masks_and_the_attention_of_the_formulas(model):
    """Event Schedule's own calls, watched from outside: motion masks and shares of attention by the dense reference."""
    watched, after, before = observed(model, attached_to(events(model)))
    _, report = guided(watched, batch=2)
    (told,) = [patch for patch in report.patches if patch.name == "Event Schedule"]
    assert (told.model, told.steps) == ("model", [0, 1])
    record = EventRecord.from_dict(told.measured)
    assert (record.fps, record.calls, record.partial, len(record.samples)) == (16.0, 2, 0, 2)
    calls = [seen for seen in before if seen.site == AttentionSite(1, "text") and seen.call.progress < 0.2]
    assert len(calls) == 2
    subjects = [(CAT, [(JUMPS_ROW, JUMPS, 1.0), (SITS_ROW, SITS, 1.0)])]
    masks, shares = [], []
    for seen in calls:
        q, k, v = (x[[3]].unflatten(2, (2, 128)) for x in (seen.q, seen.k, seen.v))  # the second video, positive
        of_call = torch.tensor(event_reference.rearranged_attention(q, k, v, (5, 4, 3), subjects)[1])[0, 0]
        p = torch.einsum("nhd,thd->hnt", q[0].double(), k[0].double()).div(128**0.5).softmax(-1).mean(0)
        masks.append(of_call.double())
        shares.append(p[:, [JUMPS_ROW[0], SITS_ROW[0]]])
    subject = record.samples[1][0]
    assert (subject.subject, subject.events, subject.spans) == ("cat", ["jumps", "sits"], [JUMPS, SITS])
    np.testing.assert_allclose(np.array(subject.motion).reshape(-1), torch.stack(masks).mean(0), atol=1e-3)
    for frame in range(5):
        tokens = slice(12 * frame, 12 * frame + 12)
        weight = torch.stack([mask[tokens] for mask in masks])
        for event in range(2):
            if weight.sum():
                wanted = (torch.stack([share[tokens, event] for share in shares]) * weight).sum() / weight.sum()
                assert subject.before[event][frame] == pytest.approx(float(wanted), abs=2e-4)
    current = np.array([JUMPS, SITS], dtype=bool)
    gained = np.array(subject.after, dtype=float) - np.array(subject.before, dtype=float)
    seen_frames = np.isfinite(gained)
    assert (gained[current & seen_frames] > 0).all() and (gained[~current & seen_frames] < 0).all()


def test_the_report_is_plain_json_and_both_experts_are_in_it(model, low):
    pair = events(model, model_low_noise=low, end_percent=1.0)
    _, report = guided(*pair.args)
    assert GuidanceReport.from_json(report.to_json()).patches == report.patches
    assert [patch.model for patch in report.patches] == ["high noise", "low noise"]
    assert [step for patch in report.patches for step in patch.steps] == list(range(STEPS))
    output = EventReport.execute(report)
    assert len(output.args[0]) == 2
    assert not torch.equal(output.args[0][0], output.args[0][1])


def test_the_low_noise_expert_is_stock_where_its_part_lies_outside_the_span(model, low):
    pair = events(model, model_low_noise=low)
    _, report = guided(*pair.args)
    assert [(patch.model, patch.steps) for patch in report.patches] == [("high noise", [0, 1])]
    assert torch.equal(guided(*pair.args)[0]["samples"], guided(pair.args[0], low)[0]["samples"])


def test_what_is_recorded_does_not_grow_with_the_video_s_size_or_the_calls():
    schedule = EventSchedule(parse_timeline(TIMELINE))
    measured = EventMeasurement(schedule)
    for _ in range(3):
        trace = measured.trace_of(2, 16.0)
        trace.add(torch.ones(1, 1, 2, 45, 80, dtype=torch.bool), torch.ones(2, 1, 2, 2), torch.ones(1, 2, 2), [True], None)
    motion = np.array(measured.to_dict()["samples"][0][0]["motion"])
    assert motion.shape == (2, MOST_TOKENS, MOST_TOKENS) and (motion == 1).all()
    assert trace.masks.numel() == 2 * 45 * 80 and trace.calls == 3
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 1, 64, 64)
    torch.testing.assert_close(pooled(ramp)[0, 0, 0, 0], ramp[0, 0, 0, 0].view(32, 2).mean(1))


def test_prompts_without_a_subject_do_not_thin_its_mask_and_areas_do_not_smear_it():
    trace = EventTrace(1)
    one, other = torch.zeros(2, 1, 2, 1, 2, 2, dtype=torch.bool)
    one[:, 0], other[:, 1, :, :, 0] = True, True
    for masks, acting in ((one, [True, False]), (other, [False, True])):
        trace.add(masks, torch.zeros(2, 1, 2, 1), torch.ones(1, 2, 1), acting, None)
    trace.add(one[..., :1], torch.zeros(2, 1, 2, 1), torch.ones(1, 2, 1), [True, True], None)
    assert trace.motion()[0, 0, 0].tolist() == [[1, 1], [1, 1]] and trace.motion()[0, 1, 0].tolist() == [[1, 0], [1, 0]]
    assert (trace.partial, trace.calls) == (1, 3)


def test_prompts_for_areas_are_led_and_told_apart_in_the_report(model):
    """A second prompt for the left half, whose calls see half a picture: there the host gives the negative text the positive's uuid."""
    (context, keys), = prompt("a cat sits", seed=3)
    left = [[context, {**keys, "area": (8, 6, 0, 0), "strength": 1.0}]]
    schedule = attached_to(events(model, "cat:\n always sits"))
    watched, after, before = observed(model, schedule)
    _, report = guided(watched, size=(8, 12), positive=prompt(TEXT) + left)
    record = EventRecord.from_dict(report.patches[0 if report.patches[0].name == "Event Schedule" else 1].measured)
    assert (record.calls, record.partial) == (4, 2)
    assert np.shape(record.samples[0][0].motion) in ((5, 4, 6), (5, 4, 3))
    halves = [(done, plain) for done, plain in zip(after, before) if done.call.grid.width == 3 and done.site == AttentionSite(1, "text")]
    changed = [(done.result != plain.result).flatten(1).any(1).tolist() for done, plain in halves if done.call.progress < 0.2]
    assert changed == [[False, True]] * 2


def test_one_picture_for_each_video_saved_beside_its_numbers_and_never_over_others(model, host_folders):
    report = guided(events(model).args[0], batch=2)[1]
    for _ in range(2):
        output = EventReport.execute(report, "wan/events")
    images, numbers = output.args
    assert images.shape[0] == 2 and images.shape[2:] == (700, 3) and images.dtype == torch.float32 and not torch.equal(images[0], images[1])
    (told,) = json.loads(numbers)
    assert told["measured"] == json.loads(json.dumps(report.patches[0].measured)) and told["steps"] == [0, 1]
    names = sorted(path.name for path in (host_folders / "output" / "wan").iterdir())
    assert names == sorted([*(f"events_0000{n}_.png" for n in (1, 2, 3, 4)), "events_00001_.json", "events_00003_.json"])
    saved = Path(host_folders, "output", "wan", "events_00003_.json")
    assert json.loads(saved.read_text(encoding="utf-8")) == json.loads(numbers)
    assert [image["type"] for image in output.ui.as_dict()["images"]] == ["output", "output"]
    assert [image["type"] for image in EventReport.execute(report).ui.as_dict()["images"]] == ["temp", "temp"]


def test_schedules_of_different_size_share_a_batch_of_pictures(model):
    many = "cat:\n" + "".join(f"  {10 * n}% - {10 * n + 10}%  {'jumps' if n % 2 else 'sits'}\n" for n in range(5))
    both = events(events(model).args[0], many).args[0]
    _, report = guided(both)
    images = EventReport.execute(report).args[0]
    assert images.shape[0] == 2 and images.shape[1] > 600
    assert (images[0, 520:] == 1).all() and not (images[1, 520:] == 1).all()


def test_a_run_without_it_says_so_and_why(model):
    nothing = GuidanceReport(fps=16.0, latent_frames=5)
    skipped = GuidanceReport(fps=16.0, latent_frames=1, skipped=[SkippedStep(None, "Event Schedule: the latent has one frame")])
    other = GuidanceReport(fps=16.0, latent_frames=5, patches=[PatchReport("Spectral Homeostasis", "model", [0], {"calls": []})])
    pictures = [EventReport.execute(report).args[0] for report in (nothing, skipped, other)]
    assert all(picture.shape == (1, 450, 700, 3) for picture in pictures)
    assert not torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[0], pictures[2])
    assert json.loads(EventReport.execute(other).args[1]) == []


def test_prompts_that_tell_subject_and_events_apart_are_refused_by_the_sampler_too(model):
    with pytest.raises(ValueError, match="Event Schedule: `cat` and its events .* are in different prompts"):
        guided(events(model).args[0], positive=prompt("a cat") + prompt("it jumps then sits", seed=3))


def test_a_run_in_which_no_call_was_controlled_is_drawn(model):
    """The prompt with the words is used after the controlled part only."""
    ((context, keys),) = prompt(TEXT)
    later = [[context, {**keys, "start_percent": 0.6, "end_percent": 1.0}]]
    _, report = guided(events(model).args[0], positive=prompt("a garden", seed=3) + later)
    assert report.patches[0].measured["samples"] == []
    assert EventReport.execute(report).args[0].shape == (1, 450, 700, 3)


def test_phrases_come_in_the_order_that_the_method_binds(model):
    assert attached_to(events(model)).phrases == (PhraseRef("cat"), PhraseRef("jumps"), PhraseRef("sits"))
