"""The one override: right tags on every kind of Wan, beside other packs in any order, and handlers that change what they are asked to."""

from dataclasses import replace

import comfy.ldm.modules.attention as host_attention
import pytest
import tiny_wan
import torch
from comfy.patcher_extension import WrappersMP
from wan_conductor.guidance.patch import AttentionSite
from wan_conductor.host.attention import attention_sites, attention_wrapper

POSITIVE, NEGATIVE = 1, 2


def sample(model, *handlers, negative_rows=40, cfg=5.0, noise=None, positive=None):
    """One step of stock sampling with our override installed by a DIFFUSION_MODEL wrapper."""
    patched = model.clone()
    if handlers:
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "ours", attention_wrapper(lambda *_: handlers))
    positive = positive or tiny_wan.conditioning(seed=POSITIVE)
    noise = tiny_wan.latent_like() if noise is None else noise
    return tiny_wan.sample(patched, positive, tiny_wan.conditioning(rows=negative_rows, seed=NEGATIVE), noise, steps=1, cfg=cfg)


class Listener:
    """Notes site and number of keys of every call."""

    def __init__(self):
        self.calls = []

    def __call__(self, site, call, proceed):
        self.calls.append((site, call.k.shape[1]))


def conds(kind, noise):
    extras = tiny_wan.image_extras(noise) if kind.startswith("i2v") else {}
    if kind != "i2v":
        extras.pop("clip_vision_output", None)
    return tiny_wan.conditioning(seed=POSITIVE, **extras)


EXPECTED = {
    "t2v": [(AttentionSite(0, "self"), 48), (AttentionSite(0, "text"), 40)],
    "i2v": [(AttentionSite(0, "self"), 48), (AttentionSite(0, "image"), 257), (AttentionSite(0, "text"), 40)],
    "i2v without an image": [(AttentionSite(0, "self"), 48), (AttentionSite(0, "image"), 40), (AttentionSite(0, "text"), 40)],
    "i2v_2.2": [(AttentionSite(0, "self"), 48), (AttentionSite(0, "text"), 40)],
    "vace": [
        (AttentionSite(0, "self"), 48), (AttentionSite(0, "text"), 40),
        (AttentionSite(0, "self", vace=True), 48), (AttentionSite(0, "text", vace=True), 40),
    ],
    "5B": [(AttentionSite(0, "self"), 48), (AttentionSite(0, "text"), 40)],
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_call_is_told_apart_and_listening_changes_nothing(kind):
    model_kind = kind.split()[0]
    model = tiny_wan.load(model_kind, layers=2)
    noise = tiny_wan.latent_like(channels=48 if kind == "5B" else 16)
    positive = conds(kind, noise)
    listener = Listener()
    heard = sample(model, listener, cfg=1.0, noise=noise, positive=positive)
    second_block = [(replace(site, block=1), keys) for site, keys in EXPECTED[kind]]
    assert listener.calls == EXPECTED[kind] + second_block
    assert torch.equal(heard, sample(model, cfg=1.0, noise=noise, positive=positive))


@pytest.mark.parametrize("ours_first", [True, False], ids=["our node before theirs", "our node after theirs"])
def test_an_override_of_another_pack_and_ours_both_run(t2v, ours_first):
    """They write one slot of model_options, and the last to write wins; ours is installed when the model runs."""
    theirs = []

    def sage(func, *args, **kwargs):
        theirs.append(kwargs["heads"])
        return host_attention.attention_pytorch.__wrapped__(*args, **kwargs)

    def add_theirs(model):
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = sage
        return model

    def add_ours(model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "ours", attention_wrapper(lambda *_: [listener]))
        return model

    listener = Listener()
    for add in (add_ours, add_theirs) if ours_first else (add_theirs, add_ours):
        t2v = add(t2v)
    sample(t2v)
    assert len(theirs) == len(listener.calls) == 6


def test_a_negative_prompt_inside_cross_attention_is_not_a_site(t2v):
    """As KJNodes' NAG does it: `forward` is patched, and attends a second time to a negative context."""
    nag_context = torch.randn(1, 7, tiny_wan.DIM, generator=torch.Generator().manual_seed(5))

    def nag_forward(self, x, context, transformer_options={}, **kwargs):  # noqa: B006
        q = self.norm_q(self.q(x))
        attend = lambda c: host_attention.optimized_attention(  # noqa: E731
            q, self.norm_k(self.k(c)), self.v(c), heads=self.num_heads, transformer_options=transformer_options
        )
        real = attend(context)
        return self.o(1.5 * real - 0.5 * attend(nag_context.expand(x.shape[0], -1, -1)))

    patched = t2v.clone()
    for index, block in enumerate(t2v.model.diffusion_model.blocks):
        patched.add_object_patch(f"diffusion_model.blocks.{index}.cross_attn.forward", nag_forward.__get__(block.cross_attn))
    listener = Listener()
    heard = sample(patched, listener)
    assert [keys for site, keys in listener.calls if site.kind == "text"] == [40, 40, 40]
    assert len(listener.calls) == 6
    assert torch.equal(heard, sample(patched))


def test_a_patched_self_attention_keeps_its_tag(t2v):
    """As EnhanceAVideo does it; hooks live in __call__, so a patched forward keeps them."""
    attention = t2v.model.diffusion_model.blocks[1].self_attn
    stock = attention.forward
    patched = t2v.clone()
    patched.add_object_patch("diffusion_model.blocks.1.self_attn.forward", lambda *args, **kwargs: 1.1 * stock(*args, **kwargs))
    listener = Listener()
    sample(patched, listener)
    assert [site.block for site, _ in listener.calls if site.kind == "self"] == [0, 1, 2]


def test_what_a_patch_writes_into_transformer_options_reaches_the_next_patch(t2v):
    """MultiTalk hands its map from attn1_patch to attn2_patch that way: the dict must stay the same object all through a block."""
    patched = t2v.clone()
    read = []

    def attn1(args):
        args["transformer_options"]["from attn1"] = args["transformer_options"]["block_index"]
        return args["x"]

    def attn2(args):
        read.append(args["transformer_options"].pop("from attn1"))
        return args["x"]

    patched.set_model_attn1_patch(attn1)
    patched.set_model_patch(attn2, "attn2_patch")
    sample(patched, Listener())
    assert read == [0, 1, 2]


def test_attention_called_from_a_patch_is_not_a_site(t2v):
    """After self-attention's own call, and between the attention modules."""
    patched = t2v.clone()

    def attend(args):
        x = args["x"]
        host_attention.optimized_attention(x, x, x, heads=2, transformer_options=args["transformer_options"])
        return x

    patched.set_model_attn1_patch(attend)
    patched.set_model_patch(attend, "attn2_patch")
    listener = Listener()
    sample(patched, listener)
    assert [site.kind for site, _ in listener.calls] == ["self", "text"] * 3


def test_a_backend_that_falls_back_does_not_ask_handlers_again(t2v):
    """sage falls back to pytorch by calling it from inside; `_inside_attn_wrapper` tells the host not to override that call."""
    patched = t2v.clone()
    fallbacks = []

    def falls_back(func, *args, **kwargs):
        fallbacks.append(kwargs["_inside_attn_wrapper"])
        return host_attention.optimized_attention(*args, **kwargs)

    patched.model_options["transformer_options"]["optimized_attention_override"] = falls_back
    listener = Listener()
    assert torch.equal(sample(patched, listener), sample(t2v))
    assert fallbacks == [True] * 6 and len(listener.calls) == 6


def dense(q, k, v, heads, bias=0.0):
    b, n, width = q.shape
    q, k, v = (tensor.view(b, -1, heads, width // heads).transpose(1, 2) for tensor in (q, k, v))
    p = torch.softmax(q @ k.transpose(-1, -2) * (width // heads) ** -0.5 + bias, dim=-1)
    return (p @ v).transpose(1, 2).reshape(b, n, width)


def test_handlers_run_in_order_and_each_sees_what_the_one_before_passed_on(t2v):
    """The first scales q of self-attention (as a temperature), the second replaces v; a third only watches."""
    seen = []

    def scale_q(site, call, proceed):
        return proceed(replace(call, q=1.7 * call.q)) if site.kind == "self" else None

    def replace_v(site, call, proceed):
        if site != AttentionSite(1, "self"):
            return None
        changed = replace(call, v=call.v.roll(1, dims=1))
        result = proceed(changed)
        torch.testing.assert_close(result, dense(changed.q, changed.k, changed.v, changed.heads))
        seen.append((call.q, changed.v))
        return result

    def watch(site, call, proceed):
        if site == AttentionSite(1, "self"):
            seen.append((call.q, call.v))

    assert not torch.allclose(sample(t2v, scale_q, replace_v, watch), sample(t2v))
    (q_second, v_changed), (q_third, v_third) = seen[1], seen[0]
    assert q_second is q_third and v_changed is v_third


@pytest.mark.parametrize("negative_rows, cfg", [(40, 5.0), (30, 5.0), (40, 1.0)], ids=["batched", "separate calls", "CFG 1"])
def test_rows_and_tokens_that_a_handler_does_not_touch_stay_bit_identical(t2v, negative_rows, cfg):
    """What an event schedule does: an exact biased softmax for some tokens of the positive rows only, found by their uuid."""
    texts = {"plain": {}, "biased": {}}
    chunk_orders = []

    def note(into, call, result):
        for chunk, uuid in enumerate(call.transformer_options["uuids"]):
            rows = result.shape[0] // len(call.transformer_options["uuids"])
            into[uuid] = result[chunk * rows : (chunk + 1) * rows].clone()

    def bias_first_frame(site, call, proceed):
        result = proceed(call)
        if site != AttentionSite(0, "text"):
            return result
        note(texts["plain"], call, result)
        uuids = call.transformer_options["uuids"]
        chunk_orders.append(call.transformer_options["cond_or_uncond"])
        rows = [chunk for chunk, uuid in enumerate(uuids) if uuid in positive_uuids]
        if rows:
            some = replace(call, q=call.q[rows, :16], k=call.k[rows], v=call.v[rows])
            bias = torch.zeros(1, 1, 16, call.k.shape[1])
            bias[..., 3] = 2.0
            result = result.clone()
            result[rows, :16] = dense(some.q, some.k, some.v, call.heads, bias)
        note(texts["biased"], call, result)
        return result

    positive_uuids = set()
    patched = t2v.clone()

    def predict_noise(executor, *args):
        positive_uuids.update(entry["uuid"] for entry in executor.class_obj.conds["positive"])
        return executor(*args)

    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", predict_noise)
    sample(patched, bias_first_frame, negative_rows=negative_rows, cfg=cfg)
    assert chunk_orders == {(40, 5.0): [[1, 0]], (30, 5.0): [[0], [1]], (40, 1.0): [[0]]}[negative_rows, cfg]
    (positive,) = positive_uuids
    assert not torch.equal(texts["plain"][positive][:, :16], texts["biased"][positive][:, :16])
    assert torch.equal(texts["plain"][positive][:, 16:], texts["biased"][positive][:, 16:])
    for negative in texts["plain"].keys() - positive_uuids:
        assert torch.equal(texts["plain"][negative], texts["biased"][negative])


def test_without_handlers_nothing_is_installed(t2v):
    seen = []
    patched = t2v.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "ours", attention_wrapper(lambda *_: []))

    def innermost(executor, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs):
        seen.append("optimized_attention_override" in transformer_options)
        seen.append(len(executor.class_obj.blocks[0].self_attn._forward_pre_hooks))
        return executor(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "z", innermost)
    sample(patched)
    assert seen == [False, 0]


def test_hooks_are_gone_after_an_exception_inside_the_model(t2v):
    def fail(site, call, proceed):
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        sample(t2v, fail)
    for block in t2v.model.diffusion_model.blocks:
        for attention in (block.self_attn, block.cross_attn):
            assert not attention._forward_pre_hooks and not attention._forward_hooks


def test_the_given_transformer_options_are_not_written_to(t2v):
    options = {"uuids": []}
    with attention_sites(t2v.model.diffusion_model, options, Listener()) as with_ours:
        assert "optimized_attention_override" in with_ours
    assert options == {"uuids": []}
