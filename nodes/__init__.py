"""The nodes people drag, in the order of the menu."""

from comfy_api.latest import ComfyExtension, io

from ..host.classifier_files import register_folder
from .attention_preview import AttentionPreview
from .audio_timing import AudioToTiming
from .blend_report import BlendReport
from .composition_guide import CompositionGuideNode
from .composition_report import CompositionReport
from .conductor_text_encode import ConductorTextEncode
from .curve_timing import CurveToTiming
from .event_report import EventReport
from .event_schedule import EventScheduleNode
from .floats_timing import FloatsToTiming
from .guidance_budget import GuidanceBudgetNode
from .guidance_switch import GuidanceSwitch
from .guided_ksampler import GuidedKSampler
from .load_composition_classifier import LoadCompositionClassifier
from .mask_timing import MaskToTiming
from .multi_prompt_blend import MultiPromptBlendNode
from .plan_events import PlanEvents
from .playground_loader import PlaygroundLoader
from .spectral_homeostasis import SpectralHomeostasisNode
from .spectral_report import SpectralReport
from .temporal_mask import TemporalMaskNode
from .timing_report import TimingReport
from .train_composition_classifier import TrainCompositionClassifier

register_folder()  # before the schema of a loader asks what lies there

NODES: list[type[io.ComfyNode]] = [
    PlaygroundLoader,
    ConductorTextEncode,
    TemporalMaskNode,
    AudioToTiming,
    CurveToTiming,
    MaskToTiming,
    FloatsToTiming,
    PlanEvents,
    EventScheduleNode,
    SpectralHomeostasisNode,
    CompositionGuideNode,
    LoadCompositionClassifier,
    TrainCompositionClassifier,
    MultiPromptBlendNode,
    GuidanceBudgetNode,
    GuidanceSwitch,
    GuidedKSampler,
    TimingReport,
    AttentionPreview,
    EventReport,
    SpectralReport,
    CompositionReport,
    BlendReport,
]


class WanConductor(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
