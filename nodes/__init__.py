"""The nodes people drag, in the order of the menu."""

from comfy_api.latest import ComfyExtension, io

from .playground_loader import PlaygroundLoader

NODES: list[type[io.ComfyNode]] = [
    PlaygroundLoader,
]


class WanConductor(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
