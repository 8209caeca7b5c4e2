"""Guidance Budget: how much the guidance of a MODEL may spend under stock samplers."""

from typing import Any

from comfy_api.latest import io

from .budget_widget import budget_input, chosen_budget
from .pair import guided_pair, pair_inputs, pair_outputs, require_wan_pair

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
        require_wan_pair(model, model_low_noise, NAME)
        return io.NodeOutput(*guided_pair(model, model_low_noise, NAME, chosen))
