"""Multi Prompt Blend: several prompts over one longer video, without seams."""

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io

from ..guidance.blend import Mode, MultiPromptBlend, Plan, prompt_weights, repeats_for
from ..guidance.blend_timeline import read_prompts
from ..guidance.kv_sharing import NAME, KVSharing, Memory
from ..guidance.latent_time import TEMPORAL_STRIDE, frames_per_second, latent_frames_of, pixel_frames
from ..guidance.objective import PhraseRef
from ..guidance.spans import plain_number
from ..host.attach import attached
from ..host.blend_prompts import check_phrase, window_conditioning
from ..host.tokens import encode_with_tokens
from .pair import guided_pair, pair_inputs, pair_outputs, require_wan_pair
from .shown import shown
from .timeline_input import fps_input, read_timeline, valid_timeline


class MultiPromptBlendNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorMultiPromptBlend",
            display_name=NAME,
            category="Wan Conductor",
            description="Several prompts over one longer video, without seams (DiTCtrl): overlapping windows, each with its prompt or a "
            "mix of two, blended at every step, and each looking at the one before so that people and places stay the same.",
            search_aliases=[
                "ditctrl", "long video", "multi prompt", "prompt travel", "transition", "context windows", "kv sharing", "word swap",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *pair_inputs(),
                io.Autogrow.Input(
                    "prompts",
                    template=io.Autogrow.TemplatePrefix(
                        io.Conditioning.Input(
                            "prompt", tooltip="One prompt, from Conductor Text Encode or CLIP Text Encode; the next one in the next socket."
                        ),
                        prefix="prompt", min=0, max=50,
                    ),
                    optional=True,
                    tooltip="The prompts in their order, each as short as possible. Or leave this empty and write them in the timeline.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="Wan's text encoder, for prompts in the timeline."),
                io.String.Input(
                    "timeline",
                    multiline=True,
                    default="",
                    placeholder="0s - 5s   a cat sits by the window\n5s - 10s  a cat jumps from the window",
                    tooltip="One whole prompt a line, in place of the sockets, with or without its time: `start - end` in s or f (frames). "
                    "The length of the video follows: each prompt gets whole windows. Keep the wording alike but for what changes.",
                ),
                io.Combo.Input(
                    "mode", options=["blend", "word swap"], default="blend", advanced=True,
                    tooltip="blend: one long video. word swap: a batch of videos of one length with the same noise, one for each prompt, "
                    "which all look at the first: one scene, a word changed.",
                ),
                io.Int.Input("width", default=832, min=16, max=16384, step=16, tooltip="Width of the empty latent, in pixels."),
                io.Int.Input("height", default=480, min=16, max=16384, step=16, tooltip="Height of the empty latent, in pixels."),
                io.Int.Input(
                    "frames_per_window", default=81, min=5, max=16385, step=4,
                    tooltip="Frames that the model sees at once. Higher: more context, more memory, fewer windows; Wan is trained on 81. "
                    "Must be 4n + 1.",
                ),
                io.Int.Input(
                    "overlap", default=40, min=0, max=16384, step=4,
                    tooltip="Frames that neighbouring windows share. Higher: softer transitions, more windows for the same length.",
                ),
                io.Int.Input(
                    "transitions", default=1, min=0, max=16,
                    tooltip="Windows between two prompts, with a mix of both. Higher: a slower change, a longer video; 0: none.",
                ),
                io.Combo.Input(
                    "kv_sharing", options=["plain", "masked", "off"], default="plain",
                    tooltip="How a window looks at the one before. plain: at all of it. masked: the `object` at itself there, the rest at "
                    "the rest. off: only the blend joins them.",
                ),
                io.String.Input(
                    "object", default="",
                    tooltip="For kv_sharing masked: the word or phrase of the prompts that names what should stay itself.",
                ),
                io.Combo.Input(
                    "plan", options=["fast", "faithful"], default="fast", advanced=True,
                    tooltip="fast: one pass for each window and step. faithful, as the official code in steps that share: two for all but "
                    "the first and the last window.",
                ),
                io.Float.Input(
                    "threshold", default=0.3, min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
                    tooltip="For kv_sharing masked: attention above this share of a frame's range is the object. Higher: a smaller mask.",
                ),
                io.Float.Input(
                    "kv_start_percent", default=0.04, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Where in the schedule sharing begins. Higher: later; the first moments decide the layout of each window.",
                ),
                io.Float.Input(
                    "kv_end_percent", default=0.5, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Where in the schedule sharing ends. Higher: windows are more alike, and later prompts weaker.",
                ),
                io.Float.Input(
                    "kv_last_blocks", default=0.167, min=0.0, max=1.0, step=0.01, round=0.001, advanced=True,
                    tooltip="Share of the model's blocks that share, counted from the last. Higher: windows are more alike, more memory.",
                ),
                io.Combo.Input(
                    "kv_memory", options=["gpu", "cpu"], default="gpu", advanced=True,
                    tooltip="Where keys and values wait for the next window, within one step. cpu: slower, and no video memory for them.",
                ),
                io.Boolean.Input(
                    "retain_first_frame", default=True, advanced=True,
                    tooltip="With a start image (I2V): every window is shown it, as the host's context windows do with their option of "
                    "this name. Off: only the first window is, and the others have none.",
                ),
                fps_input(),
            ],
            outputs=[
                *pair_outputs(),
                io.Conditioning.Output(
                    "positive", display_name="CONDITIONING",
                    tooltip="The prompts of all windows: the sampler's positive, by way of a node that adds a start image if there is one.",
                ),
                io.Latent.Output("latent", display_name="LATENT", tooltip="An empty latent of the length that these prompts need."),
                io.Int.Output("length", display_name="LENGTH", tooltip="That length in frames, for a node that makes the latent itself."),
            ],
        )

    @classmethod
    def validate_inputs(cls, timeline: str | None = None, prompts: Any = None) -> bool | str:  # the host hands a growing input on always
        return valid_timeline(timeline, NAME)

    @classmethod
    def execute(
        cls, model: Any, timeline: str, width: int, height: int, frames_per_window: int, overlap: int, transitions: int, kv_sharing: str,
        object: str = "", mode: Mode = "blend", plan: Plan = "fast", threshold: float = 0.3, kv_start_percent: float = 0.04,
        kv_end_percent: float = 0.5, kv_last_blocks: float = 0.167, kv_memory: Memory = "gpu", retain_first_frame: bool = True,
        fps: float = 0.0, prompts: dict[str, Any] | None = None, clip: Any = None, model_low_noise: Any = None,
    ) -> io.NodeOutput:
        require_wan_pair(model, model_low_noise, NAME)
        for name, one in (("model", model), ("model_low_noise", model_low_noise)):
            if one is not None and any(isinstance(g, MultiPromptBlend) for g in attached(one.model_options)):
                raise ValueError(f"{NAME}: input `{name}` = a model that is blended already; write all prompts into one {NAME} node")
        if (frames_per_window - 1) % TEMPORAL_STRIDE:
            near = pixel_frames(latent_frames_of(frames_per_window))
            raise ValueError(f"{NAME}: `frames_per_window` = {frames_per_window}: must be 4n + 1, such as {near}")
        if overlap % TEMPORAL_STRIDE:
            raise ValueError(f"{NAME}: `overlap` = {overlap}: must be a multiple of 4, such as {overlap // 4 * 4}")
        window, shared = latent_frames_of(frames_per_window), overlap // TEMPORAL_STRIDE
        rate = frames_per_second(model.model.latent_format.latent_channels, fps)
        encoded, durations, reading = gather_prompts(prompts, clip, timeline, rate)
        if shared >= window:
            raise ValueError(f"{NAME}: `overlap` = {overlap}: must lie below `frames_per_window` = {frames_per_window}")
        sharing = None
        if kv_sharing != "off" and kv_end_percent != kv_start_percent and kv_last_blocks > 0:
            phrase = PhraseRef(object.strip()) if kv_sharing == "masked" else None
            sharing = KVSharing(kv_start_percent, kv_end_percent, kv_last_blocks, phrase, threshold, kv_memory)
        repeats = (1,) * len(encoded) if mode == "word swap" else repeats_for(durations, window, shared, transitions)
        blend = MultiPromptBlend(window, shared, repeats, transitions, sharing, plan, mode, retain_first_frame)
        check_phrase(encoded, blend)
        positive = window_conditioning(encoded, blend)
        latent = empty_latent(model, blend, width, height)
        return io.NodeOutput(
            *guided_pair(model, model_low_noise, NAME, blend), positive, latent, pixel_frames(blend.latent_frames),
            ui=shown(cls, describe(blend, rate) + reading),
        )


def gather_prompts(
    prompts: dict[str, Any] | None, clip: Any, timeline: str, fps: float
) -> tuple[list[Any], Sequence[float | None], str]:
    """One CONDITIONING for each prompt, their durations in latent frames (None: short), and a note on how pasted text was read."""
    connected = [conditioning for conditioning in (prompts or {}).values() if conditioning is not None]
    parsed, reading = read_timeline(timeline, NAME)
    texts, durations = read_prompts(parsed, fps)
    if bool(connected) == bool(texts):
        held = f"{len(connected)} prompts are connected and {len(texts)} written in `timeline`"
        raise ValueError(f"{NAME}: input `prompts`: {held}: connect prompts, or write them with a `clip` connected, not both")
    if connected:
        return connected, (None,) * len(connected), ""
    if clip is None:
        raise ValueError(f"{NAME}: input `clip` = None, but prompts are written in `timeline`: connect Load CLIP with type wan")
    return [encode_with_tokens(clip, text) for text in texts], durations, reading


def empty_latent(model: Any, blend: MultiPromptBlend, width: int, height: int) -> dict[str, Any]:
    latent_format = model.get_model_object("latent_format")
    ratio = latent_format.spacial_downscale_ratio
    videos = len(blend.prompts) if blend.mode == "word swap" else 1
    shape = [videos, latent_format.latent_channels, blend.latent_frames, height // ratio, width // ratio]
    return {"samples": torch.zeros(shape, device=comfy.model_management.intermediate_device())}


def describe(blend: MultiPromptBlend, fps: float) -> str:
    """The latent that is needed, the passes of a step, and when each prompt is the strongest."""
    frames = pixel_frames(blend.latent_frames)
    length = f"{blend.latent_frames} latent frames ({frames} frames, {seconds(frames, fps)})"
    if blend.mode == "word swap":
        return f"latent: {len(blend.prompts)} videos of {length}, one for each prompt"
    passes = [len(blend.evaluations(range(len(blend.prompts)), shared)) for shared in (True, False)]
    counted = f"{passes[0]} passes a step" if passes[0] == passes[1] else f"{passes[0]} passes in a step that shares, {passes[1]} in others"
    lines = [f"latent: {length}", f"{len(blend.prompts)} windows, {counted}"]
    strongest = prompt_weights(blend).argmax(0)
    for prompt in range(len(blend.repeats)):
        held = (strongest == prompt).nonzero()[:, 0].tolist()
        if not held:
            lines.append(f"prompt {prompt + 1}: never the strongest; lower `overlap`, or give it more time")
            continue
        start, end = pixel_frames(held[0]) if held[0] else 0, pixel_frames(held[-1] + 1)
        lines.append(f"prompt {prompt + 1}: {seconds(start, fps)} - {seconds(end, fps)}")
    return "\n".join(lines)


def seconds(frames: float, fps: float) -> str:
    return f"{plain_number(round(frames / fps, 2))}s"
