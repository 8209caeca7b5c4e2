"""Which models are Wan, where their video tokens lie, and which latent frames a windowed call holds."""

from types import SimpleNamespace

import pytest
import tiny_wan
import torch
from comfy.ldm.wan.model import SCAILWanModel
from comfy.patcher_extension import WrappersMP
from wan_conductor.guidance.patch import VideoGrid
from wan_conductor.host.attention import attention_wrapper
from wan_conductor.host.geometry import is_wan, require_wan, video_grid, window_frames


def grid_while_sampling(model, noise, **extra):
    """The grid and the number of tokens that attention really saw."""
    seen = []
    tokens = []

    def make_handlers(grid, context, options):
        seen.append(grid)
        return [lambda site, call, proceed: tokens.append(call.q.shape[1])]

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "ours", attention_wrapper(make_handlers))
    conds = tiny_wan.conditioning(**extra)
    tiny_wan.sample(patched, conds, conds, noise, steps=1, cfg=1.0)
    return seen[0], tokens[0]


@pytest.mark.parametrize("kind", ["t2v", "5B", "vace"])
def test_the_grid_counts_the_tokens_that_attention_sees(kind):
    noise = tiny_wan.latent_like(frames=2, height=6, width=10, channels=48 if kind == "5B" else 16)
    grid, tokens = grid_while_sampling(tiny_wan.load(kind, layers=1), noise)
    assert grid == VideoGrid(2, 3, 5) and tokens == grid.token_count


def test_odd_sizes_are_padded_to_whole_patches():
    grid, tokens = grid_while_sampling(tiny_wan.load(layers=1), tiny_wan.latent_like(frames=2, height=5, width=7))
    assert grid == VideoGrid(2, 3, 4) and tokens == 24


def test_reference_tokens_come_first_and_are_not_video():
    noise = tiny_wan.latent_like(frames=2)
    grid, tokens = grid_while_sampling(tiny_wan.load("ref_conv", layers=1), noise, reference_latents=[tiny_wan.latent_like(frames=1)])
    assert grid == VideoGrid(2, 4, 4, token_offset=16) and tokens == 48
    assert grid.video_tokens == slice(16, 48)


def test_scail_puts_whole_reference_frames_first():
    scail = SCAILWanModel.__new__(SCAILWanModel)
    torch.nn.Module.__init__(scail)
    scail.patch_size = (1, 2, 2)
    assert video_grid(scail, torch.zeros(1, 16, 3, 8, 8), {"reference_latent": torch.zeros(1, 20, 2, 8, 8)}) == VideoGrid(3, 4, 4, 32)


def test_only_wan_models_are_wan():
    model = tiny_wan.load(layers=1)
    assert is_wan(model)
    require_wan(model, "Temporal Mask")
    other = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1)))
    for not_wan in (other, None, object()):
        assert not is_wan(not_wan)
        with pytest.raises(ValueError, match="Temporal Mask: input `model_low_noise` = .*not a Wan video model; connect a Wan"):
            require_wan(not_wan, "Temporal Mask", "model_low_noise")


def test_frames_of_a_context_window_include_its_causal_anchor():
    window = SimpleNamespace(index_list=[4, 5, 6])
    assert window_frames({}, 3) == (0, 1, 2)
    assert window_frames({"context_window": window}, 3) == (4, 5, 6)
    window.causal_anchor_index = -1
    assert window_frames({"context_window": window}, 3) == (4, 5, 6)
    window.causal_anchor_index = 3
    assert window_frames({"context_window": window}, 4) == (3, 4, 5, 6)
    with pytest.raises(RuntimeError, match="4 latent frames around a model call of 3"):
        window_frames({"context_window": window}, 3)


def test_frames_agree_with_what_the_host_puts_in_each_window():
    """Latents numbered by frame, through the host's own context windows: the call's first pixel of each frame tells its number."""
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    model = WanContextWindowsManualNode.execute(tiny_wan.load(layers=1), 13, 5, "standard_static", 1, False, "pyramid", False).result[0]
    pairs = []

    def note(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        pairs.append((window_frames(transformer_options, x.shape[2]), tuple(x[0, 0, :, 0, 0].tolist())))
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def number_frames(executor, x, *args):
        return executor(torch.arange(9.0).view(1, 1, 9, 1, 1).expand(x.shape).contiguous(), *args)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", note)
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", number_frames)
    conds = tiny_wan.conditioning()
    tiny_wan.sample(model, conds, conds, tiny_wan.latent_like(frames=9), steps=1, cfg=1.0)
    assert len(pairs) > 2
    assert all(frames == seen for frames, seen in pairs)
