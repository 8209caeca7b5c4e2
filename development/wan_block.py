"""Blocks of Wan's real shapes with random weights, and how benchmarks are told which and how large."""

import argparse
from dataclasses import dataclass
from typing import Any

import comfy.ldm.wan.model
import comfy.ops
import torch
from comfy.ldm.flux.layers import EmbedND
from torch import Tensor

from ..guidance.patch import VideoGrid

HEAD_DIM, TEXT_ROWS = 128, 512
FRAMES, HEIGHT, WIDTH = 21, 30, 52  # tokens of 81 frames of 832 x 480
WORDS = 60  # text rows of a long prompt; the others are padding


@dataclass(frozen=True)
class Shape:
    heads: int
    ffn: int
    blocks: int

    @property
    def width(self) -> int:
        return self.heads * HEAD_DIM


SHAPES = {"1.3B": Shape(12, 8960, 30), "14B": Shape(40, 13824, 40), "tiny": Shape(1, 256, 30)}


@dataclass(frozen=True)
class Setting:
    """What the blocks of a benchmark are run on. rows: of the batch, the positive prompt's first."""

    models: tuple[str, ...]
    grid: VideoGrid
    rows: int
    repeats: int
    device: str

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.on_gpu else torch.float32

    def told(self) -> dict[str, Any]:
        """For the result, so that its figures can be compared."""
        grid = {"frames": self.grid.frames, "height": self.grid.height, "width": self.grid.width}
        name = torch.cuda.get_device_name() if self.on_gpu else "CPU"
        return {"device": name, "dtype": str(self.dtype).removeprefix("torch."), **grid, "rows": self.rows, "repeats": self.repeats}


def add_setting(parser: argparse.ArgumentParser, cpu_frames: int = 3) -> None:
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["1.3B", "14B"], help="shapes of the blocks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu", help="of the blocks")
    parser.add_argument("--frames", type=int, help=f"latent frames; {FRAMES}, which are 81 frames of video, on a GPU, else {cpu_frames}")
    parser.add_argument("--height", type=int, default=HEIGHT, help="tokens")
    parser.add_argument("--width", type=int, default=WIDTH, help="tokens")
    parser.add_argument("--rows", type=int, choices=(1, 2), help="of the batch: 2, as with CFG, on a GPU, else 1")
    parser.add_argument("--repeats", type=int, help="of each kind, interleaved; medians count; 15 on a GPU, else 3")
    parser.add_argument("--json", action="store_true", help="on one line")
    parser.set_defaults(cpu_frames=cpu_frames)


def setting_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Setting:
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no such GPU here; leave it out, or take cpu")
    grid = VideoGrid(options.frames or (FRAMES if on_gpu else options.cpu_frames), options.height, options.width)
    return Setting(tuple(options.models), grid, options.rows or 1 + on_gpu, options.repeats or (15 if on_gpu else 3), options.device)


@dataclass(frozen=True)
class RandomBlocks:
    """Blocks as the host has them, and what it would call them with: x "b n c", context "b t c" with equal rows from WORDS on."""

    model: torch.nn.Module  # has `blocks`, as Wan's model
    x: Tensor
    modulation: Tensor
    rotations: Tensor
    context: Tensor

    def run(self, transformer_options: dict[str, Any], x: Tensor | None = None) -> Tensor:
        """Plain with empty options."""
        x = self.x if x is None else x
        for block in self.model.blocks:
            x = block(x, self.modulation, self.rotations, self.context, context_img_len=None, transformer_options=transformer_options)
        return x


def random_blocks(shape: Shape, setting: Setting, count: int = 1) -> RandomBlocks:
    """`count` blocks; matrices of unit gain, so that attention is neither flat nor one-hot."""
    torch.manual_seed(0)
    like: dict[str, Any] = {"device": setting.device, "dtype": setting.dtype}
    made = {"cross_attn_norm": True, "operation_settings": {"operations": comfy.ops.disable_weight_init, **like}}
    block = comfy.ldm.wan.model.WanAttentionBlock
    blocks = [block("t2v_cross_attn", shape.width, shape.ffn, shape.heads, **made) for _ in range(count)]
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList(blocks).requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.data.normal_(std=weight.shape[-1] ** -0.5) if weight.ndim > 1 else weight.data.fill_(float(name.endswith("weight")))
    x = torch.randn(setting.rows, setting.grid.token_count, shape.width, **like)
    context = torch.randn(setting.rows, TEXT_ROWS, shape.width, **like)
    context[:, WORDS:] = context[0, WORDS]
    return RandomBlocks(model, x, torch.zeros(setting.rows, 6, shape.width, **like), rope(setting.grid, setting.device), context)


def rope(grid: VideoGrid, device: str) -> Tensor:
    """Wan's rotations of every token, in the host's form."""
    sizes = (grid.frames, grid.height, grid.width)
    places = torch.cartesian_prod(*(torch.arange(size, device=device, dtype=torch.float32) for size in sizes))
    axes = [HEAD_DIM - 4 * (HEAD_DIM // 6), 2 * (HEAD_DIM // 6), 2 * (HEAD_DIM // 6)]
    return EmbedND(dim=HEAD_DIM, theta=10000.0, axes_dim=axes)(places[None]).movedim(1, 2)
