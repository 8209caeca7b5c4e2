"""Spans of pixel time, and how one is read at the start of a timeline line. The grammar is timeline.ebnf."""

import math
import re
import unicodedata
from dataclasses import dataclass, field
from decimal import Decimal

DASHES = "‐‑‒–—―−﹣－~～〜"
PLAIN = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **{ord(dash): "-" for dash in DASHES},
    ord("×"): "x",
    0x3000: " ",
}
COMMENT = re.compile(r"(?:^|\s)#")
SPACE = re.compile(r"\s*")
DASH = re.compile(r"\s*-\s*")
ALWAYS = re.compile(r"alway(?-i:[sS])(?=[\s:,]|$)", re.IGNORECASE)
AFTER_SPAN = re.compile(r"[\s:,]|$")
NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
MOMENT = re.compile(
    rf"(?P<end>end)(?!\w)"
    rf"|(?P<clock>[0-9]+:[0-9]+(?::[0-9]+)?(?:\.[0-9]+)?)"
    rf"|(?P<number>-?{NUMBER})(?:\s*(?P<unit>(?-i:[sSfF])(?!\w)|%)|(?P<unknown>[^\W\d_]+))?",
    re.IGNORECASE,
)
CLOSING = {"[": "]", "(": ")"}
TIME = rf"(?:[0-9]+(?::[0-9]+)+(?:\.[0-9]+)?|{NUMBER}\s*(?:[sSfF]|%))"
SPAN_BEHIND = re.compile(rf"\s(?P<span>[\[(]?(?:(?:{TIME}|{NUMBER})\s*-\s*{TIME}|{TIME}\s*-\s*[eE][nN][dD])[\])]?)$")
NOT_A_SPAN = "if this is not a span, write `always` before it"


class TimelineError(ValueError):
    """What is wrong in a timeline, where, and what to do; `line` and `column` count from 1."""

    def __init__(self, message: str, line: int, column: int, source: str):
        self.message, self.line, self.column, self.source = message, line, column, source
        shown = "".join(" " if unicodedata.category(character) == "Cc" else character for character in source)
        indent = " " * sum(map(columns_of, source[: column - 1]))
        super().__init__(f"timeline line {line}: {message}\n  {shown}\n  {indent}^")

    def on_line(self, line: int) -> "TimelineError":
        """The same where that line stands elsewhere in the text that was typed."""
        return TimelineError(self.message, line, self.column, self.source)

    def named(self, node_name: str) -> ValueError:
        """The same for whoever sees only the text: which node, which input."""
        return ValueError(f"{node_name}: input `timeline`: {self}")


def columns_of(character: str) -> int:
    """Columns that a character takes in a fixed-width font."""
    return 0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1


@dataclass(frozen=True)
class Moment:
    """A point of pixel time: `value` seconds "s", pixel frames "f" or percent of the video "%"; "end" ignores the value."""

    value: float
    unit: str

    def frame(self, frames: int, fps: float) -> float:
        """Pixel time in frames, in a video of `frames` pixel frames."""
        scale = {"s": fps, "f": 1.0, "%": frames / 100}
        return float(frames) if self.unit == "end" else self.value * scale[self.unit]

    def __str__(self) -> str:
        return "end" if self.unit == "end" else f"{plain_number(self.value)}{self.unit}"


START, END = Moment(0.0, "s"), Moment(0.0, "end")


@dataclass(frozen=True)
class Span:
    """Half-open stretch of pixel time [start, end)."""

    start: Moment
    end: Moment
    column: int = field(default=1, compare=False)

    @property
    def always(self) -> bool:
        return self.start.value == 0 and self.start.unit != "end" and self.end.unit == "end"

    def frames(self, frames: int, fps: float) -> tuple[float, float]:
        """(start, end) in pixel frames, in a video of `frames` pixel frames."""
        return self.start.frame(frames, fps), self.end.frame(frames, fps)

    def __str__(self) -> str:
        return "always" if self.always else f"{self.start} - {self.end}"


@dataclass(frozen=True)
class Source:
    """One typed line: `code` is the line without its comment, `plain` the fold of `code`, character for character."""

    number: int
    raw: str
    code: str
    plain: str
    indent: int

    @classmethod
    def of(cls, number: int, raw: str) -> "Source":
        comment = COMMENT.search(raw.translate(PLAIN))
        code = (raw[: comment.start()] if comment else raw).rstrip()
        return cls(number, raw, code, code.translate(PLAIN), len(code) - len(code.lstrip()))

    def error(self, message: str, at: int) -> TimelineError:
        return TimelineError(message, self.number, at + 1, self.raw)


def plain_number(value: float) -> str:
    """The shortest decimal that reads back as `value`, without an exponent."""
    written = format(Decimal(repr(float(value))), "f")
    return written.rstrip("0").rstrip(".") if "." in written else written


def skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    """The position behind what `pattern` matches at `at`; `at` itself where it does not."""
    found = pattern.match(text, at)
    return found.end() if found else at


def read_span(source: Source, at: int) -> tuple[Span, int] | None:
    """The span that starts at `at` and the position behind it; None where the text there is no span."""
    plain = source.plain
    if always := ALWAYS.match(plain, at):
        return Span(START, END, at + 1), always.end()
    closing = CLOSING.get(plain[at : at + 1], "")
    inside = skip(SPACE, plain, at + len(closing))
    first = MOMENT.match(plain, inside)
    dash = DASH.match(plain, first.end()) if first else None
    if not first or not dash:
        return None
    second = MOMENT.match(plain, dash.end())
    stop = second.end() if second else dash.end()
    if second and closing:
        stop = skip(SPACE, plain, stop)
        if plain[stop : stop + 1] != closing:
            raise source.error(f"the span is not closed: write `{closing}` after it, or no brackets", stop)
        stop += 1
    if not second or not AFTER_SPAN.match(plain, stop):
        timed = first["unit"] or first["clock"]
        if timed and (second or dash[0][-1].isspace() or dash.end() == len(plain)):
            raise source.error(f"the span does not end in a time: write it as `2s - 3.5s` or `2s - end`; {NOT_A_SPAN}", dash.end())
        return None
    start, end = read_moment(source, first, second), read_moment(source, second, first)
    check_order(source, start, end, inside)
    return Span(start, end, at + 1), stop


def read_moment(source: Source, found: re.Match[str], other: re.Match[str]) -> Moment:
    """One end of a span; a bare number takes the unit of the `other` end."""
    if found["end"]:
        return END
    if found["clock"]:
        parts = [float(part) for part in found["clock"].split(":")]
        return Moment(sum(part * 60**power for power, part in enumerate(reversed(parts))), "s")
    at = found.start()
    if found["unknown"]:
        known = "units are s (seconds), f (frames) and %, with a space after them"
        raise source.error(f"unknown unit `{found['unknown']}`: {known}; {NOT_A_SPAN}", found.start("unknown"))
    value = float(found["number"])
    unit = (found["unit"] or other["unit"] or "").lower()
    if not unit and value != 0:
        raise source.error(f"`{found['number']}` has no unit: write s (seconds), f (frames) or % after it; {NOT_A_SPAN}", at)
    if not math.isfinite(value):
        raise source.error("this time is not a finite number: write a smaller one", at)
    if found[0].startswith("-"):
        raise source.error(f"negative time `{found[0]}`: a video starts at 0s", at)
    if unit == "%" and value > 100:
        raise source.error(f"`{found[0]}` lies outside the video: write at most 100%, or `end`", at)
    return Moment(value, unit or "s")


def check_order(source: Source, start: Moment, end: Moment, at: int) -> None:
    """Refuse a reversed or empty span where the units allow it without knowing the video; `check_timeline` sees the rest."""
    if start.unit != end.unit and "end" not in (start.unit, end.unit) and start.value != 0 and end.value != 0:
        return
    first = math.inf if start.unit == "end" else start.value
    last = math.inf if end.unit == "end" else end.value
    if first > last:
        raise source.error(f"reversed span `{start} - {end}`: write the earlier time first", at)
    if first == last:
        raise source.error(f"empty span `{start} - {end}`: its end must come after its start", at)
