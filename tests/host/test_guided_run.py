"""A whole guided run: objectives attached to a MODEL, under the host's own samplers, on a tiny random Wan."""

import logging

import comfy.model_management
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import pytest
import tiny_wan
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.report import GuidanceReport
from wan_conductor.host.attach import KEY, attach, attached
from wan_conductor.host.run import LINK_KEY, SamplerLink, counting

import nodes

STEPS = 5
BUDGET = GuidanceBudget(end_percent=0.4, iterations=3, step_size=0.05, depth=1.0)
SHAPE = {"frames": 5, "height": 4, "width": 4}


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=2)


def guided(model, *guidance, budget=BUDGET):
    for one in guidance or (temporal_mask(),):
        model = attach(model, one)
    return attach(model, budget)


def reported(model):
    """The model with a report that its next runs fill, as Guided KSampler makes it."""
    model = model.clone()
    report = GuidanceReport(fps=16.0, latent_frames=SHAPE["frames"])
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", counting(report))
    model.model_options["transformer_options"][LINK_KEY] = SamplerLink(report, progress=lambda done: None)
    return model, report


def sample(model, sampler="euler", positive=None, noise=None, cfg=3.0, **kwargs):
    noise = tiny_wan.latent_like(**SHAPE) if noise is None else noise
    return tiny_wan.sample(model, positive or prompt(), prompt("bad", seed=2), noise, steps=STEPS, cfg=cfg, sampler=sampler, **kwargs)


def correlations(report):
    """Worst correlation at the first and at the last evaluation of each guided step."""
    of = [[min(row) for row in record.objectives[0].traces["correlation"]] for step in report.steps for record in step.loop.iterations]
    return of[0], of[-1]


def test_attention_follows_the_mask_more_and_more_over_the_guided_steps(model):
    with_report, report = reported(guided(model))
    out = sample(with_report)
    before, after = correlations(report)
    assert [step.step for step in report.steps] == [0, 1]
    assert after[0] > before[0] + 0.2
    assert out.isfinite().all() and not torch.equal(out, sample(model))


def test_each_guided_step_tells_how_much_of_its_blocks_maps_the_first_ones_hold(model):
    with_report, report = reported(guided(model))
    sample(with_report)
    for step in report.steps:
        first, both = step.depth_agreement
        assert both == pytest.approx(1) and -1 < first < 0.999


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "uni_pc", "heun", "dpmpp_sde"])
def test_guidance_reaches_the_video_of(sampler, model):
    unedited = GuidanceBudget(end_percent=0.4, iterations=3, step_size=0.0)
    out, plain = sample(guided(model), sampler), sample(guided(model, budget=unedited), sampler)
    assert out.isfinite().all() and (out - plain).norm() > 0.01 * plain.norm()


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
@pytest.mark.parametrize(
    "off",
    [
        lambda model: guided(model, temporal_mask("50% - end  cat x0")),
        lambda model: guided(model, temporal_mask("")),
        lambda model: guided(model, budget=GuidanceBudget(end_percent=0.0)),
        lambda model: guided(model, budget=GuidanceBudget(iterations=0)),
    ],
    ids=["strength 0", "empty timeline", "no span", "no iterations"],
)
def test_off_is_the_stock_sampler_bit_for_bit(model, sampler, off):
    assert torch.equal(sample(off(model), sampler), sample(model, sampler))


def under_the_stock_nodes(model):
    latent, positive, negative = {"samples": torch.zeros(1, 16, 5, 4, 4)}, prompt(), prompt("bad", seed=2)
    yield nodes.KSampler().sample(model, 1, STEPS, 3.0, "dpmpp_2m", "simple", positive, negative, latent)[0]["samples"]
    advanced = ("enable", 1, STEPS, 3.0, "uni_pc", "simple", positive, negative, latent, 0, 3, "enable")
    yield nodes.KSamplerAdvanced().sample(model, *advanced)[0]["samples"]
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    sampler = comfy.samplers.sampler_object("euler")
    yield custom.SamplerCustomAdvanced.execute(custom.Noise_RandomNoise(1), guider, sampler, sigmas, latent).args[0]["samples"]


def test_off_is_the_stock_ksampler_ksampler_advanced_and_sampler_custom_advanced_bit_for_bit(model):
    off = guided(model, budget=GuidanceBudget(iterations=0))
    for ours, stock in zip(under_the_stock_nodes(off), under_the_stock_nodes(model), strict=True):
        assert torch.equal(ours, stock)


def test_guidance_reaches_the_video_under_each_of_the_three_stock_nodes(model):
    unedited = guided(model, budget=GuidanceBudget(end_percent=0.4, iterations=3, step_size=0.0))
    for ours, plain in zip(under_the_stock_nodes(guided(model)), under_the_stock_nodes(unedited), strict=True):
        assert ours.isfinite().all() and (ours - plain).norm() > 0.01 * plain.norm()


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_the_same_seed_gives_the_same_video_twice(model, sampler):
    assert torch.equal(sample(guided(model), sampler), sample(guided(model), sampler))


def test_two_nodes_chained_guide_once_with_both_objectives(model):
    twice, report = reported(guided(model, temporal_mask("50% - end  cat"), temporal_mask("0% - 50%  jumps")))
    sample(twice)
    assert [[o.name for o in step.loop.iterations[0].objectives] for step in report.steps] == [["Temporal Mask"] * 2] * 2
    assert [step.phrases for step in report.steps] == [[["cat"], ["jumps"]]] * 2
    assert len(twice.wrappers[WrappersMP.OUTER_SAMPLE][KEY]) == 1


def test_each_objective_keeps_its_own_span(model):
    jumps = temporal_mask("50% - end  jumps", start_percent=0.2, end_percent=0.6)
    late, report = reported(guided(model, temporal_mask("50% - end  cat"), jumps))
    sample(late)
    assert [(step.step, step.phrases) for step in report.steps] == [(0, [["cat"]]), (1, [["cat"], ["jumps"]]), (2, [["jumps"]])]


def test_phrases_in_different_prompts_of_a_combine_are_each_found_in_theirs(model):
    both, report = reported(guided(model, temporal_mask("50% - end  cat\n0% - 50%  dog")))
    sample(both, positive=[*prompt("a red cat jumps"), *prompt("a blue dog sleeps", seed=3)])
    before, after = correlations(report)
    assert after[0] > before[0]


def test_a_phrase_in_no_prompt_is_refused_before_the_model_is_loaded(model, monkeypatch):
    monkeypatch.setattr(comfy.samplers.comfy.sampler_helpers, "prepare_sampling", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="elephant"):
        sample(guided(model, temporal_mask("50% - end  elephant")))


def test_each_latent_of_a_batch_has_its_own_optimisation(model):
    noise = tiny_wan.latent_like(batch=2, **SHAPE)
    mask = guided(model, temporal_mask(lambda_magnitude=1.0))
    together = sample(mask, noise=noise)
    for row in range(2):
        alone = sample(mask, noise=noise[row : row + 1])
        assert (together[row] - alone[0]).norm() < 1e-2 * (alone[0] - sample(model, noise=noise[row : row + 1])[0]).norm()


def test_cfg_1_guides_the_positive_prompt_alone(model):
    alone, report = reported(guided(model))
    sample(alone, cfg=1.0)
    before, after = correlations(report)
    assert after[0] > before[0] and report.denoise_forwards == STEPS


def test_prompts_of_different_length_run_in_separate_calls_and_are_told_apart(model):
    separate, report = reported(guided(model))
    sample(separate, positive=prompt(rows=24))
    apart, other = reported(guided(model))
    tiny_wan.sample(apart, prompt(rows=24), prompt("bad", rows=30, seed=2), tiny_wan.latent_like(**SHAPE), steps=STEPS, cfg=3.0)
    assert correlations(other)[0] == pytest.approx(correlations(report)[0], abs=1e-4)
    assert other.denoise_forwards == report.denoise_forwards == 2 * STEPS


def test_a_noise_mask_keeps_what_it_protects(model):
    mask = torch.ones(1, 1, 5, 4, 4)
    mask[..., :2] = 0
    kept = tiny_wan.latent_like(seed=4, **SHAPE)
    noise, positive, negative = tiny_wan.latent_like(**SHAPE), prompt(), prompt("bad", seed=2)

    def run(model):
        return comfy.sample.sample(
            model, noise, STEPS, 3.0, "euler", "simple", positive, negative, kept, noise_mask=mask, seed=1, disable_pbar=True
        )

    masked, report = reported(guided(model))
    out, plain = run(masked), run(model)
    before, after = correlations(report)
    assert torch.allclose(out[..., :2], kept[..., :2], atol=1e-5)
    assert (out - plain)[..., 2:].norm() > 0.01 * plain.norm() and after[0] > before[0]


def test_a_slice_of_the_schedule_is_guided_by_where_it_lies(model):
    first, report = reported(guided(model))
    sample(first, start_step=1, last_step=4)
    assert [step.step for step in report.steps] == [0]
    late, report = reported(guided(model))
    assert torch.equal(sample(late, start_step=3), sample(model, start_step=3)) and not report.steps


def test_one_remaining_interval_still_finishes_the_video(model):
    almost = guided(model, budget=GuidanceBudget(end_percent=0.8, iterations=1, step_size=0.01))
    with_report, report = reported(almost)
    assert torch.equal(sample(with_report, "dpm_fast"), sample(almost, "euler"))  # uni_pc has a schedule of its own
    assert [step.step for step in report.steps] == [0, 1, 2, 3]


def test_easycache_does_not_swallow_the_edit(model):
    """With a huge threshold the cache reuses every step it may; where all are guided, none."""
    every_step = guided(model, budget=GuidanceBudget(end_percent=1.0, iterations=1, step_size=0.05))
    cached = EasyCacheNode.execute(every_step, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False).args[0]
    assert torch.equal(sample(cached), sample(every_step))


def weights(model):
    return [p.clone() for p in model.model.diffusion_model.parameters()]


@pytest.mark.parametrize("stop", [1, 3])
def test_cancel_within_an_iteration_leaves_the_model_as_it_was(stop, monkeypatch):
    from wan_conductor.host import capture as captures

    fresh = tiny_wan.load(layers=2)
    expected = sample(fresh)
    before = weights(fresh)
    calls, evaluations, evaluate = [], [], captures.AttentionCapture.__call__
    monkeypatch.setattr(captures.AttentionCapture, "__call__", lambda *args: evaluations.append(1) or evaluate(*args))

    def progress(done):
        calls.append(done)
        if len(calls) == 1 + stop:
            comfy.model_management.interrupt_current_processing(True)

    cancelled = guided(fresh).clone()
    report = GuidanceReport(fps=16.0, latent_frames=5)
    cancelled.model_options["transformer_options"][LINK_KEY] = SamplerLink(report, progress)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(cancelled)
    assert len(calls) == 1 + stop and len(evaluations) == stop
    assert all(torch.equal(a, b) for a, b in zip(before, weights(fresh)))
    assert torch.equal(sample(fresh), expected)
    assert not comfy.model_management.in_training
    assert all("forward" not in vars(module) for module in fresh.model.diffusion_model.modules())


def test_a_gradient_that_is_not_finite_skips_its_step_and_sampling_goes_on(model, monkeypatch, caplog):
    from wan_conductor.host import latent_edit

    real = latent_edit.optimise_latent
    steps = []

    def poisoned(z, capture, *args):
        steps.append(len(steps))
        return real(z, (lambda x: capture(x) * float("nan")) if len(steps) == 1 else capture, *args)

    monkeypatch.setattr(latent_edit, "optimise_latent", poisoned)
    with_report, report = reported(guided(model))
    out = sample(with_report)
    assert out.isfinite().all()
    assert [skipped.step for skipped in report.skipped] == [0] and "not finite" in report.skipped[0].reason
    assert report.steps[0].loop.kept == [0] and report.steps[1].loop.kept != [0]
    assert [record.getMessage() for record in caplog.records if "not finite" in record.getMessage()] == [
        "Wan Conductor: step 0 is not guided: loss not finite (sample 0)"
    ]


@pytest.mark.parametrize("failures", [1, 2])
def test_out_of_memory_is_retried_once_in_the_next_memory_mode(model, monkeypatch, failures):
    from wan_conductor.host import latent_edit

    real, modes = latent_edit.optimise_latent, []

    def hungry(z, capture, objectives, budget, *args):
        modes.append(budget.memory_mode)
        if len(modes) <= failures:
            raise torch.cuda.OutOfMemoryError("too little")
        return real(z, capture, objectives, budget, *args)

    monkeypatch.setattr(latent_edit, "optimise_latent", hungry)
    with_report, report = reported(guided(model, budget=GuidanceBudget(end_percent=0.4, iterations=1, memory_mode="fast")))
    if failures == 1:
        sample(with_report)
        assert modes == ["fast", "balanced", "balanced"] and "out of memory" in report.notes[0]
    else:
        with pytest.raises(RuntimeError, match="memory_mode"):
            sample(with_report)
        assert modes == ["fast", "balanced"]


def test_a_one_frame_latent_is_sampled_as_it_is(model, caplog):
    noise = tiny_wan.latent_like(frames=1, height=4, width=4)
    with caplog.at_level(logging.INFO, "wan_conductor"):
        assert torch.equal(sample(guided(model), noise=noise), sample(model, noise=noise))
    assert "one frame" in caplog.text


def test_a_span_outside_the_video_is_refused_with_its_line(model):
    with pytest.raises(ValueError, match="line 1"):
        sample(guided(model, temporal_mask("9s - 10s  cat")))


def test_a_sampler_that_keeps_its_steps_to_itself_is_refused_by_name(model):
    class VOID_DDIM(comfy.samplers.Sampler):
        pass

    guider = comfy.samplers.CFGGuider(guided(model))
    guider.set_conds(prompt(), prompt("bad", seed=2))
    noise = tiny_wan.latent_like(**SHAPE)
    with pytest.raises(ValueError, match="VOID_DDIM"):
        guider.sample(noise, torch.zeros_like(noise), VOID_DDIM(), torch.tensor([1.0, 0.5, 0.0]))


def test_multigpu_work_units_are_refused(model):
    split = guided(model)
    split.set_additional_models("multigpu", [model.clone()])
    with pytest.raises(ValueError, match="MultiGPU"):
        sample(split)


def test_a_stock_sampler_logs_one_line(model, caplog):
    with caplog.at_level(logging.INFO, "wan_conductor"):
        sample(guided(model))
    assert len([r for r in caplog.records if "guided steps" in r.getMessage()]) == 1


def test_progress_counts_inner_iterations_and_never_runs_back(model):
    done = []
    watched = guided(model).clone()
    watched.model_options["transformer_options"][LINK_KEY] = SamplerLink(GuidanceReport(fps=16.0, latent_frames=5), done.append)
    sample(watched, callback=lambda step, x0, x, total: done.append(step + 1))
    assert done == sorted(done) and len(done) >= STEPS + 2 * BUDGET.iterations


def test_attaching_changes_the_clone_alone_and_later_clones_keep_it(model):
    ours = guided(model)
    assert attached(model.model_options) == () and KEY not in model.wrappers.get(WrappersMP.OUTER_SAMPLE, {})
    later = ours.clone()
    later.model_options["transformer_options"]["other"] = 1
    assert attached(later.model_options) == attached(ours.model_options)
    assert len(attached(attach(later, BUDGET).model_options)) == 2


def test_a_budget_alone_installs_nothing(model):
    assert not attach(model, BUDGET).wrappers.get(WrappersMP.OUTER_SAMPLE)


def test_run_state_is_gone_when_sampling_ends(model):
    ours = guided(model)
    before = set(ours.model_options["transformer_options"])
    guider = comfy.samplers.CFGGuider(ours)
    guider.set_conds(prompt(), prompt("bad", seed=2))
    noise = tiny_wan.latent_like(**SHAPE)
    sigmas = comfy.samplers.calculate_sigmas(ours.get_model_object("model_sampling"), "simple", 3)
    guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=1)
    assert set(ours.model_options["transformer_options"]) == set(guider.model_options["transformer_options"]) == before


@pytest.mark.parametrize("kind, channels", [("t2v", 16), ("5B", 48)])
def test_with_a_noise_mask_attention_is_measured_on_what_the_model_is_shown(kind, channels, monkeypatch):
    """The host blends the protected part in: noised for Wan 2.1, clean for Wan 2.2 5B."""
    from wan_conductor.host import capture as captures
    from wan_conductor.host import latent_edit

    model, real, seen, shown = tiny_wan.load(kind, layers=1), latent_edit.optimise_latent, [], []

    def spy(start, capture, *args):
        inner = captures.AttentionCapture.__call__
        with monkeypatch.context() as patch:
            patch.setattr(captures.AttentionCapture, "__call__", lambda own, entry, z, *rest: seen.append(z) or inner(own, entry, z, *rest))
            return real(start, capture, *args)

    def predict_noise(executor, x, *args):
        shown.append(x)
        return executor(x, *args)

    monkeypatch.setattr(latent_edit, "optimise_latent", spy)
    watched = guided(model, budget=GuidanceBudget(end_percent=0.4, iterations=1, step_size=0.0))
    watched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "watch", predict_noise)
    mask = torch.ones(1, 1, 5, 4, 4)
    mask[:, :, :1] = 0
    noise, kept = tiny_wan.latent_like(channels=channels, **SHAPE), tiny_wan.latent_like(channels=channels, seed=4, **SHAPE)
    comfy.sample.sample(
        watched, noise, STEPS, 1.0, "euler", "simple", prompt(), prompt("bad", seed=2), kept, noise_mask=mask, seed=1, disable_pbar=True
    )
    assert len(seen) >= 2
    assert torch.equal(seen[0], shown[0]) and torch.equal(seen[-1], shown[1])


def test_guidance_sees_the_whole_video_through_the_hosts_context_windows(model):
    import comfy.context_windows as windows

    windowed = guided(model)
    windowed.model_options["context_handler"] = windows.IndexListContextHandler(
        windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=3, context_overlap=1, dim=2,
    )
    with_report, report = reported(windowed)
    out = sample(with_report)
    before, after = correlations(report)
    assert after[0] > before[0] and out.isfinite().all()


def test_the_edit_is_multiplied_by_the_noise_mask(model, monkeypatch):
    """AdamW's first update moves every element by step_size; under a mask of a half, by half of it."""
    from wan_conductor.host import latent_edit

    real, edits = latent_edit.optimise_latent, []

    def watch(z, *args):
        result = real(z, *args)
        edits.append((result.z - z).abs())
        return result

    monkeypatch.setattr(latent_edit, "optimise_latent", watch)
    once = guided(model, budget=GuidanceBudget(end_percent=0.2, iterations=1, step_size=0.02, check_last=False))
    mask = torch.full((1, 1, 5, 4, 4), 0.5)
    mask[..., 2:] = 0
    sample(once, noise_mask=mask)
    (edit,) = edits
    assert edit[..., :2].max() == pytest.approx(0.01, rel=0.01) and edit[..., 2:].max() == 0
