"""Guidance Budget: how much the guidance of a MODEL may spend under stock samplers."""

from typing import Any

from comfy_api.latest import io

from ..host.attach import attach
from ..host.geometry import require_wan
from .budget_widget import budget_input, chosen_budget
from .pair import low_noise_or_blocker, pair_inputs, pair_outputs

NAME = "Guidance Budget"


class GuidanceBudgetNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorGuidanceBudget",
            display_name=NAME,
            category="Wan Conductor",
            description="Sets span, iterations, step size and memory mode for all guidance of a model. Guided KSampler has the same "
            "widget.",
            search_aliases=["guidance strength", "guided steps", "iterations", "tempocontrol steps", "memory mode"],
            inputs=[*pair_inputs(), budget_input()],
            outputs=pair_outputs(),
        )

    @classmethod
    def execute(cls, model: Any, budget: dict[str, Any], model_low_noise: Any = None) -> io.NodeOutput:
        chosen = chosen_budget(budget)
        require_wan(model, NAME)
        if model_low_noise is not None:
            require_wan(model_low_noise, NAME, "model_low_noise")
            model_low_noise = attach(model_low_noise, chosen)
        return io.NodeOutput(attach(model, chosen), low_noise_or_blocker(model_low_noise, NAME))
