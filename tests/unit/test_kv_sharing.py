"""KV sharing on tensors, against dense attention with a mask: what is read, from whom, by whom, and what is left behind."""

import itertools

import pytest
import torch
from einops import rearrange
from torch import Tensor
from wan_conductor.guidance.kv_sharing import KVSharing, KVStore, SharedPass, Side, WindowKV, masked_attention, object_mask
from wan_conductor.guidance.objective import PhraseRef
from wan_conductor.guidance.patch import AttentionCall, AttentionSite, VideoGrid

HEADS, DIM, TEXT = 2, 8, 7
GRID = VideoGrid(3, 2, 4)
BLOCKS = 6
LAST = BLOCKS - 1


def dense(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Attention "b n (h d)" with a boolean mask "b n m", written out in fp64."""
    q, k, v = (rearrange(x.double(), "b n (h d) -> b h n d", h=HEADS) for x in (q, k, v))
    logits = q @ k.transpose(-1, -2) / (DIM / HEADS) ** 0.5
    if allowed is not None:
        logits = logits.masked_fill(~allowed[:, None], -torch.inf)
    return rearrange(logits.softmax(-1) @ v, "b h n d -> b n (h d)")


def attend(call: AttentionCall) -> Tensor:
    return dense(call.q, call.k, call.v)


def random_call(seed: int, batch: int = 2, tokens: int = GRID.token_count, keys: int | None = None) -> AttentionCall:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, n, DIM, generator=generator, dtype=torch.float64) for n in (tokens, keys or tokens, keys or tokens))
    return AttentionCall(2 * q, 2 * k, v, HEADS)


SIDES = (Side("uncond", slice(0, 1), False), Side("cond", slice(1, 2), True))
SELF = AttentionSite(LAST, "self")


def run(shared: SharedPass, call: AttentionCall, site: AttentionSite = SELF, sides=SIDES, grid: VideoGrid = GRID) -> Tensor:
    result = shared.handler(grid, BLOCKS, sides)(site, call, attend)
    return attend(call) if result is None else result


def passes(sharing=None, memory="gpu", rows=()):
    sharing = sharing or KVSharing(memory=memory)
    store = KVStore(sharing.memory)
    return store, SharedPass(sharing, store, 0, None, True, rows), SharedPass(sharing, store, 1, 0, True, rows)


@pytest.mark.parametrize("memory", ["gpu", "cpu"])
def test_the_target_reads_keys_and_values_of_the_source_each_side_its_own(memory):
    store, first, second = passes(memory=memory)
    source, target = random_call(1), random_call(2)
    assert torch.equal(run(first, source), attend(source))
    out = run(second, target)
    for row in range(2):
        expected = dense(target.q[row : row + 1], source.k[row : row + 1], source.v[row : row + 1])
        assert torch.allclose(out[row : row + 1], expected)
    assert not torch.allclose(out, attend(target))


def test_sides_are_told_by_their_key_not_by_their_place_in_the_batch():
    _, first, second = passes()
    source, target = random_call(1), random_call(2)
    run(first, source)
    swapped = (Side("cond", slice(0, 1), True), Side("uncond", slice(1, 2), False))
    out = run(second, target, sides=swapped)
    assert torch.allclose(out, dense(target.q, source.k.flip(0), source.v.flip(0)))


def test_sides_in_calls_of_their_own_and_videos_of_a_batch_read_their_own():
    _, first, second = passes()
    source, target = random_call(1, batch=4), random_call(2, batch=4)
    both = (Side("uncond", slice(0, 2), False), Side("cond", slice(2, 4), True))
    run(first, source, sides=both)
    for side in reversed(both):
        part = AttentionCall(*(x[side.rows] for x in (target.q, target.k, target.v)), HEADS)
        out = run(second, part, sides=(Side(side.key, slice(0, 2), side.positive),))
        assert torch.allclose(out, dense(part.q, source.k[side.rows], source.v[side.rows]))


def test_the_next_window_reads_the_keys_the_target_made_itself_not_those_it_read():
    store, first, second = passes()
    third = SharedPass(KVSharing(), store, 2, 1, False)
    calls = [random_call(seed) for seed in (1, 2, 3)]
    run(first, calls[0])
    run(second, calls[1])
    assert torch.allclose(run(third, calls[2]), dense(calls[2].q, calls[1].k, calls[1].v))
    assert len(store) == 2  # one block, two sides: a window's replace those of the one before


def test_equal_windows_change_nothing():
    _, first, second = passes()
    call = random_call(1)
    run(first, call)
    assert torch.equal(run(second, call), attend(call))


@pytest.mark.parametrize("site", [AttentionSite(LAST - 1, "self"), AttentionSite(LAST, "self", vace=True), AttentionSite(LAST, "text"),
                                  AttentionSite(LAST, "image")])
def test_other_blocks_text_image_and_vace_are_left_alone(site):
    store, first, second = passes()
    run(first, random_call(1), site)
    assert not len(store)
    run(first, random_call(1))
    assert torch.equal(run(second, random_call(2), site), attend(random_call(2)))


def test_a_side_that_the_source_did_not_run_is_plain():
    _, first, second = passes()
    source, target = random_call(1, batch=1), random_call(2)
    run(first, source, sides=(Side("cond", slice(0, 1), True),))
    out = run(second, target)
    assert torch.allclose(out[:1], attend(target)[:1])
    assert torch.allclose(out[1:], dense(target.q[1:], source.k, source.v))


def test_keys_of_a_window_that_is_not_the_source_are_never_read():
    store, first, _ = passes()
    run(first, random_call(1))
    late = SharedPass(KVSharing(), store, 2, 1, False)
    assert torch.equal(run(late, random_call(2)), attend(random_call(2)))


def test_the_object_is_what_lies_above_the_threshold_of_its_own_frame():
    attention = torch.rand(2, 3, 4, 5) * torch.tensor([1.0, 0.1, 5.0])[:, None, None] + torch.tensor([0.0, 3.0, 1.0])[:, None, None]
    mask = object_mask(attention, 0.3)
    for b, f in itertools.product(range(2), range(3)):
        frame = attention[b, f]
        assert torch.equal(mask[b, f], (frame - frame.min()) / (frame.max() - frame.min() + 1e-6) >= 0.3)
    assert torch.equal(object_mask(attention * 7 + 1, 0.3), mask)
    assert not object_mask(torch.ones(1, 2, 3, 3), 0.3).any()


def dense_masked(q, k, v, inside, source, other):
    """M_t fg + (1 - M_t) bg, both in full, with masks; as the official code has it."""
    keys = torch.where(torch.ones_like(inside)[:, None], source | other, source)
    fg = dense(q, k, v, keys[None].expand(1, -1, -1))
    bg = dense(q, k, v, (~source)[None, None].expand(1, len(inside), -1))
    return torch.where(inside[None, :, None], fg, bg)


@pytest.mark.parametrize("others", [0, 2])
def test_gathered_attention_is_the_dense_masked_one(others):
    call = random_call(1, batch=1)
    inside, source = (torch.rand(GRID.token_count, generator=torch.Generator().manual_seed(s)) > 0.6 for s in (1, 2))
    other = torch.zeros_like(source)
    if others:
        other[-others:], source[-others:], inside[-others:] = True, False, False
    out = masked_attention(lambda q, k, v: dense(q, k, v), call.q, call.k, call.v, inside, source, other)
    assert torch.allclose(out, dense_masked(call.q, call.k, call.v, inside, source, other))
    assert not torch.allclose(out, attend(call), atol=1e-3)


@pytest.mark.parametrize("inside", [True, False])
def test_one_sided_masks_of_the_target_are_the_dense_ones_too(inside):
    call = random_call(1, batch=1)
    target = torch.full([GRID.token_count], inside)
    source = torch.rand(GRID.token_count, generator=torch.Generator().manual_seed(2)) > 0.6
    out = masked_attention(lambda q, k, v: dense(q, k, v), call.q, call.k, call.v, target, source, torch.zeros_like(source))
    assert torch.allclose(out, dense_masked(call.q, call.k, call.v, target, source, torch.zeros_like(source)))


@pytest.mark.parametrize("source", [True, False])
def test_a_source_mask_that_separates_nothing_is_plain(source):
    call = random_call(1, batch=1)
    mask = torch.full([GRID.token_count], source)
    inside = torch.rand(GRID.token_count) > 0.5
    out = masked_attention(lambda q, k, v: dense(q, k, v), call.q, call.k, call.v, inside, mask, torch.zeros_like(mask))
    assert torch.equal(out, attend(call))


def test_masks_come_from_the_positive_rows_and_serve_every_side():
    """Target and source masks from the text attention of the blocks so far, in a dense reference."""
    sharing = KVSharing(phrase=PhraseRef("cat"))
    rows = (1, 3)
    store, first, second = passes(sharing, rows=rows)
    grid = VideoGrid(2, 2, 4, token_offset=3)  # reference tokens before the video, and one after
    tokens = grid.token_offset + grid.token_count + 1
    cond, uncond = Side("cond", slice(0, 1), True), Side("uncond", slice(0, 1), False)
    seeds = itertools.count(10)
    masks, calls, outs = [], {}, {}
    for window, shared in enumerate((first, second)):
        handler = shared.handler(grid, BLOCKS, [cond])
        maps = []
        for block in range(LAST):
            text = random_call(next(seeds), 1, tokens, TEXT)
            handler(AttentionSite(block, "text"), text, attend)
            q, k = (rearrange(x, "b n (h d) -> b h n d", h=HEADS) for x in (text.q[:, grid.video_tokens], text.k))
            maps.append((q @ k.transpose(-1, -2) / (DIM / HEADS) ** 0.5).softmax(-1).mean(1)[..., rows].sum(-1))
        frames = torch.stack(maps).mean(0).reshape(1, 2, 8)
        span = frames.amax(-1, keepdim=True) - frames.amin(-1, keepdim=True)
        mask = torch.zeros(tokens, dtype=torch.bool)
        mask[grid.video_tokens] = ((frames - frames.amin(-1, keepdim=True)) / span >= 0.3).flatten()
        masks.append(mask)
        for side, ask in ((cond, handler), (uncond, shared.handler(grid, BLOCKS, [uncond]))):
            call = calls[window, side.key] = random_call(next(seeds), 1, tokens)
            result = ask(SELF, call, attend)
            outs[window, side.key] = attend(call) if result is None else result
    other = torch.ones(tokens, dtype=torch.bool)
    other[grid.video_tokens] = False
    assert 0 < masks[0].sum() < grid.token_count and not torch.equal(*masks)
    for side in ("cond", "uncond"):
        source, target = calls[0, side], calls[1, side]
        assert torch.equal(outs[0, side], attend(source))
        assert torch.allclose(outs[1, side], dense_masked(target.q, source.k, source.v, masks[1], masks[0], other))


def test_without_text_attention_before_it_masked_sharing_is_plain():
    _, first, second = passes(KVSharing(phrase=PhraseRef("cat")), rows=(1,))
    source, target = random_call(1), random_call(2)
    run(first, source)
    assert torch.allclose(run(second, target), dense(target.q, source.k, source.v))


def test_a_cleared_store_is_empty():
    store = KVStore("gpu")
    store.put(0, "cond", WindowKV(0, torch.ones(1, 1, 1), torch.ones(1, 1, 1), None))
    assert len(store) == 1 and store.get(0, "cond", 0, torch.device("cpu")) is not None
    store.clear()
    assert not len(store) and store.get(0, "cond", 0, torch.device("cpu")) is None


def test_keys_in_main_memory_are_copies():
    store, k = KVStore("cpu"), torch.ones(1, 2, 3)
    store.put(0, "cond", WindowKV(0, k, k, None))
    k.zero_()
    kept = store.get(0, "cond", 0, torch.device("cpu"))
    assert kept is not None and (kept.k == 1).all()
