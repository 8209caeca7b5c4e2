"""The drawn world: coloured shapes that appear, vanish, move and change size, told in captions of a small vocabulary.

Three rates are fixed and must not be tuned (they make guidance necessary, as real captions do):
objects appear and vanish at times the caption does not tell in 60 % of static clips, captions of two or more events tell
them in shuffled order in 50 %, relation words are wrong in 30 %.
"""

import random
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LATENT_FRAMES = 13
CANVAS = 16  # drawing cells per side; one latent cell holds 2 x 2 of them
UNTOLD_VISIBILITY_RATE = 0.6
SHUFFLED_ORDER_RATE = 0.5
WRONG_RELATION_RATE = 0.3
HELD_OUT_SHARE = 5  # one caption in five is never trained on

BACKGROUND = (-0.8, -0.8, -0.7)
COLORS = {
    "red": (1.0, -0.6, -0.6),
    "green": (-0.6, 0.9, -0.6),
    "blue": (-0.6, -0.4, 1.0),
    "yellow": (1.0, 0.9, -0.6),
    "purple": (0.7, -0.6, 1.0),
    "white": (0.9, 0.9, 0.9),
}
# a filled circle, the outline of a square, a thin cross: at this resolution shapes must differ in more than their corners
SHAPES = ("circle", "square", "cross")
SQUARE_MIDLINE, SQUARE_HALF_STROKE, CROSS_ARM, CROSS_LENGTH = 0.78, 0.22, 0.32, 1.1  # half-lengths in radii
STEP = {"moves right": (1, 0), "moves left": (-1, 0), "moves down": (0, 1), "moves up": (0, -1)}
GROWTH = {"gets bigger": 1.7, "gets smaller": 1 / 1.7}
MOTIONS = (*STEP, *GROWTH)
STILL = "stays still"
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
OPENINGS = ("", "there is ", "a video of ", "a scene with ", "we see ", "look , ")
DETERMINERS = ("a", "one")
PLACES = {"on the left": (-1, 0), "on the right": (1, 0), "at the top": (0, -1), "at the bottom": (0, 1), "in the middle": (0, 0)}
TRAVEL = {1: 8.0, 2: 6.5, 3: 5.0, 4: 5.0}  # canvas cells one motion covers, by the number of events in the clip


@dataclass(frozen=True)
class Subject:
    """One object: its looks, its true events in order, and its track. x, y, r: [F] in canvas cells; visible: [F] of 0 and 1.

    The track is smooth; what is drawn has its edges on whole cells (`draw`).
    """

    color: str
    shape: str
    events: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    r: np.ndarray
    visible: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Clip:
    """What is drawn and what is told. `phrases` are the caption's (text, kind) in order of appearance, kind object | event | place."""

    subjects: tuple[Subject, ...]
    caption: str
    phrases: tuple[tuple[str, str], ...]
    relation: str | None = None


def is_held_out(caption: str) -> bool:
    """Whether the caption belongs to the fifth of all captions that training never sees."""
    return zlib.crc32(caption.encode()) % HELD_OUT_SHARE == 0


def segment_of_frame(events: int, frames: int = LATENT_FRAMES) -> np.ndarray:
    """Index of the event that the step into each latent frame belongs to, [F]; frame 0 belongs to the first."""
    return np.maximum(np.arange(frames) - 1, 0) * events // (frames - 1)


def track(events: tuple[str, ...], travel: float, window: tuple[int, int] | None, frames: int = LATENT_FRAMES):
    """Displacement and relative size of a subject: dx, dy [F] in cells from the start, scale [F] from 1.

    window: steps [a, b) in which a single event happens; outside it the subject is still.
    """
    dx, dy, scale = np.zeros(frames), np.zeros(frames), np.ones(frames)
    segment = segment_of_frame(len(events), frames)
    for j in range(1, frames):
        event = events[segment[j]]
        length = int((segment[1:] == segment[j]).sum()) if window is None else window[1] - window[0]
        active = window is None or window[0] <= j - 1 < window[1]
        step, growth = STEP.get(event, (0, 0)), GROWTH.get(event, 1.0)
        dx[j] = dx[j - 1] + active * step[0] * travel / length
        dy[j] = dy[j - 1] + active * step[1] * travel / length
        scale[j] = scale[j - 1] * growth ** (active / length)
    return dx, dy, scale


def event_of_frames(subject: Subject) -> list[str]:
    """What the subject does in the step into each latent frame, F of them; frame 0 has what follows it."""
    of_step = [STILL]
    for dx, dy, growth in zip(np.diff(subject.x), np.diff(subject.y), np.diff(np.log(subject.r))):
        moves = [event for event, (x, y) in STEP.items() if dx * x + dy * y > 1e-3]
        grows = [event for event, factor in GROWTH.items() if growth * np.log(factor) > 1e-6]
        of_step.append((moves + grows or [STILL])[0])
    return [of_step[1], *of_step[1:]]


def _events(rng: random.Random, count: int) -> tuple[str, ...]:
    """`count` motions, no two equal neighbours, each change of size at most once."""
    while True:
        events = tuple(rng.choice(MOTIONS) for _ in range(count))
        scale_events = [e for e in events if e in GROWTH]
        if all(a != b for a, b in zip(events, events[1:])) and len(set(scale_events)) == len(scale_events):
            return events


def _visibility(rng: random.Random) -> np.ndarray:
    """Whole-clip visibility, or one to three windows of at least two latent frames."""
    visible = np.zeros(LATENT_FRAMES)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))):
        start = rng.randint(0, LATENT_FRAMES - 2)
        visible[start : rng.randint(start + 2, LATENT_FRAMES)] = 1
    return visible


def _place(rng: random.Random, dx, dy, r, place: str | None, side: tuple[int, int] | None):
    """A start position that keeps the whole track on the canvas, [F] x and y; `side` confines the track to one half."""
    position = []
    for axis, delta in enumerate((dx, dy)):
        margin = 0.9 * r
        low, high = float(np.max(margin - delta)), float(np.min(CANVAS - margin - delta))
        if place is not None:
            centre = CANVAS / 2 + PLACES[place][axis] * CANVAS * 0.3
            # "on the left" leaves the height free; "in the middle" leaves nothing free
            slack = 1.0 if PLACES[place][axis] or PLACES[place] == (0, 0) else 4.0
            low, high = max(low, centre - slack), min(high, centre + slack)
        if side is not None and side[axis]:
            half = (CANVAS / 2 + side[axis] * 0.2) * np.ones(1)
            if side[axis] < 0:
                high = min(high, float(half[0] - np.max(delta + margin)))
            else:
                low = max(low, float(half[0] - np.min(delta - margin)))
        position.append(rng.uniform(low, high) if low < high else (low + high) / 2)
    return position[0] + dx, position[1] + dy


def _subject(rng, looks, events, *, radius=(2.2, 3.0), travel=None, window=None, place=None, side=None, visible=None) -> Subject:
    dx, dy, scale = track(events, travel or TRAVEL[len(events)], window)
    # the geometric middle of the sizes it passes through stays readable
    r = rng.uniform(*radius) * scale / np.sqrt(scale.min() * scale.max())
    x, y = _place(rng, dx, dy, r, place, side)
    if events == (STILL,):
        x, y = (_on_even_cells(at, drawn_radius(torch.tensor(SHAPES.index(looks[1])), torch.tensor(r)).numpy()) for at in (x, y))
    return Subject(*looks, events, x, y, r, np.ones(LATENT_FRAMES) if visible is None else visible)


def _on_even_cells(at: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Centres moved so that sprites of the radius begin at even cells of the canvas: with a quarter of the places, still objects come
    out whole and once."""
    return np.minimum(2 * np.round((at - radius) / 2), 2 * np.floor((CANVAS - 2 * radius) / 2)) + radius


def _apart(subjects: list[Subject], gap: float = 0.4) -> bool:
    """Whether no two subjects ever touch."""
    for i, a in enumerate(subjects):
        for b in subjects[:i]:
            if (np.maximum(abs(a.x - b.x), abs(a.y - b.y)) < a.r + b.r + gap).any():
                return False
    return True


def _told(rng: random.Random, events: tuple[str, ...]) -> tuple[str, ...]:
    if len(events) > 1 and rng.random() < SHUFFLED_ORDER_RATE:
        return tuple(rng.sample(events, len(events)))
    return events


KINDS = {"one": 0.20, "several": 0.22, "motion": 0.10, "events": 0.36, "two_movers": 0.12}


def sample_clip(rng: random.Random, kind: str | None = None, objects: int | None = None, events: int | None = None) -> Clip:
    """Draw one clip of the world.

    kind: one | several | motion | events | two_movers, or None for the training mixture; objects (2..4) and events (2..4) fix the
    count for `several` and `events`.
    """
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    determiner = rng.choice(DETERMINERS)
    opening = rng.choice(OPENINGS)
    all_looks = [(c, s) for c in COLORS for s in SHAPES]
    timed = rng.random() < UNTOLD_VISIBILITY_RATE
    relation = None
    if kind == "one":
        place = rng.choice((None, None, *PLACES))
        subjects = [_subject(rng, rng.choice(all_looks), (STILL,), place=place, visible=_visibility(rng) if timed else None)]
        words: list[tuple[str, str]] = [(subjects[0].name, "object")]
        if place is not None:
            words.append((place, "place"))
        if rng.random() < 0.3:
            words.append((STILL, "event"))
    elif kind == "several":
        count = objects or rng.choice((2, 2, 2, 3, 3, 4))
        looks = list(zip(rng.sample(list(COLORS), count), (rng.choice(SHAPES) for _ in range(count))))
        relation = rng.choice(list(RELATIONS)) if count == 2 and rng.random() < 0.5 else None
        while True:
            radius = (2.2, 2.9) if count < 4 else (2.0, 2.5)
            subjects = [_subject(rng, l, (STILL,), radius=radius, visible=_visibility(rng) if timed else None) for l in looks]
            if _apart(subjects) and (relation is None or _relation_holds(subjects[0], subjects[1], relation)):
                break
        words = []
        told = relation
        if relation and rng.random() < WRONG_RELATION_RATE:
            told = rng.choice([r for r in RELATIONS if r != relation])
        for i, s in enumerate(subjects):
            words += [(told or "and", "relation" if told else "glue")] * (i > 0) + [(s.name, "object")]
    elif kind in ("motion", "events"):
        chosen = (rng.choice(MOTIONS),) if kind == "motion" else _events(rng, events or rng.choice((2, 2, 2, 2, 3, 3, 4)))
        window = None
        if kind == "motion" and rng.random() < 0.5:
            length = rng.randint(4, 8)
            start = rng.randint(0, LATENT_FRAMES - 1 - length)
            window = (start, start + length)
        subjects = [_subject(rng, rng.choice(all_looks), chosen, window=window)]
        words = _event_words(subjects[0].name, _told(rng, chosen))
    else:
        looks = list(zip(rng.sample(list(COLORS), 2), (rng.choice(SHAPES) for _ in range(2))))
        chosen = [(STILL,) if rng.random() < 0.2 else _events(rng, rng.choice((1, 1, 2))) for _ in looks]
        while True:
            first = rng.choice(((-1, 0), (1, 0), (0, -1), (0, 1)))
            sides = (first, (-first[0], -first[1]))
            subjects = [_subject(rng, l, e, radius=(1.9, 2.2), travel=4.0, side=s) for l, e, s in zip(looks, chosen, sides)]
            if _apart(subjects, gap=0.0):
                break
        words = []
        for i, s in enumerate(subjects):
            words += [("and", "glue")] * (i > 0) + _event_words(s.name, _told(rng, s.events))
    caption, phrases = _tell(opening, determiner, words)
    return Clip(tuple(subjects), caption, phrases, relation)


def _relation_holds(a: Subject, b: Subject, relation: str) -> bool:
    ux, uy = RELATIONS[relation]
    along, across = (a.x[0] - b.x[0]) * ux + (a.y[0] - b.y[0]) * uy, abs((a.x[0] - b.x[0]) * uy) + abs((a.y[0] - b.y[0]) * ux)
    return along > across


def _event_words(name: str, told: tuple[str, ...]) -> list[tuple[str, str]]:
    words = [(name, "object")]
    for i, event in enumerate(told):
        words += [("then", "glue")] * (i > 0) + [(event, "event")]
    return words


def _tell(opening: str, determiner: str, words: list[tuple[str, str]]) -> tuple[str, tuple[tuple[str, str], ...]]:
    text = opening + " ".join(f"{determiner} {w}" if kind == "object" else w for w, kind in words)
    return text, tuple((w, kind) for w, kind in words if kind in ("object", "event", "place"))


def training_clip(rng: random.Random) -> Clip:
    """A clip whose caption is not held out."""
    while is_held_out((clip := sample_clip(rng)).caption):
        pass
    return clip


def held_out_clip(rng: random.Random, **kind) -> Clip:
    """A clip whose caption training never saw."""
    while not is_held_out((clip := sample_clip(rng, **kind)).caption):
        pass
    return clip


def coverage(shape: Tensor, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Share of each canvas cell that a shape covers, softened over one cell. shape, x, y, r: [...]; returns [..., CANVAS, CANVAS]."""
    axis = torch.arange(CANVAS) + 0.5
    dx = axis[None, :] - x[..., None, None]
    dy = axis[:, None] - y[..., None, None]
    r, shape = r[..., None, None], shape[..., None, None]
    circle = (dx**2 + dy**2).sqrt() - r
    square = (torch.maximum(dx.abs(), dy.abs()) - r * SQUARE_MIDLINE).abs() - r * SQUARE_HALF_STROKE
    arm, length = r * CROSS_ARM, r * CROSS_LENGTH
    cross = torch.minimum(torch.maximum(dx.abs() - arm, dy.abs() - length), torch.maximum(dx.abs() - length, dy.abs() - arm))
    distance = torch.where(shape == 0, circle, torch.where(shape == 1, square, cross))
    return (0.5 - distance).clamp(0, 1)


def drawn_radius(shape: Tensor, r: Tensor) -> Tensor:
    """Radii as they are drawn: diameters of whole cells, those of crosses odd so that an arm covers whole cells. shape: index, [...]."""
    return torch.where(shape == SHAPES.index("cross"), (r - 0.5).round() + 0.5, (2 * r).round() / 2)


def draw(clips: list[Clip]) -> Tensor:
    """Pictures of the clips in code resolution, [b, F, 3, CANVAS, CANVAS] in [-1, 1]; later subjects cover earlier ones.

    Diameters and edges are rounded to whole cells: a small network draws a few sprites well, and every fraction of a cell badly.
    """
    video = torch.tensor(BACKGROUND)[:, None, None].repeat(len(clips), LATENT_FRAMES, 1, CANVAS, CANVAS)
    for layer in range(max(len(c.subjects) for c in clips)):
        rows = [i for i, c in enumerate(clips) if len(c.subjects) > layer]
        subjects = [clips[i].subjects[layer] for i in rows]
        x, y, r, visible = (
            torch.tensor(np.stack([getattr(s, k) for s in subjects]), dtype=torch.float32) for k in ("x", "y", "r", "visible")
        )
        shape = torch.tensor([SHAPES.index(s.shape) for s in subjects])[:, None].expand_as(x)
        r = drawn_radius(shape, r)
        x, y = (x - r).round() + r, (y - r).round() + r
        color = torch.tensor([COLORS[s.color] for s in subjects])[:, None, :, None, None]
        alpha = (coverage(shape, x, y, r) * visible[..., None, None])[:, :, None]
        video[rows] = video[rows] * (1 - alpha) + color * alpha
    return video
