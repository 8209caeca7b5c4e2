"""The playground as ordinary MODEL, CLIP and VAE sockets, made of the host's own classes."""

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.t5
import comfy.text_encoders.wan
import torch
from comfy import sd1_clip
from comfy.latent_formats import Wan21
from torch import Tensor, nn

from . import codec, network


class PlaygroundWan(comfy.supported_models.WAN21_T2V):
    """Wan 2.1 T2V as the host knows it, with the flow shift that few latent cells need."""

    sampling_settings = {"shift": network.SHIFT}


def load_model() -> comfy.model_patcher.ModelPatcher:
    """The tiny Wan as a MODEL."""
    load_device, offload_device = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    weights = network.load_weights("wan")
    config = PlaygroundWan({**network.WAN_CONFIG, "image_model": "wan2.1"})
    # fp32 everywhere: at this size it is as fast, and runs repeat exactly
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "", offload_device)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)
    model.load_model_weights({k: v.float() for k, v in weights.items()}, "")
    return patcher


class PlaygroundUMT5(sd1_clip.SDClipModel):
    def __init__(self, device="cpu", layer="last", layer_idx=None, dtype=None, model_options=None):
        super().__init__(
            device=device,
            layer=layer,
            layer_idx=layer_idx,
            textmodel_json_config=dict(network.UMT5_CONFIG),
            dtype=dtype,
            special_tokens={"end": 1, "pad": 0},
            model_class=comfy.text_encoders.t5.T5,
            enable_attention_masks=True,
            zero_out_masked=True,
            model_options=model_options or {},
        )


def load_clip() -> comfy.sd.CLIP:
    """The tiny UMT5 with its own sentencepiece model as a CLIP."""
    weights = network.load_weights("umt5")
    target = comfy.supported_models_base.ClipTarget(comfy.text_encoders.wan.WanT5Tokenizer, comfy.text_encoders.wan.WanT5Model)
    tokenizer = {"spiece_model": weights.pop("spiece_model")}
    state = {k: v.float() for k, v in weights.items()}
    # both options: the class under the host's own key, and fp32 so that captions encode exactly as in training
    options = {"umt5xxl_class": PlaygroundUMT5, "dtype": torch.float32}
    clip = comfy.sd.CLIP(target, tokenizer_data=tokenizer, model_options=options, parameters=sum(v.numel() for v in state.values()))
    clip.cond_stage_model.umt5xxl.transformer.load_state_dict(state)
    return clip


class LinearCodec(nn.Module):
    """The fixed codec in the form of a host first-stage model, in VAE space (Wan's per-channel mean and std undone)."""

    def __init__(self, matrices: dict[str, Tensor]):
        super().__init__()
        self.tables = nn.ParameterDict({name: nn.Parameter(matrix, requires_grad=False) for name, matrix in matrices.items()})
        self.latent_format = Wan21()

    def matrices(self, like: Tensor) -> dict[str, Tensor]:
        return {name: table.to(like) for name, table in self.tables.items()}

    def encode(self, pixels: Tensor) -> Tensor:
        """ "b 3 t H W" pixels in [-1, 1], t = 4n+1 -> "b 16 f h w" in VAE space."""
        canvas = codec.canvas_of_pixels(pixels.movedim(1, -1))
        return self.latent_format.process_out(codec.latent_of_canvas(canvas, self.matrices(canvas)))

    def decode(self, latent: Tensor) -> Tensor:
        """ "b 16 f h w" in VAE space -> "b 3 (4f-3) H W" pixels in [-1, 1]."""
        canvas = codec.canvas_of_latent(self.latent_format.process_in(latent), self.matrices(latent))
        return codec.pixels_of_canvas(canvas).movedim(-1, 1)


class PlaygroundVAE(comfy.sd.VAE):
    """The codec as a VAE with Wan 2.1's ratios. The host's constructor detects files; ours is not among them."""

    def __init__(self):
        self.first_stage_model = LinearCodec(network.load_weights("codec")).eval()
        self.latent_channels, self.latent_dim, self.output_channels = 16, 3, 3
        self.upscale_ratio, self.downscale_ratio = (lambda f: max(0, f * 4 - 3), 8, 8), (lambda t: max(0, (t + 3) // 4), 8, 8)
        self.upscale_index_formula = self.downscale_index_formula = (4, 8, 8)
        self.memory_used_encode = self.memory_used_decode = lambda shape, dtype: 10_000 * shape[-1] * shape[-2] * shape[-3]
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.working_dtypes, self.vae_dtype = [torch.float32], torch.float32
        self.disable_offload = self.not_video = self.handles_tiling = False
        self.crop_input, self.extra_1d_channel, self.format_encoded, self.pad_channel_value, self.size = True, None, None, 1.0, None
        self.device, self.output_device = comfy.model_management.vae_device(), comfy.model_management.intermediate_device()
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=comfy.model_management.vae_offload_device()
        )


def load_vae() -> comfy.sd.VAE:
    """The linear codec as a VAE."""
    return PlaygroundVAE()
