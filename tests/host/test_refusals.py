"""What a guided run refuses before the model is loaded, and says where guidance finds nothing to do."""

import logging

import comfy.context_windows as windows
import comfy.samplers
import pytest
import tiny_wan
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.composition import Composition
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.attach import attach
from wan_conductor.nodes.temporal_mask import TemporalMaskNode


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=1)


@pytest.fixture
def never_loaded(monkeypatch):
    monkeypatch.setattr(comfy.samplers.comfy.sampler_helpers, "prepare_sampling", lambda *args, **kwargs: pytest.fail("loaded"))


def sample(model, timeline="50% - end  cat", positive=None, **kwargs):
    guided = attach(attach(model, temporal_mask(timeline)), GuidanceBudget(end_percent=0.3, iterations=1))
    noise = tiny_wan.latent_like(frames=5, height=4, width=4)
    return tiny_wan.sample(guided, positive or prompt(), prompt("bad", seed=2), noise, steps=4, **kwargs)


@pytest.mark.parametrize("area", [{"area": (2, 2, 0, 0)}, {"area": ("percentage", 0.5, 0.5, 0, 0)}], ids=str)
def test_prompts_for_different_areas_are_refused(model, never_loaded, area):
    with pytest.raises(ValueError, match=r"Temporal Mask: input `positive` = 2 prompts.*Set Mask"):
        sample(model, positive=[*prompt(), [prompt(seed=3)[0][0], {**prompt(seed=3)[0][1], **area}]])


def test_context_windows_that_do_not_run_over_frames_are_refused(model, never_loaded):
    windowed = model.clone()
    windowed.model_options["context_handler"] = windows.IndexListContextHandler(
        windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID), context_length=3, context_overlap=1, dim=3,
    )
    with pytest.raises(ValueError, match="Temporal Mask: .*context windows"):
        sample(windowed)


def test_a_span_outside_the_video_names_node_and_input(model, never_loaded):
    with pytest.raises(ValueError, match=r"Temporal Mask: input `timeline`: timeline line 1(.|\n)*\^"):
        sample(model, "9s - 10s  cat")


def test_a_timeline_that_cannot_be_read_names_node_and_input(model):
    with pytest.raises(ValueError, match=r"Temporal Mask: input `timeline`: timeline line 1(.|\n)*\^"):
        TemporalMaskNode.execute(model, prompt(), "5s - 2s  cat", 0.3, 10.0)


def test_a_stock_sampler_that_starts_after_the_guided_span_says_so_once(model, caplog):
    with caplog.at_level(logging.INFO, "wan_conductor"):
        sample(model, start_step=3)
    said = [record.getMessage() for record in caplog.records if record.name == "wan_conductor"]  # the host may tell of other tests' models
    assert said == ["Wan Conductor: no step was guided: no step met the guided span"]


def node(model, timeline="50% - end  cat", conditioning=None, **knobs):
    return TemporalMaskNode.execute(model, prompt() if conditioning is None else conditioning, timeline, 0.3, 10.0, **knobs)


def test_a_phrase_that_the_sampled_prompt_lacks_names_method_and_input(model, never_loaded):
    with pytest.raises(ValueError, match=r'Temporal Mask: input `positive` of the sampler: "zebra" is not in the prompt'):
        sample(model, timeline="50% - end  zebra")


@pytest.mark.parametrize(
    "guidance, words",
    [
        (Composition(parse_timeline("red cat | left of | cat")), "Composition Guide: input `timeline`.*the same word of the prompt"),
        (Composition(parse_timeline("red cat | toward | cat")), "Composition Guide: input `timeline`.*the same word of the prompt"),
        (EventSchedule(parse_timeline("red:\n  cat\njumps:\n  red cat")), "Event Schedule: input `timeline`.*the same word of the prompt"),
    ],
)
def test_words_claimed_twice_in_the_sampled_prompt_are_refused_without_any_node(model, never_loaded, guidance, words):
    noise = tiny_wan.latent_like(frames=5, height=4, width=4)
    with pytest.raises(ValueError, match=words):
        tiny_wan.sample(attach(model, guidance), prompt(), prompt("bad", seed=2), noise, steps=4)


def test_conditioning_from_a_muted_node_says_what_to_connect(model):
    with pytest.raises(ValueError, match=r"Temporal Mask: input `conditioning`: nothing arrives.*Conductor Text Encode"):
        TemporalMaskNode.execute(model, None, "cat", 0.3, 10.0)


def test_a_wrong_occurrence_is_named(model):
    with pytest.raises(ValueError, match=r"Temporal Mask: `occurrence` = 'third': must be all, first, last, or a number"):
        node(model, occurrence="third")


def test_a_knob_out_of_range_names_the_node(model):
    with pytest.raises(ValueError, match=r"Temporal Mask: `tau_corr` = 2"):
        node(model, tau_corr=2)


def test_an_error_behind_a_pasted_list_names_the_line_that_was_typed(model):
    with pytest.raises(ValueError, match=r"timeline line 3: reversed span `2s - 1s`(.|\n)*\n  2s - 1s  cat\n  \^"):
        node(model, timeline="cat | red | jumps\n[00:00-00:01] cat\n2s - 1s  cat")


def test_a_pasted_list_is_read_line_by_line_and_shown(model):
    shown = node(model, timeline="cat | cat").ui
    assert "read as:\ncat\ncat" in str(shown.as_dict() if hasattr(shown, "as_dict") else shown).replace("\\n", "\n")
    assert "read as" not in str(node(model).ui)
