"""How frames look at one another in self-attention: F x F operators from q and k, and their entropies and tension (STH section 2)."""

import math
from collections.abc import Callable

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# Sees one call: operators "b h p f g" before and after, and gamma "b h"; the two operators are one object where nothing was changed.
Observe = Callable[[Tensor, Tensor, Tensor], None]


def slice_operators(q: Tensor, k: Tensor, heads: int, frames: int, positions: int = 0) -> Tensor:
    """A^{p,h} = softmax_g(q_{f,p} k_{g,p} / sqrt d) over the frames at one spatial position: the operator of section 3.1, per slice.

    q, k "b (f s) (h d)", past norm and RoPE, video tokens only -> "b h p f g" in fp32 (fp64 for fp64), rows sum to 1. `positions`: how many
    of the s positions are sampled, evenly over rows and columns; 0 or more than s: all.
    FLOPs 2 p f^2 h d; memory 8 p f h d bytes for the sampled q and k, 4 p h f^2 for each "b h p f g". Per batch row, Wan at 832x480x81,
    p = 256: 0.35 GF, 66 + 5 MB (1.3B); 1.2 GF, 220 + 18 MB (14B). A block costs 9,430 and 42,000 GF.
    """
    _check_frames("slice_operators", q, frames)
    q, k = (_sampled(x, heads, frames, positions, "b f p (h d) -> b h p f d") for x in (q, k))
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)


def block_operators(q: Tensor, k: Tensor, heads: int, frames: int, queries: int = 8) -> Tensor:
    """A_fg = the mass of the full attention that queries of frame f lay on frame g, mean over `queries` tokens per frame (0: all).

    The literal "state transfer from frame g to f" of section 2; gamma acts exactly on it. q, k "b (f s) (h d)" -> "b h 1 f g" in fp32
    (fp64 for fp64). One-hot frame columns go through the fused kernel as values, so that no "h (f m) n" is allocated where it has one.
    FLOPs 4 (f m) n h d; memory of "n d" for the columns. Per batch row at m = 8: 34 GF, 8 MB (1.3B); 113 GF, 8 MB (14B): 0.4 and 0.3 % of
    a block. Frames beyond d (128 in Wan) leave the fastest kernel.
    """
    _check_frames("block_operators", q, frames)
    picked = _sampled(q, heads, frames, queries, "b f p (h d) -> b h (f p) d").to(q.dtype)
    k = rearrange(k, "b n (h d) -> b h n d", h=heads)
    tokens, width = k.shape[2], max(k.shape[3], frames)
    columns = torch.eye(frames, width, dtype=q.dtype, device=q.device).repeat_interleave(tokens // frames, dim=0)
    mass = scaled_dot_product_attention(picked, k, columns.expand(*k.shape[:2], -1, -1))[..., :frames]
    mass = rearrange(mass, "b h (f p) g -> b h p f g", f=frames).to(_precision(q)).mean(2, keepdim=True)
    return mass / mass.sum(-1, keepdim=True)  # the kernel rounds to the dtype of q


def row_entropy(operators: Tensor) -> Tensor:
    """H_row = -(1/F) sum_ij A_ij log A_ij / log F, eq 1, mean over slices: "b h p f g" -> "b h" in 0..1. 1: all frames look everywhere."""
    entropy = -torch.xlogy(operators, operators).sum(-1)
    return entropy.mean((-2, -1)) / math.log(operators.shape[-1])


def density(operators: Tensor) -> Tensor:
    """rho = A A^T / Tr(A A^T), section 2, mean over slices (a mixture of states is a state): "b h p f g" -> "b h f e", trace 1.

    The slices' rho are averaged, never their A: a mean of sharp operators looks diffuse, and its tension is far too high.
    """
    weight = operators.square().sum((-2, -1), keepdim=True).rsqrt()  # Tr(A A^T) = sum A^2
    scaled = operators * weight
    return einsum(scaled, scaled, "b h p f g, b h p e g -> b h f e") / operators.shape[2]


def spectrum(rho: Tensor) -> Tensor:
    """Eigenvalues of a density matrix "... f e" -> "... f", largest first, none below 0. Raises ValueError where it is not finite."""
    if not rho.isfinite().all():
        raise ValueError(
            "Spectral Homeostasis: self-attention holds values that are not finite, so this video would be black without the node too: "
            "look at the latent, the LoRAs and the precision (float16 overflows where bfloat16 does not)"
        )
    where = "cpu" if rho.device.type == "mps" else rho.device  # most PyTorch versions in use have no eigenvalues on MPS
    return torch.linalg.eigvalsh(rho.to(where)).to(rho.device).flip(-1).clamp_min(0)


def spectral_entropy(eigenvalues: Tensor) -> Tensor:
    """H_vN = -sum_k lambda_k log lambda_k / log F, eq 2: "... f" -> "..." in 0..1. 1: all temporal modes alike; 0: one mode."""
    return -torch.xlogy(eigenvalues, eigenvalues).sum(-1) / math.log(eigenvalues.shape[-1])


def spectral_tension(operators: Tensor) -> Tensor:
    """T = H_row - H_vN, eq 3: "b h p f g" -> "b h" in -1..1. Above 0: over-mixed; below: fragmented.

    Blind to a sink: where all frames look at one frame both entropies are small. lambda_1 (`spectral_record`) shows that.
    """
    return row_entropy(operators) - spectral_entropy(spectrum(density(operators)))


def _sampled(x: Tensor, heads: int, frames: int, count: int, pattern: str) -> Tensor:
    """`count` of the s positions in every frame of x "b (f s) (h d)", as `pattern`, contiguous, in fp32 for the products' sake."""
    x = rearrange(x, "b (f s) c -> b f s c", f=frames)
    if 0 < count < x.shape[2]:
        x = x.index_select(2, _spread(count, x.shape[2], x.device))
    return rearrange(x, pattern, h=heads).to(_precision(x), memory_format=torch.contiguous_format)


def _spread(count: int, positions: int, device: torch.device) -> Tensor:
    """`count` different positions, evenly over the grid: multiples of the golden step hit all rows and columns, which a stride may not."""
    step = round(positions * (math.sqrt(5) - 1) / 2)
    while math.gcd(step, positions) > 1:
        step += 1
    return torch.tensor(sorted(index * step % positions for index in range(count)), device=device)


def _precision(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check_frames(owner: str, q: Tensor, frames: int) -> None:
    if frames < 2 or q.shape[1] % frames:
        raise ValueError(f"{owner}: `frames` = {frames}: must be 2 or more and divide the {q.shape[1]} tokens; leave out reference tokens")
