"""Attention with a bias on text rows as its formula reads, token by token over every text row: nothing collapsed, gathered or shared."""

import math

import torch


def dense(q, k, v, frame_tokens, bias_of_row):
    """The formula token by token over every text row, in float64: bias_of_row(frame, text row) is B."""
    q, k, v = q.double(), k.double(), v.double()
    batch, tokens, heads, width = q.shape
    out = torch.zeros(batch, tokens, heads * width, dtype=torch.float64)
    for b in range(batch):
        for n in range(tokens):
            for head in range(heads):
                powers = [
                    math.exp(float(q[b, n, head] @ k[b, t, head]) / math.sqrt(width) + bias_of_row(n // frame_tokens, t))
                    for t in range(k.shape[1])
                ]
                weighed = sum(power * v[b, t, head] for t, power in enumerate(powers)) / sum(powers)
                out[b, n, head * width : (head + 1) * width] = weighed
    return out
