"""The timeline text: what happens when, to whom. The grammar is timeline.ebnf; tests/vectors/timeline.json binds every parser of it."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .latent_time import binary, latent_weights, pixel_frames
from .spans import END, NOT_A_SPAN, NUMBER, PLAIN, SPAN_BEHIND, Moment, Source, Span, TimelineError, plain_number, read_span, skip

NEWLINE = re.compile(r"\r\n|\r|\n")
AFTER_SPANS = re.compile(r"[\s:,]*")
NEXT_SPAN = re.compile(r"\s*,\s*")
STRENGTH = re.compile(rf"(?:^|\s)x(?P<number>[-+]?(?:{NUMBER}(?:[eE][-+]?[0-9]+)?|inf|nan))$")
PASTED = re.compile(r"[\[(]|[0-9]:")
BULLET = re.compile(r"[-*•]\s+")


@dataclass(frozen=True)
class TimelineLine:
    """One statement: `body` happens to `subject` during `spans`, with `strength` >= 0; `line` is its line in the text."""

    subject: str | None
    body: str
    spans: tuple[Span, ...]
    strength: float = 1.0
    line: int = field(default=1, compare=False)

    def __post_init__(self) -> None:
        if not self.body.strip():
            raise ValueError(f"body = {self.body!r}: not empty")
        if not math.isfinite(self.strength) or self.strength < 0:
            raise ValueError(f"strength = {self.strength}: finite, 0 or more")


@dataclass(frozen=True)
class Timeline:
    """The lines of a timeline. `equal_shares`: the text gives no spans, and the lines of each subject share the video."""

    lines: tuple[TimelineLine, ...]
    equal_shares: bool = False
    text: str = field(default="", compare=False)

    def format(self) -> str:
        """The timeline in normal form: aligned columns, no comments; it reads back as the same timeline."""
        spans = ["" if self.equal_shares else ", ".join(map(str, line.spans)) for line in self.lines]
        width = max(map(len, spans), default=0)
        written: list[str] = []
        subject = None
        for line, span in zip(self.lines, spans, strict=True):
            if line.subject != subject:
                subject = line.subject
                written.append(f"{subject}:")
            entry = [span.ljust(width), line.body, written_strength(line)]
            written.append(("  " if subject else "") + "  ".join(part for part in entry if part))
        return "\n".join(written)


def written_strength(line: TimelineLine) -> str:
    """Also written at 1 where the end of the body would read as a strength or a header."""
    plain = line.body.translate(PLAIN)
    needed = line.strength != 1 or plain.endswith(":") or STRENGTH.search(plain)
    return f"x{plain_number(line.strength)}" if needed else ""


def parse_timeline(text: str) -> Timeline:
    """Read a timeline. Raises `TimelineError` with line and caret; text without statements is the empty timeline."""
    lines: list[TimelineLine] = []
    subject = None
    for source in sources(text):
        if source.plain.endswith(":"):
            subject = read_header(source)
        elif source.code:
            lines.append(read_entry(source, subject))
    if not any(line.spans for line in lines):
        return Timeline(share_equally(lines), bool(lines), text)
    for line in lines:
        if not line.spans:
            raise line_error(text, line, "this line has no span but others have: write one, or `always`")
    return Timeline(tuple(lines), False, text)


def sources(text: str) -> Iterator[Source]:
    for number, raw in enumerate(NEWLINE.split(text.replace("\ufeff", " ")), start=1):
        yield Source.of(number, raw)


def read_header(source: Source) -> str:
    subject = source.code[:-1].strip()
    if not subject:
        raise source.error("a header without a subject: write a name before the `:`", source.indent)
    if read_span(source, source.indent):
        raise source.error("a line that ends in `:` is a header and has no span: drop the `:` or the span", len(source.code) - 1)
    return subject


def read_entry(source: Source, subject: str | None) -> TimelineLine:
    spans, start = read_spans(source)
    found = STRENGTH.search(source.plain[start:])
    body = source.code[start : start + found.start() if found else None].strip()
    if not body or source.plain[start] == "#":
        raise source.error(f"nothing is said to happen: write a phrase {'before the strength' if found else 'after the span'}", start)
    if not spans and (behind := SPAN_BEHIND.search(source.plain[start : start + found.start() if found else None].rstrip())):
        at = start + behind.start("span")
        span, phrase = source.code[at : start + behind.end()], source.code[start : at].strip()
        raise source.error(f"the span stands in front of what happens: write `{span}  {phrase}`; {NOT_A_SPAN}", at)
    return TimelineLine(subject, body, spans, read_strength(source, found, start) if found else 1.0, source.number)


def read_strength(source: Source, found: re.Match[str], start: int) -> float:
    strength = float(found["number"])
    if not math.isfinite(strength) or strength < 0:
        raise source.error(f"strength `x{found['number']}`: a finite number, 0 or more, as in x1.5", start + found.start("number"))
    return strength


def read_spans(source: Source) -> tuple[tuple[Span, ...], int]:
    """All spans at the start of a line, and where its body starts."""
    spans: list[Span] = []
    at = body = source.indent
    while found := read_span(source, at):
        span, body = found
        spans.append(span)
        comma = NEXT_SPAN.match(source.plain, body)
        if not comma:
            break
        at = comma.end()
    return tuple(spans), skip(AFTER_SPANS, source.plain, body) if spans else body


def share_equally(lines: list[TimelineLine]) -> tuple[TimelineLine, ...]:
    """Line i of the n lines of its subject gets the i-th of n equal shares of the video."""
    subjects = [line.subject for line in lines]
    shared = []
    for index, line in enumerate(lines):
        share, count = subjects[:index].count(line.subject), subjects.count(line.subject)
        end = END if share + 1 == count else Moment(100 * (share + 1) / count, "%")
        shared.append(replace(line, spans=(Span(Moment(100 * share / count, "%"), end),)))
    return tuple(shared)


def line_source(text: str, line: TimelineLine) -> Source:
    """The typed line that `line` was read from; of a timeline without text, its body."""
    return list(sources(text))[line.line - 1] if text else Source.of(line.line, line.body)


def line_error(text: str, line: TimelineLine, message: str, column: int | None = None) -> TimelineError:
    source = line_source(text, line)
    return source.error(message, source.indent if column is None else column - 1)


def check_timeline(timeline: Timeline, latent_frames: int, fps: float) -> None:
    """Refuse spans that are reversed, empty or outside a video of `latent_frames` at `fps`: `TimelineError` with line and caret."""
    frames = pixel_frames(latent_frames)
    video = f"the video has {frames} frames, {plain_number(round(frames / fps, 2))}s at {plain_number(fps)} fps"
    for line in timeline.lines:
        for span in line.spans:
            start, end = span.frames(frames, fps)
            if start >= frames:
                wrong = f"starts after the end: {video}; write an earlier time, or make the video longer"
            elif end > frames + 0.5:
                wrong = f"ends outside the video: {video}; write `{span.start} - end`"
            elif start >= end:
                wrong = f"is {'reversed' if start > end else 'empty'} at {plain_number(fps)} fps: its end must come after its start"
            else:
                continue
            raise line_error(timeline.text, line, f"span `{span}` {wrong}", span.column)


def line_weights(line: TimelineLine, latent_frames: int, fps: float) -> Tensor:
    """Share of each latent frame that the spans of `line` cover together: "f", fp32, 0..1."""
    frames = pixel_frames(latent_frames)
    weights = torch.zeros(latent_frames)
    covered_until = 0.0
    for start, end in sorted(span.frames(frames, fps) for span in line.spans):
        weights = weights + latent_weights(max(start, covered_until), end, latent_frames)
        covered_until = max(covered_until, end)
    return weights.clamp(max=1)


def line_mask(line: TimelineLine, latent_frames: int, fps: float) -> Tensor:
    """The latent frames of `line` as 0 and 1: "f", fp32; each of its spans keeps at least one."""
    frames = pixel_frames(latent_frames)
    mask = torch.zeros(latent_frames)
    for span in line.spans:
        mask = torch.maximum(mask, binary(latent_weights(*span.frames(frames, fps), latent_frames)))
    return mask


def normalise(text: str, lists: bool = False) -> str:
    """Rewrite pasted forms as plain lines, leaving every other line as typed: `[00:00-00:10] text` becomes `0s - 10s  text`,
    bullets go, and with `lists` a line `a | b | c` without a span becomes three lines (a Composition Guide body has bars of its own)."""
    written: list[str] = []
    for source in sources(text):
        written += plain_lines(source, lists)
    return "\n".join(written)


def typed_line(text: str, line: int, lists: bool = False) -> int:
    """The line of `text` that line `line` of `normalise(text, lists)` was made from; both count from 1."""
    written = 0
    for source in sources(text):
        written += len(plain_lines(source, lists))
        if written >= line:
            return source.number
    raise ValueError(f"line = {line}: the text becomes {written} lines")


def plain_lines(source: Source, lists: bool) -> list[str]:
    bullet = BULLET.match(source.plain, source.indent)
    if bullet:
        source = Source.of(source.number, source.raw[: source.indent] + source.raw[bullet.end() :])
    try:
        spans, body = read_spans(source)
    except TimelineError:
        return [source.raw]
    indent = source.raw[: source.indent]
    if spans and PASTED.search(source.plain[:body]):
        return [f"{indent}{', '.join(map(str, spans))}  {source.raw[body:]}".rstrip()]
    if lists and not spans and "|" in source.plain and not source.plain.endswith(":"):
        parts = [source.code[start:end].strip() for start, end in between_bars(source.plain)]
        comment = source.raw[len(source.code) :]
        listed = [indent + part for part in parts if part]
        return [*listed[:-1], listed[-1] + comment] if listed else [source.raw]
    return [source.raw]


def between_bars(plain: str) -> Iterator[tuple[int, int]]:
    bars = [index for index, character in enumerate(plain) if character == "|"]
    yield from zip([0, *(bar + 1 for bar in bars)], [*bars, len(plain)], strict=True)
