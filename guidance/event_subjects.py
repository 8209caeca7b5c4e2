"""Who does what in an Event Schedule: subjects and their events, as the timeline has them and as text rows of one prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .phrases import fold
from .timeline import Timeline, TimelineLine, line_error

NAME = "Event Schedule"


@dataclass(frozen=True)
class Subject:
    """Who does it, and its events as they stand in the timeline: kept by index, for the same phrase may come twice."""

    phrase: str
    events: tuple[TimelineLine, ...]


@dataclass(frozen=True)
class SubjectTokens:
    """A subject in one prompt and one stretch of latent frames.

    rows: text rows of the subject; events: text rows of each event. Empty: not in this prompt, and then without effect.
    weights: "e f" in 0..1, how far each event is current in each latent frame. strengths: factor on each event's bias.
    """

    rows: tuple[int, ...]
    events: tuple[tuple[int, ...], ...]
    weights: Tensor
    strengths: tuple[float, ...]

    @property
    def acts(self) -> bool:
        return bool(self.rows) and any(self.events)


def check_subjects(timeline: Timeline) -> None:
    """Every event has a subject, and no phrase has two."""
    claimed: dict[str, TimelineLine] = {}
    for line in timeline.lines:
        if line.strength == 0:
            continue
        if line.subject is None:
            raise line_error(timeline.text, line, "an event without a subject: write a line such as `cat:` above it")
        first = claimed.setdefault(fold(line.body)[0], line)
        if fold(str(first.subject))[0] != fold(line.subject)[0]:
            raise line_error(
                timeline.text, line,
                f"`{line.body}` already belongs to `{first.subject}` (line {first.line}): write more of the prompt's words in both, "
                f"as in `{line.subject} {line.body}`",
            )


def check_room(timeline: Timeline, subject: Subject, latent_frames: int) -> None:
    spans = [(event, span) for event in subject.events for span in event.spans]
    if len(spans) > latent_frames:
        line, span = spans[latent_frames]
        raise line_error(
            timeline.text, line,
            f"`{subject.phrase}` has {len(spans)} spans, and the video only {latent_frames} latent frames (1, then one for 4 frames): "
            "take fewer events, or a longer video",
            None if timeline.equal_shares else span.column,
        )


def check_claims(subjects: Sequence[Subject], bound: Sequence[SubjectTokens]) -> None:
    """No text row belongs to events of two subjects: "jumps" is also found inside the "jumps high" of another."""
    claimed: dict[int, tuple[Subject, TimelineLine]] = {}
    for subject, tokens in zip(subjects, bound, strict=True):
        for event, rows in zip(subject.events, tokens.events, strict=True):
            for row in rows:
                owner, other = claimed.setdefault(row, (subject, event))
                if owner is not subject:
                    raise ValueError(
                        f"{NAME}: input `timeline`: `{other.body}` of `{owner.phrase}` (line {other.line}) and `{event.body}` of "
                        f"`{subject.phrase}` (line {event.line}) are the same word of the prompt (row {row}): write more of the prompt's "
                        "words in both, or choose an `occurrence`"
                    )


def membership(groups: Sequence[Sequence[int]], columns: Sequence[int]) -> Tensor:
    """Which of `columns` each group of text rows holds: "g c" of 0 and 1."""
    return torch.tensor([[float(column in set(rows)) for column in columns] for rows in groups])
