"""The one attention override: installed late, chained to whatever is found, told by module identity which attention call is running.

A handler sees every attention call of Wan's blocks and passes it on, changed or not, like a wrapper:

    def steadier(site: AttentionSite, call: AttentionCall, proceed: Proceed) -> Tensor | None:
        if site.kind != "self":
            return None                               # run as if this handler were not there
        return proceed(replace(call, q=gamma * call.q))
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from ..guidance.patch import AttentionCall, AttentionSite, Handler, Proceed, VideoGrid
from .geometry import video_grid

OVERRIDE = "optimized_attention_override"


class SiteTags:
    """The attention calls still to come from the attention module that is running.

    Kept here and not in transformer_options: other packs write into that dict from inside self-attention (MultiTalk), so it must stay
    the same object.
    """

    def __init__(self) -> None:
        self._coming: list[AttentionSite] = []

    def next_site(self) -> AttentionSite | None:
        """None: a call from outside the blocks' own attention, or one more than Wan makes there (NAG's negative prompt)."""
        return self._coming.pop(0) if self._coming else None

    def expect(self, sites: Sequence[AttentionSite]) -> None:
        self._coming = list(sites)


@contextmanager
def site_tags(diffusion_model: nn.Module) -> Iterator[SiteTags]:
    """Hooks on every block's attention modules, which keep working when another pack patches their `forward`."""
    tags = SiteTags()
    with ExitStack() as hooks:
        for vace, blocks in ((False, diffusion_model.blocks), (True, getattr(diffusion_model, "vace_blocks", ()))):
            for index, block in enumerate(blocks):
                for attention, kinds in ((block.self_attn, ("self",)), (block.cross_attn, cross_attention_kinds(block.cross_attn))):
                    sites = [AttentionSite(index, kind, vace) for kind in kinds]
                    enter = attention.register_forward_pre_hook(lambda *_, sites=sites: tags.expect(sites))
                    hooks.callback(enter.remove)
                    leave = attention.register_forward_hook(lambda *_: tags.expect(()))
                    hooks.callback(leave.remove)
        yield tags


def cross_attention_kinds(cross_attention: nn.Module) -> tuple[Literal["image", "text"], ...]:
    """Wan 2.1 I2V attends to the image first, then to the text, even when no image was given."""
    return ("image", "text") if hasattr(cross_attention, "k_img") else ("text",)


def with_override(
    transformer_options: dict[str, Any], tags: SiteTags, handlers: Sequence[Handler], backend: Callable[..., Tensor] | None = None
) -> dict[str, Any]:
    """A copy of `transformer_options` whose override runs `handlers`, the first outermost, and then what was there before.

    Other packs overwrite the slot; done at run time, this finds theirs whatever the order of the nodes. `backend` instead replaces both
    their override and the host's own choice of kernel.
    """
    previous = None if backend else transformer_options.get(OVERRIDE)

    def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        def run(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
            if previous is not None:
                return previous(func, q, k, v, *rest, **kwargs)
            return (backend or func)(q, k, v, *rest, **kwargs)

        site = tags.next_site()
        if site is None or kwargs.get("skip_reshape"):
            return run(*args)
        q, k, v, *rest = args
        heads = rest[0] if rest else kwargs["heads"]
        call = AttentionCall(q, k, v, heads, kwargs.get("transformer_options", transformer_options), kwargs)
        proceed: Proceed = lambda call: run(call.q, call.k, call.v, *rest)  # noqa: E731
        for handler in reversed(handlers):
            proceed = _handled(handler, site, proceed)
        return proceed(call)

    return {**transformer_options, OVERRIDE: override}


def _handled(handler: Handler, site: AttentionSite, proceed: Proceed) -> Proceed:
    def handle(call: AttentionCall) -> Tensor:
        result = handler(site, call, proceed)
        return proceed(call) if result is None else result

    return handle


@contextmanager
def attention_sites(diffusion_model: nn.Module, transformer_options: dict[str, Any], *handlers: Handler) -> Iterator[dict[str, Any]]:
    """Within: transformer_options to run `diffusion_model` with, so that `handlers` see its attention calls."""
    with site_tags(diffusion_model) as tags:
        yield with_override(transformer_options, tags, handlers)


def attention_wrapper(make_handlers: Callable[[VideoGrid, Tensor, dict[str, Any]], Sequence[Handler]]) -> Callable[..., Tensor]:
    """A DIFFUSION_MODEL wrapper. `make_handlers(grid, context, transformer_options)` is asked at every model call, context being the text
    rows "b t c"; none: nothing is installed."""

    def wrapper(
        executor: Any, x: Tensor, timestep: Tensor, context: Tensor, clip_fea: Tensor | None = None, time_dim_concat: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None, **kwargs: Any,
    ) -> Tensor:
        options = {} if transformer_options is None else transformer_options
        handlers = make_handlers(video_grid(executor.class_obj, x, kwargs), context, options)
        if not handlers:
            return executor(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)
        with attention_sites(executor.class_obj, options, *handlers) as options:
            return executor(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

    return wrapper
