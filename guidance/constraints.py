"""The lines of a Composition Guide: `entity | relation | entity` becomes who must stand how to whom, and when."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from .latent_time import binary, latent_weights, pixel_frames
from .phrases import fold
from .relations import RELATIONS, Relation
from .spans import Span
from .timeline import Timeline, TimelineLine, between_bars, line_error, line_source

NAMES = {fold(name)[0]: relation for relation in RELATIONS for name in (relation.name, *relation.aliases)}
Taught = tuple[Relation, ...]  # relations that a classifier adds to those


@dataclass(frozen=True)
class Constraint:
    """`entities` (phrases of the prompt, in the order of the text) stand in `relation` during one span; `strength` > 0."""

    relation: Relation
    entities: tuple[str, ...]
    span: Span
    strength: float = 1.0

    def __str__(self) -> str:
        first, *others = self.entities
        return f"{' | '.join([first, self.relation.name, *others])} ({self.span})"

    def frames(self, latent_frames: int, fps: float) -> Tensor:
        """The latent frames of its span as 0 and 1: "f", fp32, one at least."""
        return binary(latent_weights(*self.span.frames(pixel_frames(latent_frames), fps), latent_frames))


def constraints_of(timeline: Timeline, taught: Taught = ()) -> tuple[Constraint, ...]:
    """One constraint for each span of each line that has a strength; said twice, it is one. `taught`: further relations.
    Raises `TimelineError` with line and caret."""
    read: dict[str, Constraint] = {}
    for line in timeline.lines:
        relation, entities = read_relation(timeline, line, taught)
        for span in line.spans if line.strength > 0 else ():
            one = Constraint(relation, entities, span, line.strength)
            same = read.setdefault(fold(str(one))[0], one)
            read[fold(str(one))[0]] = replace(same, strength=max(same.strength, one.strength))
    return tuple(read.values())


def read_relation(timeline: Timeline, line: TimelineLine, taught: Taught = ()) -> tuple[Relation, tuple[str, ...]]:
    """The relation and its entities; under a header the subject comes first and is not written again."""
    parts = parts_of(timeline, line)
    ahead = [(line.subject, 1)] if line.subject is not None else []
    place = 1 - len(ahead)
    if len(parts) <= place:
        raise line_error(timeline.text, line, f"no relation: write it between bars, as in `{line.body} | left of | ...`", end_of(parts))
    written, column = parts[place]
    names = NAMES | {fold(one.name)[0]: one for one in taught}
    relation = names.get(fold(written)[0])
    if relation is None:
        raise line_error(timeline.text, line, unknown(written, [words for words, _ in parts], names), column)
    entities = [*ahead, *parts[:place], *parts[place + 1 :]]
    if len(entities) != relation.entities:
        at = end_of(parts) if len(entities) < relation.entities else entities[relation.entities][1]
        raise line_error(
            timeline.text, line,
            f"`{relation.name}` is about {relation.entities} thing{'s' * (relation.entities > 1)}, and here are {len(entities)}: "
            f"write {pattern(relation, line.subject)}", at,
        )
    check_distinct(timeline, line, entities)
    return relation, tuple(words for words, _ in entities)


def check_distinct(timeline: Timeline, line: TimelineLine, entities: Sequence[tuple[str, int]]) -> None:
    seen: list[str] = []
    for words, column in entities:
        if fold(words)[0] in seen:
            raise line_error(
                timeline.text, line, f"`{words}` stands in a relation to itself: name the other thing by other words of the prompt", column
            )
        seen.append(fold(words)[0])


def parts_of(timeline: Timeline, line: TimelineLine) -> list[tuple[str, int]]:
    """What stands between the bars of a line, each with its column, counted from 1. Raises where nothing does."""
    source = line_source(timeline.text, line)
    start = source.code.rfind(line.body)
    parts = []
    for first, end in between_bars(source.plain[start : start + len(line.body)]):
        words = line.body[first:end]
        column = start + first + len(words) - len(words.lstrip()) + 1
        if not words.strip():
            raise line_error(timeline.text, line, "nothing stands here: write words of the prompt, or drop the bar", start + first + 1)
        parts.append((words.strip(), column))
    return parts


def end_of(parts: Sequence[tuple[str, int]]) -> int:
    words, column = parts[-1]
    return column + len(words)


def pattern(relation: Relation, subject: str | None) -> str:
    written = ["a", relation.name, *"bc"[: relation.entities - 1]]
    return f"`{' | '.join(written[1:] if subject is not None else written)}`"


def unknown(written: str, parts: Sequence[str], names: Mapping[str, Relation]) -> str:
    """All relations, and the nearest to what was written."""
    near = difflib.get_close_matches(fold(written)[0], names, n=1, cutoff=0.5)
    hint = f"; the nearest is `{names[near[0]].name}`" if near else ""
    elsewhere = next((words for words in parts if words != written and fold(words)[0] in names), None)
    hint = f"; `{elsewhere}` is one: it stands second, or first under a header" if elsewhere else hint
    known = ", ".join(dict.fromkeys(relation.name for relation in names.values()))
    return f"unknown relation `{written}`{hint}. Relations: {known}"


def check_room(timeline: Timeline, latent_frames: int, fps: float, taught: Taught = ()) -> None:
    """Refuse spans that hold too few latent frames for their relation."""
    for line in timeline.lines:
        relation, entities = read_relation(timeline, line, taught)
        for span in line.spans:
            count = int(Constraint(relation, entities, span).frames(latent_frames, fps).sum())
            if count < relation.least_frames:
                raise line_error(
                    timeline.text, line,
                    f"`{relation.name}` takes time, and its span `{span}` holds {count} of the {latent_frames} latent frames (1, then one "
                    f"for 4 frames): give it {relation.least_frames} at least",
                    None if timeline.equal_shares else span.column,
                )
