"""Conductor Text Encode: a prompt becomes CONDITIONING that knows its words."""

from comfy_api.latest import io

from ..host.tokens import encode_with_tokens, show_tokens
from .shown import shown


class ConductorTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorTextEncode",
            display_name="Conductor Text Encode",
            category="Wan Conductor",
            description="Encodes a prompt as CLIP Text Encode does, and remembers which token is which word, so that guidance nodes can "
            "find a phrase of the prompt in the model's attention.",
            search_aliases=["text", "prompt", "positive prompt", "clip text encode", "encode prompt", "tokens", "phrase", "wan"],
            inputs=[
                io.Clip.Input("clip", tooltip="Wan's text encoder: Load CLIP with type wan, or the Playground Loader."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. Weights such as (red cat:1.2) work. Guidance nodes look their phrases up here, so every phrase of "
                    "a timeline must be written in it.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    tooltip="The encoded prompt with its tokens. The tokens pass through Combine, Set Timestep Range, Set Mask and the Wan "
                    "conditioning nodes; Concat, Average and Zero Out change the rows, and guidance nodes refuse that.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip: io.Clip.Type, text: str) -> io.NodeOutput:
        conditioning = encode_with_tokens(clip, text)
        return io.NodeOutput(conditioning, ui=shown(cls, show_tokens(conditioning)))
