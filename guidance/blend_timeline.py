"""Multi Prompt Blend's timeline: one prompt a line, and how long each lasts."""

import math
from itertools import pairwise

from .kv_sharing import NAME
from .latent_time import TEMPORAL_STRIDE
from .spans import TimelineError
from .timeline import Timeline, TimelineLine, line_error


def prompts_of(timeline: Timeline) -> tuple[str, ...]:
    """The prompts in their order. Raises `TimelineError` for headers, strengths and several spans, which mean nothing here."""
    for line in timeline.lines:
        if line.subject is not None:
            raise line_error(timeline.text, line, f"it stands under the header `{line.subject}:`, but here every line is a whole prompt")
        if line.strength != 1:
            raise line_error(timeline.text, line, f"x{line.strength:g}: a prompt has no strength here")
        if len(line.spans) > 1:
            raise line_error(timeline.text, line, "several spans: write the prompt once for each")
    return tuple(line.body for line in timeline.lines)


def durations_of(timeline: Timeline, fps: float) -> tuple[float | None, ...]:
    """Latent frames of each prompt, from half way between its span and the last one's to half way to the next one's.

    None, as short as possible: for `end`, and for all if no spans are given. Spans may overlap or leave gaps, in their order; the video has
    no length yet, so percent means nothing. Raises `TimelineError`.
    """
    if timeline.equal_shares or not timeline.lines:
        return (None,) * len(timeline.lines)
    times = [span_frames(timeline, line, fps) for line in timeline.lines]
    for line, (start, end) in zip(timeline.lines, times, strict=True):
        if not start < end:
            raise line_error(timeline.text, line, f"span `{line.spans[0]}` is empty or reversed: its end must come after its start")
    changes = [0.0]
    for line, ((start, end), (later_start, _)) in zip(timeline.lines, pairwise(times)):
        if later_start <= start:
            raise line_error(timeline.text, line, "the next prompt begins no later than this one: write prompts in their order")
        if math.isinf(end):
            raise line_error(timeline.text, line, "only the last prompt may last to the `end`")
        changes.append((end + later_start) / 2)
    changes.append(times[-1][1])
    return tuple(None if math.isinf(end) else (end - start) / TEMPORAL_STRIDE for start, end in pairwise(changes))


def span_frames(timeline: Timeline, line: TimelineLine, fps: float) -> tuple[float, float]:
    """Pixel frames of the start and end of its span; `end` is infinite."""
    span = line.spans[0]
    if "%" in (span.start.unit, span.end.unit):
        raise line_error(timeline.text, line, f"span `{span}`: the length of the video follows from its prompts: use s or f", span.column)
    start, end = (math.inf if moment.unit == "end" else moment.frame(0, fps) for moment in (span.start, span.end))
    return start, end


def read_prompts(timeline: Timeline, fps: float) -> tuple[tuple[str, ...], tuple[float | None, ...]]:
    """Prompts and their durations in latent frames; errors name node and input."""
    try:
        return prompts_of(timeline), durations_of(timeline, fps)
    except TimelineError as error:
        raise error.named(NAME) from error
