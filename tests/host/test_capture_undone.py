"""After a capture, failed or not, the model is as before; what a capture cannot do it refuses in plain words."""

import itertools

import comfy.model_management
import pytest
import tiny_wan
import torch
from captured import BUDGET, GROUPS, capture_and_gradient
from dense_reference import weighted_sum
from wan_conductor.host.capture import attention_capture


def snapshot(module):
    """Everything that hangs on a module and its children, containers by content."""
    found = {}
    for name, child in module.named_modules():
        for attribute, value in vars(child).items():
            content = dict(value) if isinstance(value, dict) else list(value) if isinstance(value, (list, set)) else value
            found[name, attribute] = content
    return found


def same(before, after):
    return before.keys() == after.keys() and all(identical(before[key], after[key]) for key in before)


def identical(a, b):
    if isinstance(a, dict):
        return list(a) == list(b) and all(a[key] is b[key] for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(x is y for x, y in itertools.zip_longest(a, b))
    return a is b or a == b


@pytest.mark.parametrize("fault", [None, RuntimeError("inside"), comfy.model_management.InterruptProcessingException()])
@pytest.mark.parametrize("kind", ["i2v", "vace"])
def test_the_model_is_as_before_after_a_capture(kind, fault):
    model = tiny_wan.load(kind)
    noise, positive, negative = tiny_wan.latent_like(), tiny_wan.conditioning(), tiny_wan.conditioning(seed=2)
    plain_before = tiny_wan.sample(model, positive, negative, noise, steps=1)
    seen = {}

    def act(guider, x, sigma, model_options):
        before = snapshot(guider.inner_model)
        options_before = sorted(model_options["transformer_options"])
        raised = None
        try:
            with attention_capture(guider.inner_model, model_options, BUDGET) as capture:
                z = x.detach().clone().requires_grad_()
                maps = capture(guider.conds["positive"][0], z, sigma, GROUPS)
                if fault is not None:
                    maps.register_hook(lambda _: (_ for _ in ()).throw(fault))
                torch.autograd.grad(weighted_sum(maps), z)
        except BaseException as error:  # Cancel is one
            raised = error
        assert (raised is None) if fault is None else isinstance(raised, type(fault))
        seen["model"] = same(before, snapshot(guider.inner_model))
        seen["options"] = sorted(model_options["transformer_options"]) == options_before
        seen["modes"] = (comfy.model_management.in_training, torch.is_inference_mode_enabled(), torch.is_grad_enabled())

    tiny_wan.inside_sampling(model, positive, negative, noise, act)
    assert seen == {"model": True, "options": True, "modes": (False, True, False)}
    assert torch.equal(tiny_wan.sample(model, positive, negative, noise, steps=1), plain_before)


def test_an_interrupt_in_the_forward_pass_leaves_the_model_as_before(t2v):
    def act(guider, x, sigma, model_options):
        before = snapshot(guider.inner_model)
        comfy.model_management.interrupt_current_processing(True)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            with attention_capture(guider.inner_model, model_options, BUDGET) as capture:
                capture(guider.conds["positive"][0], x.detach().clone().requires_grad_(), sigma, GROUPS)
        return same(before, snapshot(guider.inner_model))

    assert tiny_wan.inside_sampling(t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)


def test_an_entry_that_is_not_active_at_this_sigma_is_an_error(t2v):
    late = tiny_wan.conditioning(start_percent=0.9, end_percent=1.0)
    with pytest.raises(RuntimeError, match="active"):
        capture_and_gradient(t2v, tiny_wan.conditioning() + late, entry=1)


def test_entries_with_different_hooks_are_refused(t2v):
    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, BUDGET) as capture:
            entry = guider.conds["positive"][0]
            capture(entry, x.clone(), sigma, GROUPS)
            capture({**entry, "hooks": object()}, x.clone(), sigma, GROUPS)

    with pytest.raises(ValueError, match="hooks"):
        tiny_wan.inside_sampling(t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)


def test_multigpu_work_units_are_refused(t2v):
    with pytest.raises(ValueError, match="MultiGPU"), attention_capture(t2v.model, {"multigpu_clones": {}}, BUDGET):
        pass
