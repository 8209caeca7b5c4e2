"""The paper's own head (CVG, training phase (d)): a frozen vision model looks at phi as at a video; a small reading is trained on it."""

from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

MOST_PICTURES = 256  # in one call of the backbone


class Backbone(Protocol):
    """A frozen vision model; `name` tells it from others, `width` is that of its tokens."""

    name: str
    width: int

    def __call__(self, pictures: Tensor) -> Tensor:
        """ "n 3 h w" in 0..1 -> tokens "n t d", differentiable."""
        ...


class VisionHead(nn.Module):
    """phi "b s r c f h w" -> logits "b y": things are the colours of a film, the backbone sees its pictures, attention over all of their
    tokens reads the label. The backbone is no part of the weights."""

    def __init__(
        self, steps: int, frames: int, volumes: int, width: int, hidden: int, dropout: float, roles: int, labels: int, backbone: Backbone
    ):
        super().__init__()
        self.backbone = backbone
        self.paint = nn.Linear(volumes, 1)
        self.read = nn.Linear(backbone.width, width)
        self.norm = nn.LayerNorm(width)
        self.step = nn.Parameter(0.02 * torch.randn(steps, 1, 1, width))
        self.frame = nn.Parameter(0.02 * torch.randn(frames, 1, width))
        self.ask = nn.Linear(width, 4)  # so many places are looked at together
        self.hidden = nn.Linear(4 * width + steps * roles, hidden)
        self.dropout = nn.Dropout(dropout)
        self.label = nn.Linear(hidden, labels)

    def forward(self, phi: Tensor, present: Tensor) -> Tensor:
        """present "b s r": 1 where a volume was measured, else 0."""
        colours = self.paint(rearrange(phi, "b s r c f h w -> b s f h w r c")).squeeze(-1).sigmoid()
        pictures = rearrange(functional.pad(colours, (0, 3 - colours.shape[-1])), "b s f h w r -> (b s f) r h w")
        tokens = torch.cat([self.backbone(part) for part in pictures.split(MOST_PICTURES)])
        b, s, f = phi.shape[0], phi.shape[1], phi.shape[4]
        x = self.norm(rearrange(self.read(tokens), "(b s f) t d -> b s f t d", b=b, s=s, f=f)) + self.step + self.frame
        measured = present.amax(-1)[:, :, None, None].expand(x.shape[:-1]).flatten(1) > 0
        shares = self.ask(x).flatten(1, 3).masked_fill(~measured[..., None], -torch.inf).softmax(1)
        seen = torch.einsum("bnq,bnd->bqd", shares, x.flatten(1, 3))
        x = torch.cat([seen.flatten(1), present.flatten(1)], dim=1)
        return self.label(self.dropout(functional.gelu(self.hidden(x))))
