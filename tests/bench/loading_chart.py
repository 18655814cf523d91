"""A bar chart of the figures on standard input: `python -m tests.bench.loading_chart PNG`. Runs where matplotlib is."""

from __future__ import annotations

import json
import sys

TITLES = {
    "local": "local file, first call",
    "plain": "remote, unshaped",
    "shaped": "remote, 30 ms and 100 MB/s per connection",
}


def main() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figures = json.load(sys.stdin)
    counts = [len(bars) for bars in figures.values()]
    figure, panels = pyplot.subplots(
        len(figures), 1, figsize=(9, 0.42 * sum(counts) + 2), height_ratios=counts, layout="constrained"
    )
    for panel, (kind, bars) in zip(panels, figures.items(), strict=True):
        names = list(bars)[::-1]
        ours = ["#d9822b" if "loaders.safetensors" in name else "#8a9ba8" for name in names]
        drawn = panel.barh(names, [bars[name] for name in names], color=ours)
        panel.bar_label(drawn, fmt="%.0f", padding=3, fontsize=8)
        panel.set_title(TITLES[kind], loc="left", fontsize=10)
        panel.margins(x=0.12)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("milliseconds, median")
    figure.savefig(sys.argv[1], dpi=110)


if __name__ == "__main__":
    main()
