"""The budget widget that Guided KSampler and Guidance Budget share."""

from typing import Any

from comfy_api.latest import io

from ..guidance.budget import MEMORY_MODES, PRESETS, GuidanceBudget


def custom_inputs() -> list[io.Input]:
    fast = PRESETS["fast"]
    return [
        io.Float.Input(
            "start_percent", default=fast.start_percent, min=0.0, max=1.0, step=0.01, advanced=True,
            tooltip="Where in the schedule guided steps begin. Higher: later; what appears when is mostly settled by then.",
        ),
        io.Float.Input(
            "end_percent", default=fast.end_percent, min=0.0, max=1.0, step=0.01,
            tooltip="Where guided steps end. Higher: more guided steps, stronger control, slower, more risk of drift. 0 turns guidance "
            "off.",
        ),
        io.Int.Input(
            "iterations", default=fast.iterations, min=0, max=200,
            tooltip="Updates of the latent in one guided step, at most. Higher: closer to what you asked, slower. 0 turns guidance off.",
        ),
        io.Float.Input(
            "step_size", default=fast.step_size, min=0.0, max=1.0, step=0.0001, round=0.00001,
            tooltip="How far one update moves the latent. Higher: stronger; too high gives blotches and drifting colours.",
        ),
        io.Float.Input(
            "growth", default=fast.growth, min=1.0, max=10.0, step=0.1, round=0.001, advanced=True,
            tooltip="Factor on the step size after each update of a guided step. Higher: reaches further in few updates; 1: all alike.",
        ),
        io.Float.Input(
            "depth", default=fast.depth, min=0.01, max=1.0, step=0.01, advanced=True,
            tooltip="Share of the model's blocks that a gradient pass runs. Higher: more of the model listens; slower, more memory.",
        ),
        io.Combo.Input(
            "memory_mode", options=list(MEMORY_MODES), default=fast.memory_mode, advanced=True,
            tooltip="fast keeps activations, balanced computes them again, low also keeps block inputs off the GPU: each less memory, "
            "slower.",
        ),
        io.Int.Input(
            "patience", default=fast.patience, min=0, max=200, advanced=True,
            tooltip="Leave a step after this many updates without progress. Higher: more persistent, slower. 0: never for that reason.",
        ),
    ]


def budget_input(*first: str) -> io.DynamicCombo.Input:
    """Presets, with the knobs shown under `custom`; `first` are keys before them."""
    keys = [*first, *sorted(PRESETS, key=lambda name: name != "fast")]
    return io.DynamicCombo.Input(
        "budget",
        options=[*(io.DynamicCombo.Option(key, []) for key in keys), io.DynamicCombo.Option("custom", custom_inputs())],
        tooltip="How much guidance may spend: fast (few, larger updates), paper (TempoControl's own numbers, slower), or custom.",
    )


def chosen_budget(budget: dict[str, Any]) -> GuidanceBudget | None:
    """The budget of the widget's value; None for a key that names neither a preset nor custom."""
    knobs = dict(budget)
    key = knobs.pop("budget")
    return GuidanceBudget(**knobs) if key == "custom" else PRESETS.get(key)
