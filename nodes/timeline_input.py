"""What nodes with a timeline share: reading the text, and the inputs that say which words and which seconds it means."""

from comfy_api.latest import io

from ..guidance.spans import TimelineError
from ..guidance.timeline import Timeline, normalise, parse_timeline, typed_line


def conditioning_input() -> io.Input:
    return io.Conditioning.Input(
        "conditioning",
        tooltip="The positive prompt from Conductor Text Encode. Every phrase of the timeline is looked up there before the model samples.",
    )


def occurrence_input() -> io.Input:
    return io.String.Input(
        "occurrence", default="all", advanced=True,
        tooltip="Which occurrence of a repeated phrase in the prompt: all, first, last, or its number. A higher number: further on.",
    )


def fps_input() -> io.Input:
    return io.Float.Input(
        "fps", default=0.0, min=0.0, max=240.0, step=1.0, round=0.001, advanced=True,
        tooltip="Frames per second for times in s. Higher: the same second lies at a later frame. 0: the model's own (16, "
        "or 24 for the 5B).",
    )


def read_occurrence(text: str) -> str | int:
    which = text.strip().casefold() or "all"
    return int(which) if which.isdecimal() else which


def read_timeline(text: str, node_name: str, lists: bool = True) -> tuple[Timeline, str]:
    """The timeline, and a note for the node to show where pasted text was read in another form (else empty). `lists`: see `normalise`.

    Errors name the node.
    """
    try:
        parsed = parse_timeline(plain := normalise(text, lists))
    except TimelineError as error:
        raise error.on_line(typed_line(text, error.line, lists)).named(node_name) from error
    same = plain.strip() == text.replace("\r\n", "\n").strip()
    return parsed, "" if same else f"\nread as:\n{plain}"


def valid_timeline(text: str | None, node_name: str, lists: bool = True) -> bool | str:
    """For `validate_inputs` of a node: what is wrong with the text, when it is queued; one from another node (None) is read later."""
    try:
        read_timeline(text or "", node_name, lists)
    except ValueError as error:
        return str(error)
    return True
