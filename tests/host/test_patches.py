"""Patches: asked in their part of the schedule alone, told the right rows, frames and words, and gone when the run ends."""

from dataclasses import dataclass, field, replace
from typing import Any

import comfy.context_windows
import comfy.samplers
import pytest
import tiny_wan
import torch
from comfy.patcher_extension import WrappersMP
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.report import GuidanceReport
from wan_conductor.host.attach import attach
from wan_conductor.host.run import LINK_KEY, SamplerLink
from wan_conductor.host.schedule import guided_intervals, progress_at

STEPS = 5
SHAPE = {"frames": 5, "height": 4, "width": 4}


@dataclass(frozen=True)
class Scale:
    """Multiplies v of every attention call of the positive rows; notes every ModelCall."""

    factor: float = 1.5
    phrases: tuple[PhraseRef, ...] = (PhraseRef("cat"),)
    start_percent: float = 0.0
    end_percent: float = 0.4
    skip: str | None = None
    calls: list = field(default_factory=list, compare=False, repr=False)
    name: str = "Scale"

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        return self.skip

    def new_record(self) -> Any:
        return Record()

    def handler(self, call, record):
        self.calls.append(call)

        def scale(site, attention, proceed):
            if record is not None:
                record.sites += 1
            rows = torch.zeros(len(attention.v), dtype=torch.bool)
            for told in call.prompts:
                rows |= told.rows
            return proceed(replace(attention, v=torch.where(rows.view(-1, 1, 1), self.factor * attention.v, attention.v)))

        return scale


@dataclass
class Record:
    sites: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {"sites": self.sites}


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


def sample(model, sampler="euler", cfg=3.0, positive=None, **kwargs):
    noise = tiny_wan.latent_like(**SHAPE)
    return tiny_wan.sample(model, positive or prompt(), prompt("bad", seed=2), noise, steps=STEPS, cfg=cfg, sampler=sampler, **kwargs)


def sigmas_of(model):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)


def test_a_patch_acts_in_its_span_only_and_changes_the_video(model):
    patch = Scale()
    out = sample(attach(model, patch))
    sigmas = sigmas_of(model)
    assert [call.sigma for call in patch.calls] == pytest.approx(sigmas[:2].tolist())
    assert not torch.allclose(out, sample(model))


def test_it_works_under_a_sampler_that_keeps_its_steps_to_itself(model):
    """As VOID_DDIM does, where objectives are refused."""

    class OwnSteps(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
            options = {key: value for key, value in extra_args.items() if key != "denoise_mask"}
            return sum(model_wrap(noise, sigma[None], **options) for sigma in sigmas[:-1])

    def run(model):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(prompt(), prompt("bad", seed=2))
        noise = tiny_wan.latent_like(**SHAPE)
        return guider.sample(noise, torch.zeros_like(noise), OwnSteps(), sigmas_of(model), disable_pbar=True, seed=1)

    patch = Scale()
    assert not torch.allclose(run(attach(model, patch)), run(model))
    assert [call.sigma for call in patch.calls] == pytest.approx(sigmas_of(model)[:2].tolist())


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "uni_pc", "dpmpp_2s_ancestral"])
def test_samplers_that_ask_twice_a_step_find_it_at_every_call_within_the_span(model, sampler):
    patch, every, ends = Scale(), [], set()
    patched = attach(model, patch)

    def note(executor, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs):
        every.append(float(transformer_options["sigmas"][0]))
        sigmas = transformer_options["sample_sigmas"]
        guided = guided_intervals(sigmas, model.get_model_object("model_sampling"), 0.0, 0.4)
        ends.add(float(sigmas[guided[-1] + 1]))
        return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "note", note)
    sample(patched, sampler)
    (end,) = ends
    assert [call.sigma for call in patch.calls] == [sigma for sigma in every if sigma > end + 1e-4]
    assert len(patch.calls) < len(every)


def test_a_slice_of_the_schedule_outside_the_span_is_left_alone(model):
    patch = Scale()
    noise_left = sample(attach(model, patch), start_step=2, last_step=5)
    assert not patch.calls and torch.equal(noise_left, sample(model, start_step=2, last_step=5))


def test_at_least_one_step_is_patched_however_short_the_span(model):
    patch = Scale(start_percent=0.3, end_percent=0.301)
    sample(attach(model, patch))
    assert len(patch.calls) == 1


@pytest.mark.parametrize("off", [Scale(skip="nothing to do"), Scale(start_percent=0.2, end_percent=0.2)], ids=["skipped", "no span"])
def test_off_is_the_stock_sampler_bit_for_bit(model, off):
    assert torch.equal(sample(attach(model, off)), sample(model)) and not off.calls


@pytest.mark.parametrize("cfg, rows", [(3.0, [[False, True]]), (1.0, [[True]])], ids=["CFG", "CFG 1"])
def test_it_is_told_the_positive_rows_and_the_rows_of_its_words(model, cfg, rows):
    patch = Scale(phrases=(PhraseRef("cat"), PhraseRef("jumps")))
    sample(attach(model, patch), cfg=cfg)
    (told,) = patch.calls[0].prompts
    assert [told.rows.tolist()] == rows and told.text_rows == {0: (2,), 1: (3,)}
    assert patch.calls[0].pad_rows == slice(5, 24)  # four words and </s> come before
    assert (patch.calls[0].blocks, patch.calls[0].total_frames, patch.calls[0].frames) == (2, 5, (0, 1, 2, 3, 4))


def test_two_prompts_are_told_apart_and_a_word_may_be_in_one_of_them(model):
    patch = Scale(phrases=(PhraseRef("cat"), PhraseRef("dog")))
    sample(attach(model, patch), positive=prompt("a red cat jumps") + prompt("a dog sleeps", seed=3))
    seen = {tuple(sorted(told.text_rows.items())) for call in patch.calls for told in call.prompts}
    assert seen == {((0, (2,)),), ((1, (1,)),)}


def test_a_word_that_no_prompt_holds_is_an_error_before_the_first_step(model):
    patch = Scale(phrases=(PhraseRef("zebra"),))
    with pytest.raises(ValueError, match="Scale: input `positive` of the sampler.*zebra"):
        sample(attach(model, patch))
    assert not patch.calls


def test_without_words_no_conditioning_from_the_encoder_is_needed(model):
    patch = Scale(phrases=())
    sample(attach(model, patch), positive=tiny_wan.conditioning(rows=24))
    assert len(patch.calls) == 2 and patch.calls[0].prompts == () and patch.calls[0].pad_rows is None


def test_progress_is_the_unshifted_share_of_the_schedule(model):
    sampling = model.get_model_object("model_sampling")
    for percent in (0.0, 0.1, 0.37, 0.8, 0.99):
        assert progress_at(sampling, float(sampling.percent_to_sigma(percent))) == pytest.approx(percent, abs=2e-3)
    patch = Scale(end_percent=1.0)
    sample(attach(model, patch))
    assert [call.progress for call in patch.calls] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8], abs=5e-3)


def test_two_patches_and_an_objective_act_in_one_run(model):
    first, second = Scale(), Scale(factor=0.5, end_percent=0.2)
    both = attach(attach(model, first), second)
    guided = attach(attach(both, temporal_mask()), GuidanceBudget(end_percent=0.4, iterations=1, step_size=0.05, depth=1.0))
    out = sample(guided)
    assert (len(first.calls), len(second.calls)) == (2, 1)
    assert not torch.allclose(out, sample(both))


def test_the_report_names_steps_and_measures_only_where_it_is_wanted(model):
    patch = Scale()
    linked = attach(model, patch).clone()
    report = GuidanceReport(fps=16.0, latent_frames=5)
    link = SamplerLink(report, progress=lambda done: None, model="high noise", first_step=3)
    linked.model_options["transformer_options"][LINK_KEY] = link
    sample(linked)
    (told,) = report.patches
    assert (told.name, told.model, told.steps) == ("Scale", "high noise", [3, 4])
    assert told.measured == {"sites": 2 * 2 * 2}  # steps, blocks, self and text
    assert GuidanceReport.from_json(report.to_json()).patches == report.patches
    assert "Scale in 2 steps of high noise" in report.summary()


def test_stock_samplers_measure_nothing_and_log_one_line(model, caplog):
    records = []

    @dataclass(frozen=True)
    class Noting(Scale):
        def handler(self, call, record):
            records.append(record)

    caplog.set_level("INFO", "wan_conductor")
    sample(attach(model, Noting()))
    assert records == [None, None] and "Scale in 2 steps of model" in caplog.text


def test_nothing_is_left_on_the_model_after_a_run_or_an_error(model):
    @dataclass(frozen=True)
    class Failing(Scale):
        def handler(self, call, record):
            raise KeyError("inside")

    for patch in (Scale(), Failing()):
        patched = attach(model, patch)
        before = repr((patched.model_options, patched.wrappers))
        try:
            sample(patched)
        except KeyError:
            pass
        assert repr((patched.model_options, patched.wrappers)) == before
        assert not patched.get_all_wrappers(WrappersMP.DIFFUSION_MODEL)
        assert torch.equal(sample(model), sample(model.clone()))


def test_inside_context_windows_it_is_told_the_frames_of_the_window(model):
    patch = Scale(end_percent=0.2)
    windowed = attach(model, patch)
    schedule = comfy.context_windows.get_matching_context_schedule("standard_static")
    fuse = comfy.context_windows.get_matching_fuse_method("pyramid")
    windowed.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=schedule, fuse_method=fuse, context_length=3, context_overlap=1, dim=2
    )
    sample(windowed)
    assert {call.total_frames for call in patch.calls} == {5}
    assert {frame for call in patch.calls for frame in call.frames} == {0, 1, 2, 3, 4}
    assert all(len(call.frames) < 5 for call in patch.calls)
