"""The benchmark's three prompt sets by their published templates, with masks over the 21 latent frames of 81 frames at 16 fps."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...guidance.latent_time import frames_of_latent
from ...guidance.timeline import Timeline, parse_timeline

LATENT_FRAMES, LATENTS_PER_SECOND = 21, 4
SECONDS = ("first", "second", "third", "fourth", "last")  # as the prompts count them

# The classes of COCO, in its order: what the detector names.
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "stop sign",
    "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# The 82 pairs of VBench's dimension multiple_objects (Apache-2.0), which the paper's second set is made of: neighbours in a ring, which
# closes, and things that stand beside each other in two rows.
RINGS = (
    "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    "chair, couch, potted plant, tv, laptop, remote, keyboard, cell phone, book, clock, backpack, umbrella, handbag, tie, suitcase, vase, "
    "scissors, teddy bear, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, "
    "tennis racket, bottle",
    "airplane, train, boat",
    "bicycle, car, motorcycle, bus, traffic light, fire hydrant, stop sign, parking meter, truck",
    "toilet, hair drier, toothbrush, sink",
)
BESIDE = (
    ("wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, oven, "
     "toaster, microwave, refrigerator",
     "chair, couch, potted plant, tv, laptop, remote, keyboard, cell phone, book, clock, backpack, umbrella, handbag, tie, suitcase, vase, "
     "scissors, teddy bear, frisbee, skis"),
    ("bicycle, car, motorcycle", "airplane, train, boat"),
    ("person, person, person, person", "toilet, hair drier, toothbrush, sink"),
)  # fmt: skip

# Subject, verb and how, of this project's own choosing: the authors' 100 stand in the data of their repository (`read_prompts` reads them).
MOVEMENTS = (
    ("dog", "jumping", "high"), ("man", "clapping", "hard"), ("woman", "waving", "wildly"), ("cat", "pouncing", "suddenly"),
    ("horse", "rearing", "up"), ("bird", "flapping", "fast"), ("child", "spinning", "quickly"), ("boxer", "punching", "fiercely"),
    ("frog", "leaping", "far"), ("dancer", "kicking", "sharply"), ("monkey", "swinging", "boldly"), ("fish", "splashing", "loudly"),
    ("robot", "bowing", "stiffly"), ("bear", "standing", "upright"), ("snake", "striking", "swiftly"), ("drummer", "drumming", "madly"),
    ("elephant", "stamping", "heavily"), ("flag", "fluttering", "strongly"), ("swimmer", "diving", "steeply"),
    ("gymnast", "tumbling", "smoothly"),
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkPrompt:
    """One video of the benchmark.

    name: stem of its file. temporal: the words that are timed by `mask`, 0 or 1 in each latent frame. static: words that are always there.
    temporal_class, static_class: what the detector calls these objects. second: of a movement, from 0.
    """

    name: str
    prompt: str
    temporal: str
    mask: tuple[int, ...]
    static: str | None = None
    temporal_class: str | None = None
    static_class: str | None = None
    second: int | None = None

    @property
    def timeline(self) -> Timeline:
        """The mask as a timeline in pixel frames, at whose edges no latent frame is cut."""
        edges = [latent for latent in range(len(self.mask) + 1) if (*self.mask, 0)[latent] != (0, *self.mask)[latent]]
        spans = [
            f"{frames_of_latent(start).start}f - {frames_of_latent(stop - 1).stop}f" for start, stop in zip(edges[::2], edges[1::2])
        ]
        lines = [f"{span} {self.temporal}" for span in spans]
        return parse_timeline("\n".join([*lines, *([f"always {self.static}"] if self.static else [])]))


def one_object() -> list[BenchmarkPrompt]:
    """80: each COCO class appears at the beginning of the second, third, fourth or last second (20 each) and stays.

    Told in the prompt too, as in the paper's baseline ("temporal text").
    """
    prompts = []
    for number, name in enumerate(COCO):
        second = 1 + number * (len(SECONDS) - 1) // len(COCO)
        text = (
            f"An empty scene. Suddenly, during the {SECONDS[second]} second of the video, {with_article(name)} appears out of nowhere, "
            "drawing all attention."
        )
        prompts.append(BenchmarkPrompt(f"{number:02d}_{stem(name)}", text, name, window(second), temporal_class=name))
    return prompts


def two_objects() -> list[BenchmarkPrompt]:
    """82: the first of a pair is always there, the second appears in the second half (from latent frame 10, in the paper)."""
    prompts = []
    for number, (static, temporal) in enumerate(pairs()):
        text = (
            f"The video begins with a serene view centered on the {static}, with no sign of the {temporal}. In the second half, the "
            f"{temporal} unexpectedly appears, altering the dynamic of the scene."
        )
        mask = tuple(int(latent >= 10) for latent in range(LATENT_FRAMES))
        name = f"{number:02d}_{stem(static)}_{stem(temporal)}"
        prompts.append(BenchmarkPrompt(name, text, temporal, mask, static, temporal_class=temporal, static_class=static))
    return prompts


def movement() -> list[BenchmarkPrompt]:
    """100: a subject that is always there moves strongly in one of five seconds; 20 movements in each."""
    prompts = []
    for second, word in enumerate(SECONDS):
        for number, (subject, verb, how) in enumerate(MOVEMENTS):
            text = f"A video of {with_article(subject)} {verb} {how}, with a strong movement at the {word} second."
            name = f"{second * len(MOVEMENTS) + number:02d}_{subject}_{verb}_{word}"
            prompts.append(BenchmarkPrompt(name, text, verb, window(second, second + 1), subject, second=second))
    return prompts


SETS = {"one_object": one_object, "two_objects": two_objects, "movement": movement}


def window(start: int, end: int = len(SECONDS)) -> tuple[int, ...]:
    """Mask of the seconds [start, end), counted from 0: second s has the latent frames 4s+1 .. 4s+4, and latent 0 is a lead-in."""
    return tuple(int(LATENTS_PER_SECOND * start < latent <= LATENTS_PER_SECOND * end) for latent in range(LATENT_FRAMES))


def pairs() -> list[tuple[str, str]]:
    """(static, temporal) of the second set."""
    rings = [tuple(ring.split(", ")) for ring in RINGS]
    found = [pair for ring in rings for pair in zip(ring, (*ring[1:], ring[0]))]
    return found + [pair for one, other in BESIDE for pair in zip(one.split(", "), other.split(", "), strict=True)]


def read_prompts(path: Path) -> tuple[str, list[BenchmarkPrompt]]:
    """The set's name and the prompts of a CSV with the columns of the authors' files (prompt, temp_object, control_signal1, ...)."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = {"prompt", "temp_object", "control_signal1"} - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{path}: no column {', '.join(sorted(missing))}: needs those of the authors' CSV files")
    of_set = "movement" if "mov_sec" in rows[0] else "two_objects" if "static_object" in rows[0] else "one_object"
    prompts = []
    for number, row in enumerate(rows):
        mask = tuple(int(float(value) > 0.5) for value in row["control_signal1"].split())
        if len(mask) != LATENT_FRAMES:
            raise ValueError(f"{path}: line {number + 2}: control_signal1 has {len(mask)} values: needs one for each of {LATENT_FRAMES}")
        prompts.append(
            BenchmarkPrompt(
                f"{number:02d}_{stem(row['temp_object'])}", row["prompt"], row["temp_object"], mask, row.get("static_object"),
                **({} if of_set == "movement" else classes_of(row)), second=int(row["mov_sec"]) if of_set == "movement" else None,
            )  # fmt: skip
        )
    return of_set, prompts


def classes_of(row: dict[str, str]) -> dict[str, str]:
    """The detector's names of a row's objects, which its prompt may call otherwise: `original_prompt` names the pair as COCO does."""
    known: dict[str, str] = {}
    if "original_prompt" in row:
        named: Sequence[str] = [re.sub(r"^an? ", "", name.strip()) for name in row["original_prompt"].split(" and ")]
        known = dict(zip((row["Object 1"], row["Object 2"]), named))
    objects = {"temporal_class": row["temp_object"], "static_class": row.get("static_object")}
    return {key: known.get(name, name) for key, name in objects.items() if name}


def with_article(name: str) -> str:
    if name in ("skis", "scissors"):
        return f"a pair of {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def stem(name: str) -> str:
    return re.sub(r"\W+", "_", name)
