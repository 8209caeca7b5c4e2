"""The nodes that make a TEMPORAL_MASK, and Temporal Mask that takes it: what they hand on, show and refuse."""

import inspect

import folder_paths
import numpy as np
import pytest
import tiny_wan
import torch
from guided_prompts import prompt
from PIL import Image
from wan_conductor.guidance.mask_sources import Timing
from wan_conductor.host.attach import attached
from wan_conductor.nodes import NODES
from wan_conductor.nodes.audio_timing import AudioToTiming
from wan_conductor.nodes.curve_timing import CurveToTiming
from wan_conductor.nodes.floats_timing import FloatsToTiming
from wan_conductor.nodes.guided_ksampler import GuidedKSampler
from wan_conductor.nodes.mask_timing import MaskToTiming
from wan_conductor.nodes.temporal_mask import TemporalMaskNode

FRAMES, LATENTS = 33, 9  # 2.06 s at 16 fps
TIMING_NODES = [AudioToTiming, CurveToTiming, MaskToTiming, FloatsToTiming]
SPAN = "13f - 29f  cat"
ON = (torch.arange(FRAMES) >= 13) & (torch.arange(FRAMES) < 29)


@pytest.fixture(scope="module")
def wan():
    return tiny_wan.load(layers=1)


def clicks(*times, seconds=2.0625, rate=16000, channels=1):
    t = torch.arange(int(seconds * rate)) / rate
    sound = sum((t >= time) * torch.exp(-(t - time).clamp(min=0) / 0.02) for time in times)
    noise = torch.rand(len(t), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"waveform": (sound * noise).expand(1, channels, -1), "sample_rate": rate}


def from_masks(phrase="cat", **knobs):
    return MaskToTiming.execute(phrase, ON.float()[:, None, None].expand(-1, 4, 6), **knobs)


def from_floats(phrase="cat", **knobs):
    return FloatsToTiming.execute([phrase], [ON.float().tolist()], **{name: [knob] for name, knob in knobs.items()})


def from_curve(phrase="cat", curve="0s 0\n13f 1\n29f 0", interpolation="step", **knobs):
    return CurveToTiming.execute(phrase, curve, interpolation, **knobs)


def from_audio(phrase="cat", audio=None, shape=None, **knobs):
    return AudioToTiming.execute(phrase, audio or clicks(13 / 16), shape or {"shape": "windows", "width": 1.0}, **knobs)


def timing_of(output):
    return output.result[0]


def mask(model, timeline="", conditioning=None, **knobs):
    return TemporalMaskNode.execute(model, conditioning or prompt(), timeline, 0.3, 10.0, **knobs)


def objective_of(output):
    return attached(output.result[0].model_options)[0]


def pictures(output):
    shown = output.ui.as_dict()["images"]
    return [np.asarray(Image.open(f"{folder_paths.get_temp_directory()}/{image['subfolder']}/{image['filename']}")) for image in shown]


@pytest.mark.parametrize("make", [from_masks, from_floats, from_curve, from_audio])
@pytest.mark.parametrize("kind", ["soft", "binary"])
def test_every_source_gives_the_mask_that_the_timeline_gives(wan, make, kind):
    written = objective_of(mask(wan, SPAN, mask=kind))
    made = objective_of(mask(wan, timing=timing_of(make()), mask=kind))
    assert made.phrases == written.phrases
    assert written.masks(LATENTS, 16.0)[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]
    torch.testing.assert_close(made.masks(LATENTS, 16.0), written.masks(LATENTS, 16.0))


def test_timing_nodes_chain_and_join_the_timeline(wan):
    chained = timing_of(from_masks("jumps", timing=timing_of(from_audio("cat", strength=2.0))))
    assert [(timed.phrase, timed.strength) for timed in chained.phrases] == [("cat", 2.0), ("jumps", 1.0)]
    objective = objective_of(mask(wan, "always red", timing=chained))
    assert [ref.phrase for ref in objective.phrases] == ["red", "cat", "jumps"]
    assert objective.strength == 2.0


def test_a_phrase_of_both_is_seen_whenever_either_says_so(wan):
    objective = objective_of(mask(wan, "0f - 1f  Cat", timing=timing_of(from_curve())))
    assert objective.masks(LATENTS, 16.0).tolist() == [[1, 0, 0, 0, 1, 1, 1, 1, 0]]


def test_a_header_is_static_unless_timing_names_it(wan):
    conditioning = prompt("a red cat jumps")
    static = objective_of(mask(wan, "cat:\n  always jumps", conditioning))
    timed = objective_of(mask(wan, "cat:\n  always jumps", conditioning, timing=timing_of(from_curve())))
    assert static.masks(LATENTS, 16.0)[1].tolist() == [1] * LATENTS
    assert timed.masks(LATENTS, 16.0)[1].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]


def test_a_prompt_written_before_these_inputs_existed_still_runs(wan):
    """The host refuses an API prompt that lacks a required input, and saved widgets are read in order."""
    info = TemporalMaskNode.GET_NODE_INFO_V1()
    old = ["model", "conditioning", "timeline", "lambda_1", "lambda_2", "tau_corr", "mask", "occurrence", "fps"]
    assert list(info["input"]["required"]) == old
    optional = list(info["input"]["optional"])
    assert optional[:2] == ["model_low_noise", "length"] and "timing" in optional  # later widgets stand behind those of earlier workflows
    assert objective_of(mask(wan, SPAN)).timing == Timing()


def test_no_timing_and_no_timeline_return_the_very_model(wan):
    assert mask(wan, "").result[0] is wan
    assert mask(wan, "", timing=timing_of(from_masks(strength=0.0))).result[0] is wan


def test_temporal_mask_shows_its_text_and_one_picture(wan):
    output = mask(wan, SPAN, timing=timing_of(from_audio("jumps")))
    text = output.ui.as_dict()["text"][0]
    assert "13f - 29f" in text and "onsets, windows" in text
    (picture,) = pictures(output)
    assert picture.shape[1] == 460 and picture.shape[0] < 200


@pytest.mark.parametrize("make", [from_masks, from_floats, from_curve, from_audio])
def test_the_picture_shades_the_time_of_the_mask_and_no_other(make):
    (picture,) = pictures(make(length=FRAMES))
    blue = (picture[..., 2].astype(int) - picture[..., 0] > 40).any(0)
    start, end = np.flatnonzero(blue)[[0, -1]]
    left, right = 112, 460 - 12
    seconds = (np.array([start, end + 1]) - left) / (right - left) * FRAMES / 16
    np.testing.assert_allclose(seconds, [13 / 16, 29 / 16], atol=0.02)


def test_a_source_that_does_not_fit_the_picture_says_so_there_and_not_as_an_error(wan):
    timing = timing_of(from_masks())
    assert len(pictures(mask(wan, timing=timing))) == 1  # 81 frames in the picture, 33 masks
    with pytest.raises(ValueError, match=r"Temporal Mask: input `timing`: Mask to Timing: input `masks`: 33 values.*81 frames.*`fit`"):
        objective_of(mask(wan, timing=timing)).skip_reason(21, 16.0)
    assert objective_of(mask(wan, timing=timing)).skip_reason(LATENTS, 16.0) is None


def test_audio_tells_what_it_found():
    text = from_audio(audio=clicks(0.5, 1.5), shape={"shape": "windows", "width": 0.25}).ui.as_dict()["text"][0]
    assert text == "cat: 0.50s - 0.75s, 1.50s - 1.75s  (2 onsets found)"
    silent = {"waveform": torch.zeros(1, 2, 16000), "sample_rate": 16000}
    assert "0 onsets" in from_audio(audio=silent).ui.as_dict()["text"][0]


def test_a_phrase_on_each_beat():
    audio = clicks(0.5, 1.5, channels=2)
    first = from_audio("cat", audio, {"shape": "until the next"}, beats="1")
    both = timing_of(from_audio("jumps", audio, {"shape": "until the end"}, beats="last", timing=timing_of(first)))
    assert [timed.source.mask(LATENTS, 16.0).tolist() for timed in both.phrases] == [  # from frames 8 and 24 on
        [0, 0, 0.25, 1, 1, 1, 0.75, 0, 0], [0, 0, 0, 0, 0, 0, 0.25, 1, 1]
    ]


def test_floats_arrive_as_one_list_an_execution_list_or_an_array():
    assert FloatsToTiming.GET_SCHEMA().is_input_list
    values = ON.float()
    for given in ([values.tolist()], values.tolist(), [values], [values.numpy()], [values.long().tolist()]):
        assert timing_of(FloatsToTiming.execute(["cat"], given)) == timing_of(from_floats())


def test_one_mask_without_a_batch_axis_is_one_frame():
    timing = timing_of(MaskToTiming.execute("cat", torch.ones(4, 4), fit="hold"))
    assert timing.phrases[0].source.mask(LATENTS, 16.0).tolist() == [1.0] * LATENTS


def test_a_mask_counts_by_its_mean_or_its_brightest_pixel():
    masks = torch.zeros(FRAMES, 2, 2)
    masks[13:29, 0, 0] = 1
    mean, most = (timing_of(MaskToTiming.execute("cat", masks, measure)).phrases[0].source for measure in ("mean", "max"))
    assert mean.mask(LATENTS, 16.0).amax() == 0.25
    assert most.mask(LATENTS, 16.0).amax() == 1


def test_masks_made_under_inference_mode_serve_a_loss_with_gradients(wan):
    objective = objective_of(mask(wan, timing=timing_of(from_audio("jumps", timing=timing_of(from_masks())))))
    with torch.inference_mode(False), torch.enable_grad():
        maps = (torch.rand(1, 2, LATENTS, 2, 2) * 0.02).requires_grad_()
        objective.loss(maps, 16.0).total.sum().backward()
    assert maps.grad.abs().sum() > 0


def test_a_sampler_follows_a_timing(wan):
    model = mask(wan, timing=timing_of(FloatsToTiming.execute(["cat"], [[0.0, 0.0, 0.0, 1.0, 1.0]]))).result[0]
    report = GuidedKSampler.execute(
        model, "enable", 7, 4, 3.0, "euler", "simple", prompt(), prompt("bad", seed=2), {"samples": torch.zeros(1, 16, 5, 4, 4)}, 0, 1,
        "disable", {"budget": "fast"}, {"switch_at": "t2v"},
    ).args[1]
    assert report.steps[0].phrases == [["cat"]]
    assert report.steps[0].loop.iterations[0].objectives[0].traces["mask"] == [[0, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: from_masks(" "), "Mask to Timing: input `phrase` is empty"),
        (lambda: from_curve(curve=""), "Curve to Timing: input `curve`.*no points"),
        (lambda: from_curve(curve="0s 0\n2 1"), "Curve to Timing: input `curve`: curve line 2.*`2` has no unit"),
        (lambda: FloatsToTiming.execute(["cat"], [[0.0, 3.0]]), "Floats to Timing: input `values`: 3 at frame 1.*0..1.*stretch"),
        (lambda: FloatsToTiming.execute(["cat"], [["a"]]), "Floats to Timing: input `values` holds 'a'"),
        (lambda: FloatsToTiming.execute(["cat"], []), "Floats to Timing: input `values`: empty"),
        (lambda: from_audio(audio={"waveform": torch.zeros(2, 1, 9), "sample_rate": 9}), "Audio to Timing: input `audio` holds 2 sounds"),
        (lambda: from_audio(beats="second"), "Audio to Timing: `beats` = 'second'"),
        (lambda: from_audio(low_hz=200.0, high_hz=100.0), "Audio to Timing: `high_hz` = 100.*`low_hz` = 200"),
    ],
)
def test_bad_input_is_refused_by_node_input_and_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_audio_that_does_not_arrive_is_named():
    with pytest.raises(ValueError, match="Audio to Timing: input `audio`: nothing arrives"):
        AudioToTiming.execute("cat", None, {"shape": "until the end"})


@pytest.mark.parametrize("node", TIMING_NODES)
def test_schemas_are_complete_and_match_execute(node):
    schema = node.GET_SCHEMA()
    assert node in NODES
    assert schema.node_id.startswith("WanConductor") and schema.category == "Wan Conductor" and schema.search_aliases
    assert all(one.tooltip for one in [*schema.inputs, *schema.outputs])
    assert [entry.io_type for entry in schema.outputs] == ["TEMPORAL_MASK"]
    assert {one.id for one in schema.inputs} == set(inspect.signature(node.execute).parameters)
    assert node.GET_NODE_INFO_V1()["name"] == schema.node_id
