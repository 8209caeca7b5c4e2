"""TS-Attn as its formulas read, row by row over every text column: nothing collapsed, gathered or shared with the pack's own code."""

import math

import torch


def neighbours(grid_of_frame, y, x):
    """Values around (y, x) inside the frame, itself left out."""
    height, width = len(grid_of_frame), len(grid_of_frame[0])
    places = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    return [grid_of_frame[i][j] for i, j in places if 0 <= i < height and 0 <= j < width]


def motion_mask(values, grid, top_fraction, erode):
    """values: list of f h w numbers, row-major; the mask as a list of bool."""
    f, h, w = grid
    largest = sorted(values, reverse=True)[: max(1, round(top_fraction * len(values)))]
    tau = sum(largest) / len(largest)
    on = [value > tau for value in values]
    kept = []
    for frame in range(f):
        cells = [on[(frame * h + y) * w : (frame * h + y + 1) * w] for y in range(h)]
        for y in range(h):
            for x in range(w):
                around = neighbours(cells, y, x)
                kept.append(cells[y][x] and {"none": True, "isolated": any(around), "full": all(around)}[erode])
    return kept


def probabilities(q_row, k, head):
    """Softmax of one video token over all text rows, and its logits: q_row "h d", k "t h d"."""
    logits = [float(q_row[head] @ k[t, head]) / math.sqrt(k.shape[-1]) for t in range(k.shape[0])]
    top = max(logits)
    powers = [math.exp(value - top) for value in logits]
    return [power / sum(powers) for power in powers], logits


def bias_of_row(p, logits, subject, frame, r_min, r_max, words=None, raising=1.0):
    """R B of one subject for one row and head, a number for each text column; statistics over the first `words` columns.

    subject: (its rows, [(rows, weight per frame, strength) of each event]); events with the same rows count as one.
    """
    subject_rows, events = subject
    counted, p_counted = logits[:words], p[:words]
    high, low, mean = max(counted), min(counted), sum(counted) / len(counted)
    distinct = {}
    for rows, weights, strength in events:
        distinct.setdefault(tuple(rows), []).append((weights[frame], strength))
    bias = [0.0] * len(logits)
    for t in range(len(logits)):
        relative = (p[t] - min(p_counted)) / (max(p_counted) - min(p_counted))
        r_plus, r_minus = r_min + (1 - relative) * (r_max - r_min), r_min + relative * (r_max - r_min)
        up = 0.0
        for rows, uses in distinct.items():
            if t in rows or t in subject_rows:
                up = max(up, *(weight * strength for weight, strength in uses))
            if t in rows:
                down = max(strength for _, strength in uses) * (1 - max(weight for weight, _ in uses))
                bias[t] += down * r_minus * (low - mean)
        bias[t] += raising * up * r_plus * (high - mean)
    return bias


def rearranged_attention(
    q, k, v, grid, subjects, top_fraction=0.5, erode="isolated", r_min=1.0, r_max=1.5, strength=1.0, also=lambda frame, t: 0.0,
    words=None, raising=1.0, hold_back="mask",
):
    """Output "b n (h d)" in float64 and the masks [b][s][n]: q "b n h d", k and v "b t h d"; `subjects` as in bias_of_row.

    also(frame, text row): what another method adds to the logits of all tokens of the frame.
    """
    q, k, v = q.double(), k.double(), v.double()
    batch, tokens, heads, width = q.shape
    out, masks = torch.zeros(batch, tokens, heads * width, dtype=torch.float64), []
    for b in range(batch):
        rows = [[probabilities(q[b, n], k[b], head) for head in range(heads)] for n in range(tokens)]
        masks.append([])
        for subject_rows, _ in subjects:
            shares = [[p[t] for p, _ in row for t in subject_rows] for row in rows]
            masks[b].append(motion_mask([sum(share) / len(share) for share in shares], grid, top_fraction, erode))
        for n in range(tokens):
            for head in range(heads):
                p, logits = rows[n][head]
                for s, subject in enumerate(subjects):
                    inside = masks[b][s][n]
                    if inside or hold_back == "everywhere":
                        frame = n // (grid[1] * grid[2])
                        bias = bias_of_row(p, rows[n][head][1], subject, frame, r_min, r_max, words, raising * inside)
                        logits = [value + strength * added for value, added in zip(logits, bias, strict=True)]
                logits = [value + also(n // (grid[1] * grid[2]), t) for t, value in enumerate(logits)]
                weights = torch.tensor(logits, dtype=torch.float64).softmax(0)
                out[b, n, head * width : (head + 1) * width] = weights @ v[b, :, head]
    return out, masks
