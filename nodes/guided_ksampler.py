"""Guided KSampler: KSamplerAdvanced for guided Wan models, one or both experts, with the shared budget and a report."""

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..host.stages import Settings, Stage, sample_stages, schedule, switch_step, two_experts
from .budget_widget import budget_input, chosen_budget
from .pair import pair_inputs
from .report_output import REPORT

SWITCH_SIGMA = {"t2v": 0.875, "i2v": 0.9}


class GuidedKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorGuidedKSampler",
            display_name="Guided KSampler",
            category="Wan Conductor",
            description="KSampler (Advanced) that runs all guidance of the model, with one or both Wan 2.2 experts, and reports what it "
            "did.",
            search_aliases=["ksampler", "ksampler advanced", "wan 2.2 sampler", "high noise low noise", "moe sampler", "tempocontrol"],
            inputs=[
                *pair_inputs(),
                io.Combo.Input(
                    "add_noise", options=["enable", "disable"], advanced=True,
                    tooltip="disable if the latent still holds the noise that another sampler left in it.",
                ),
                io.Int.Input(
                    "noise_seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Seed of the noise. The same seed and settings give the same video.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Denoising steps. Higher: finer, slower."),
                io.Float.Input(
                    "cfg", default=6.0, min=0.0, max=100.0, step=0.1, round=0.01,
                    tooltip="How strictly the video follows the prompt. Higher: stricter, harsher. 1 leaves the negative prompt out, "
                    "twice as fast.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS,
                    tooltip="The sampler of unguided steps; guided ones and all before them are Euler steps. With euler all are alike.",
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="How the noise level falls over the steps."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="What the video should show. Conductor Text Encode makes it, so that guidance finds its words."
                ),
                io.Conditioning.Input("negative", tooltip="What the video should not show."),
                io.Latent.Input("latent_image", tooltip="The latent video to denoise."),
                io.Int.Input(
                    "start_at_step", default=0, min=0, max=10000, advanced=True,
                    tooltip="First step of the schedule to run. Higher: more of the latent is kept.",
                ),
                io.Int.Input(
                    "end_at_step", default=10000, min=0, max=10000, advanced=True,
                    tooltip="Step before which to stop. Higher: more steps are run; above `steps` all are.",
                ),
                io.Combo.Input(
                    "return_with_leftover_noise", options=["disable", "enable"], advanced=True,
                    tooltip="enable to leave the noise of the steps not run in the latent, for another sampler.",
                ),
                budget_input("auto"),
                io.DynamicCombo.Input(
                    "switch_at",
                    options=[
                        *(io.DynamicCombo.Option(key, []) for key in SWITCH_SIGMA),
                        io.DynamicCombo.Option(
                            "sigma", [_share("switch_sigma", 0.875, "Noise level below which the low-noise expert runs. Higher: earlier.")]
                        ),
                        io.DynamicCombo.Option(
                            "percent", [_share("switch_percent", 0.5, "Share of the schedule after which it goes on. Higher: later.")]
                        ),
                    ],
                    tooltip="When the low-noise expert takes over: t2v at sigma 0.875, i2v at 0.9 (Wan's own). Nothing without a second "
                    "model.",
                ),
                io.Float.Input(
                    "cfg_low_noise", default=0.0, min=0.0, max=100.0, step=0.1, round=0.01, advanced=True,
                    tooltip="cfg of the low-noise expert. Higher: stricter. 0: the same as cfg.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The denoised latent video."),
                REPORT.Output(display_name="GUIDANCE_REPORT", tooltip="What guidance did at every step, for Timing Report and the like."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, add_noise: str, noise_seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str, positive: Any,
        negative: Any, latent_image: dict[str, Any], start_at_step: int, end_at_step: int, return_with_leftover_noise: str,
        budget: dict[str, Any], switch_at: dict[str, Any], cfg_low_noise: float = 0.0, model_low_noise: Any = None,
    ) -> io.NodeOutput:
        settings = Settings(noise_seed, steps, sampler_name, scheduler, positive, negative, chosen_budget(budget))
        full_denoise = return_with_leftover_noise == "disable"
        whole = Stage(model, "model", cfg, start_at_step, end_at_step, add_noise == "enable", full_denoise)
        stages = [whole]
        if model_low_noise is not None:
            switch = switch_step(schedule(model, settings), _boundary(model, switch_at))
            stages = two_experts(whole, model_low_noise, cfg_low_noise or cfg, switch)
        latent, report = sample_stages(stages, latent_image, settings)
        return io.NodeOutput(latent, report)


def _share(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.005, round=0.0001, tooltip=tooltip)


def _boundary(model: Any, switch_at: dict[str, Any]) -> float:
    """The sigma at which the experts change."""
    key = switch_at["switch_at"]
    if key == "percent":
        return float(model.get_model_object("model_sampling").percent_to_sigma(switch_at["switch_percent"]))
    return SWITCH_SIGMA.get(key, switch_at.get("switch_sigma"))
