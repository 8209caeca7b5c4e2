"""Composition Guide: relations between entities hold in the video. The objective of CVG (arXiv 2605.14988), inference loop (c), (d).

CVG's loss is the cross-entropy of a trained classifier on attention maps (`classifier.py`). Without one, and for relations that it was not
taught, the probability is a smooth function of the entities' places (`relations.py`), so that nothing needs training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional

from .classifier import ClassifiedStep, Classifier
from .constraints import Constraint, check_room, constraints_of
from .objective import ObjectiveLoss, PhraseAt, PhraseRef, RestOfPrompt, check_occurrence
from .phrases import fold
from .ranges import check_fps, check_percents, check_range
from .relations import MARGIN, RELATIONS, Relation, Scene, camera_path, presence_gate, scene_of
from .spans import TimelineError
from .timeline import Timeline, check_timeline

NAME = "Composition Guide"
STEEPNESS = 10.0  # of the probability: a tenth of half the frame beyond the margin makes sigmoid(1)
FAINT = 0.05  # focus of a map that is even but for noise; keeps the presence term from chasing it alone
TRACED_MAPS = (7, 12, 12)  # most frames, rows and columns of the maps that a report keeps


def log_score(scene: Scene, constraint: Constraint, who: tuple[int, ...], span: Tensor) -> Tensor:
    """log s of one constraint, "b" <= 0, where s = sigmoid(k (q - m)) of its margins q: mean log over conditions, over frames of a state.

    A frame counts by how much it shows of every entity (mass gate), and not at all where one is not named. m is the scene's margin for
    conditions that can hold more or less clearly, else 0.
    """
    relation = constraint.relation
    span = span * named_together(scene, constraint, who, span)
    when = span * torch.stack([presence_gate(scene.excess[:, entity], span) for entity in who]).prod(0)
    when = when / when.sum(-1, keepdim=True)
    q = relation.measure(scene, who, when)
    asked = scene.margin * q.new_tensor(relation.clear).view(-1, *[1] * (q.ndim - 2))
    logs = functional.logsigmoid(STEEPNESS * (q - asked)).mean(1)
    return logs if relation.motion else (logs * when).sum(-1)


def named_together(scene: Scene, constraint: Constraint, who: tuple[int, ...], span: Tensor) -> Tensor:
    """1 in the frames "b f" whose prompts name all of its entities, else 0. Raises ValueError if that is never in `span`."""
    named = scene.named[:, list(who)]
    together = named.prod(1)
    never = ~(together * span).any(-1)
    if (never & named.any(-1).all(-1)).any():
        raise ValueError(
            f"{NAME}: input `timeline`: `{constraint}`: in none of its frames does a prompt name {' and '.join(constraint.entities)}: "
            "write them into one prompt of that time, or move the span"
        )
    return torch.where(never[:, None], 1.0, together)  # no attention anywhere: nothing to tell frames apart by


def presence_loss(maps: Tensor, excess: Tensor, spans: Tensor) -> Tensor:
    """-(log mass + log focus), mean over the frames in which each thing is wanted: maps "b g f h w", spans "b g f" -> "b g".

    mass is the mean attention, focus its share above the even level: more attention, in one place.
    """
    mass = reduce(maps, "b g f h w -> b g f", "mean").clamp_min(1e-8)
    wanted = spans / spans.sum(-1, keepdim=True).clamp_min(1)
    return -((mass.log() + (excess / mass + FAINT).log()) * wanted).sum(-1)


@dataclass(frozen=True)
class Composition:
    """L = mean over constraints of -log s, weighed by their strengths, + lambda_presence L_presence (mean over entities).

    timeline: `entity | relation | entity` a line, each in its span; under a header the subject comes first and is left out.
    margin: how clearly a relation must hold, in halves of the frame's shorter side (changes of size: as a natural logarithm).
    tau: a sample's step ends as soon as the score of its worst constraint reaches this.
    lambda_presence: higher: the entities are seen more; too high: they are repeated and the places suffer. 0: relations alone.
    fps: frames per second in which the timeline counts seconds; 0: the model's.
    classifier: for the relations among its labels, s = p(y) of its answer in place of the geometry; `margin` has no part in it.
    step: the guided step it is asked in (`at_step`).
    """

    timeline: Timeline
    margin: float = MARGIN
    tau: float = 0.9
    lambda_presence: float = 0.1
    occurrence: str | int = "all"
    start_percent: float | None = None
    end_percent: float | None = None
    fps: float = 0.0
    classifier: Classifier | None = None
    step: ClassifiedStep | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_range(NAME, "margin", self.margin, 0, 1)
        check_range(NAME, "tau", self.tau, 0, 1)
        check_range(NAME, "lambda_presence", self.lambda_presence, 0, 1000)
        check_fps(NAME, self.fps)
        check_percents(NAME, self.start_percent, self.end_percent)
        check_occurrence(NAME, self.occurrence)
        try:
            constraints_of(self.timeline, self.taught)
        except TimelineError as error:
            raise error.named(NAME) from error

    @property
    def name(self) -> str:
        return NAME

    def at_step(self, sigma: float, memory: dict[str, Any]) -> "Composition":
        if self.classifier is None:
            return self
        return replace(self, step=ClassifiedStep.begun(self.classifier.plan.slot(sigma), memory))

    @cached_property
    def taught(self) -> tuple[Relation, ...]:
        """The relations that only the classifier knows."""
        known = {relation.name for relation in RELATIONS}
        labels = self.classifier.labels if self.classifier else ()
        return tuple(Relation(label.name, label.entities, unmeasured) for label in labels if label.name not in known)

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        return constraints_of(self.timeline, self.taught)

    def classified(self, constraint: Constraint) -> bool:
        return self.classifier is not None and self.classifier.place(constraint.relation.name) is not None

    @cached_property
    def entities(self) -> tuple[PhraseRef, ...]:
        """Each phrase once, in the order of the text."""
        named: dict[str, str] = {}
        for words in (words for constraint in self.constraints for words in constraint.entities):
            named.setdefault(fold(words)[0], words)
        return tuple(PhraseRef(words, self.occurrence) for words in named.values())

    @cached_property
    def follows_camera(self) -> bool:
        """Whether something is to move, told by its geometry: the rest of the prompt is then measured too, whose motion is the camera's."""
        return any(constraint.relation.motion and not self.classified(constraint) for constraint in self.constraints)

    @cached_property
    def read_by_classifier(self) -> dict[int, tuple[PhraseAt, ...]]:
        """For each entity (by place) that the classifier must see the maps it reads."""
        if self.classifier is None:
            return {}
        places = sorted({place for one in self.constraints if self.classified(one) for place in self.who(one)})
        return {place: self.classifier.plan.places(self.entities[place]) for place in places}

    @cached_property
    def phrases(self) -> tuple[PhraseRef, ...]:
        """The entities; behind them the rest of the prompt, if motion is measured; behind that what the classifier reads of each."""
        rest = RestOfPrompt(occurrence=self.occurrence, without=tuple(ref.phrase for ref in self.entities))
        read = [ref for refs in self.read_by_classifier.values() for ref in refs]
        return (*self.entities, *([rest] if self.follows_camera else []), *read)

    @property
    def strength(self) -> float:
        return max((constraint.strength for constraint in self.constraints), default=0.0)

    def who(self, constraint: Constraint) -> tuple[int, ...]:
        """The places of its entities in `entities`."""
        places = {fold(ref.phrase)[0]: place for place, ref in enumerate(self.entities)}
        return tuple(places[fold(words)[0]] for words in constraint.entities)

    def skip_reason(self, latent_frames: int, fps: float) -> str | None:
        """Raises ValueError for a span that does not fit the video: only here is its length known, and still before any long wait."""
        if not self.constraints:
            return f"{NAME}: the timeline is empty or every strength is 0"
        if latent_frames < 2:
            return f"{NAME}: the latent has one frame, and one frame is no video"
        try:
            check_timeline(self.timeline, latent_frames, self.fps or fps)
            check_room(self.timeline, latent_frames, self.fps or fps, self.taught)
        except TimelineError as error:
            raise error.named(NAME) from error
        return None

    def check_prompts(self, prompts: Sequence[Mapping[int, tuple[int, ...]]]) -> None:
        """What stands in a relation must be different words; else as `ChecksPrompts` says."""
        for constraint in self.constraints:
            for one, other in combinations(self.who(constraint), 2):
                for rows in prompts:
                    if shared := set(rows.get(one, ())) & set(rows.get(other, ())):
                        raise ValueError(
                            f"{NAME}: input `timeline`: `{self.entities[one].phrase}` and `{self.entities[other].phrase}` in "
                            f"`{constraint}` are the same word of the prompt (row {min(shared)}): name each by words of its own, or choose "
                            "an `occurrence`"
                        )

    def scene(self, maps: Tensor) -> Scene:
        """Of maps in the order of `phrases`."""
        count = len(self.entities)
        things = maps[:, :count]
        return scene_of(things, camera_path(maps[:, count], things) if self.follows_camera else None, self.margin)

    def log_scores(self, maps: Tensor, scene: Scene, spans: Tensor) -> list[Tensor]:
        """log s "b" of each constraint, by the classifier where it knows the relation, else by geometry; spans "c f"."""
        scores = []
        for index, (one, span) in enumerate(zip(self.constraints, spans, strict=True)):
            who = self.who(one)
            by_geometry = not self.classified(one)
            scores.append(log_score(scene, one, who, span) if by_geometry else self.log_answer(maps, index, who, span))
        return scores

    def log_answer(self, maps: Tensor, index: int, who: tuple[int, ...], span: Tensor) -> Tensor:
        """log p(y) "b" of constraint `index`: phi holds the volume of this step, and those of earlier ones."""
        classifier, refs = self.classifier, self.read_by_classifier
        assert classifier is not None
        step = self.step or ClassifiedStep(0, {})
        first = len(self.entities) + self.follows_camera
        starts = {place: first + nth * len(refs[place]) for nth, place in enumerate(refs)}
        chosen = torch.cat([maps[:, starts[place] : starts[place] + len(refs[place])] for place in who], dim=1)
        volume = classifier.volume(chosen, span, step.slot)
        answer = classifier.log_probability(step.with_earlier(index, volume), self.constraints[index].relation.name)
        step.remember(index, volume, answer)
        return answer

    def loss(self, maps: Tensor, fps: float) -> ObjectiveLoss:
        """The losses of `maps` "b g f h w"; satisfied when the worst constraint scores tau."""
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        scene, frames = self.scene(maps), maps.shape[2]
        spans = torch.stack([constraint.frames(frames, self.fps or fps) for constraint in self.constraints]).to(maps)
        who = [self.who(constraint) for constraint in self.constraints]
        logs = torch.stack(self.log_scores(maps, scene, spans), dim=1)
        weights = maps.new_tensor([constraint.strength for constraint in self.constraints]) / self.strength
        wanted = torch.stack(
            [torch.stack([span for span, places in zip(spans, who) if place in places]).amax(0) for place in range(len(self.entities))]
        )
        presence = presence_loss(scene.maps, scene.excess, wanted * scene.named).mean(-1)
        scores = logs.detach().exp()
        return ObjectiveLoss(
            total=(-logs * weights).mean(-1) + self.lambda_presence * presence,
            terms={str(one): -log.detach() for one, log in zip(self.constraints, logs.unbind(1))} | {"presence": presence.detach()},
            satisfied=scores.amin(-1) >= self.tau,
            traces={
                "score": scores, "span": spans, "centre": seen_centre(scene), "camera": scene.camera.detach(),
                "radius": scene.radius.detach(), "frame": frame_of(maps), "maps": traced_maps(scene.maps.detach()),
            },
        )


def unmeasured(scene: Scene, who: tuple[int, ...], when: Tensor) -> Tensor:
    raise ValueError(f"{NAME}: only the classifier that was taught this relation can measure it")


def seen_centre(scene: Scene) -> Tensor:
    """Its centres "b g f 2", NaN where no prompt names the thing: its attention of 0 would stand in the middle."""
    return scene.centre.detach().masked_fill(scene.named[..., None] == 0, torch.nan)


def frame_of(maps: Tensor) -> Tensor:
    """Half the width and half the height of the frame in the units of a scene: "2"."""
    height, width = maps.shape[-2:]
    return maps.new_tensor([width, height]) / min(height, width)


def traced_maps(maps: Tensor) -> Tensor:
    """The maps at most as fine as a picture shows them, each over its own peak, "b g f h w"."""
    size = tuple(min(own, most) for own, most in zip(maps.shape[2:], TRACED_MAPS))
    small = functional.adaptive_avg_pool3d(maps, size)
    return (small / small.amax((-2, -1), keepdim=True).clamp_min(1e-12) * 1e3).round() / 1e3
