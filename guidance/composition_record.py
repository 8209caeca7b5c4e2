"""What Composition Guide did to one video, read from the report of a run: the numbers of its picture."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .composition import NAME
from .report import GuidanceReport, GuidedStep, Number, ObjectiveRecord


@dataclass(frozen=True)
class SceneRecord:
    """One evaluation: score of every constraint, and per entity its centre "g f 2", radius "g f" and coarse maps "g f h w" in 0..1.

    Lengths are in halves of the frame's shorter side, from its middle, y downwards; `camera` "f 2" is how far the background has moved.
    """

    scores: list[Number]
    centres: list[list[list[Number]]]
    radii: list[list[Number]]
    camera: list[list[Number]]
    maps: list[list[list[list[Number]]]]


@dataclass(frozen=True)
class StepRecord:
    """One guided step; `scores` "i c" of each evaluation, of which `kept` is the one that was kept."""

    step: int
    model: str
    scores: list[list[Number]]
    kept: int
    stop: str


@dataclass(frozen=True)
class CompositionRecord:
    """One Composition Guide, one video of the batch: before its first guided step, after its last, and the scores in between.

    spans "c f": the latent frames of each constraint; frame: half the width and height of the picture.
    """

    sample: int
    fps: float
    constraints: list[str]
    entities: list[str]
    spans: list[list[float]]
    frame: list[float]
    steps: list[StepRecord]
    before: SceneRecord
    after: SceneRecord

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def composition_records(report: GuidanceReport) -> Iterator[CompositionRecord]:
    """A record for each Composition Guide of the run and each video of its batch."""
    guided: dict[tuple[str, ...], list[tuple[GuidedStep, int]]] = {}
    for step in report.steps:
        for place, objective in enumerate(step.loop.iterations[0].objectives):
            if objective.name == NAME:
                guided.setdefault(tuple(objective.terms), []).append((step, place))
    for steps in guided.values():
        for sample in range(report.samples):
            yield record_of(steps, sample, report.fps)


def record_of(steps: list[tuple[GuidedStep, int]], sample: int, fps: float) -> CompositionRecord:
    first_step, place = steps[0]
    first = first_step.loop.iterations[0].objectives[place]
    last_step, last_place = steps[-1]
    count = len(first.traces["centre"][sample])  # the rest of the prompt has no centre
    return CompositionRecord(
        sample=sample,
        fps=fps,
        constraints=list(first.terms)[: len(first.traces["span"])],
        entities=first_step.phrases[place][:count],
        spans=first.traces["span"],
        frame=first.traces["frame"],
        steps=[
            StepRecord(
                step.step,
                step.model,
                [record.objectives[at].traces["score"][sample] for record in step.loop.iterations],
                min(step.loop.kept[sample], len(step.loop.iterations) - 1),
                step.loop.stop[sample],
            )
            for step, at in steps
        ],
        before=scene_record(first, sample),
        after=scene_record(last_step.loop.after(sample).objectives[last_place], sample),
    )


def scene_record(record: ObjectiveRecord, sample: int) -> SceneRecord:
    return SceneRecord(*(record.traces[name][sample] for name in ("score", "centre", "radius", "camera", "maps")))
