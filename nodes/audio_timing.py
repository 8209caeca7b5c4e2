"""Audio to Timing: a phrase appears on the onsets of a sound, or while it is loud."""

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..guidance.latent_time import pixel_frames
from ..guidance.mask_sources import Timing
from ..guidance.sound import Measure, Sound
from .timing_socket import first_inputs, last_inputs, made, shown_latents, timing_output

NAME = "Audio to Timing"


def shape_input() -> io.DynamicCombo.Input:
    width = io.Float.Input(
        "width", default=0.5, min=0.0, max=60.0, step=0.05, round=0.001,
        tooltip="Seconds for which the phrase is to be seen from each onset. Higher: longer.",
    )
    envelope: list[io.Input] = [
        io.Float.Input(
            "keep", default=0.7, min=0.0, max=1.0, step=0.05, round=0.001,
            tooltip="Values of at least this stay as they are, and the others are smoothed. Higher: only the strongest peaks stand out.",
        ),
        io.Float.Input(
            "smoothing", default=0.5, min=0.0, max=10.0, step=0.05, round=0.001,
            tooltip="Seconds over which the others are smoothed. Higher: flatter.",
        ),
    ]
    options: dict[str, list[io.Input]] = {"windows": [width], "until the next": [], "until the end": [], "envelope": envelope}
    return io.DynamicCombo.Input(
        "shape",
        options=[io.DynamicCombo.Option(name, inputs) for name, inputs in options.items()],
        tooltip="How long the phrase is to be seen: windows of one width, until the next onset, until the end of the video; or the "
        "envelope of the sound itself, peaks kept and the rest smoothed.",
    )


class AudioToTiming(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorAudioToTiming",
            display_name=NAME,
            category="Wan Conductor",
            description="When a phrase is to be seen, from a sound: on its beats, or while it is loud. The sound is trimmed to the video "
            "first.",
            search_aliases=["beat", "onset", "music", "audio reactive", "sound", "rms", "amplitude", "drum", "timing"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *first_inputs(),
                io.Audio.Input("audio", tooltip="The sound of the video, from its first frame on. After its end there is silence."),
                shape_input(),
                io.Combo.Input(
                    "measure", options=["onsets", "loudness"], default="onsets",
                    tooltip="onsets: where something strikes up, whatever is sounding already. loudness: while it is loud.",
                ),
                io.Float.Input(
                    "threshold", default=0.3, min=0.0, max=1.0, step=0.05, round=0.001,
                    tooltip="How far an onset stands out, as a share of the strongest (loudness: of the loudest). Higher: fewer.",
                ),
                io.String.Input(
                    "beats", default="all",
                    tooltip="Which of them, in order of time: all, first, last, or numbers such as 1, 3; a higher number: a later one.",
                ),
                io.Int.Input(
                    "strongest", default=0, min=0, max=1000,
                    tooltip="Keep only this many, the strongest. Higher: more of them; 0: all.",
                ),
                io.Float.Input(
                    "offset", default=0.0, min=-60.0, max=60.0, step=0.05, round=0.001,
                    tooltip="Seconds between hearing and seeing. Higher: later; below 0: the phrase is there before it is heard.",
                ),
                io.Float.Input(
                    "gap", default=0.1, min=0.0, max=10.0, step=0.05, round=0.001, advanced=True,
                    tooltip="Onsets nearer than this many seconds count as the strongest of them; shorter pauses of loudness are bridged. "
                    "Higher: fewer.",
                ),
                io.Float.Input(
                    "low_hz", default=0.0, min=0.0, max=96000.0, step=10.0, round=0.01, advanced=True,
                    tooltip="Listen only above this frequency. Higher: less bass. 0: no limit.",
                ),
                io.Float.Input(
                    "high_hz", default=0.0, min=0.0, max=96000.0, step=10.0, round=0.01, advanced=True,
                    tooltip="Listen only below this frequency: 150 hears a kick drum. Higher: more treble. 0: no limit.",
                ),
                *last_inputs(),
            ],
            outputs=[timing_output()],
        )

    @classmethod
    def execute(
        cls, phrase: str, audio: Mapping[str, Any], shape: dict[str, Any], measure: Measure = "onsets", threshold: float = 0.3,
        beats: str = "all", strongest: int = 0, offset: float = 0.0, gap: float = 0.1, low_hz: float = 0.0, high_hz: float = 0.0,
        strength: float = 1.0, length: int = 0, fps: float = 16.0, timing: Timing | None = None,
    ) -> io.NodeOutput:
        knobs = dict(shape)
        source = Sound(
            one_sound(audio), int(audio["sample_rate"]), measure, low_hz, high_hz, threshold, gap, strongest, beats, offset,
            knobs.pop("shape"), **knobs,
        )
        text = told(source, pixel_frames(shown_latents(length, fps)), fps)
        return made(cls, NAME, phrase, source, strength, length, fps, timing, text)


def one_sound(audio: Mapping[str, Any]) -> Tensor:
    """The waveform "c t" of an AUDIO, whose own is "b c t"."""
    if not audio:
        raise ValueError(f"{NAME}: input `audio`: nothing arrives (a video without sound?): connect a sound")
    waveform = audio["waveform"]
    if waveform.ndim == 3 and len(waveform) != 1:
        raise ValueError(f"{NAME}: input `audio` holds {len(waveform)} sounds: connect one at a time")
    return waveform.detach().float().cpu().reshape(-1, waveform.shape[-1])


def told(sound: Sound, frames: int, fps: float) -> str:
    """What was found in a video of `frames` pixel frames; here its length is not settled, so that too few beats are no error yet."""
    if sound.shape == "envelope":
        return str(sound)
    found = len(sound.found(frames, fps))
    one, several = ("onset", "onsets") if sound.measure == "onsets" else ("loud stretch", "loud stretches")
    heard = f"{found} {one if found == 1 else several}"
    if not found:
        return f"{heard} in the first {frames / fps:.2f} s: it is never to be seen; lower `threshold`?"
    try:
        spans = sound.spans(frames, fps)
    except ValueError as error:
        return str(error)
    times = [span.frames(frames, fps) for span in spans]
    return ", ".join(f"{start / fps:.2f}s - {end / fps:.2f}s" for start, end in times) + f"  ({heard} found)"
