"""Tiny random weights, and pictures, sounds and videos, under the very names that a workflow asks for."""

import re
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import comfy.clip_model
import comfy.ops
import numpy as np
import safetensors.torch
import small_host
import tiny_umt5
import tiny_wan
import torch
from comfy.audio_encoders.wav2vec2 import Wav2Vec2Model
from comfy.ldm.wan.vae import WanVAE
from comfy.ldm.wan.vae2_2 import WanVAE as WanVAE22
from comfy.text_encoders.t5 import T5
from PIL import Image

Weights = dict[str, torch.Tensor]

LAYERS = 3
KINDS = {"fun_control": "fun_control", "vace": "vace", "ti2v_5B": "5B", "2.2_i2v": "i2v_2.2", "i2v": "i2v", "t2v": "t2v"}
# class -> the input that names the file, and the file's folder in models/
LOADERS = {
    "UNETLoader": ("unet_name", "diffusion_models"),
    "CLIPLoader": ("clip_name", "text_encoders"),
    "VAELoader": ("vae_name", "vae"),
    "CLIPVisionLoader": ("clip_name", "clip_vision"),
    "LoraLoader": ("lora_name", "loras"),
    "LoraLoaderModelOnly": ("lora_name", "loras"),
    "ModelPatchLoader": ("name", "model_patches"),
    "AudioEncoderLoader": ("audio_encoder_name", "audio_encoders"),
}
SECONDS, SIDE, FRAMES, RATE = 3.0, 96, 9, 16000


def put_files(prompt: dict[str, dict[str, Any]], base: Path) -> None:
    """Write whatever the loaders of `prompt` name and `base` does not hold yet."""
    for node in prompt.values():
        inputs, kind = node["inputs"], node["class_type"]
        if kind in LOADERS:
            name, folder = LOADERS[kind]
            path = base / "models" / folder / inputs[name]
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                weights = {key: weight.contiguous() for key, weight in WEIGHTS[folder](inputs[name]).items()}
                safetensors.torch.save_file(weights, path)
        elif kind in MEDIA:
            name, put = MEDIA[kind]
            put(base / "input" / inputs[name])


def wan(name: str) -> Weights:
    kind = next(kind for pattern, kind in KINDS.items() if re.search(pattern, name, re.IGNORECASE))
    weight_format = "scaled_fp8" if "scaled" in name else "bf16" if "bf16" in name else "fp16"
    return tiny_wan.in_format(tiny_wan.state_dict(kind, LAYERS, seed=len(name)), weight_format)


def umt5(_: str) -> Weights:
    with torch.device("cpu"):
        model = T5({**tiny_umt5.CONFIG, **small_host.TEXT_ENCODER}, torch.float16, "cpu", comfy.ops.disable_weight_init)
    weights = randomised(model)
    # By the height of this one the host tells UMT5-XXL from smaller encoders.
    weights["encoder.block.23.layer.1.DenseReluDense.wi_1.weight"] = torch.zeros(10240, 1, dtype=torch.float16)
    return {**weights, "spiece_model": tiny_umt5.sentencepiece_model()}


def vae(name: str) -> Weights:
    shared: dict[str, Any] = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}
    if "2.2" in name:
        return randomised(WanVAE22(**small_host.VAE_22, z_dim=48, **shared))
    return randomised(WanVAE(dim=8, z_dim=16, **shared))


def clip_vision(_: str) -> Weights:
    config = {"hidden_size": 1280, "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "num_channels": 3, "hidden_act": "gelu"}
    config |= {"projection_dim": 1024, "model_type": "clip_vision_model", **small_host.IMAGE_ENCODER}
    model = comfy.clip_model.CLIPVisionModelProjection(config, torch.float16, "cpu", comfy.ops.disable_weight_init)
    # By this one the host tells the encoder's size.
    return {**randomised(model), "vision_model.encoder.layers.30.layer_norm1.weight": torch.zeros(1, dtype=torch.float16)}


def lora(_: str) -> Weights:
    """Rank 4 on the matrices of every block's attention."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for block in range(LAYERS):
        for matrix in ("self_attn.q", "self_attn.v", "cross_attn.q", "cross_attn.o"):
            stem = f"diffusion_model.blocks.{block}.{matrix}"
            weights[f"{stem}.lora_down.weight"] = torch.randn(4, tiny_wan.DIM, generator=generator) / 16
            weights[f"{stem}.lora_up.weight"] = torch.randn(tiny_wan.DIM, 4, generator=generator) / 16
    return weights


def multi_talk(_: str) -> Weights:
    from comfy_extras.nodes_model_patch import MultiTalkModelPatch

    options = {"dtype": torch.float16, "operations": comfy.ops.disable_weight_init}
    return randomised(MultiTalkModelPatch(in_dim=tiny_wan.DIM, intermediate_dim=32, **options))


def wav2vec(_: str) -> Weights:
    base = {"embed_dim": 768, "num_heads": 12, "num_layers": 12}
    plain = dict.fromkeys(("conv_norm", "conv_bias", "do_normalize", "do_stable_layer_norm"), False)
    options = {"dtype": torch.float16, "device": "cpu", "operations": comfy.ops.disable_weight_init}
    return randomised(Wav2Vec2Model(**base, **plain, **options))


WEIGHTS: dict[str, Callable[[str], Weights]] = {
    "diffusion_models": wan,
    "text_encoders": umt5,
    "vae": vae,
    "clip_vision": clip_vision,
    "loras": lora,
    "model_patches": multi_talk,
    "audio_encoders": wav2vec,
}


def randomised(model: torch.nn.Module) -> Weights:
    """Unit-gain matrices, norms at 1, no biases, in fp16."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for name, weight in model.state_dict().items():
        scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.0
        value = torch.randn(weight.shape, generator=generator) * scale
        weights[name] = (value + (weight.ndim == 1 and name.endswith(("weight", "gamma")))).half()
    return weights


def put_picture(path: Path) -> None:
    Image.fromarray(pattern(1)[0]).save(path)


def put_video(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for picture in pattern(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def put_sound(path: Path) -> None:
    """Three beats of a tone, as WAV whatever the name ends in."""
    time = np.arange(int(SECONDS * RATE)) / RATE
    beats = np.exp(-20 * (time % (SECONDS / 3)))
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes((20000 * beats * np.sin(2 * np.pi * 220 * time)).astype("<i2").tobytes())


def pattern(frames: int) -> np.ndarray:
    """A bright square that moves over a slope, "t h w 3" uint8."""
    pictures = np.zeros((frames, SIDE, SIDE, 3), np.uint8)
    pictures[..., 0] = np.linspace(0, 200, SIDE, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        picture[30:60, 10 + 5 * number : 40 + 5 * number] = 255
    return pictures


MEDIA = {"LoadImage": ("image", put_picture), "LoadVideo": ("file", put_video), "LoadAudio": ("audio", put_sound)}
