"""Guided steps with a known edit in place of an objective, under the host's own samplers."""

import comfy.k_diffusion.sampling
import comfy.samplers
import pytest
import tiny_wan
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from wan_conductor.host.guided_steps import guided_steps, with_guided_steps

STEPS = 6
SAMPLERS = [
    "euler", "ddim", "euler_ancestral", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "dpm_fast", "dpmpp_2s_ancestral",
    "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "ddpm", "lcm", "ipndm", "deis", "res_multistep", "gradient_estimation",
    "er_sde", "seeds_2", "seeds_3", "sa_solver", "uni_pc", "uni_pc_bh2",
]


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(layers=1)


def guider_of(model, cfg=1.0):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(tiny_wan.conditioning(seed=1), tiny_wan.conditioning(seed=2))
    guider.set_cfg(cfg)
    return guider


def schedule(model, steps=STEPS):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "sgm_uniform", steps)


def run(model, sampler, sigmas=None, noise=None, latent=None, **kwargs):
    noise = tiny_wan.latent_like(height=4, width=4) if noise is None else noise
    latent = torch.zeros_like(noise) if latent is None else latent
    sigmas = schedule(model) if sigmas is None else sigmas.clone()
    return guider_of(model).sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=3, **kwargs)


def guided(model, name, steps, edit=lambda start: start.x):
    sampler = comfy.samplers.sampler_object(name)
    return with_guided_steps(sampler, guider_of(model), lambda sigmas: steps, edit)


def stock(name):
    return comfy.samplers.sampler_object(name)


def x_as_latent(model, x, sigma):
    """The latent from which the host, adding no noise, starts at exactly x."""
    return model.model.process_latent_out(x / (1 - sigma))


def latent_as_x(model, latent, sigma):
    return model.model.process_latent_in(latent) * (1 - sigma)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_edit_has_its_full_effect_in(name, model):
    """Reference: stock runs of the host cut where the edit happens; the edit is added to the latent that passes between them."""
    sigmas, noise = schedule(model), tiny_wan.latent_like(height=4, width=4)
    dx = 0.3 * tiny_wan.latent_like(height=4, width=4, seed=9)
    nothing = torch.zeros_like(noise)

    before = run(model, stock("euler"), sigmas[:3], noise + dx)
    edited = x_as_latent(model, latent_as_x(model, before, sigmas[2]) + dx, sigmas[2])
    after = run(model, stock("euler"), sigmas[2:4], nothing, edited)
    expected = run(model, stock(name), sigmas[3:], nothing, after)
    without_second_edit = run(model, stock(name), sigmas[3:], nothing, run(model, stock("euler"), sigmas[2:4], nothing, before))

    actual = run(model, guided(model, name, {0, 2}, lambda start: start.x + dx), sigmas, noise)
    effect = (expected - without_second_edit).norm()
    assert effect > 0.1
    assert (actual - expected).norm() < 1e-3 * effect


def test_guided_steps_without_an_edit_are_the_plain_euler_sampler_bit_for_bit(model):
    assert torch.equal(run(model, guided(model, "euler", {0, 1, 4})), run(model, stock("euler")))


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc", "dpmpp_sde", "ddim"])
def test_without_guided_steps_the_sampler_runs_untouched(model, name):
    assert torch.equal(run(model, guided(model, name, ())), run(model, stock(name)))


@pytest.mark.parametrize("name", ["uni_pc", "dpm_fast", "dpmpp_2m"])
def test_one_remaining_interval_is_taken_by_euler(model, name):
    assert torch.equal(run(model, guided(model, name, {STEPS - 2})), run(model, stock("euler")))


def test_the_remaining_sigmas_are_a_view(model):
    """uni_pc moves the last sigma off zero in the list it is given, and the host scales its result by that sigma."""
    seen = []

    def sampler_function(model, x, sigmas, **kwargs):
        seen.append(sigmas)
        return x

    sampler = with_guided_steps(comfy.samplers.KSAMPLER(sampler_function), guider_of(model), lambda sigmas: {1}, lambda start: start.x)
    sigmas = schedule(model)
    noise = tiny_wan.latent_like(height=4, width=4)
    guider_of(model).sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=3)
    assert seen[0].data_ptr() == sigmas[2:].data_ptr() and torch.equal(seen[0], sigmas[2:])


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc", "heun"])
def test_callback_counts_all_steps_once_and_previews_what_the_step_predicts(model, name):
    calls = []
    run(model, guided(model, name, {0, 1}), callback=lambda step, x0, x, total: calls.append((step, total, x0.clone(), x.clone())))
    steps = [step for step, *_ in calls]
    assert steps == sorted(steps) and set(steps) >= set(range(STEPS - 1)) and max(steps) < STEPS + 1
    assert {total for _, total, *_ in calls} == {STEPS}
    plain = []
    run(model, stock("euler"), callback=lambda step, x0, x, total: plain.append((x0.clone(), x.clone())))
    for step in (0, 1):
        assert torch.equal(calls[step][2], plain[step][0]) and torch.equal(calls[step][3], plain[step][1])


def test_the_given_sampler_object_is_never_changed(model):
    sampler = stock("dpmpp_2m")
    function = sampler.sampler_function

    def fail(start):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(model, with_guided_steps(sampler, guider_of(model), lambda sigmas: {0}, fail))
    assert sampler.sampler_function is function


def test_sampler_options_reach_the_sampler_and_its_name_stays(model):
    seen = {}

    def sample_mine(model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0):
        seen["eta"] = eta
        return x

    sampler = comfy.samplers.KSAMPLER(sample_mine, {"eta": 0.25})
    own = with_guided_steps(sampler, guider_of(model), lambda sigmas: {0}, lambda start: start.x)
    run(model, own)
    assert seen == {"eta": 0.25} and own.sampler_function.__name__ == "sample_mine"


@pytest.mark.parametrize("cache", [EasyCacheNode, LazyCacheNode])
def test_step_caches_do_not_swallow_an_edit_in_guided_steps(model, cache):
    """With a huge threshold the cache reuses every step it may: all but its first two."""
    sigmas = schedule(model)
    cached = cache.execute(model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False).args[0]
    noise = tiny_wan.latent_like(height=4, width=4)

    def run_cached(intervals):
        guider = guider_of(cached)
        sampler = stock("euler")
        sampler.sampler_function = guided_steps(sampler.sampler_function, guider, lambda sigmas: intervals, lambda start: start.x)
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas.clone(), disable_pbar=True, seed=3)

    plain = run(model, stock("euler"))
    assert not torch.equal(run_cached(()), plain)
    assert torch.equal(run_cached(range(STEPS)), plain)
