"""A capture measures the model as other packs changed it, and keeps out what would skip, cache or break a gradient pass."""

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import pytest
import tiny_wan
import torch
from captured import BUDGET, GRID, GROUPS, budget, capture_and_gradient
from comfy.patcher_extension import WrappersMP
from dense_reference import dense_maps_and_gradient, relative_error, weighted_sum
from wan_conductor.host.capture import attention_capture
from wan_conductor.host.geometry import causal_anchor


@pytest.fixture
def plain(t2v):
    """Maps and gradient of the plain model."""
    return capture_and_gradient(t2v)


def test_a_foreign_original_block_is_run_again_as_itself(t2v, plain):
    """The host's original_block closes over the loop variable: called later, it is the last block."""
    patched = t2v.clone()
    for index in range(3):
        patched.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "double_block", index)
    maps, gradient = capture_and_gradient(patched)
    assert torch.equal(maps, plain[0]) and torch.equal(gradient, plain[1])


def test_a_block_that_is_run_again_sees_its_own_block_index(t2v, plain):
    """The host overwrites block_index in one dict; by the backward pass it says the last block."""

    def first_block_only(args):
        return args["x"] * (0.5 if args["transformer_options"]["block_index"] == 0 else 1.0)

    patched = t2v.clone()
    patched.set_model_attn1_patch(first_block_only)
    results = [capture_and_gradient(patched, budget=budget(mode)) for mode in ("fast", "balanced")]
    assert torch.equal(results[0][1], results[1][1])
    assert relative_error(results[0][1], plain[1]) > 1e-2


def test_what_other_packs_put_on_the_model_stays_in_force(t2v, plain):
    """A patch that changes the video changes what is measured; a LoRA is in the weights."""
    patched = t2v.clone()
    patched.set_model_attn1_patch(lambda args: 0.5 * args["x"])
    key = "diffusion_model.blocks.0.ffn.0.weight"
    patched.add_patches({key: (torch.ones_like(t2v.model.state_dict()[key]) * 0.01,)})
    maps, _ = capture_and_gradient(patched)
    assert not torch.allclose(maps, plain[0])
    reference = tiny_wan.load(inference=False)
    reference.set_model_attn1_patch(lambda args: 0.5 * args["x"])
    reference.add_patches({key: (torch.ones_like(t2v.model.state_dict()[key]) * 0.01,)})
    expected = dense_maps_and_gradient(reference, tiny_wan.conditioning(), tiny_wan.latent_like(), GROUPS, range(3), GRID)
    torch.testing.assert_close(maps, expected[0], rtol=1e-4, atol=1e-7)


def test_foreign_wrappers_and_kernels_do_not_run_in_a_capture(t2v, plain):
    def refuse(*args, **kwargs):
        raise AssertionError("ran in a gradient pass")

    def act(guider, x, sigma, model_options):
        for kind in (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
            model_options["transformer_options"].setdefault("wrappers", {}).setdefault(kind, {})["other pack"] = [refuse]
        model_options["transformer_options"]["optimized_attention_override"] = refuse
        model_options["model_function_wrapper"] = refuse
        with attention_capture(guider.inner_model, model_options, budget()) as capture:
            z = x.detach().clone().requires_grad_()
            maps = capture(guider.conds["positive"][0], z, sigma, GROUPS)
            return maps.detach(), torch.autograd.grad(weighted_sum(maps), z)[0]

    maps, gradient = tiny_wan.inside_sampling(t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)
    assert torch.equal(maps, plain[0]) and torch.equal(gradient, plain[1])


def test_easycache_neither_skips_nor_counts_a_capture(t2v):
    """EasyCache that may skip every step: each capture, at any step, still measures the latent it was given."""
    from comfy_extras.nodes_easycache import EasyCacheNode

    cached = EasyCacheNode.execute(t2v, 3.0, 0.0, 1.0, False).result[0]

    def maps_of_each_step(model):
        seen = []

        def predict_noise(executor, x, timestep, model_options, seed=None):
            guider = executor.class_obj
            latent = tiny_wan.latent_like(seed=len(seen))
            with attention_capture(guider.inner_model, model_options, budget()) as capture, torch.no_grad():
                seen.append(capture(guider.conds["positive"][0], latent, timestep, GROUPS))
            return executor(x, timestep, model_options, seed)

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", predict_noise)
        out = tiny_wan.sample(patched, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), steps=4)
        return seen, out

    plain_maps, _ = maps_of_each_step(t2v)
    cached_maps, out = maps_of_each_step(cached)
    assert all(torch.equal(*pair) for pair in zip(plain_maps, cached_maps, strict=True))
    alone = tiny_wan.sample(cached, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), steps=4)
    assert torch.equal(out, alone)
    stock = tiny_wan.sample(t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), steps=4)
    assert not torch.equal(out, stock), "EasyCache skipped nothing: this test shows nothing"


@pytest.mark.parametrize("anchored", [False, True])
def test_context_windows_are_measured_one_by_one_and_averaged(t2v, anchored):
    """A frame's map is the mean over the windows that hold it; a causal anchor frame is looked at but not measured there."""
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    windowed = WanContextWindowsManualNode.execute(t2v, 13, 5, "standard_static", 1, False, "pyramid", False).result[0]
    handler = windowed.model_options["context_handler"]
    if anchored and not hasattr(handler, "causal_window_fix"):
        pytest.skip("this ComfyUI has no causal anchor")
    handler.causal_window_fix = anchored
    noise = tiny_wan.latent_like(frames=7)
    seen = []

    def note_window(executor, model, conds, x, timestep, model_options):
        window = model_options["transformer_options"]["context_window"]
        seen.append((list(causal_anchor(window)), list(window.index_list)))
        return [torch.zeros_like(x) for _ in conds]

    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, BUDGET) as capture:
            z = x.detach().clone().requires_grad_()
            maps = capture(guider.conds["positive"][0], z, sigma, GROUPS)
            gradient = torch.autograd.grad(weighted_sum(maps), z)[0]
        options = {**model_options, "transformer_options": {**model_options["transformer_options"]}}
        options["transformer_options"]["wrappers"] = {WrappersMP.CALC_COND_BATCH: {"test": [note_window]}}
        comfy.samplers.calc_cond_batch(guider.inner_model, [guider.conds["positive"]], x, sigma, options)
        return maps.detach(), gradient

    maps, gradient = tiny_wan.inside_sampling(windowed, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), noise, act)
    assert len(seen) > 1 and any(anchor for anchor, _ in seen) == anchored
    total, count = torch.zeros_like(maps), torch.zeros(7)
    for anchor, frames in seen:
        alone, _ = capture_and_gradient(t2v, noise=noise[:, :, anchor + frames])
        total[:, :, frames] += alone[:, :, len(anchor) :]
        count[frames] += 1
    torch.testing.assert_close(maps, total / count.view(1, 1, 7, 1, 1), rtol=1e-4, atol=1e-7)
    assert gradient.square().sum(dim=(0, 1, 3, 4)).min() > 0


class PatchWithAModel:
    """Like Uni3C's or MultiTalk's: a model of its own, run inside Wan's blocks."""

    def __init__(self):
        linear = comfy.ops.disable_weight_init.Linear(tiny_wan.DIM, tiny_wan.DIM)
        linear.weight = torch.nn.Parameter(0.5 * torch.eye(tiny_wan.DIM).flip(0), requires_grad=False)
        linear.bias = torch.nn.Parameter(torch.zeros(tiny_wan.DIM), requires_grad=False)
        self.model = torch.nn.Sequential(linear)

    def __call__(self, args):
        return args["x"] + self.model(args["x"])


class PatchThatNamesItsModel(PatchWithAModel):
    def models(self):
        load = comfy.model_management.get_torch_device()
        return [comfy.model_patcher.ModelPatcher(self.model, load_device=load, offload_device=load)]


def test_models_that_patches_run_inside_wan_are_differentiated_too(t2v, plain):
    patched = t2v.clone()
    patched.set_model_patch(PatchThatNamesItsModel(), "attn2_patch")
    maps, gradient = capture_and_gradient(patched)
    reference = tiny_wan.load(inference=False)
    with torch.inference_mode(False):
        reference.set_model_patch(PatchWithAModel(), "attn2_patch")
    expected = dense_maps_and_gradient(reference, tiny_wan.conditioning(), tiny_wan.latent_like(), GROUPS, range(3), GRID)
    torch.testing.assert_close(maps, expected[0], rtol=1e-4, atol=1e-7)
    assert relative_error(gradient, expected[1]) < 1e-5
    assert relative_error(gradient, plain[1]) > 1e-2


def test_a_patch_that_hides_its_weights_is_refused_in_plain_words(t2v):
    patched = t2v.clone()
    patched.set_model_patch(PatchWithAModel(), "attn2_patch")
    with pytest.raises(RuntimeError, match="A patch on this model .*or one of another pack.* no gradient can pass it"):
        capture_and_gradient(patched)
