"""What the nodes share that make a TEMPORAL_MASK: the phrase, the socket that chains them, and the picture on the node."""

from collections.abc import Sequence

from comfy_api.latest import io

from ..guidance.latent_time import latent_frames_of
from ..guidance.mask_sources import MaskSource, TimedPhrase, Timing
from .shown import PictureAndText

TEMPORAL_MASK = io.Custom("TEMPORAL_MASK")
SECONDS_SHOWN = 5


def first_inputs() -> list[io.Input]:
    return [
        TEMPORAL_MASK.Input("timing", optional=True, tooltip="The timing of other phrases, which is passed on with this one."),
        io.String.Input(
            "phrase", default="", placeholder="cat",
            tooltip="Words of the prompt that are to be seen when this says so.",
        ),
    ]


def last_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "strength", default=1.0, min=0.0, max=100.0, step=0.1, round=0.001,
            tooltip="Weighs this phrase among the others. Higher: more weight, and larger updates; 0: off.",
        ),
        length_input(),
        io.Float.Input(
            "fps", default=16.0, min=1.0, max=240.0, step=1.0, round=0.001, advanced=True,
            tooltip="Frames per second of the picture on this node only; higher: the same second lies at a later frame. Temporal Mask "
            "counts by the model.",
        ),
    ]


def length_input(unset: str = "five seconds") -> io.Input:
    """`unset`: what 0 draws."""
    return io.Int.Input(
        "length", default=0, min=0, max=100000, step=1, optional=True, advanced=True,
        tooltip=f"Frames of the video in the picture on this node. Higher: more of it is drawn. 0: {unset}. What is sampled has its own "
        "length, and masks follow that.",
    )


def timing_output() -> io.Output:
    return TEMPORAL_MASK.Output("timing", display_name="timing", tooltip="Connect it to Temporal Mask, or to the next timing node.")


def shown_latents(length: int, fps: float) -> int:
    """Latent frames in the picture on a node, whose `length` 0 stands for five seconds."""
    return latent_frames_of(length or round(SECONDS_SHOWN * fps) + 1)


def mask_picture(
    node: type[io.ComfyNode], phrases: Sequence[TimedPhrase], latent_frames: int, fps: float, text: str, binary: bool = False
) -> PictureAndText:
    from ..guidance.mask_pictures import mask_figure  # matplotlib takes a second to import, too much for the host's start

    return PictureAndText(node, mask_figure(phrases, latent_frames, fps, binary), text)


def made(
    node: type[io.ComfyNode], name: str, phrase: str, source: MaskSource, strength: float, length: int, fps: float,
    timing: Timing | None, text: str | None = None,
) -> io.NodeOutput:
    """The output of a timing node: its phrase behind those of `timing`, drawn and told on the node `name`."""
    try:
        one = TimedPhrase(phrase.strip(), source, strength)
    except ValueError as error:
        raise ValueError(f"{name}: input {error}") from error
    told = f"{one.phrase}: {source if text is None else text}" + (f" x{strength:g}" if strength != 1 else "")
    return io.NodeOutput(
        Timing((*(timing.phrases if timing else ()), one)), ui=mask_picture(node, [one], shown_latents(length, fps), fps, told)
    )
