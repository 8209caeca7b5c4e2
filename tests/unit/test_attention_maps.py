"""Phrase attention: exact against a dense float64 reference, small in memory, differentiable."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from wan_conductor.guidance import attention_maps
from wan_conductor.guidance.attention_maps import find_pad_rows, phrase_attention


def dense_maps(q, k, heads, groups):
    """Straight from the formula, one number at a time; q "n (h d)", k "t (h d)" of one sample."""
    tokens, rows, width = q.shape[0], k.shape[0], q.shape[1] // heads
    maps = [[0.0] * tokens for _ in groups]
    for x in range(tokens):
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            logits = [float(torch.dot(q[x, part], k[t, part])) / math.sqrt(width) for t in range(rows)]
            top = max(logits)
            weights = [math.exp(s - top) for s in logits]
            for g, group in enumerate(groups):
                maps[g][x] += sum(weights[t] for t in group) / sum(weights) / len(group) / heads
    return torch.tensor(maps, dtype=torch.float64)


def padded_text(rows, pads, width, batch=1, dtype=torch.float64):
    pad = torch.randn(batch, 1, width, dtype=dtype)
    return torch.cat([torch.randn(batch, rows, width, dtype=dtype), pad.expand(-1, pads, -1)], dim=1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tensors are too small to share out


@pytest.mark.parametrize("pads", [0, 5])
def test_equals_the_dense_softmax_over_all_rows(pads):
    q, k = torch.randn(2, 7, 12, dtype=torch.float64), padded_text(6, max(pads, 1), 12, batch=2)
    groups = [[0, 2], [5], [1, 3, 4]]
    maps = phrase_attention(q, k, 3, groups, slice(6, 6 + pads) if pads else None)
    for b in range(2):
        torch.testing.assert_close(maps[b], dense_maps(q[b], k[b], 3, groups), rtol=1e-12, atol=1e-14)


def test_collapsing_500_pad_rows_changes_neither_maps_nor_gradients():
    q, k = torch.randn(1, 9, 8, dtype=torch.float64), padded_text(12, 500, 8)
    groups, weights = [[1, 2], [7]], torch.randn(1, 2, 9, dtype=torch.float64)
    results = []
    for pad_rows in (None, slice(12, 512)):
        q_leaf, k_leaf = q.clone().requires_grad_(), k.clone().requires_grad_()
        maps = phrase_attention(q_leaf, k_leaf, 2, groups, pad_rows)
        (maps * weights).sum().backward()
        results.append((maps.detach(), q_leaf.grad, k_leaf.grad))
    for plain, collapsed in zip(*results, strict=True):
        torch.testing.assert_close(collapsed, plain, rtol=1e-10, atol=1e-14)


def test_a_phrase_row_among_the_pad_rows_keeps_its_own_share():
    q, k = torch.randn(1, 4, 8, dtype=torch.float64), padded_text(3, 20, 8)
    torch.testing.assert_close(phrase_attention(q, k, 2, [[1, 15]], slice(3, 23))[0], dense_maps(q[0], k[0], 2, [[1, 15]]))


def test_padding_takes_part_in_the_softmax():
    q, k = torch.randn(1, 4, 8), padded_text(3, 20, 8, dtype=torch.float32)
    with_padding = phrase_attention(q, k, 2, [[0]], slice(3, 23))
    assert (with_padding < phrase_attention(q, k[:, :3], 2, [[0]])).all()


def test_gradient_agrees_with_finite_differences(monkeypatch):
    monkeypatch.setattr(attention_maps, "CHUNK_ELEMENTS", 20)
    q = torch.randn(1, 4, 4, dtype=torch.float64, requires_grad=True)
    k = torch.randn(1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, k: phrase_attention(q, k, 2, [[0, 1], [3]]), (q, k))


def test_gradient_agrees_with_autograd_through_the_dense_softmax(monkeypatch):
    monkeypatch.setattr(attention_maps, "CHUNK_ELEMENTS", 200)
    q, k = torch.randn(2, 11, 8, dtype=torch.float64), torch.randn(2, 6, 8, dtype=torch.float64)
    weights = torch.randn(2, 2, 11, dtype=torch.float64)
    q_leaf, k_leaf = q.clone().requires_grad_(), k.clone().requires_grad_()
    p = torch.softmax(torch.stack([qh @ kh.mT / 2 for qh, kh in zip(q_leaf.chunk(2, -1), k_leaf.chunk(2, -1), strict=True)]), -1)
    dense = torch.stack([p[..., [0, 4]].mean((0, -1)), p[..., 2].mean(0)], dim=1)
    expected = torch.autograd.grad((dense * weights).sum(), (q_leaf, k_leaf))
    got = torch.autograd.grad((phrase_attention(q_leaf, k_leaf, 2, [[0, 4], [2]]) * weights).sum(), (q_leaf, k_leaf))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("elements", [1, 97, 10**9])
def test_chunk_size_changes_nothing(monkeypatch, elements):
    q, k = torch.randn(1, 33, 8, dtype=torch.float64), torch.randn(1, 5, 8, dtype=torch.float64)
    expected = dense_maps(q[0], k[0], 2, [[1]])
    monkeypatch.setattr(attention_maps, "CHUNK_ELEMENTS", elements)
    torch.testing.assert_close(phrase_attention(q, k, 2, [[1]])[0], expected, rtol=1e-12, atol=1e-14)


def test_bf16_inputs_are_computed_in_fp32():
    q, k = torch.randn(1, 50, 32, dtype=torch.bfloat16), padded_text(9, 300, 32, dtype=torch.bfloat16)
    q.requires_grad_()
    maps = phrase_attention(q, k, 4, [[0, 1]], slice(9, 309))
    maps.sum().backward()
    assert maps.dtype == torch.float32
    assert q.grad.dtype == torch.bfloat16
    torch.testing.assert_close(maps[0].double(), dense_maps(q[0].detach().double(), k[0].double(), 4, [[0, 1]]), rtol=1e-5, atol=1e-8)


def test_autocast_around_it_does_not_lower_its_precision():
    q, k = torch.randn(1, 20, 16), torch.randn(1, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        maps = phrase_attention(q, k, 2, [[3]])
    torch.testing.assert_close(maps[0].double(), dense_maps(q[0].double(), k[0].double(), 2, [[3]]), rtol=1e-5, atol=1e-8)


def test_groups_follow_their_order_and_repeated_rows_count_once():
    q, k = torch.randn(1, 6, 8), torch.randn(1, 5, 8)
    forwards, backwards = phrase_attention(q, k, 2, [[0], [1, 2]]), phrase_attention(q, k, 2, [[2, 1, 1], [0]])
    torch.testing.assert_close(forwards, backwards.flip(1))


@pytest.mark.parametrize("groups", [[[]], [[5]], [[-1]]])
def test_rows_outside_the_text_are_refused(groups):
    with pytest.raises(ValueError, match="rows within 0..4"):
        phrase_attention(torch.randn(1, 6, 8), torch.randn(1, 5, 8), 2, groups)


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns on storage of its own."""

    def __init__(self, known):
        super().__init__()
        self.largest = 0
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("pad_rows", [slice(20, 512), None])
def test_nothing_of_shape_heads_tokens_512_exists_forward_or_backward(monkeypatch, pad_rows):
    heads, tokens, width = 4, 3000, 64
    monkeypatch.setattr(attention_maps, "CHUNK_ELEMENTS", 2**17)
    q = torch.randn(1, tokens, width, requires_grad=True)
    k = padded_text(20, 492, width, dtype=torch.float32).requires_grad_()
    with LargestTensor([q, k]) as peak:
        maps = phrase_attention(q, k, heads, [[0, 1], [4]], pad_rows)
        maps.sum().backward()
    assert q.grad.abs().sum() > 0
    assert peak.largest <= max(2**17, tokens * width)  # a chunk, or the gradient of q itself; dense would be 6.1 million
    with LargestTensor([q, k]) as dense:
        (q.view(1, tokens, heads, -1).transpose(1, 2) @ k.view(1, 512, heads, -1).transpose(1, 2).mT).softmax(-1)
    assert dense.largest == heads * tokens * 512  # the counter does see it


def test_pad_rows_are_the_longest_identical_tail_of_all_samples():
    context = torch.randn(2, 10, 4)
    context[0, 5:] = context[0, 5]
    context[1, 7:] = context[1, 7]
    assert find_pad_rows(context) == slice(7, 10)
    assert find_pad_rows(context[:1]) == slice(5, 10)
    assert find_pad_rows(torch.zeros(1, 6, 4)) == slice(0, 6)


def test_no_identical_tail_is_no_padding():
    assert find_pad_rows(torch.randn(1, 6, 4)) is None
    assert find_pad_rows(torch.full((1, 6, 4), float("nan"))) is None
    assert find_pad_rows(torch.randn(1, 1, 4)) is None
