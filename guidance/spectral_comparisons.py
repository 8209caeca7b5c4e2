"""The Spectral Report of two runs of the same videos: the appendix's comparisons of plain and guided ones, call by call."""

from collections.abc import Callable

import numpy as np
from matplotlib.colors import CenteredNorm
from matplotlib.ticker import MaxNLocator

from .pictures import AFTER, BEFORE, INK, drawn
from .spectral_page import AMOUNT, BETTER_COLOUR, GAIN, WORSE_COLOUR, draw_map, label_edges, note, p_words, page, set_title, thinned
from .spectral_statistics import Bin, PairedCalls, cell_means, dose_response, trend, video_effects, video_tests, wilcoxon

COMPARED = ("abs_tension", "von_neumann", "effective_rank", "self_retention", "cross_frame", "gini")
LABELS = {
    "tension": "tension T", "abs_tension": "|T|", "row_entropy": "row entropy", "von_neumann": "spectral entropy",
    "effective_rank": "effective rank", "lambda_1": "largest eigenvalue", "self_retention": "self-retention",
    "cross_frame": "cross-frame mass", "gini": "Gini", "head_spread": "spread of T over heads",
}
DIRECTIONS = {
    "abs_tension": "less", "von_neumann": "more", "effective_rank": "more", "self_retention": "more", "cross_frame": "less", "gini": "more",
}


def shift_figure(pairs: PairedCalls, width: int = 780, height: int = 620) -> np.ndarray:
    """Figure E: T, spectral and row entropy of plain and guided runs over all, deep, and deep active calls: "h w 3" uint8."""
    figure, panels = page(3, 3, width, height, _headline(pairs) + "   ·   dashed: means", [("plain", BEFORE), ("guided", AFTER)])
    deep, active = pairs.of_guided("deep"), pairs.of_guided("active")
    filters = (("all calls", np.ones(len(pairs), bool)), ("deep layers", deep), ("deep and active", deep & active))
    for row, metric in enumerate(("tension", "von_neumann", "row_entropy")):
        plain, guided = pairs.plain(metric), pairs.guided(metric)
        bins = np.linspace(min(plain.min(), guided.min()), max(plain.max(), guided.max()) + 1e-6, 33)
        for column, (words, kept) in enumerate(filters):
            axes = panels[row, column]
            set_title(axes, f"{LABELS[metric]}, {words}" if row == 0 else LABELS[metric])
            for values, colour, line in ((plain[kept], BEFORE, 1.6), (guided[kept], AFTER, 2.2)):
                if len(values):
                    axes.stairs(np.histogram(values, bins, density=True)[0], bins, color=colour, linewidth=line)
                    axes.axvline(values.mean(), color=colour, linewidth=line * 0.6, linestyle="--")
            if kept.any():
                note(axes, f"{guided[kept].mean() - plain[kept].mean():+.3f}")
            axes.set_yticks([])
    return drawn(figure)


def differences_figure(pairs: PairedCalls, width: int = 780, height: int = 900) -> np.ndarray:
    """Figure G: improvement of matched active calls, six metrics: histogram, and the share above 0 up to each rank: "h w 3" uint8."""
    figure, panels = page(4, 3, width, height, _headline(pairs) + "   ·   matched active calls, right of 0 is better")
    active = pairs.of_guided("active")
    for index, metric in enumerate(COMPARED):
        top, bottom = panels[index // 3 * 2, index % 3], panels[index // 3 * 2 + 1, index % 3]
        improvement = pairs.improvement(metric)[active]
        set_title(top, f"{LABELS[metric]} ({DIRECTIONS[metric]})")
        set_title(bottom, "share better up to here, %")
        if not len(improvement):
            note(top, "no active call")
            continue
        reach = max(float(np.quantile(np.abs(improvement), 0.99)), 1e-6)
        counts, edges = np.histogram(improvement.clip(-reach, reach), 41, (-reach, reach))
        colours = [BETTER_COLOUR if middle > 0 else WORSE_COLOUR for middle in (edges[:-1] + edges[1:]) / 2]
        top.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours)
        top.axvline(0, color=INK, linewidth=0.8)
        top.set_yticks([])
        note(top, f"{100 * (improvement > 0).mean():.0f} % better\n{p_words(wilcoxon(improvement).p)}")
        rising = improvement[np.argsort(np.abs(improvement))] > 0
        ranks = np.arange(1, len(rising) + 1)
        bottom.plot(100 * ranks / len(rising), 100 * rising.cumsum() / ranks, color=BETTER_COLOUR, linewidth=1.8)
        bottom.axhline(50, color=INK, linewidth=0.8, linestyle=":")
        bottom.set(ylim=(0, 103), yticks=(0, 50, 100))
        bottom.set_xlabel("% of calls, least change first", fontsize=8.5, color=INK)
    return drawn(figure)


def cells_figure(pairs: PairedCalls, width: int = 780, height: int = 540) -> np.ndarray:
    """Figure H: layer x step maps of the improvement on active calls, four metrics, beside tau_eff and the active share: "h w 3" uint8."""
    figure, panels = page(2, 3, width, height, _headline(pairs) + "   ·   active calls, teal is better")
    active, layer, step = (pairs.of_guided(name) for name in ("active", "layer", "step"))
    layers, steps = pairs.guideds[0].layers, int(step.max()) + 1
    for axes, metric in zip(panels.flat, ("abs_tension", "effective_rank", "self_retention", "gini")):
        cells = cell_means(layer[active], step[active], pairs.improvement(metric)[active], layers, steps)
        draw_map(figure, axes, cells, f"{LABELS[metric]} ({DIRECTIONS[metric]})", GAIN, CenteredNorm(0))
    context = ((panels[1, 1], pairs.of_guided("tau_eff"), "strength τ by schedule"), (panels[1, 2], active, "share of active calls"))
    for axes, values, title in context:
        draw_map(figure, axes, cell_means(layer, step, values, layers, steps), title, AMOUNT, None)
    return drawn(figure)


def effects_figure(pairs: PairedCalls, width: int = 780, height: int = 520) -> np.ndarray:
    """Figure I: Cohen's d of active calls in eight bins of their |T| before correction, 95 % intervals: "h w 3" uint8."""
    return _bins_figure(
        pairs, "abs_tension_before", "|T| before correction", lambda of: (of.d, of.d_half_width), "Cohen's d ± 95 %", width, height
    )


def dose_figure(pairs: PairedCalls, width: int = 780, height: int = 520) -> np.ndarray:
    """Figure M: mean improvement of active calls in eight bins of |gamma - 1|, and Spearman's rank correlation: "h w 3" uint8."""
    return _bins_figure(pairs, "strength", "correction |γ − 1|", lambda of: (of.mean, of.error), "mean improvement ± SE", width, height)


def videos_figure(pairs: PairedCalls, width: int = 780, height: int = 520) -> np.ndarray:
    """Figure J: Cohen's d of each video's deep calls, ranked by its baseline |T|, and figure C's sign test: "h w 3" uint8."""
    figure, panels = page(2, 3, width, height, _headline(pairs) + "   ·   deep calls, videos by rising |T|")
    tests = video_tests(pairs, COMPARED)
    for axes, metric in zip(panels.flat, COMPARED):
        effect, _ = video_effects(pairs, metric)
        axes.bar(np.arange(1, len(effect) + 1), effect, 0.8, color=[BETTER_COLOUR if d > 0 else WORSE_COLOUR for d in effect])
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        better = f"{tests[metric].better}/{tests[metric].n} better, {p_words(tests[metric].p)}"
        set_title(axes, f"{LABELS[metric]} ({DIRECTIONS[metric]})\n{better}")
    label_edges(panels, "video", "Cohen's d")
    return drawn(figure)


def heads_figure(pairs: PairedCalls, width: int = 780, height: int = 300) -> np.ndarray:
    """Figure K: spread of T over the heads of a call, guided against plain, deep and active calls, and its change: "h w 3" uint8.

    With runs of one gamma per call in the place of the plain ones it shows what gamma per head gains, and says so.
    """
    per_head = [any(record["per_head"].any() for record in records) for records in (pairs.plains, pairs.guideds)]
    corrected = any(record["active"].any() for record in pairs.plains)
    names = ("one γ per call", "γ per head") if corrected and per_head == [False, True] else ("plain", "guided")
    figure, panels = page(1, 3, width, height, _headline(pairs) + "   ·   spread of T over heads")
    plain, guided, deep = pairs.plain("head_spread"), pairs.guided("head_spread"), pairs.of_guided("deep")
    active = pairs.of_guided("active")
    for axes, kept, words in ((panels[0, 0], deep, "deep calls"), (panels[0, 1], active, "active calls")):
        thin = thinned(kept)
        axes.scatter(plain[thin], guided[thin], 5, color=AFTER, alpha=0.35, linewidths=0)
        ends = [0, max(float(plain.max()), float(guided.max()), 1e-6) * 1.05]
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--")
        axes.set(xlim=ends, ylim=ends)
        set_title(axes, words)
        axes.set_xlabel(names[0], fontsize=9, color=INK)
    panels[0, 0].set_ylabel(names[1], fontsize=9, color=INK)
    change, axes = (guided - plain)[active], panels[0, 2]
    set_title(axes, "change, active calls")
    if len(change):
        axes.hist(change, 41, color=AFTER)
        relative = 100 * change.mean() / plain[active].mean() if plain[active].mean() else 0.0
        note(axes, f"{relative:+.2f} %\n{p_words(wilcoxon(change.astype(np.float64)).p)}")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks([])
    return drawn(figure)


def _bins_figure(
    pairs: PairedCalls, dose: str, words: str, value: Callable[[Bin], tuple[float, float]], unit: str, width: int, height: int
) -> np.ndarray:
    figure, panels = page(2, 3, width, height, _headline(pairs) + "   ·   active calls in eight bins, above 0 is better")
    active = pairs.of_guided("active")
    for axes, metric in zip(panels.flat, COMPARED):
        bins = dose_response(pairs.of_guided(dose)[active], pairs.improvement(metric)[active])
        title = f"{LABELS[metric]} ({DIRECTIONS[metric]})"
        axes.axhline(0, color=INK, linewidth=0.8)
        if bins:
            height_of, error = np.array([value(of) for of in bins]).T
            axes.errorbar([of.dose for of in bins], height_of, error, color=AFTER, linewidth=1.8, marker="o", markersize=4, capsize=2)
            rho = trend(bins, lambda of: value(of)[0])
            title += f"\nρ {rho.statistic:+.2f}, {p_words(rho.p)}".replace("-", "\N{MINUS SIGN}")
        set_title(axes, title)
    label_edges(panels, words, unit)
    return drawn(figure)


def _headline(pairs: PairedCalls) -> str:
    videos, active = len(pairs.plains), pairs.of_guided("active")
    calls = max(sum(map(len, records)) for records in (pairs.plains, pairs.guideds))
    matched = f"{calls} matched calls" if len(pairs) == calls else f"{len(pairs)} of {calls} calls matched"
    return f"{videos} video{'' if videos == 1 else 's'}, {matched}, {100 * active.mean():.0f} % active"
