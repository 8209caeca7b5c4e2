"""An independent reference for captured maps: dense softmax of the projections' outputs, plain autograd, no recipe of ours."""

import comfy.model_management
import comfy.samplers
import tiny_wan
import torch


def dense_maps_and_gradient(reference, positive, noise, groups, blocks, grid, offset=0):
    """Maps "b g f h w" and the gradient of `weighted_sum` of them, on a model loaded outside inference mode.

    q and k come from forward hooks on norm_q and norm_k of the text cross-attention; every text row is in the softmax.
    """

    def act(guider, x, sigma, model_options):
        diffusion_model = guider.inner_model.diffusion_model
        diffusion_model.requires_grad_(False)
        seen = {block: {} for block in blocks}
        handles = []
        for block in blocks:
            attention = diffusion_model.blocks[block].cross_attn
            for name in ("norm_q", "norm_k"):
                keep = lambda module, args, output, block=block, name=name: seen[block].__setitem__(name, output)  # noqa: E731
                handles.append(getattr(attention, name).register_forward_hook(keep))
        comfy.model_management.in_training = True
        try:
            with torch.enable_grad():
                z = x.clone().requires_grad_()
                conds = [[guider.conds["positive"][0]]]
                comfy.samplers.calc_cond_batch(guider.inner_model, conds, z, sigma.clone(), model_options)
                maps = torch.stack([dense(seen[b]["norm_q"], seen[b]["norm_k"], groups, diffusion_model.num_heads) for b in blocks]).mean(0)
                frames, height, width = grid
                maps = maps[..., offset : offset + frames * height * width].reshape(*maps.shape[:2], frames, height, width)
                return maps.detach(), torch.autograd.grad(weighted_sum(maps), z)[0]
        finally:
            comfy.model_management.in_training = False
            for handle in handles:
                handle.remove()

    with torch.inference_mode(False):
        return tiny_wan.inside_sampling(reference, positive, tiny_wan.conditioning(seed=2), noise.clone(), act)


def dense(q, k, groups, heads):
    """Maps "b g n" from q "b n (h d)", k "b t (h d)"."""
    b, n, width = q.shape
    q, k = (tensor.float().view(b, -1, heads, width // heads).transpose(1, 2) for tensor in (q, k))
    p = torch.softmax(q @ k.transpose(-1, -2) * (width // heads) ** -0.5, dim=-1)
    return torch.stack([p[..., list(rows)].mean(dim=(1, 3)) for rows in groups], dim=1)


def weighted_sum(maps):
    """A loss whose gradient reaches every element of the maps differently."""
    return (maps * torch.linspace(-1, 1, maps.numel()).view(maps.shape)).sum()


def relative_error(value, reference):
    return ((value - reference).norm() / reference.norm()).item()
