"""The playground's networks: the host's own WanModel and UMT5, small, and their weight files."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
TEXT_ROWS = 512  # what Wan's tokenizer pads to
WAN_CONFIG: dict[str, Any] = {
    "model_type": "t2v",
    "patch_size": (1, 2, 2),
    "text_len": TEXT_ROWS,
    "in_dim": 16,
    "dim": 192,
    "ffn_dim": 640,
    "freq_dim": 256,
    "text_dim": 192,
    "out_dim": 16,
    "num_heads": 6,
    "num_layers": 5,
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
UMT5_CONFIG: dict[str, Any] = {
    "d_ff": 384,
    "d_kv": 32,
    "d_model": 192,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
    "eos_token_id": 1,
    "dense_act_fn": "gelu_pytorch_tanh",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "umt5",
    "num_decoder_layers": 2,
    "num_heads": 6,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "vocab_size": 512,
}
OTHER_TEXT = (
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how vexingly quick daft zebras jump",
) * 10
SHIFT = 3.0  # of the flow schedule: 832 latent cells need less than Wan's 32,760 tokens do


def train_tokenizer(captions: list[str]) -> Tensor:
    """A unigram sentencepiece model with byte fallback, as bytes [n]; every word of the captions is one piece.

    Ids as UMT5's: pad 0, </s> 1, <unk> 2.
    """
    import sentencepiece

    model = io.BytesIO()
    words = sorted({"\u2581" + word for caption in captions for word in caption.split()})
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*captions, *OTHER_TEXT]),
        model_writer=model,
        user_defined_symbols=words,
        vocab_size=UMT5_CONFIG["vocab_size"],
        model_type="unigram",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        character_coverage=1.0,
        num_threads=1,
        required_chars="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?()'-",
    )
    return torch.tensor(list(model.getvalue()), dtype=torch.uint8)


def build_wan(operations, dtype=torch.float32) -> nn.Module:
    from comfy.ldm.wan.model import WanModel

    return WanModel(**WAN_CONFIG, device="cpu", dtype=dtype, operations=operations)


def build_umt5(operations, dtype=torch.float32) -> nn.Module:
    from comfy.text_encoders.t5 import T5

    return T5(dict(UMT5_CONFIG), dtype, "cpu", operations)


# where each self-attention head of a block starts to look: same place at all times, same time at all places, near in both, anywhere
HEAD_AXES = ("hw", "hw", "t", "thw", "thw", "")
LOCALITY = 4.0  # length of the q and k bias in one rotary pair


def look_near(block: nn.Module) -> None:
    """Start a block's self-attention heads with positional habits: equal q and k biases in the fastest rotary pairs of chosen axes.

    Under rotation their product is LOCALITY^2 cos(frequency x distance), so that attention starts out local where it else would have to
    find positions first.
    """
    width = WAN_CONFIG["dim"] // WAN_CONFIG["num_heads"]
    rest = 2 * (width // 6)
    first = {"t": 0, "h": width - 2 * rest, "w": width - rest}
    with torch.no_grad():
        for bias in (block.self_attn.q.bias, block.self_attn.k.bias):
            for head, axes in enumerate(HEAD_AXES):
                for axis in axes:
                    # two pairs in time, whose first alone repeats after six frames
                    for pair in range(2 if axis == "t" else 1):
                        bias[head * width + first[axis] + 2 * pair] = LOCALITY


def initialise(wan: nn.Module, umt5: nn.Module, generator: torch.Generator) -> None:
    """Start values: fan-in normal matrices, unit norms, residual gates open, a zero head."""
    for model in (wan, umt5):
        for name, p in model.named_parameters():
            with torch.no_grad():
                if "norm" in name and p.ndim == 1:
                    p.fill_(0.0 if name.endswith("bias") else 1.0)
                elif p.ndim >= 2:
                    p.normal_(std=p[0].numel() ** -0.5, generator=generator)
                else:
                    p.zero_()
    with torch.no_grad():
        umt5.shared.weight.normal_(std=1.0, generator=generator)
        for block in umt5.encoder.block:
            block.layer[0].SelfAttention.relative_attention_bias.weight.normal_(std=0.5, generator=generator)
            block.layer[0].SelfAttention.q.weight.mul_(block.layer[0].SelfAttention.q.weight.shape[0] ** -0.25)
        for block in wan.blocks:
            look_near(block)
            block.modulation.zero_()
            block.modulation[:, [2, 5]] = 1.0  # gates of self-attention and feed-forward
        wan.head.modulation.zero_()
        wan.head.head.weight.zero_()
        wan.time_projection[1].weight.mul_(0.1)


def save_weights(folder: Path, wan: dict, umt5: dict, tokenizer: Tensor, codec: dict, card: dict) -> None:
    """Write the three files of the playground: matrices in bf16, the small vectors too; the codec stays fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "wan_conductor": json.dumps(card)}
    save_file(
        {k: v.to(torch.bfloat16).contiguous() for k, v in wan.items()},
        folder / "wan.safetensors",
        {**metadata, "config": json.dumps(WAN_CONFIG)},
    )
    text = {k: v.to(torch.bfloat16).contiguous() for k, v in umt5.items()}
    save_file({**text, "spiece_model": tokenizer}, folder / "umt5.safetensors", {**metadata, "config": json.dumps(UMT5_CONFIG)})
    save_file({k: v.contiguous() for k, v in codec.items()}, folder / "codec.safetensors", metadata)


def load_weights(name: str, folder: Path = WEIGHTS) -> dict[str, Tensor]:
    """One weight file: wan | umt5 | codec."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        remedy = "Reinstall the pack, or make them with `python dev.py playground train`."
        raise FileNotFoundError(f"Playground Loader: {path.name} is missing. {remedy}")
    return load_file(path)
