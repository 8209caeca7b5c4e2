"""The gradient recipe: what fails without it, what it must equal, and the traps that give a wrong gradient without an error."""

import contextlib
import gc
import weakref

import comfy.model_management
import comfy.ops
import comfy.samplers
import pytest
import tiny_wan
import torch
from dense_reference import relative_error
from torch import nn
from wan_conductor.host.gradient import (
    as_normal,
    frozen_weights,
    gradient_mode,
    is_host_linear,
    next_memory_mode,
    replaced,
    within_memory,
)


def model_gradient(model, recipe, prepare=None):
    """Gradient of a loss on the model's whole output, under `recipe(diffusion_model)`."""

    def act(guider, x, sigma, model_options):
        if prepare is not None:
            prepare(guider.inner_model.diffusion_model)
        with gradient_mode(), recipe(guider.inner_model.diffusion_model):
            z = x.detach().clone().requires_grad_()
            out = comfy.samplers.calc_cond_batch(guider.inner_model, [guider.conds["positive"]], z, sigma.clone(), model_options)[0]
            return torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), z)[0].clone()

    return tiny_wan.inside_sampling(model, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)


def recompute(diffusion_model):
    return frozen_weights(diffusion_model, linear="recompute")


def reference_gradient(prepare=None, **kwargs):
    """Plain autograd on a model loaded, moved and run outside inference mode."""

    def plain(diffusion_model):
        diffusion_model.requires_grad_(False)
        return gradient_mode()

    with torch.inference_mode(False):
        return model_gradient(tiny_wan.load(inference=False, **kwargs), plain, prepare)


@pytest.mark.parametrize("weight_format", tiny_wan.FORMATS)
def test_plain_autograd_cannot_use_the_inference_tensors_of_a_loaded_model(weight_format):
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        model_gradient(tiny_wan.load(weight_format=weight_format), lambda diffusion_model: gradient_mode())


@pytest.mark.parametrize("recipe", [frozen_weights, recompute])
def test_fp32_gradient_equals_plain_autograd(recipe):
    assert relative_error(model_gradient(tiny_wan.load(), recipe), reference_gradient()) < 1e-5


@pytest.mark.parametrize("weight_format", ["bf16", "fp8", "scaled_fp8", "quant_fp8"])
def test_recipes_agree_with_each_other_and_with_autograd_in_every_format(weight_format):
    direct = model_gradient(tiny_wan.load(weight_format=weight_format), frozen_weights)
    assert relative_error(model_gradient(tiny_wan.load(weight_format=weight_format), recompute), direct) < 1e-5
    assert relative_error(direct, reference_gradient(weight_format=weight_format)) < 1e-5


class ForeignLinear(nn.Linear):
    """Like GGUF's: a class of another pack with its own weight cast."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class NoWeightAtHand(nn.Module):
    """A Linear in pieces: weight in a plain attribute, no parameter, no weight_function."""

    def __init__(self, linear):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.packed = [linear.weight, linear.bias]

    def forward(self, x):
        return nn.functional.linear(x, self.packed[0], self.packed[1]) * self.scale


def with_foreign_modules(diffusion_model):
    for block in diffusion_model.blocks[:2]:
        block.ffn[0].__class__ = ForeignLinear
        block.self_attn.q = NoWeightAtHand(block.self_attn.q)
        plain, adapter = block.cross_attn.q.forward, torch.eye(tiny_wan.DIM) * 0.1
        block.cross_attn.q.forward = lambda x, plain=plain, adapter=adapter: plain(x) + x @ adapter  # a bypass LoRA


def test_modules_of_other_packs_are_differentiated_by_running_them_again():
    gradient = model_gradient(tiny_wan.load(), frozen_weights, with_foreign_modules)
    assert relative_error(gradient, reference_gradient(with_foreign_modules)) < 1e-5
    assert relative_error(gradient, reference_gradient()) > 1e-2


def with_a_lora_applied_while_casting(diffusion_model):
    """As the host does for weights that stay offloaded."""
    for block in diffusion_model.blocks:
        for module in (block.ffn[0], block.self_attn.v, block.norm3):
            module.weight_function = [lambda weight: weight + 0.02 * torch.ones_like(weight).cumsum(0).sin()]


@pytest.mark.parametrize("recipe", [frozen_weights, recompute])
def test_a_lora_that_is_applied_while_casting_is_in_the_gradient(recipe):
    gradient = model_gradient(tiny_wan.load(), recipe, with_a_lora_applied_while_casting)
    assert relative_error(gradient, reference_gradient(with_a_lora_applied_while_casting)) < 1e-5
    assert relative_error(gradient, reference_gradient()) > 1e-2


def test_only_untouched_host_linears_take_the_direct_way():
    dm = tiny_wan.load(weight_format="quant_fp8").model.diffusion_model
    assert is_host_linear(dm.blocks[0].ffn[0]) and is_host_linear(dm.text_embedding[0])
    assert not is_host_linear(dm.blocks[0].norm3) and not is_host_linear(dm.patch_embedding) and not is_host_linear(nn.Linear(2, 2))
    dm.blocks[0].ffn[0].forward = dm.blocks[0].ffn[0].forward
    assert not is_host_linear(dm.blocks[0].ffn[0])


@pytest.fixture
def reused_cast_buffers(monkeypatch):
    """As offloading does on a GPU: every weight is copied, in place, into the same buffer, which was made in inference mode."""
    buffers, refuse_normal_mode = {}, [True]
    stock = comfy.ops.cast_bias_weight

    def cast(s, input=None, dtype=None, device=None, bias_dtype=None, offloadable=False, **kwargs):
        functions = s.weight_function, s.bias_function
        s.weight_function, s.bias_function = [], []
        try:
            values = stock(s, input, dtype, device, bias_dtype, offloadable=True, **kwargs)[:2]
        finally:
            s.weight_function, s.bias_function = functions
        out = []
        for slot, value, after in zip(("weight", "bias"), values, functions, strict=True):
            if value is not None:
                with torch.inference_mode():
                    buffer = buffers.setdefault((slot, value.dtype), torch.empty(2**21, dtype=value.dtype))
                view = torch.empty(0, dtype=value.dtype).set_(buffer.untyped_storage(), 0, value.shape)
                if refuse_normal_mode[0]:
                    buffer[0] = 0  # torch refuses this outside inference mode
                view.copy_(value.detach())  # a raw-pointer view, like the host's: no version counter warns of what follows
                value = view
                for function in after:
                    value = function(value)
            out.append(value)
        return (*out, None) if offloadable else tuple(out)

    def uncast(s, weight, bias, stream):
        """From here on another stream may fill the buffer, before anything that the caller still queues has run."""
        for buffer in buffers.values():
            torch.empty(0, dtype=buffer.dtype).set_(buffer.untyped_storage(), 0, buffer.shape).fill_(torch.nan)

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", cast)
    monkeypatch.setattr(comfy.ops, "uncast_bias_weight", uncast)
    return refuse_normal_mode


def cast_every_weight(diffusion_model):
    for module in diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = True


@pytest.mark.parametrize("recipe", [frozen_weights, recompute])
def test_cast_buffers_that_are_used_again_do_not_spoil_the_gradient(recipe, reused_cast_buffers):
    gradient = model_gradient(tiny_wan.load(), recipe, cast_every_weight)
    assert relative_error(gradient, reference_gradient()) < 1e-5


@contextlib.contextmanager
def normal_weights(diffusion_model):
    """The obvious recipe: make every cast weight a normal tensor, and let autograd save it."""
    with contextlib.ExitStack() as undo:
        for module in diffusion_model.modules():
            if hasattr(module, "weight_function"):
                undo.enter_context(replaced(module, "weight_function", [as_normal]))
                undo.enter_context(replaced(module, "bias_function", [as_normal]))
        yield


def test_the_obvious_recipe_fails_on_cast_buffers_or_is_silently_wrong(reused_cast_buffers):
    """Shows that the simulation above bites."""
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        model_gradient(tiny_wan.load(), normal_weights)
    reused_cast_buffers[0] = False
    assert not relative_error(model_gradient(tiny_wan.load(), normal_weights), reference_gradient()) < 0.1


def test_gradient_mode_is_left_as_it_was_found():
    for before in (False, True):
        comfy.model_management.in_training = before
        try:
            with pytest.raises(KeyError), gradient_mode():
                assert comfy.model_management.in_training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
                raise KeyError
            assert comfy.model_management.in_training is before and torch.is_inference_mode_enabled()
        finally:
            comfy.model_management.in_training = False


def test_gradients_flow_inside_a_sampler_that_forbids_them():
    with torch.no_grad(), gradient_mode():
        x = torch.ones(2, requires_grad=True)
        assert torch.autograd.grad((x * x).sum(), x)[0].tolist() == [2.0, 2.0]


def test_a_normal_alias_shares_storage_and_leaves_other_values_alone():
    inference = torch.arange(6.0).view(2, 3).t()
    alias = as_normal(inference)
    assert not alias.is_inference() and alias.data_ptr() == inference.data_ptr() and torch.equal(alias, inference)
    assert as_normal(alias) is alias and as_normal("text") == "text"


def test_memory_of_a_failed_pass_is_free_before_the_next_is_tried():
    held = []

    def run():
        activations = torch.zeros(1000)
        held.append(weakref.ref(activations))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    gc.disable()  # nothing may depend on a lucky collection
    try:
        assert within_memory(run) == (None, False)
        assert held[0]() is None
    finally:
        gc.enable()
    assert within_memory(lambda: 7) == (7, True)
    with pytest.raises(KeyError), torch.inference_mode():
        within_memory(lambda: {}["x"])


def test_each_memory_mode_gives_way_to_the_next():
    assert [next_memory_mode(mode) for mode in ("fast", "balanced", "low")] == ["balanced", "low", None]
