"""The playground's VAE: a fixed linear codec with Wan's 4n+1 frame rule.

One latent cell holds 2 x 2 canvas cells of 3 colours (12 numbers) in Wan's 16 channels. Their mean colour is placed so that Wan's own
latent-to-RGB preview factors give it back exactly; the nine differences lie orthogonal to those factors.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

PIXELS_PER_CELL = 4  # pixels per canvas cell, so 8 per latent cell as in Wan
DETAIL_GAIN = 3.0  # brings what differs inside a cell to the spread of its mean colour


def haar() -> Tensor:
    """Orthonormal 2 x 2 Haar basis, [4, 4]: row 0 is half the sum of the four cells."""
    return torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2.0


def codec_matrices(rgb_factors: Tensor, rgb_bias: Tensor) -> dict[str, Tensor]:
    """The codec from a latent format's preview factors [16, 3] and bias [3].

    Returns encode [16, 12], offset [16], decode [12, 16]; the 12 are (cell, colour), cell-major. decode @ encode is the identity.
    """
    u, _, _ = torch.linalg.svd(rgb_factors.double(), full_matrices=True)
    place_mean = torch.linalg.pinv(rgb_factors.double().T)  # [16, 3]
    detail = u[:, 3:12] * DETAIL_GAIN  # orthogonal to every preview factor
    basis = haar().double()
    encode = torch.zeros(16, 4, 3, dtype=torch.float64)
    encode += torch.einsum("kc,i->kic", place_mean, basis[0] / 2)
    encode += torch.einsum("kdc,di->kic", detail.view(16, 3, 3), basis[1:])
    encode = encode.reshape(16, 12)
    offset = -place_mean @ rgb_bias.double()
    return {"encode": encode.float(), "offset": offset.float(), "decode": torch.linalg.pinv(encode).float()}


def latent_of_canvas(canvas: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    """ "b f c (h 2) (w 2)" canvas in [-1, 1] -> "b 16 f h w" latent in model space."""
    cells = rearrange(canvas, "b f c (h i) (w j) -> b f h w (i j c)", i=2, j=2)
    return rearrange(cells @ matrices["encode"].T + matrices["offset"], "b f h w k -> b k f h w")


def canvas_of_latent(latent: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    """ "b 16 f h w" latent in model space -> "b f c (h 2) (w 2)" canvas, not clamped."""
    cells = (rearrange(latent, "b k f h w -> b f h w k") - matrices["offset"]) @ matrices["decode"].T
    return rearrange(cells, "b f h w (i j c) -> b f c (h i) (w j)", i=2, j=2)


def upsampling(cells: int) -> Tensor:
    """Cubic interpolation of one axis as a matrix, [PIXELS_PER_CELL * cells, cells]."""
    eye = torch.eye(cells)[None, None]
    return F.interpolate(eye, size=(cells * PIXELS_PER_CELL, cells), mode="bicubic", align_corners=False)[0, 0]


def pixels_of_canvas(canvas: Tensor) -> Tensor:
    """ "b f c h w" canvas, one picture a latent frame -> "b (4f-3) H W c" pixel frames in [-1, 1]; latent j fills frames 4j-3..4j."""
    up_h, up_w = upsampling(canvas.shape[-2]).to(canvas), upsampling(canvas.shape[-1]).to(canvas)
    pixels = torch.einsum("Hh,bfchw,Ww->bfHWc", up_h, canvas, up_w).clamp(-1, 1)
    return torch.cat([pixels[:, :1], repeat(pixels[:, 1:], "b f h w c -> b (f t) h w c", t=4)], dim=1)


def canvas_of_pixels(pixels: Tensor) -> Tensor:
    """The canvas "b f c h w" of "b t H W c" pixel frames in [-1, 1], t = 4n+1 (a rest is dropped, as Wan's VAE does).

    Exact for what the decoder made.
    """
    frames = (pixels.shape[1] - 1) // 4 + 1
    head, rest = pixels[:, :1], pixels[:, 1 : 4 * frames - 3]
    grouped = torch.cat([head, rearrange(rest, "b (f t) h w c -> b f t h w c", t=4).mean(2)], dim=1) if frames > 1 else head
    down_h = torch.linalg.pinv(upsampling(pixels.shape[2] // PIXELS_PER_CELL)).to(pixels)
    down_w = torch.linalg.pinv(upsampling(pixels.shape[3] // PIXELS_PER_CELL)).to(pixels)
    return torch.einsum("hH,bfHWc,wW->bfchw", down_h, grouped, down_w)
