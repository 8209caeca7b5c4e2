"""Playground Loader: the tiny Wan that ships with the pack, as MODEL, CLIP and VAE."""

from comfy_api.latest import io

from ..playground import sockets


class PlaygroundLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanConductorPlaygroundLoader",
            display_name="Playground Loader",
            category="Wan Conductor",
            description="A tiny Wan trained on a drawn world of coloured shapes. It runs every workflow of this pack on a CPU in seconds: "
            "learn the nodes here, then swap in the real loaders. Latents are 64 x 64 pixels, 49 frames, 16 fps; captions like "
            "'a red circle and a blue square' or 'a green cross moves right then moves up'.",
            search_aliases=["tiny wan", "demo model", "test model", "wan playground"],
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="The tiny Wan."),
                io.Clip.Output(tooltip="Its text encoder."),
                io.Vae.Output(tooltip="Its codec."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(sockets.load_model(), sockets.load_clip(), sockets.load_vae())
