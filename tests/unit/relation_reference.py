"""Every relation's margins written as loops over cells and frames, from the words of its docstring: no code shared with the pack."""

import math


class Thing:
    """One entity: a list of F frames, each h rows of w numbers."""

    def __init__(self, frames, power=3):
        self.frames = frames
        height, width = len(frames[0]), len(frames[0][0])
        self.short = min(height, width)
        self.x, self.y, self.radius, self.mass, self.parts = [], [], [], [], []
        for frame in frames:
            cells = [
                ((2 * i + 1 - width) / self.short, (2 * j + 1 - height) / self.short, value**power)
                for j, row in enumerate(frame) for i, value in enumerate(row)
            ]
            total = sum(p for _, _, p in cells)
            x, y = sum(x * p for x, _, p in cells) / total, sum(y * p for _, y, p in cells) / total
            self.x.append(x)
            self.y.append(y)
            self.parts.append([(u, v, p / total) for u, v, p in cells])
            mean = sum(map(sum, frame)) / (height * width)
            above = [(u, v, max(value - mean, 0)) for (u, v, _), value in zip(cells, (value for row in frame for value in row))]
            self.radius.append(math.sqrt(2 * sum(((u - x) ** 2 + (v - y) ** 2) * e for u, v, e in above) / sum(e for _, _, e in above)))
            self.mass.append(mean)

    def size(self, frame):
        return 0.5 * (math.log(self.radius[frame]) + 0.5 * math.log(self.mass[frame]))


def slope_over(values, frames):
    """Least squares by the normal equations, times the length of the stretch; `frames` {frame: weight}."""
    total = sum(frames.values())
    mean_t = sum(w * t for t, w in frames.items()) / total
    mean_v = sum(w * values[t] for t, w in frames.items()) / total
    slope = sum(w * (t - mean_t) * (values[t] - mean_v) for t, w in frames.items()) / sum(w * (t - mean_t) ** 2 for t, w in frames.items())
    return slope * (max(frames) - min(frames))


def mean_of(values, frames):
    return sum(w * values[t] for t, w in frames.items()) / sum(frames.values())


def part(frames, start, end):
    first, length = min(frames), max(frames) - min(frames)
    return {t: w for t, w in frames.items() if first + start * length - 1e-3 <= t <= first + end * length + 1e-3}


def correlation(one, other):
    a, b = [v for row in one for v in row], [v for row in other for v in row]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((u - mean_a) * (v - mean_b) for u, v in zip(a, b))
    return top / math.sqrt(sum((u - mean_a) ** 2 for u in a) * sum((v - mean_b) ** 2 for v in b))


def dominance(a, b, frame):
    """Attention of a against b where both reach."""
    height, width = len(a.frames[0]), len(a.frames[0][0])
    mean_a, mean_b = a.mass[frame], b.mass[frame]
    top = bottom = 0.0
    for j in range(height):
        for i in range(width):
            u, v = (2 * i + 1 - width) / a.short, (2 * j + 1 - height) / a.short
            reach = 1.0
            for thing in (a, b):
                reach *= math.exp(-((u - thing.x[frame]) ** 2 + (v - thing.y[frame]) ** 2) / thing.radius[frame] ** 2)
            one, other = a.frames[frame][j][i] / mean_a, b.frames[frame][j][i] / mean_b
            top += reach * (one - other) / (one + other)
            bottom += reach
    return top / bottom


def margins(name, things, frames, margin=0.15):
    """State relations: {frame: [margin of each condition]}; motions: [margin of each condition]. `frames` {frame: weight}."""
    a, b, c = (*things, None, None)[:3]

    def each(of_frame):
        return {t: of_frame(t) for t in frames}

    def side(clear):
        """`clear(dx, dy)` of the way from a part of the first to the second, and from the first to a part of the second, each 0.45
        beyond `margin` at most."""
        return each(
            lambda t: [
                sum(share * min(clear(b.x[t] - u, b.y[t] - v), margin + 0.45) for u, v, share in a.parts[t]) / 2
                + sum(share * min(clear(u - a.x[t], v - a.y[t]), margin + 0.45) for u, v, share in b.parts[t]) / 2
            ]
        )

    if name in ("left of", "right of", "above", "below"):
        return {
            "left of": lambda: side(lambda dx, dy: dx - abs(dy)), "right of": lambda: side(lambda dx, dy: -dx - abs(dy)),
            "above": lambda: side(lambda dx, dy: dy - abs(dx)), "below": lambda: side(lambda dx, dy: -dy - abs(dx)),
        }[name]()
    if name == "beneath":
        return each(lambda t: [a.y[t] - b.y[t], b.radius[t] - abs(a.x[t] - b.x[t])])
    if name == "inside":
        return each(lambda t: [b.radius[t] - a.radius[t] - math.dist((a.x[t], a.y[t]), (b.x[t], b.y[t]))])
    if name == "between":
        return each(
            lambda t: [
                math.dist((b.x[t], b.y[t]), (c.x[t], c.y[t])) / 2
                - math.dist((a.x[t], a.y[t]), ((b.x[t] + c.x[t]) / 2, (b.y[t] + c.y[t]) / 2))
            ]
        )
    if name in ("in front of", "behind"):
        near, far = (a, b) if name == "in front of" else (b, a)
        return each(
            lambda t: [a.radius[t] + b.radius[t] - math.dist((a.x[t], a.y[t]), (b.x[t], b.y[t])), dominance(near, far, t)]
        )
    if name in ("has colour", "does action"):
        return each(lambda t: [correlation(a.frames[t], b.frames[t]) - 0.5])
    if name.startswith("moves"):
        dx, dy = slope_over(a.x, frames), slope_over(a.y, frames)
        return [{"left": -dx - abs(dy), "right": dx - abs(dy), "up": -dy - abs(dx), "down": dy - abs(dx)}[name.split()[1]]]
    if name in ("toward", "away"):
        gap = [math.dist(p, q) for p, q in zip(zip(a.x, a.y), zip(b.x, b.y))]
        return [slope_over(gap, frames) * (-1 if name == "toward" else 1)]
    if name in ("grows", "shrinks"):
        sizes = [a.size(t) for t in range(len(a.x))]
        return [slope_over(sizes, frames) * (1 if name == "grows" else -1)]
    if name == "turns":
        ways = [(slope_over(a.x, half), slope_over(a.y, half)) for half in (part(frames, 0, 0.5), part(frames, 0.5, 1))]
        lengths = [math.hypot(*way) for way in ways]
        cosine = sum(u * v for u, v in zip(*ways)) / (lengths[0] * lengths[1])
        return [math.sin(math.acos(max(-1, min(1, cosine))) / 2) - 0.5, *lengths]
    assert name == "jumps over"
    parts = [part(frames, 0, 0.25), part(frames, 0.26, 0.74), part(frames, 0.75, 1)]
    gap_x, gap_y = [p - q for p, q in zip(a.x, b.x)], [p - q for p, q in zip(a.y, b.y)]
    before, after = mean_of(gap_x, parts[0]), mean_of(gap_x, parts[2])
    sides = min(abs(before), abs(after)) * (1 if before * after < 0 else -1)
    heights = [-mean_of(a.y, one) for one in parts]
    return [sides, -mean_of(gap_y, parts[1]), heights[1] - (heights[0] + heights[2]) / 2]
