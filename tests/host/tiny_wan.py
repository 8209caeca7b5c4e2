"""Tiny random Wan models of every kind and weight format, built by the host's own loader, and the conds and latents to run them with."""

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.ops
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import safetensors.torch
import torch
from comfy.ldm.wan.model import VaceWanModel, WanModel

FOLDER = tempfile.TemporaryDirectory(prefix="tiny_wan_")
DIM = 256
TEXT_DIM = 4096
CLIP_VISION_ROWS, CLIP_VISION_DIM = 257, 1280
STORED = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}  # on a CPU the host would widen these to fp32
FORMATS = ("fp32", "fp16", "bf16", "fp8", "scaled_fp8", "quant_fp8")


@dataclass(frozen=True)
class Kind:
    model: type = WanModel
    model_type: str = "t2v"
    in_dim: int = 16
    out_dim: int = 16
    extra: dict[str, int] = field(default_factory=dict)


KINDS = {
    "t2v": Kind(),
    "i2v": Kind(model_type="i2v", in_dim=36),
    "i2v_2.2": Kind(in_dim=36),
    "vace": Kind(model=VaceWanModel, model_type="vace", extra={"vace_in_dim": 96}),
    "5B": Kind(in_dim=48, out_dim=48),
    "fun_control": Kind(model_type="i2v", in_dim=48),
    "ref_conv": Kind(extra={"in_dim_ref_conv": 16}),
}


def random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Unit-gain matrices, norms away from 1 (attention then is neither flat nor one-hot), small biases and modulations."""
    noise = torch.randn(shape, generator=generator)
    if name.endswith(("norm_q.weight", "norm_k.weight", "norm_k_img.weight", "norm3.weight")):
        return torch.full(shape, 1.5) + 0.1 * noise
    if "modulation" in name:
        return 0.1 * noise
    if noise.ndim >= 2:
        return noise * noise[0].numel() ** -0.5
    return 0.02 * noise


def state_dict(kind: str, layers: int, seed: int) -> dict[str, torch.Tensor]:
    description = KINDS[kind]
    # One VACE block after every block: with fewer, the host wants their number to divide the number of blocks.
    model_type = {"vace_layers": layers} if description.model is VaceWanModel else {"model_type": description.model_type}
    model = description.model(
        dim=DIM, ffn_dim=2 * DIM, num_heads=DIM // 128, num_layers=layers, in_dim=description.in_dim, out_dim=description.out_dim,
        device="cpu", dtype=torch.float32, operations=comfy.ops.disable_weight_init, **model_type, **description.extra,
    )
    generator = torch.Generator().manual_seed(seed)
    return {name: random_weight(name, weight.shape, generator) for name, weight in model.state_dict().items()}


def is_block_matrix(name: str, weight: torch.Tensor) -> bool:
    return weight.ndim == 2 and "blocks." in name and name.endswith(".weight")


def in_format(weights: dict[str, torch.Tensor], weight_format: str) -> dict[str, torch.Tensor]:
    """fp8: plain storage; scaled_fp8: the older `scale_weight` files; quant_fp8: the `comfy_quant` files."""
    if weight_format == "fp32":
        return weights
    if weight_format in ("fp16", "bf16"):
        return {name: weight.to(STORED[weight_format]) for name, weight in weights.items()}
    if weight_format == "fp8":
        return {n: w.to(torch.float8_e4m3fn if is_block_matrix(n, w) else torch.float16) for n, w in weights.items()}
    out = {}
    for name, weight in weights.items():
        if not is_block_matrix(name, weight):
            out[name] = weight.to(torch.bfloat16)
            continue
        scale = weight.abs().max() / 448.0
        out[name] = (weight / scale).to(torch.float8_e4m3fn)
        stem = name.removesuffix(".weight")
        if weight_format == "scaled_fp8":
            out[f"{stem}.scale_weight"] = scale
        else:
            out[f"{stem}.weight_scale"] = scale
            out[f"{stem}.comfy_quant"] = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    if weight_format == "scaled_fp8":
        out["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    return out


@functools.cache
def checkpoint(kind: str = "t2v", weight_format: str = "fp32", layers: int = 3, seed: int = 0) -> Path:
    path = Path(FOLDER.name) / f"{kind}_{weight_format}_{layers}_{seed}.safetensors"
    weights = in_format(state_dict(kind, layers, seed), weight_format)
    safetensors.torch.save_file({name: weight.contiguous() for name, weight in weights.items()}, path)
    return path


def load(kind: str = "t2v", weight_format: str = "fp32", layers: int = 3, seed: int = 0, inference: bool = True,
         compute: torch.dtype | None = None) -> Any:
    """A fresh MODEL (ModelPatcher). `inference=False` loads it outside inference mode: a reference that plain autograd can use.
    `compute` sets the dtype in which fp8 weights are used (default: the host's choice)."""
    options = {"dtype": STORED[weight_format]} if weight_format in STORED else {}
    with torch.inference_mode(inference):
        model = comfy.sd.load_diffusion_model(str(checkpoint(kind, weight_format, layers, seed)), model_options=options)
        if compute is not None:
            model.set_model_compute_dtype(compute)
        return model


def conditioning(real_rows: int = 12, rows: int = 40, seed: int = 1, **extra: Any) -> list:
    """CONDITIONING shaped like UMT5's: random rows, then zeros up to `rows` (512 in the real one). `extra` joins the cond's dict."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.zeros(1, rows, TEXT_DIM)
    context[:, :real_rows] = torch.randn(1, real_rows, TEXT_DIM, generator=generator)
    return [[context, extra]]


def image_extras(latent: torch.Tensor, seed: int = 5) -> dict[str, Any]:
    """What the I2V conditioning nodes add to a cond: the start image's latent, its mask, and CLIP vision's hidden states (2.1 only)."""
    generator = torch.Generator().manual_seed(seed)
    b, _, f, h, w = latent.shape
    mask = torch.ones(1, 1, f, h, w)
    mask[:, :, :1] = 0.0
    vision = _ClipVisionOutput(torch.randn(b, CLIP_VISION_ROWS, CLIP_VISION_DIM, generator=generator))
    return {"concat_latent_image": torch.randn(b, 16, f, h, w, generator=generator), "concat_mask": mask, "clip_vision_output": vision}


@dataclass
class _ClipVisionOutput:
    penultimate_hidden_states: torch.Tensor


def latent_like(frames: int = 3, height: int = 8, width: int = 8, channels: int = 16, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Gaussian noise "b c f h w"; 8 x 8 latents are 16 video tokens a frame."""
    return torch.randn(batch, channels, frames, height, width, generator=torch.Generator().manual_seed(seed))


def sample(model: Any, positive: list, negative: list, noise: torch.Tensor, steps: int = 2, cfg: float = 5.0, sampler: str = "euler",
           seed: int = 1, **kwargs: Any) -> torch.Tensor:
    """The stock KSampler's path from an empty latent; `kwargs` go to comfy.sample.sample (noise_mask, start_step, callback, ...)."""
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "simple", positive, negative, torch.zeros_like(noise), seed=seed, disable_pbar=True, **kwargs
    )


def inside_sampling(model: Any, positive: list, negative: list, noise: torch.Tensor, act: Callable[..., Any], cfg: float = 5.0) -> Any:
    """Call act(guider, x, sigma, model_options) once, at the first model evaluation of a one-step run; returns what it returns.
    The guider then has its inner_model loaded and its conds processed, as while sampling."""
    result = []

    def predict_noise(executor, x, timestep, model_options, seed=None):
        result.append(act(executor.class_obj, x, timestep, model_options))
        return torch.zeros_like(x)

    patched = model.clone()
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "inside_sampling", predict_noise)
    sample(patched, positive, negative, noise, steps=1, cfg=cfg)
    return result[0]
