"""Spectral Homeostasis on tiny Wans of every kind: measured and scaled where it should be, stock elsewhere, alike however it is sampled."""

import functools
import json
import re

import comfy.context_windows
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import folder_paths
import numpy as np
import pytest
import tiny_wan
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_easycache import EasyCacheNode
from guided_prompts import prompt, temporal_mask
from wan_conductor.guidance import pictures
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.guidance.events import EventSchedule
from wan_conductor.guidance.homeostasis import SpectralHomeostasis, layer_weight
from wan_conductor.guidance.patch import Patch
from wan_conductor.guidance.report import GuidanceReport
from wan_conductor.guidance.spectral_record import SpectralRecord
from wan_conductor.guidance.timeline import parse_timeline
from wan_conductor.host.attach import attach, attached
from wan_conductor.host.attention import attention_wrapper
from wan_conductor.host.run import LINK_KEY, SamplerLink
from wan_conductor.host.schedule import progress_at
from wan_conductor.nodes.guided_ksampler import GuidedKSampler
from wan_conductor.nodes.spectral_homeostasis import SpectralHomeostasisNode
from wan_conductor.nodes.spectral_report import ALL, OF_A_RUN, OF_PAIRS, SpectralReport

import nodes

LAYERS, STEPS, FRAMES, HEADS = 3, 4, 5, tiny_wan.DIM // 128
STRONG = SpectralHomeostasis(tau=1.0)


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=LAYERS)


def sample(model, kind="t2v", cfg=3.0, frames=FRAMES, sampler="euler", noise=None, **kwargs):
    noise = tiny_wan.latent_like(frames, 4, 4, channels=48 if kind == "5B" else 16) if noise is None else noise
    extras = tiny_wan.image_extras(noise) if kind.startswith("i2v") else extras_of(kind, noise)
    positive, negative = ([[context, {**extra, **extras}] for context, extra in of] for of in (prompt(), prompt("bad", seed=2)))
    return tiny_wan.sample(model, positive, negative, noise, steps=STEPS, cfg=cfg, sampler=sampler, **kwargs)


def extras_of(kind, noise):
    generator = torch.Generator().manual_seed(7)
    random = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    _, channels, frames, height, width = noise.shape
    if kind == "ref_conv":
        return {"reference_latents": [random(1, channels, 1, height, width)]}
    if kind == "vace":
        return {
            "vace_frames": [random(1, 32, frames, height, width)], "vace_mask": [torch.ones(1, 64, frames, height, width)],
            "vace_strength": [1.0],
        }
    return {}


def reported(model, **kwargs):
    """The latents, and the report that Guided KSampler would have."""
    linked = model.clone()
    report = GuidanceReport(fps=16.0, latent_frames=kwargs.get("frames", FRAMES))
    linked.model_options["transformer_options"][LINK_KEY] = SamplerLink(report, progress=lambda done: None)
    return sample(linked, **kwargs), report


def records_of(patch):
    """Of the videos of the batch, through JSON."""
    return [SpectralRecord.from_dict(video) for video in json.loads(json.dumps(patch.measured, allow_nan=False))["videos"]]


def measured(model, **kwargs):
    """The video, its record, and what the report tells of the one patch on `model`."""
    out, report = reported(model, **kwargs)
    (told,) = report.patches
    (record,) = records_of(told)
    return out, record, told


def watched(model, calls):
    """`model` that leaves every self-attention of the main blocks in `calls` as the kernel gets it: block, q, k, grid."""

    def make(grid, context, transformer_options):
        def note(site, call, proceed):
            if site.kind == "self" and not site.vace:
                calls.append((site.block, call.q, call.k, grid))

        return [note]

    watching = model.clone()
    watching.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "watch", attention_wrapper(make))
    return watching


def windowed(model, length, overlap, anchored=False):
    model = model.clone()
    handler = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"), context_length=length, context_overlap=overlap, dim=2,
    )
    if anchored and not hasattr(handler, "causal_window_fix"):
        pytest.skip("this ComfyUI has no causal anchor")
    handler.causal_window_fix = anchored
    model.model_options["context_handler"] = handler
    return model


def assert_obeys_the_paper(record):
    """sign(gamma - 1) = sign(T) on every call whose gamma is not 1, and no active call ends with more |T|."""
    acts = record["strength"] > 1e-5  # the record has six decimals
    assert acts.any()
    np.testing.assert_array_equal(np.sign(record["gamma"].mean(1) - 1)[acts], np.sign(record["tension_before"])[acts])
    assert record["active"].any() and (record["reduction"][record["active"]] >= -1e-6).all()


def test_it_is_a_patch():
    assert isinstance(SpectralHomeostasis(), Patch)


@pytest.mark.parametrize("kind", ["t2v", "i2v", "i2v_2.2", "5B", "vace", "ref_conv"])
def test_every_kind_of_wan_is_measured_in_its_main_blocks_and_obeys_the_paper(kind):
    stock = tiny_wan.load(kind, layers=LAYERS)
    out, record, told = measured(attach(stock, STRONG), kind=kind)
    assert out.isfinite().all() and not torch.equal(out, sample(stock, kind))
    cells = [(layer, step, row) for step in range(STEPS) for layer in range(LAYERS) for row in range(2)]
    assert sorted(zip(record["layer"], record["step"], record["row"])) == sorted(cells)
    assert (record.layers, record.frames, record["gamma"].shape[1]) == (LAYERS, FRAMES, HEADS) and told.steps == list(range(STEPS))
    assert_obeys_the_paper(record)


def dense_gamma(q, k, frames, tau_eff):
    """Eq 1 to 6 as loops over heads and positions, one gamma for the row."""
    tokens = q.shape[0] // frames
    tension = []
    for head in range(HEADS):
        row_entropies, rho = [], 0.0
        for position in range(tokens):
            at = [frame * tokens + position for frame in range(frames)]
            span = slice(head * 128, head * 128 + 128)
            A = torch.softmax(q[at, span].double() @ k[at, span].double().T / 128**0.5, dim=-1)
            row_entropies.append(-(A * A.log()).sum(1).mean())
            rho = rho + A @ A.T / (A @ A.T).trace() / tokens
        eigenvalues = torch.linalg.eigvalsh(rho).clamp_min(1e-12)
        von_neumann = -(eigenvalues * eigenvalues.log()).sum()
        tension.append((torch.stack(row_entropies).mean() - von_neumann) / np.log(frames))
    return float(torch.exp(tau_eff * torch.stack(tension).mean())), float(torch.stack(tension).mean())


@pytest.mark.parametrize("kind", ["t2v", "vace", "ref_conv"])
def test_video_queries_reach_the_kernel_scaled_by_gamma_and_reference_tokens_as_they_were(kind):
    """At the first block that is corrected the input is still the stock one, so its queries can be compared with a dense reference."""
    stock = tiny_wan.load(kind, layers=LAYERS)
    plain, guided = [], []
    sample(watched(stock, plain), kind)
    # the watcher is asked after the patch: it is innermost because it was there before the run's own wrapper
    _, record, _ = measured(watched(attach(stock, STRONG), guided), kind=kind)
    (_, first, k, grid), (_, scaled, same_k, _) = plain[1], guided[1]  # block 1 of the first call; block 0 has weight 0
    assert plain[1][0] == guided[1][0] == 1
    video = grid.video_tokens
    torch.testing.assert_close(k, same_k)
    for row in range(first.shape[0]):
        gamma, tension = dense_gamma(first[row, video], k[row, video], FRAMES, 1.0 * layer_weight(1, LAYERS))
        torch.testing.assert_close(scaled[row, video], gamma * first[row, video], rtol=1e-4, atol=1e-5)
        of_call = (record["layer"] == 1) & (record["step"] == 0) & (record["row"] == row)
        assert record["tension_before"][of_call] == pytest.approx(tension, abs=1e-4)
    outside = torch.ones(first.shape[1], dtype=torch.bool)
    outside[video] = False
    assert bool(outside.any()) == (kind == "ref_conv")
    assert torch.equal(scaled[:, outside], first[:, outside])


def test_strength_follows_layer_and_noise_level_not_the_count_of_steps(model):
    record = measured(attach(model, STRONG))[1]
    sampling = model.get_model_object("model_sampling")
    for layer, sigma, tau_eff in zip(record["layer"], record["sigma"], record["tau_eff"]):
        w_t = 0.5 + 0.5 * np.cos(np.pi * progress_at(sampling, sigma))
        assert tau_eff == pytest.approx([0.0, 0.5, 1.0][layer] * w_t, abs=1e-3)
    assert record["tau_eff"].max() == pytest.approx(1.0, abs=1e-3)


def test_batched_and_separate_cfg_give_the_same_video_and_record(model, monkeypatch):
    guided = attach(model, STRONG)
    batched, of_batched, _ = measured(guided)
    monkeypatch.setattr(guided.model, "memory_required", lambda *args, **kwargs: float("inf"))
    calls = []
    separate, of_separate, _ = measured(watched(guided, calls))
    assert {len(q) for _, q, _, _ in calls} == {1}
    torch.testing.assert_close(separate, batched, rtol=1e-4, atol=1e-4)
    key = lambda record: np.lexsort((record["row"], record["layer"], record["step"]))  # noqa: E731
    for column in ("layer", "step", "row", "tension_before", "tension_after", "gamma"):
        np.testing.assert_allclose(of_separate[column][key(of_separate)], of_batched[column][key(of_batched)], atol=2e-4)
    rows = [of_batched["tension_before"][of_batched["row"] == row] for row in (0, 1)]
    assert np.abs(rows[0] - rows[1]).max() > 1e-3  # the rows differ, so mixing them up would be seen


def test_cfg_1_has_one_row(model):
    out, record, _ = measured(attach(model, STRONG), cfg=1.0)
    assert set(record["row"]) == {0} and len(record) == LAYERS * STEPS and not torch.equal(out, sample(model, cfg=1.0))
    assert_obeys_the_paper(record)


def test_per_head_corrects_every_head_by_its_own_tension(model):
    record = measured(attach(model, SpectralHomeostasis(tau=1.0, per_head=True)))[1]
    expected = np.exp(record["tau_eff"][:, None] * record["tension_heads_before"])
    acts = record["tau_eff"] > 0.01
    np.testing.assert_allclose(record["gamma"][acts], expected[acts], atol=1e-5)
    assert np.ptp(record["gamma"][acts], axis=1).max() > 1e-3


@pytest.mark.parametrize("operator", ["slices", "blocks"])
def test_both_operators_run_in_the_host(model, operator):
    assert_obeys_the_paper(measured(attach(model, SpectralHomeostasis(tau=1.0, operator=operator, positions=2, queries=2)))[1])


@pytest.mark.parametrize("sampler, cfg", [("euler", 3.0), ("euler", 1.0), ("uni_pc", 3.0)])
def test_tau_0_is_the_stock_sampler_bit_for_bit_measured_or_not(model, sampler, cfg):
    stock = sample(model, cfg=cfg, sampler=sampler)
    off = attach(model, SpectralHomeostasis(tau=0.0))
    assert torch.equal(sample(off, cfg=cfg, sampler=sampler), stock)
    out, record, _ = measured(off, cfg=cfg, sampler=sampler)
    assert torch.equal(out, stock) and len(record) and not record["strength"].any() and record["tension_before"].any()


def test_tau_0_installs_nothing_where_no_report_is_wanted(model, monkeypatch):
    monkeypatch.setattr(SpectralHomeostasis, "regulate", lambda *args: pytest.fail("attention was handled"))
    sample(attach(model, SpectralHomeostasis(tau=0.0)))


def test_a_single_frame_is_skipped_and_said_so(model, caplog):
    caplog.set_level("INFO", "wan_conductor")
    assert torch.equal(sample(attach(model, STRONG), frames=1), sample(model, frames=1)) and "one frame" in caplog.text


def test_slices_of_the_schedule_join_to_the_whole_run(model):
    """KSamplerAdvanced twice: the strength of a noise level is that of the whole schedule."""
    guided, latent = attach(model, STRONG), {"samples": torch.zeros(1, 16, FRAMES, 4, 4)}

    def advanced(image, start, end, noise, leftover):
        return nodes.KSamplerAdvanced().sample(
            guided, noise, 7, STEPS, 3.0, "euler", "simple", prompt(), prompt("bad", seed=2), image, start, end, leftover
        )[0]

    halves = advanced(advanced(latent, 0, 2, "enable", "enable"), 2, STEPS, "disable", "disable")
    whole = advanced(latent, 0, STEPS, "enable", "disable")
    torch.testing.assert_close(halves["samples"], whole["samples"], rtol=1e-5, atol=1e-5)


def test_it_acts_in_its_span_only(model):
    _, record, told = measured(attach(model, SpectralHomeostasis(tau=1.0, end_percent=0.5)))
    assert told.steps == [0, 1] and set(record["step"]) == {0, 1}


def test_together_with_temporal_mask_both_act_and_captures_leave_no_calls_in_the_record(model):
    guided = attach(attach(model, temporal_mask()), GuidanceBudget(end_percent=0.5, iterations=2, step_size=0.05, depth=1.0))
    both, record, _ = measured(attach(guided, STRONG))
    assert len(record) == LAYERS * STEPS * 2
    assert_obeys_the_paper(record)
    for other in (sample(guided), sample(attach(model, STRONG))):
        assert not torch.allclose(both, other)


def test_together_with_event_schedule_and_temporal_mask_both_orders_give_one_video(model):
    """The three are stacked as a user would; where Event Schedule changes the text attention, self-attention is still measured."""
    events = EventSchedule(parse_timeline("a:\n  0% - 50%  red\n  50% - end  jumps\n"))
    budget = GuidanceBudget(end_percent=0.3, iterations=1, step_size=0.05, depth=1.0)
    one, other = (
        attach(functools.reduce(attach, order, model), budget)
        for order in ([temporal_mask(), events, STRONG], [STRONG, events, temporal_mask()])
    )
    out, report = reported(one)
    by_name = {patch.name: patch for patch in report.patches}
    (record,) = records_of(by_name["Spectral Homeostasis"])
    assert set(by_name) == {"Spectral Homeostasis", "Event Schedule"} and len(report.steps) == 2
    assert len(record) == LAYERS * STEPS * 2
    assert_obeys_the_paper(record)
    torch.testing.assert_close(sample(other), out, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sample(attach(attach(attach(model, temporal_mask()), events), budget)), out)


def test_two_nodes_in_a_row_both_act_and_the_second_measures_what_the_first_left(model):
    twice = SpectralHomeostasisNode.execute(SpectralHomeostasisNode.execute(model, 1.0).args[0], 0.5).args[0]
    out, report = run(twice)
    (first,), (second,) = map(records_of, report.patches)
    acts = first["tau_eff"] > 0.01
    np.testing.assert_allclose(second["tension_before"][acts], first["tension_after"][acts], atol=2e-6)
    np.testing.assert_allclose(second["tau_eff"], first["tau_eff"] / 2, atol=2e-6)
    numbers = json.loads(SpectralReport.execute([report], ["overview"]).args[1])
    assert {model: len(videos) for model, videos in numbers["runs"].items()} == {"model": 1, "model node 2": 1}
    assert not torch.equal(out["samples"], run(attach(model, STRONG))[0]["samples"])


def test_videos_of_a_batch_are_corrected_and_recorded_as_if_alone(model):
    noise, guided = tiny_wan.latent_like(FRAMES, 4, 4, batch=2), attach(model, STRONG)
    out, report = reported(guided, noise=noise)
    records = records_of(report.patches[0])
    assert len(records) == 2
    for video, record in enumerate(records):
        alone, of_alone, _ = measured(guided, noise=noise[video : video + 1])
        torch.testing.assert_close(out[video : video + 1], alone, rtol=1e-4, atol=1e-4)
        for column in ("layer", "step", "row", "tension_before", "gamma"):
            np.testing.assert_allclose(record[column], of_alone[column], atol=2e-4)
        assert_obeys_the_paper(record)
    assert np.abs(records[0]["tension_before"] - records[1]["tension_before"]).max() > 1e-3


def test_sampler_custom_advanced_gives_what_ksampler_gives(model):
    guided, latent = attach(model, STRONG), {"samples": torch.zeros(1, 16, FRAMES, 4, 4)}
    positive, negative = prompt(), prompt("bad", seed=2)
    stock = nodes.KSampler().sample(guided, 7, STEPS, 3.0, "euler", "simple", positive, negative, latent)[0]["samples"]
    made = (
        custom.RandomNoise.execute(7), custom.CFGGuider.execute(guided, positive, negative, 3.0), custom.KSamplerSelect.execute("euler"),
        custom.BasicScheduler.execute(guided, "simple", STEPS, 1.0),
    )
    out = custom.SamplerCustomAdvanced.execute(*(one.args[0] for one in made), latent).args[0]["samples"]
    torch.testing.assert_close(out, stock, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(guided)[0]["samples"], stock, rtol=1e-5, atol=1e-5)
    plain = nodes.KSampler().sample(model, 7, STEPS, 3.0, "euler", "simple", positive, negative, latent)[0]["samples"]
    assert not torch.allclose(plain, out)


def test_a_cancelled_run_leaves_nothing_behind(model):
    guided, stock = attach(model, STRONG), sample(model)
    whole, modules = sample(guided), [module for _, module in model.model.named_modules()]

    def cancel(step, *_):
        if step == 1:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(guided, callback=cancel)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert torch.equal(sample(model), stock) and torch.equal(sample(guided), whole)


def test_easycache_beside_it_skips_steps_and_the_rest_are_corrected(model):
    cache = lambda model: EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]  # noqa: E731
    out, record, _ = measured(cache(attach(model, STRONG)))
    assert 0 < len(record) < LAYERS * STEPS * 2 and out.isfinite().all()
    assert not torch.equal(out, sample(cache(model)))
    assert_obeys_the_paper(record)


def test_context_windows_are_measured_each_by_itself(model):
    out, record, _ = measured(windowed(attach(model, STRONG), 3, 1))
    assert record.frames == 3 and len(record) > LAYERS * STEPS * 2 and out.isfinite().all()
    assert_obeys_the_paper(record)


def test_windows_with_a_causal_anchor_differ_in_frames_and_are_all_recorded(model):
    _, record, _ = measured(windowed(attach(model, STRONG), 3, 1, anchored=True))
    assert record["eigenvalues_before"].shape[1] == 4
    assert {int((row > 0).sum()) for row in record["eigenvalues_before"]} == {3, 4}
    assert_obeys_the_paper(record)


def test_a_window_of_a_single_frame_is_left_alone(model):
    stock, guided = (windowed(of, 1, 0) for of in (model, attach(model, STRONG)))
    out, report = reported(guided)
    assert torch.equal(out, sample(stock)) and records_of(report.patches[0]) == []


def test_nothing_is_left_on_the_model_after_a_run(model):
    guided = attach(model, STRONG)
    before = repr((guided.model_options, guided.wrappers))
    stock = sample(model)
    sample(guided)
    assert repr((guided.model_options, guided.wrappers)) == before and torch.equal(sample(model), stock)


# The nodes


def run(model, low=None, latent=None):
    return GuidedKSampler.execute(
        model, "enable", 7, STEPS, 3.0, "euler", "simple", prompt(), prompt("bad", seed=2),
        latent or {"samples": torch.zeros(1, 16, FRAMES, 4, 4)}, 0, 10000, "disable", {"budget": "auto"},
        {"switch_at": "percent", "switch_percent": 0.5}, model_low_noise=low,
    ).args


@pytest.fixture(scope="module")
def low():
    return tiny_wan.load(layers=LAYERS, seed=5)


@pytest.fixture(scope="module")
def reports(model, low):
    """A guided and a plain run of the two experts."""
    with torch.inference_mode():
        return [run(*SpectralHomeostasisNode.execute(model, tau, model_low_noise=low).args)[1] for tau in (1.0, 0.0)]


def test_the_node_attaches_its_knobs_to_both_experts(model, low):
    knobs = (True, "blocks", 64, 4, 0.1, 1.25, 0.1, 0.6)
    pair = SpectralHomeostasisNode.execute(model, 0.1, *knobs, model_low_noise=low).args
    assert [attached(of.model_options) for of in pair] == [(SpectralHomeostasis(0.1, *knobs),)] * 2
    assert attached(model.model_options) == ()


@pytest.mark.parametrize("tau, words", [(0.2, "0.82 to 1.22"), (0.0, "only measures|stays as it is")])
def test_the_node_says_how_far_it_may_go(model, tau, words):
    assert re.search(words, SpectralHomeostasisNode.execute(model, tau).ui.as_dict()["text"][0])


@pytest.mark.parametrize(
    "knobs, words", [({"start_percent": 0.6, "end_percent": 0.2}, "end_percent.*0.2"), ({"gamma_limit": 0.5}, "gamma_limit.*0.5")]
)
def test_knobs_that_cannot_be_are_refused_by_name(model, knobs, words):
    with pytest.raises(ValueError, match=f"Spectral Homeostasis.*{words}"):
        SpectralHomeostasisNode.execute(model, 0.2, **knobs)


def test_a_model_that_is_not_wan_is_refused_by_name(model):
    for pair in ((object(), None), (model, object())):
        with pytest.raises(ValueError, match="Spectral Homeostasis.*Wan"):
            SpectralHomeostasisNode.execute(pair[0], 0.2, model_low_noise=pair[1])


@pytest.mark.parametrize("node", [SpectralHomeostasisNode, SpectralReport])
def test_every_input_and_output_has_a_tooltip(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("WanConductor") and schema.category == "Wan Conductor" and schema.search_aliases
    assert all(one.tooltip for one in [*schema.inputs, *schema.outputs])
    node.GET_NODE_INFO_V1()


def test_each_expert_has_its_own_record_and_the_strength_goes_on_from_where_the_first_left(reports):
    (high,), (low,) = map(records_of, reports[0].patches)
    assert [patch.model for patch in reports[0].patches] == ["high noise", "low noise"]
    assert [set(record["layer"]) for record in (high, low)] == [{0, 1, 2}] * 2
    assert high["sigma"].min() > low["sigma"].max()
    deepest = [record["tau_eff"][record["layer"] == LAYERS - 1] for record in (high, low)]
    assert deepest[0].max() == pytest.approx(1.0, abs=1e-3) and 0 < deepest[1].max() < deepest[0].min()
    assert_obeys_the_paper(high)


def test_a_report_goes_through_json_and_back_with_its_record(reports):
    back = GuidanceReport.from_json(reports[0].to_json())
    assert back.patches == reports[0].patches
    for patch in back.patches:
        (record,) = records_of(patch)
        assert record.to_dict() == SpectralRecord.from_dict(json.loads(record.to_json())).to_dict() and len(record)


@pytest.mark.parametrize("figure", [*OF_A_RUN, *OF_PAIRS, *ALL])
def test_every_figure_is_drawn_for_both_experts(reports, figure):
    output = SpectralReport.execute([reports[0]], [figure], [reports[1]])
    images, numbers = output.args
    assert len(images) == 2 * len(ALL.get(figure, [figure])) and images.dtype == torch.float32 and 0 <= images.min() < images.max() <= 1
    assert images[0].std() > 0.02 and len(output.ui.as_dict()["images"]) == len(images)
    assert set(json.loads(numbers)["runs"]) == {"high noise", "low noise"}


def test_the_plain_run_is_the_one_that_the_comparison_calls_plain(reports):
    guided, plain = reports
    tests = json.loads(SpectralReport.execute([guided], ["shift"], [plain]).args[1])["paired"]["high noise"]["abs_tension"]
    swapped = json.loads(SpectralReport.execute([plain], ["shift"], [guided]).args[1])["paired"]["high noise"]["abs_tension"]
    assert (tests["plain"], tests["guided"]) == (swapped["guided"], swapped["plain"]) and tests["plain"] > tests["guided"]


def test_a_figure_of_two_runs_without_the_plain_one_is_refused_with_a_remedy(reports):
    with pytest.raises(ValueError, match="plain.*tau 0"):
        SpectralReport.execute([reports[0]], ["dose"])
    with pytest.raises(ValueError, match="They must match"):
        SpectralReport.execute([reports[0]], ["dose"], [GuidanceReport(fps=16.0, latent_frames=5)])


@pytest.fixture
def messages(monkeypatch):
    """The words of the pictures that hold nothing else."""
    words, draw = [], pictures.message
    monkeypatch.setattr(pictures, "message", lambda text, *size: words.append(text) or draw(text, *size))
    return words


@pytest.mark.parametrize("figure", ["overview", "all of the run", "shift", "all of the pair"])
def test_a_run_without_the_node_draws_a_message_that_says_what_to_do(figure, messages, caplog):
    empty = GuidanceReport(fps=16.0, latent_frames=5)
    images = SpectralReport.execute([empty], [figure], [empty]).args[0]
    assert len(images) == 1 and "Sample with Guided KSampler" in messages[0] and messages[0] in caplog.text


def test_videos_of_a_batch_are_told_apart_in_the_report(model):
    batch = {"samples": torch.zeros(2, 16, FRAMES, 4, 4)}
    guided, plain = (run(attach(model, SpectralHomeostasis(tau=tau)), latent=batch)[1] for tau in (1.0, 0.0))
    images, numbers = SpectralReport.execute([guided], ["overview"], [plain]).args
    numbers = json.loads(numbers)
    assert len(images) == len(numbers["runs"]["model"]) == 2
    assert {test["n"] for test in numbers["paired"]["model"].values()} == {2}


def test_a_single_frame_under_guided_ksampler_draws_why_nothing_was_recorded(model, messages):
    report = run(attach(model, STRONG), latent={"samples": torch.zeros(1, 16, 1, 4, 4)})[1]
    images, numbers = SpectralReport.execute([report], ["shift"], [report]).args
    assert len(images) == 1 and "one frame" in messages[0] and "one frame" in json.loads(numbers)["skipped"][0]


def test_a_prefix_saves_pictures_numbers_and_calls(reports, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    SpectralReport.execute([reports[0]], ["overview"], save_prefix=["wan/spectral"])
    endings = ["00001_.json", "00001_.png", "00001_high_noise_0.npz", "00001_low_noise_0.npz", "00002_.png"]
    assert sorted(path.name for path in (tmp_path / "wan").iterdir()) == [f"spectral_{ending}" for ending in endings]
    back = SpectralRecord.from_npz(tmp_path / "wan" / "spectral_00001_low_noise_0.npz")
    assert back.to_dict() == records_of(reports[0].patches[1])[0].to_dict()
    assert json.loads((tmp_path / "wan" / "spectral_00001_.json").read_text(encoding="utf-8"))["runs"]["low noise"][0]["layers"] == LAYERS
