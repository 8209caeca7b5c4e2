"""Curve to Timing: a phrase follows a curve through control points."""

from comfy_api.latest import io

from ..guidance.curve import Interpolation, parse_curve
from ..guidance.mask_sources import Timing
from .timing_socket import first_inputs, last_inputs, made, timing_output

NAME = "Curve to Timing"
CURVE = """0s    0
2s    0
2.5s  1      # fades in within half a second
end   1
"""


class CurveToTiming(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorCurveToTiming",
            display_name=NAME,
            category="Wan Conductor",
            description="When, and how much, a phrase is to be seen: a curve through points of time and value.",
            search_aliases=["curve", "keyframes", "fade in", "fade out", "intensity", "ease", "timing"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *first_inputs(),
                io.String.Input(
                    "curve", multiline=True, default=CURVE, placeholder="2s  1",
                    tooltip="One point per line: a time, then a value in 0..1; the higher, the more of the phrase. Times in s, f (frames) "
                    "or %, or `end`.",
                ),
                io.Combo.Input(
                    "interpolation", options=["linear", "smooth", "step"], default="linear",
                    tooltip="Between points: linear goes straight, smooth eases and never overshoots, step holds each value.",
                ),
                *last_inputs(),
            ],
            outputs=[timing_output()],
        )

    @classmethod
    def execute(
        cls, phrase: str, curve: str, interpolation: Interpolation = "linear", strength: float = 1.0, length: int = 0, fps: float = 16.0,
        timing: Timing | None = None,
    ) -> io.NodeOutput:
        try:
            source = parse_curve(curve, interpolation)
        except ValueError as error:
            raise ValueError(f"{NAME}: input `curve`: {error}") from error
        return made(cls, NAME, phrase, source, strength, length, fps, timing)
