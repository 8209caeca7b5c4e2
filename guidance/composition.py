"""Composition Guide: relations between entities hold in the video. The objective of CVG (arXiv 2605.14988), inference loop (c), (d).

CVG's loss is the cross-entropy of a trained classifier on attention maps; here the probability of a relation is a smooth function of
the entities' places (`relations.py`), so that nothing needs training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import torch
from einops import reduce
from torch import Tensor
from torch.nn import functional

from .constraints import Constraint, check_room, constraints_of
from .objective import ObjectiveLoss, PhraseRef, RestOfPrompt, check_occurrence
from .phrases import fold
from .ranges import check_fps, check_percents, check_range
from .relations import Scene, camera_path, presence_gate, scene_of
from .spans import TimelineError
from .timeline import Timeline, check_timeline

NAME = "Composition Guide"
STEEPNESS = 10.0  # of the probability: a tenth of half the frame beyond the margin makes sigmoid(1)
FAINT = 0.05  # focus of a map that is even but for noise; keeps the presence term from chasing it alone
TRACED_MAPS = (7, 12, 12)  # most frames, rows and columns of the maps that a report keeps


def log_score(scene: Scene, constraint: Constraint, who: tuple[int, ...], span: Tensor, margin: float) -> Tensor:
    """log s of one constraint, "b" <= 0, where s = sigmoid(k (q - m)) of its margins q: mean log over conditions, over frames of a state.

    A frame counts by how much it shows of every entity (mass gate), and not at all where one is not named. m is `margin` for conditions
    that can hold more or less clearly.
    """
    relation = constraint.relation
    span = span * named_together(scene, constraint, who, span)
    when = span * torch.stack([presence_gate(scene.excess[:, entity], span) for entity in who]).prod(0)
    when = when / when.sum(-1, keepdim=True)
    q = relation.measure(scene, who, when)
    asked = margin * q.new_tensor(relation.clear).view(-1, *[1] * (q.ndim - 2))
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
    """

    timeline: Timeline
    margin: float = 0.15
    tau: float = 0.9
    lambda_presence: float = 0.1
    occurrence: str | int = "all"
    start_percent: float | None = None
    end_percent: float | None = None
    fps: float = 0.0

    def __post_init__(self) -> None:
        check_range(NAME, "margin", self.margin, 0, 1)
        check_range(NAME, "tau", self.tau, 0, 1)
        check_range(NAME, "lambda_presence", self.lambda_presence, 0, 1000)
        check_fps(NAME, self.fps)
        check_percents(NAME, self.start_percent, self.end_percent)
        check_occurrence(NAME, self.occurrence)
        try:
            constraints_of(self.timeline)
        except TimelineError as error:
            raise error.named(NAME) from error

    @property
    def name(self) -> str:
        return NAME

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        return constraints_of(self.timeline)

    @cached_property
    def entities(self) -> tuple[PhraseRef, ...]:
        """Each phrase once, in the order of the text."""
        named: dict[str, str] = {}
        for words in (words for constraint in self.constraints for words in constraint.entities):
            named.setdefault(fold(words)[0], words)
        return tuple(PhraseRef(words, self.occurrence) for words in named.values())

    @cached_property
    def phrases(self) -> tuple[PhraseRef, ...]:
        """The entities; where something is to move, behind them the rest of the prompt, whose motion is the camera's."""
        if not any(constraint.relation.motion for constraint in self.constraints):
            return self.entities
        return (*self.entities, RestOfPrompt(occurrence=self.occurrence, without=tuple(ref.phrase for ref in self.entities)))

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
            check_room(self.timeline, latent_frames, self.fps or fps)
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
        """Of maps in the order of `phrases`; with more of them than entities, the last is the background."""
        things = maps[:, : len(self.entities)]
        return scene_of(things, camera_path(maps[:, -1], things) if len(self.phrases) > len(self.entities) else None)

    def loss(self, maps: Tensor, fps: float) -> ObjectiveLoss:
        """The losses of `maps` "b g f h w"; satisfied when the worst constraint scores tau."""
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        scene, frames = self.scene(maps), maps.shape[2]
        spans = torch.stack([constraint.frames(frames, self.fps or fps) for constraint in self.constraints]).to(maps)
        who = [self.who(constraint) for constraint in self.constraints]
        logs = torch.stack([log_score(scene, *each, self.margin) for each in zip(self.constraints, who, spans, strict=True)], dim=1)
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
