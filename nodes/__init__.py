"""The nodes people drag, in the order of the menu."""

from comfy_api.latest import ComfyExtension, io

from .conductor_text_encode import ConductorTextEncode
from .guidance_budget import GuidanceBudgetNode
from .guided_ksampler import GuidedKSampler
from .playground_loader import PlaygroundLoader
from .temporal_mask import TemporalMaskNode
from .timing_report import TimingReport

NODES: list[type[io.ComfyNode]] = [
    PlaygroundLoader,
    ConductorTextEncode,
    TemporalMaskNode,
    GuidanceBudgetNode,
    GuidedKSampler,
    TimingReport,
]


class WanConductor(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
