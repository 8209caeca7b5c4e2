"""The Spectral Report: pictures of one video's attention record, and the appendix's comparisons of plain and guided videos."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from .pictures import AFTER, BEFORE, DPI, INK, drawn, message
from .spectral_record import DEPTH_BUCKETS, SpectralRecord
from .spectral_statistics import (
    Bin,
    PairedCalls,
    cell_means,
    dose_response,
    trend,
    video_effects,
    video_tests,
    wilcoxon,
)

# Perceptually even or diverging maps that every kind of colour vision tells apart; white is the neutral middle.
AMOUNT, SIGNED, GAIN = (colormaps[name].with_extremes(bad="#E4E4E4") for name in ("cividis", "PuOr_r", "BrBG"))
OVER_MIXED, FRAGMENTED, BETTER_COLOUR, WORSE_COLOUR = "#B35806", "#542788", "#01665E", "#8C510A"
MOST_POINTS = 3000  # of a scatter, B.1
DEPTH_BANDS = 4
COMPARED = ("abs_tension", "von_neumann", "effective_rank", "self_retention", "cross_frame", "gini")
LABELS = {
    "tension": "tension T", "abs_tension": "|T|", "row_entropy": "row entropy", "von_neumann": "spectral entropy",
    "effective_rank": "effective rank", "lambda_1": "largest eigenvalue", "self_retention": "self-retention",
    "cross_frame": "cross-frame mass", "gini": "Gini", "head_spread": "spread of T over heads",
}
DIRECTIONS = {
    "abs_tension": "less", "von_neumann": "more", "effective_rank": "more", "self_retention": "more", "cross_frame": "less", "gini": "more",
}


def spectral_figure(record: SpectralRecord, width: int = 780, height: int = 540) -> np.ndarray:
    """One video at a glance: maps of T and gamma, gamma against T, |T| before and after, eigenvalues, T of each head: "h w 3" uint8."""
    if not len(record):
        return message("Spectral Report: nothing was recorded", width, height)
    figure, panels = _page(2, 3, width, height, _headline(record))
    _map(figure, panels[0, 0], _cells(record, record["tension_before"]), "tension T before", SIGNED, CenteredNorm(0))
    _map(figure, panels[0, 1], _cells(record, record["gamma"].mean(1)), "query factor γ", SIGNED, CenteredNorm(1))
    _gamma_against_tension(panels[0, 2], record)
    _before_and_after(panels[1, 0], record)
    _eigenvalues(panels[1, 1], record)
    _heads(figure, panels[1, 2], record)
    return drawn(figure)


def maps_figure(record: SpectralRecord, width: int = 780, height: int = 540) -> np.ndarray:
    """Figure D: layer x step maps of tau_eff, |gamma - 1|, reduction of |T|, |T| before, gamma and active share: "h w 3" uint8."""
    if not len(record):
        return message("Spectral Report: nothing was recorded", width, height)
    figure, panels = _page(2, 3, width, height, _headline(record))
    for axes, values, title, colours, norm in (
        (panels[0, 0], record["tau_eff"], "strength τ by schedule", AMOUNT, None),
        (panels[0, 1], record["strength"], "correction |γ − 1|", AMOUNT, None),
        (panels[0, 2], record["reduction"], "reduction of |T|", GAIN, CenteredNorm(0)),
        (panels[1, 0], record["abs_tension_before"], "|T| before", AMOUNT, None),
        (panels[1, 1], record["gamma"].mean(1), "query factor γ", SIGNED, CenteredNorm(1)),
        (panels[1, 2], record["active"], "share of active calls", AMOUNT, Normalize(0, 1)),
    ):
        _map(figure, axes, _cells(record, values), title, colours, norm)
    return drawn(figure)


def operators_figure(record: SpectralRecord, width: int = 780, height: int = 300) -> np.ndarray:
    """The mean F x F operator in four bands of depth, and how far |T| fell by depth (figure A, right): "h w 3" uint8."""
    if not len(record):
        return message("Spectral Report: nothing was recorded", width, height)
    figure, panels = _page(1, DEPTH_BANDS + 1, width, height, "mean attention from frame to frame, by depth   ·   log scale")
    operators = record.operators
    ends = np.round(np.linspace(0, record.layers, DEPTH_BANDS + 1)).astype(int)
    floor = 0.1 / operators.shape[-1]  # a tenth of an even share
    for index, (first, end) in enumerate(zip(ends, ends[1:])):
        axes, band = panels[0, index], operators[first:end]
        seen = band[~np.isnan(band[:, 0, 0])]
        _title(axes, f"layers {first}–{end - 1}" if end - first > 1 else f"layer {first}" if end > first else "no layer")
        if len(seen):
            axes.imshow(np.log10(seen.mean(0).clip(floor)), cmap=AMOUNT, vmin=np.log10(floor), vmax=0, interpolation="nearest")
        axes.set_xlabel("to frame", fontsize=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[0, 0].set_ylabel("from frame", fontsize=9, color=INK)
    axes, shares = panels[0, -1], record.summary()["relative_reduction_by_depth"]
    values = np.array([np.nan if share is None else 100 * share for share in shares])
    axes.barh(np.arange(DEPTH_BUCKETS) * 10 + 5, values, 8, color=[BETTER_COLOUR if value >= 0 else WORSE_COLOUR for value in values])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_ylim(0, 100)
    axes.set_xlabel("% less", fontsize=9, color=INK)
    _title(axes, "|T| by depth, %")
    return drawn(figure)


def shift_figure(pairs: PairedCalls, width: int = 780, height: int = 620) -> np.ndarray:
    """Figure E: T, spectral and row entropy of plain and guided runs over all, deep, and deep active calls: "h w 3" uint8."""
    figure, panels = _page(3, 3, width, height, _pair_headline(pairs), [("plain", BEFORE), ("guided", AFTER)])
    deep, active = pairs.of_guided("deep"), pairs.of_guided("active")
    filters = (("all calls", np.ones(len(pairs), bool)), ("deep layers", deep), ("deep and active", deep & active))
    for row, metric in enumerate(("tension", "von_neumann", "row_entropy")):
        plain, guided = pairs.plain(metric), pairs.guided(metric)
        bins = np.linspace(min(plain.min(), guided.min()), max(plain.max(), guided.max()) + 1e-6, 33)
        for column, (words, kept) in enumerate(filters):
            axes = panels[row, column]
            _title(axes, f"{LABELS[metric]}, {words}" if row == 0 else LABELS[metric])
            for values, colour, line in ((plain[kept], BEFORE, 1.6), (guided[kept], AFTER, 2.2)):
                if len(values):
                    axes.stairs(np.histogram(values, bins, density=True)[0], bins, color=colour, linewidth=line)
                    axes.axvline(values.mean(), color=colour, linewidth=line * 0.6, linestyle="--")
            if kept.any():
                _note(axes, f"{guided[kept].mean() - plain[kept].mean():+.3f}")
            axes.set_yticks([])
    return drawn(figure)


def differences_figure(pairs: PairedCalls, width: int = 780, height: int = 900) -> np.ndarray:
    """Figure G: improvement of matched active calls, six metrics: histogram, and the share above 0 up to each rank: "h w 3" uint8."""
    figure, panels = _page(4, 3, width, height, _pair_headline(pairs) + "   ·   matched active calls, right of 0 is better")
    active = pairs.of_guided("active")
    for index, metric in enumerate(COMPARED):
        top, bottom = panels[index // 3 * 2, index % 3], panels[index // 3 * 2 + 1, index % 3]
        improvement = pairs.improvement(metric)[active]
        _title(top, f"{LABELS[metric]} ({DIRECTIONS[metric]})")
        _title(bottom, "share better up to here, %")
        if not len(improvement):
            _note(top, "no active call")
            continue
        reach = max(float(np.quantile(np.abs(improvement), 0.99)), 1e-6)
        counts, edges = np.histogram(improvement.clip(-reach, reach), 41, (-reach, reach))
        colours = [BETTER_COLOUR if middle > 0 else WORSE_COLOUR for middle in (edges[:-1] + edges[1:]) / 2]
        top.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours)
        top.axvline(0, color=INK, linewidth=0.8)
        top.set_yticks([])
        _note(top, f"{100 * (improvement > 0).mean():.0f} % better\n{_p(wilcoxon(improvement).p)}")
        rising = improvement[np.argsort(np.abs(improvement))] > 0
        ranks = np.arange(1, len(rising) + 1)
        bottom.plot(100 * ranks / len(rising), 100 * rising.cumsum() / ranks, color=BETTER_COLOUR, linewidth=1.8)
        bottom.axhline(50, color=INK, linewidth=0.8, linestyle=":")
        bottom.set_ylim(0, 103)
        bottom.set_xlabel("% of calls, least change first", fontsize=8.5, color=INK)
    return drawn(figure)


def cells_figure(pairs: PairedCalls, width: int = 780, height: int = 540) -> np.ndarray:
    """Figure H: layer x step maps of the improvement on active calls, four metrics, beside tau_eff and the active share: "h w 3" uint8."""
    figure, panels = _page(2, 3, width, height, _pair_headline(pairs) + "   ·   active calls, teal is better")
    active, layer, step = (pairs.of_guided(name) for name in ("active", "layer", "step"))
    layers, steps = pairs.guideds[0].layers, int(step.max()) + 1
    for axes, metric in zip(panels.flat, ("abs_tension", "effective_rank", "self_retention", "gini")):
        cells = cell_means(layer[active], step[active], pairs.improvement(metric)[active], layers, steps)
        _map(figure, axes, cells, f"{LABELS[metric]} ({DIRECTIONS[metric]})", GAIN, CenteredNorm(0))
    context = ((panels[1, 1], pairs.of_guided("tau_eff"), "strength τ by schedule"), (panels[1, 2], active, "share of active calls"))
    for axes, values, title in context:
        _map(figure, axes, cell_means(layer, step, values, layers, steps), title, AMOUNT, None)
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
    figure, panels = _page(2, 3, width, height, _pair_headline(pairs) + "   ·   deep calls, videos by rising |T|")
    tests = video_tests(pairs, COMPARED)
    for axes, metric in zip(panels.flat, COMPARED):
        effect, _ = video_effects(pairs, metric)
        axes.bar(np.arange(1, len(effect) + 1), effect, 0.8, color=[BETTER_COLOUR if d > 0 else WORSE_COLOUR for d in effect])
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _title(axes, f"{LABELS[metric]}: {tests[metric].better}/{tests[metric].n}, {_p(tests[metric].p)}")
    _label(panels, "video", "Cohen's d")
    return drawn(figure)


def heads_figure(pairs: PairedCalls, names: tuple[str, str] = ("plain", "guided"), width: int = 780, height: int = 300) -> np.ndarray:
    """Figure K: spread of T over the heads of a call, guided against plain, deep and active calls, and its change: "h w 3" uint8.

    With runs of one gamma per call in the place of the plain ones it shows what gamma per head gains: `names` ("per call", "per head").
    """
    figure, panels = _page(1, 3, width, height, _pair_headline(pairs) + "   ·   spread of T over heads")
    plain, guided, deep = pairs.plain("head_spread"), pairs.guided("head_spread"), pairs.of_guided("deep")
    active = pairs.of_guided("active")
    for axes, kept, words in ((panels[0, 0], deep, "deep calls"), (panels[0, 1], active, "active calls")):
        thin = _thinned(kept)
        axes.scatter(plain[thin], guided[thin], 5, color=AFTER, alpha=0.35, linewidths=0)
        ends = [0, max(float(plain.max()), float(guided.max()), 1e-6) * 1.05]
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--")
        axes.set(xlim=ends, ylim=ends)
        _title(axes, words)
        axes.set_xlabel(names[0], fontsize=9, color=INK)
    panels[0, 0].set_ylabel(names[1], fontsize=9, color=INK)
    change, axes = (guided - plain)[active], panels[0, 2]
    _title(axes, "change, active calls")
    if len(change):
        axes.hist(change, 41, color=AFTER)
        relative = 100 * change.mean() / plain[active].mean() if plain[active].mean() else 0.0
        _note(axes, f"{relative:+.2f} %\n{_p(wilcoxon(change.astype(np.float64)).p)}")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks([])
    return drawn(figure)


def _bins_figure(
    pairs: PairedCalls, dose: str, words: str, value: Callable[[Bin], tuple[float, float]], unit: str, width: int, height: int
) -> np.ndarray:
    figure, panels = _page(2, 3, width, height, _pair_headline(pairs) + "   ·   active calls in eight bins, above 0 is better")
    active = pairs.of_guided("active")
    for axes, metric in zip(panels.flat, COMPARED):
        bins = dose_response(pairs.of_guided(dose)[active], pairs.improvement(metric)[active])
        title = f"{LABELS[metric]} ({DIRECTIONS[metric]})"
        axes.axhline(0, color=INK, linewidth=0.8)
        if bins:
            height_of, error = np.array([value(of) for of in bins]).T
            axes.errorbar([of.dose for of in bins], height_of, error, color=AFTER, linewidth=1.8, marker="o", markersize=4, capsize=2)
            rho = trend(bins, lambda of: value(of)[0])
            title += f"\nρ {rho.statistic:+.2f}, {_p(rho.p)}".replace("-", "\N{MINUS SIGN}")
        _title(axes, title)
    _label(panels, words, unit)
    return drawn(figure)


def _page(
    rows: int, columns: int, width: int, height: int, headline: str, legend: Sequence[tuple[str, str]] = ()
) -> tuple[Figure, np.ndarray]:
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - 30 / height), w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", layout=layout)
    figure.text(12 / width, 1 - 18 / height, headline, fontsize=10, color=INK, va="center")
    for place, (words, colour) in enumerate(reversed(legend)):
        x, y = 1 - (14 + 66 * place) / width, 1 - 18 / height
        figure.text(x, y, words, fontsize=10, color=colour, weight="bold", ha="right", va="center")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.tick_params(labelsize=8.5, colors=INK, length=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure, panels


def _map(figure: Figure, axes: Axes, cells: np.ndarray, title: str, colours, norm: Normalize | None) -> None:
    """A layer x step map, deep layers on top."""
    image = axes.imshow(np.ma.masked_invalid(cells), origin="lower", aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.08)
    bar.ax.tick_params(labelsize=8, colors=INK, length=2)
    bar.locator = MaxNLocator(4)
    bar.outline.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("step", fontsize=9, color=INK)
    axes.set_ylabel("layer", fontsize=9, color=INK)
    _title(axes, title)


def _gamma_against_tension(axes: Axes, record: SpectralRecord) -> None:
    """Figure B: over-mixed calls above 1, fragmented ones below."""
    thin = _thinned(np.ones(len(record), bool))
    tension, gamma = record["tension_before"][thin], record["gamma"].mean(1)[thin]
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.scatter(tension, gamma, 6, color=[OVER_MIXED if t > 0 else FRAGMENTED for t in tension], alpha=0.5, linewidths=0)
    reach = max(float(np.abs(gamma - 1).max()), 0.01) * 1.1
    axes.set_ylim(1 - reach if (gamma < 1).any() else 1 - reach / 4, 1 + reach if (gamma > 1).any() else 1 + reach / 4)
    axes.set_xlabel("tension T before", fontsize=9, color=INK)
    _title(axes, "γ against T, each call")


def _before_and_after(axes: Axes, record: SpectralRecord) -> None:
    """Figure A: |T| of active calls; of all where none was corrected."""
    kept = record["active"] if record["active"].any() else np.ones(len(record), bool)
    before, after = record["abs_tension_before"][kept], record["abs_tension_after"][kept]
    bins = np.linspace(0, max(float(before.max()), float(after.max()), 1e-3), 25)
    axes.stairs(np.histogram(before, bins)[0], bins, fill=True, color=BEFORE, alpha=0.55, linewidth=0)
    axes.stairs(np.histogram(after, bins)[0], bins, color=AFTER, linewidth=2)
    axes.set_xlabel("grey before, orange after", fontsize=9, color=INK)
    axes.set_yticks([])
    _title(axes, "|T|, active calls" if record["active"].any() else "|T|, all calls")
    _note(axes, f"{before.mean():.3f} → {after.mean():.3f}")


def _eigenvalues(axes: Axes, record: SpectralRecord) -> None:
    """Figure F: mean spectrum of deep calls."""
    kept = record["deep"] if record["deep"].any() else np.ones(len(record), bool)
    before, after = (record[f"eigenvalues_{side}"][kept].mean(0) for side in ("before", "after"))
    ranks = np.arange(1, len(before) + 1)
    axes.plot(ranks, before, color=BEFORE, linewidth=3.4)
    axes.plot(ranks, after, color=AFTER, linewidth=1.6, marker="o", markersize=3)
    axes.set_ylim(0, None)
    axes.set_xlabel("rank", fontsize=9, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _title(axes, "eigenvalues of ρ, deep calls")
    _note(axes, f"λ1 {before[0]:.3f} → {after[0]:.3f}")


def _heads(figure: Figure, axes: Axes, record: SpectralRecord) -> None:
    """Tension of every head by layer, before correction."""
    tension = record["tension_heads_before"]
    layer, heads = np.repeat(record["layer"], tension.shape[1]), np.tile(np.arange(tension.shape[1]), len(record))
    cells = cell_means(layer, heads, tension.ravel(), record.layers, tension.shape[1])
    _map(figure, axes, cells, "T of each head", SIGNED, CenteredNorm(0))
    axes.set_xlabel("head", fontsize=9, color=INK)


def _cells(record: SpectralRecord, values: np.ndarray) -> np.ndarray:
    return cell_means(record["layer"], record["step"], values, record.layers, int(record["step"].max()) + 1)


def _headline(record: SpectralRecord) -> str:
    summary = record.summary()
    parts = [f"{summary['calls']} calls", f"{100 * summary['active_share']:.0f} % active"]
    if summary["active_share"]:
        before, after = summary["tension_active"]["before"], summary["tension_active"]["after"]
        parts += [f"|T| {before:.3f} → {after:.3f} where active", f"{100 * summary['fragmented_share']:.0f} % of them fragmented"]
    return "   ·   ".join(parts)


def _pair_headline(pairs: PairedCalls) -> str:
    videos, active = len(pairs.plains), pairs.of_guided("active")
    return f"{videos} video{'' if videos == 1 else 's'}, {len(pairs)} matched calls, {100 * active.mean():.0f} % active"


def _thinned(kept: np.ndarray) -> np.ndarray:
    """At most MOST_POINTS of the places where `kept`, evenly."""
    places = np.flatnonzero(kept)
    return places[np.linspace(0, len(places) - 1, MOST_POINTS).astype(int)] if len(places) > MOST_POINTS else places


def _label(panels: np.ndarray, below: str, beside: str) -> None:
    for axes in panels[-1]:
        axes.set_xlabel(below, fontsize=9, color=INK)
    for axes in panels[:, 0]:
        axes.set_ylabel(beside, fontsize=9, color=INK)


def _title(axes: Axes, words: str) -> None:
    axes.set_title(words, fontsize=9.5, loc="left", color=INK, pad=5)


def _note(axes: Axes, words: str) -> None:
    """Words in the upper right corner, above what is drawn."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + (high - low) * 0.17 * (1 + words.count("\n")))
    axes.text(0.98, 0.96, words.replace("-", "\N{MINUS SIGN}"), transform=axes.transAxes, ha="right", va="top", fontsize=9, color=INK)


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"
