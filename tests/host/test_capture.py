"""Captured maps and their gradients equal a dense reference, on every kind of Wan, whatever else acts on the model."""

import itertools

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import pytest
import tiny_wan
import torch
from comfy.patcher_extension import WrappersMP
from dense_reference import dense_maps_and_gradient, relative_error, weighted_sum
from wan_conductor.guidance.budget import GuidanceBudget
from wan_conductor.host.capture import attention_capture, blocks_in_use
from wan_conductor.host.geometry import causal_anchor

GROUPS = ((1, 2), (4,))
GRID = (3, 4, 4)


def budget(memory_mode="balanced", depth=1.0):
    return GuidanceBudget(memory_mode=memory_mode, depth=depth)


BUDGET = budget()


def capture_and_gradient(model, positive=None, noise=None, budget=BUDGET, groups=GROUPS, negative=None, cfg=5.0, entry=0):
    """What a guided step does: maps of the first evaluation and the gradient of a loss on them."""

    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget) as capture:
            z = x.detach().clone().requires_grad_()
            maps = capture(guider.conds["positive"][entry], z, sigma, groups)
            return maps.detach(), torch.autograd.grad(weighted_sum(maps), z)[0]

    noise = tiny_wan.latent_like() if noise is None else noise
    negative = negative or tiny_wan.conditioning(seed=2)
    return tiny_wan.inside_sampling(model, positive or tiny_wan.conditioning(), negative, noise, act, cfg=cfg)


@pytest.fixture(scope="module")
def t2v():
    return tiny_wan.load()


@pytest.fixture
def plain(t2v):
    """Maps and gradient of the plain model."""
    return capture_and_gradient(t2v)


def conds_of(kind, noise):
    extra = {}
    if kind.startswith("i2v"):
        extra = tiny_wan.image_extras(noise)
    if kind == "i2v_2.2" or kind == "i2v without clip vision":
        del extra["clip_vision_output"]
    if kind == "ref_conv":
        extra = {"reference_latents": [tiny_wan.latent_like(frames=1, seed=9)]}
    return tiny_wan.conditioning(**extra)


@pytest.mark.parametrize("kind", [*tiny_wan.KINDS, "i2v without clip vision"])
def test_maps_and_gradient_equal_a_dense_reference(kind):
    """I2V 2.1: only the second cross-attention call is text. VACE: vace_blocks repeat block_index. ref_conv: video tokens start later."""
    model_kind = "i2v" if kind.startswith("i2v without") else kind
    noise = tiny_wan.latent_like(channels=48 if kind == "5B" else 16)
    positive = conds_of(kind, noise)
    offset = 16 if kind == "ref_conv" else 0
    maps, gradient = capture_and_gradient(tiny_wan.load(model_kind), positive, noise)
    expected = dense_maps_and_gradient(tiny_wan.load(model_kind, inference=False), positive, noise, GROUPS, range(3), GRID, offset)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected[0], rtol=1e-4, atol=1e-7)
    assert relative_error(gradient, expected[1]) < 1e-5


@pytest.mark.parametrize("weight_format", ["bf16", "fp8", "scaled_fp8", "quant_fp8"])
def test_gradient_equals_plain_autograd_in_every_weight_format(weight_format):
    positive, noise = tiny_wan.conditioning(), tiny_wan.latent_like()
    compute = torch.float32 if weight_format in ("bf16", "fp8") else None
    _, gradient = capture_and_gradient(tiny_wan.load(weight_format=weight_format, compute=compute), positive, noise)
    reference = tiny_wan.load(weight_format=weight_format, compute=compute, inference=False)
    _, expected = dense_maps_and_gradient(reference, positive, noise, GROUPS, range(3), GRID)
    assert relative_error(gradient, expected) < (1e-5 if compute else 2e-2)  # bf16 activations: pad rows are summed in another order


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_gradients_of_tiny_and_huge_losses_survive_fp16(size):
    """fp16 alone would lose everything below 6e-8 or above 65504."""

    def gradient(weight_format, **kwargs):
        def act(guider, x, sigma, model_options):
            with attention_capture(guider.inner_model, model_options, BUDGET) as capture:
                z = x.detach().clone().requires_grad_()
                maps = capture(guider.conds["positive"][0], z, sigma, GROUPS)
                return torch.autograd.grad(size * weighted_sum(maps), z)[0]

        model = tiny_wan.load(weight_format=weight_format, **kwargs)
        return tiny_wan.inside_sampling(model, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)

    assert relative_error(gradient("fp16", compute=torch.float16), gradient("fp16", compute=torch.float32)) < 2e-2


def test_a_batch_of_two_latents_gives_each_its_own_maps(t2v):
    noise = tiny_wan.latent_like(batch=2)
    maps, gradient = capture_and_gradient(t2v, noise=noise)
    for row in range(2):
        alone, _ = capture_and_gradient(t2v, noise=noise[row : row + 1])
        torch.testing.assert_close(maps[row : row + 1], alone, rtol=1e-4, atol=1e-7)
    assert gradient.shape == noise.shape


def test_every_positive_entry_is_captured_by_itself(t2v):
    both = tiny_wan.conditioning(seed=1) + tiny_wan.conditioning(seed=7)
    for entry, seed in enumerate((1, 7)):
        torch.testing.assert_close(
            capture_and_gradient(t2v, both, entry=entry)[0], capture_and_gradient(t2v, tiny_wan.conditioning(seed=seed))[0], rtol=0, atol=0
        )


@pytest.mark.parametrize("cfg, negative_rows", [(1.0, 40), (5.0, 40), (5.0, 30)], ids=["CFG 1", "batched", "separate calls"])
def test_the_negative_prompt_has_no_part_in_a_capture(t2v, plain, cfg, negative_rows):
    maps, gradient = capture_and_gradient(t2v, negative=tiny_wan.conditioning(rows=negative_rows, seed=3), cfg=cfg)
    assert torch.equal(maps, plain[0]) and torch.equal(gradient, plain[1])


def test_memory_modes_agree_bit_for_bit(t2v, plain):
    for memory_mode in ("fast", "low"):
        maps, gradient = capture_and_gradient(t2v, budget=budget(memory_mode))
        assert torch.equal(maps, plain[0]) and torch.equal(gradient, plain[1])


def test_each_memory_mode_keeps_less_for_the_backward_pass(t2v):
    """What autograd saves in the forward pass, outside the checkpointed blocks, as tensors on the device."""

    def saved_bytes(memory_mode):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        def act(guider, x, sigma, model_options):
            with attention_capture(guider.inner_model, model_options, budget(memory_mode)) as capture:
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                    capture(guider.conds["positive"][0], x.detach().clone().requires_grad_(), sigma, GROUPS)

        tiny_wan.inside_sampling(t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)
        return sum(storages.values())

    fast, balanced, low = map(saved_bytes, ("fast", "balanced", "low"))
    block_input = 48 * tiny_wan.DIM * 4
    assert balanced < fast / 5
    assert balanced - low == 3 * block_input


def test_early_exit_gives_the_same_maps_and_runs_nothing_after(t2v):
    ran = []
    blocks = t2v.model.diffusion_model.blocks
    head = t2v.model.diffusion_model.head
    watched = {"block 1 self": blocks[1].self_attn.o, "block 1 ffn": blocks[1].ffn, "block 2": blocks[2], "head": head}
    handles = [module.register_forward_pre_hook(lambda *_, name=name: ran.append(name)) for name, module in watched.items()]
    try:
        maps, gradient = capture_and_gradient(t2v, budget=budget("fast", depth=0.6))
    finally:
        for handle in handles:
            handle.remove()
    assert ran == ["block 1 self"]
    expected = dense_maps_and_gradient(
        tiny_wan.load(inference=False), tiny_wan.conditioning(), tiny_wan.latent_like(), GROUPS, range(2), GRID
    )
    torch.testing.assert_close(maps, expected[0], rtol=1e-4, atol=1e-7)
    assert relative_error(gradient, expected[1]) < 1e-5


def test_depth_is_a_share_of_blocks_and_never_none():
    model = torch.nn.Module()
    model.blocks = [None] * 30
    assert [len(blocks_in_use(model, depth)) for depth in (0.01, 0.1, 0.5, 0.67, 1.0)] == [1, 3, 15, 21, 30]


def test_maps_captured_while_blocks_are_run_again_are_not_counted(t2v):
    """A list appended to inside a checkpointed block would hold every map twice after the backward pass."""

    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget()) as capture:
            results = []
            for _ in range(2):
                z = x.detach().clone().requires_grad_()
                maps = capture(guider.conds["positive"][0], z, sigma, GROUPS)
                results += [maps.detach(), torch.autograd.grad(weighted_sum(maps), z)[0]]
            assert capture._outputs.of_pass == []
            return results

    first_maps, first_gradient, maps, gradient = tiny_wan.inside_sampling(
        t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act
    )
    assert torch.equal(first_maps, maps) and torch.equal(first_gradient, gradient)


def test_the_last_look_without_gradient_sees_the_same_maps(t2v, plain):
    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget()) as capture, torch.no_grad():
            return capture(guider.conds["positive"][0], x.clone(), sigma, GROUPS)

    maps = tiny_wan.inside_sampling(t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)
    assert torch.equal(maps, plain[0]) and not maps.requires_grad


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
    with pytest.raises(RuntimeError, match="A patch of another pack"):
        capture_and_gradient(patched)


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
            with attention_capture(guider.inner_model, model_options, budget()) as capture:
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
            with attention_capture(guider.inner_model, model_options, budget()) as capture:
                capture(guider.conds["positive"][0], x.detach().clone().requires_grad_(), sigma, GROUPS)
        return same(before, snapshot(guider.inner_model))

    assert tiny_wan.inside_sampling(t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)


def test_an_entry_that_is_not_active_at_this_sigma_is_an_error(t2v):
    late = tiny_wan.conditioning(start_percent=0.9, end_percent=1.0)
    with pytest.raises(RuntimeError, match="active"):
        capture_and_gradient(t2v, tiny_wan.conditioning() + late, entry=1)


def test_entries_with_different_hooks_are_refused(t2v):
    def act(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget()) as capture:
            entry = guider.conds["positive"][0]
            capture(entry, x.clone(), sigma, GROUPS)
            capture({**entry, "hooks": object()}, x.clone(), sigma, GROUPS)

    with pytest.raises(ValueError, match="hooks"):
        tiny_wan.inside_sampling(t2v, tiny_wan.conditioning(), tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), act)


def test_multigpu_work_units_are_refused(t2v):
    with pytest.raises(ValueError, match="MultiGPU"), attention_capture(t2v.model, {"multigpu_clones": {}}, budget()):
        pass
