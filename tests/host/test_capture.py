"""Captured maps and their gradients equal a dense reference, on every kind of Wan and in every memory mode."""

import pytest
import tiny_wan
import torch
from captured import BUDGET, GRID, GROUPS, budget, capture_and_gradient
from dense_reference import dense_maps_and_gradient, relative_error, weighted_sum
from wan_conductor.host.capture import attention_capture, blocks_in_use


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


@pytest.mark.parametrize("memory_mode", ["fast", "balanced", "low"])
def test_a_gradient_through_two_entries_runs_each_ones_blocks_again_with_its_own_words(t2v, memory_mode):
    """Blocks of the first entry are run again after the second was measured: other rows, another padding."""
    positive = [*tiny_wan.conditioning(), *tiny_wan.conditioning(real_rows=9, rows=30, seed=3)]
    groups = [((1, 2), (4,)), ((7,), (0, 3))]

    def both(guider, x, sigma, model_options):
        with attention_capture(guider.inner_model, model_options, budget(memory_mode)) as capture:
            z = x.detach().clone().requires_grad_()
            losses = [weighted_sum(capture(entry, z, sigma, own)) for entry, own in zip(guider.conds["positive"], groups, strict=True)]
            return torch.autograd.grad(sum(losses), z)[0]

    found = tiny_wan.inside_sampling(t2v, positive, tiny_wan.conditioning(seed=2), tiny_wan.latent_like(), both)
    alone = [capture_and_gradient(t2v, positive, groups=own, entry=place)[1] for place, own in enumerate(groups)]
    torch.testing.assert_close(found, sum(alone), rtol=1e-4, atol=1e-6 * float(found.abs().max()))


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
