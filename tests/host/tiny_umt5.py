"""Wan's own text encoder, tiny: the host's tokenizer, UMT5 and CLIP classes around a SentencePiece model trained on a few lines."""

import functools
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.t5
import sentencepiece
import torch
from comfy.text_encoders.wan import WanT5Model, WanT5Tokenizer

FOLDER = tempfile.TemporaryDirectory(prefix="tiny_umt5_")
CORPUS = [
    "a red cat jumps over the lazy dog then the cat sleeps",
    "first a man walks, then he sits down on the bench",
    "the car (blue) turns left and the balloon rises",
    "running runner ran cats dogs balloons quickly",
    "a cat:dog a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 . , : ; ( ) ' - ! ?",
]
CONFIG = {
    "d_ff": 64,
    "d_kv": 16,
    "d_model": 4096,
    "dense_act_fn": "gelu_pytorch_tanh",
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-6,
    "model_type": "umt5",
    "num_heads": 2,
    "num_layers": 1,
    "relative_attention_num_buckets": 32,
    "vocab_size": 400,
}


class TinyUMT5(comfy.sd1_clip.SDClipModel):
    def __init__(self, device, dtype, model_options):
        path = Path(FOLDER.name, "config.json")
        path.write_text(json.dumps(CONFIG))
        super().__init__(
            device=device,
            textmodel_json_config=str(path),
            dtype=dtype,
            special_tokens={"end": 1, "pad": 0},
            model_class=comfy.text_encoders.t5.T5,
            enable_attention_masks=True,
            zero_out_masked=True,
            model_options=model_options,
        )


@functools.cache
def sentencepiece_model() -> torch.Tensor:
    """A serialised unigram model with byte fallback, as UMT5's has."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 40),
        model_writer=written,
        vocab_size=380,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8)


@functools.cache
def tiny_clip() -> Any:
    """An ordinary CLIP object. The override key is "umt5xxl_class": under any other the host silently builds the 5.6 B UMT5."""
    model_options = {"umt5xxl_class": TinyUMT5}
    target = comfy.supported_models_base.ClipTarget(WanT5Tokenizer, WanT5Model)
    target.params["model_options"] = model_options
    with torch.inference_mode():
        clip = comfy.sd.CLIP(
            target,
            tokenizer_data={"spiece_model": sentencepiece_model()},
            state_dict=[],
            model_options=model_options,
            parameters=1000,
        )
        generator = torch.Generator().manual_seed(0)
        for weight in clip.cond_stage_model.parameters():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator) if weight.ndim > 1 else torch.ones(weight.shape))
    return clip
