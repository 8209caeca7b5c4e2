"""The Spectral Report of one video's attention record: how frames looked at one another, and what the correction did to it."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .pictures import AFTER, BEFORE, INK, drawn
from .spectral_page import AMOUNT, BETTER_COLOUR, GAIN, SIGNED, WORSE_COLOUR, draw_map, note, page, set_title, thinned
from .spectral_record import DEPTH_BUCKETS, SpectralRecord
from .spectral_statistics import cell_means

OVER_MIXED, FRAGMENTED = "#B35806", "#542788"
DEPTH_BANDS = 4


def spectral_figure(record: SpectralRecord, width: int = 780, height: int = 540) -> np.ndarray:
    """One video at a glance: maps of T and gamma, gamma against T, |T| before and after, eigenvalues, T of each head: "h w 3" uint8."""
    figure, panels = page(2, 3, width, height, _headline(record))
    draw_map(figure, panels[0, 0], _cells(record, record["tension_before"]), "tension T before", SIGNED, CenteredNorm(0))
    draw_map(figure, panels[0, 1], _cells(record, record["gamma"].mean(1)), "query factor γ", SIGNED, CenteredNorm(1))
    _gamma_against_tension(panels[0, 2], record)
    _before_and_after(panels[1, 0], record)
    _eigenvalues(panels[1, 1], record)
    _heads(figure, panels[1, 2], record)
    return drawn(figure)


def maps_figure(record: SpectralRecord, width: int = 780, height: int = 540) -> np.ndarray:
    """Figure D: layer x step maps of tau_eff, |gamma - 1|, reduction of |T|, |T| before, gamma and active share: "h w 3" uint8."""
    figure, panels = page(2, 3, width, height, _headline(record))
    for axes, values, title, colours, norm in (
        (panels[0, 0], record["tau_eff"], "strength τ by schedule", AMOUNT, None),
        (panels[0, 1], record["strength"], "correction |γ − 1|", AMOUNT, None),
        (panels[0, 2], record["reduction"], "reduction of |T|", GAIN, CenteredNorm(0)),
        (panels[1, 0], record["abs_tension_before"], "|T| before", AMOUNT, None),
        (panels[1, 1], record["gamma"].mean(1), "query factor γ", SIGNED, CenteredNorm(1)),
        (panels[1, 2], record["active"], "share of active calls", AMOUNT, Normalize(0, 1)),
    ):
        draw_map(figure, axes, _cells(record, values), title, colours, norm)
    return drawn(figure)


def operators_figure(record: SpectralRecord, width: int = 780, height: int = 300) -> np.ndarray:
    """The mean F x F operator in four bands of depth, and how far |T| fell by depth (figure A, right): "h w 3" uint8."""
    operators = record.operators
    floor, top = 0.1 / operators.shape[-1], float(np.nanmax(operators))  # a tenth of an even share
    words = f"mean attention from frame to frame, by depth   ·   log scale, dark {floor:.3f}, bright {top:.2f}"
    figure, panels = page(1, DEPTH_BANDS + 1, width, height, words)
    ends = np.round(np.linspace(0, record.layers, DEPTH_BANDS + 1)).astype(int)
    for index, (first, end) in enumerate(zip(ends, ends[1:])):
        axes, band = panels[0, index], operators[first:end]
        seen = band[~np.isnan(band[:, 0, 0])]
        set_title(axes, f"layers {first}–{end - 1}" if end - first > 1 else f"layer {first}" if end > first else "no layer")
        if len(seen):
            axes.imshow(np.log10(seen.mean(0).clip(floor)), cmap=AMOUNT, vmin=np.log10(floor), vmax=np.log10(top), interpolation="nearest")
        axes.set_xlabel("to frame", fontsize=9, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[0, 0].set_ylabel("from frame", fontsize=9, color=INK)
    axes, shares = panels[0, -1], record.summary()["relative_reduction_by_depth"]
    values = np.array([np.nan if share is None else 100 * share for share in shares])
    axes.barh(np.arange(DEPTH_BUCKETS) * 10 + 5, values, 8, color=[BETTER_COLOUR if value >= 0 else WORSE_COLOUR for value in values])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_ylim(0, 100)
    axes.set_xlabel("% less |T|", fontsize=9, color=INK)
    axes.set_ylabel("depth, %", fontsize=9, color=INK)
    set_title(axes, "by depth")
    return drawn(figure)


def _gamma_against_tension(axes: Axes, record: SpectralRecord) -> None:
    """Figure B: over-mixed calls above 1, fragmented ones below."""
    thin = thinned(np.ones(len(record), bool))
    tension, gamma = record["tension_before"][thin], record["gamma"].mean(1)[thin]
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.scatter(tension, gamma, 6, color=[OVER_MIXED if t > 0 else FRAGMENTED for t in tension], alpha=0.5, linewidths=0)
    low, high = min(float(gamma.min()), 1.0), max(float(gamma.max()), 1.0)
    room = max(high - low, 0.01) * 0.1
    axes.set_ylim(low - room, high + room)
    axes.set_xlabel("tension T before", fontsize=9, color=INK)
    set_title(axes, "γ against T, each call")


def _before_and_after(axes: Axes, record: SpectralRecord) -> None:
    """Figure A: |T| of active calls; of all where none was corrected."""
    kept = record["active"] if record["active"].any() else np.ones(len(record), bool)
    before, after = record["abs_tension_before"][kept], record["abs_tension_after"][kept]
    bins = np.linspace(0, max(float(before.max()), float(after.max()), 1e-3), 25)
    axes.stairs(np.histogram(before, bins)[0], bins, fill=True, color=BEFORE, alpha=0.55, linewidth=0)
    axes.stairs(np.histogram(after, bins)[0], bins, color=AFTER, linewidth=2)
    axes.set_xlabel("grey before, orange after", fontsize=9, color=INK)
    axes.set_yticks([])
    set_title(axes, "|T|, active calls" if record["active"].any() else "|T|, all calls")
    note(axes, f"{before.mean():.3f} → {after.mean():.3f}")


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
    set_title(axes, "eigenvalues of ρ, deep calls")
    note(axes, f"λ1 {before[0]:.3f} → {after[0]:.3f}")


def _heads(figure: Figure, axes: Axes, record: SpectralRecord) -> None:
    """Tension of every head by layer, before correction."""
    tension = record["tension_heads_before"]
    layer, heads = np.repeat(record["layer"], tension.shape[1]), np.tile(np.arange(tension.shape[1]), len(record))
    cells = cell_means(layer, heads, tension.ravel(), record.layers, tension.shape[1])
    draw_map(figure, axes, cells, "T of each head", SIGNED, CenteredNorm(0))
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
