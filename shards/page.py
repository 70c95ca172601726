"""The page that `shards.inspect` writes: HTML with inline SVG, no script, nothing fetched.

Labels and folder names come from outside, so every text goes through `html.escape`.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_MAX_BARS = 200  # labels shown; figures.json has them all
_WIDTH, _HEIGHT = 320, 120  # pixels, of a histogram
_TITLES = {
    "width": "Width, pixels",
    "height": "Height, pixels",
    "aspect": "Width / height",
    "picture_bytes": "Bytes of a picture",
    "shard_bytes": "Bytes of a shard",
    "shard_samples": "Samples of a shard",
}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1060px; color: #222 }
table { border-collapse: collapse } td, th { padding: .15em .8em .15em 0; text-align: right }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere }
figure { display: inline-block; margin: 0 1em 1em 0 } figcaption { font-weight: 600 }
rect { fill: #4a7 } .bar { background: #4a7; height: .8em } td.wide { width: 320px }
img { max-width: 100% } small { color: #666 }
"""


def page(folder: str, figures: Mapping[str, Any], contact_png: bytes) -> str:
    """The whole report as one HTML file.

    Args:
        folder: what was inspected, as a title.
        figures: of `shards.inspect.figures`.
        contact_png: the contact sheet.
    """
    sheet = base64.b64encode(contact_png).decode()
    parts = [
        f"<h1>{escape(folder)}</h1>",
        _splits(figures["splits"]),
        f"<p>{_pixels(figures['pixels'])} {figures['unreadable']} pictures could not be read.</p>",
        f'<img alt="contact sheet" src="data:image/png;base64,{sheet}">',
        "<h2>Sizes</h2>",
        *(_histogram(_TITLES[name], values) for name, values in figures["ranges"].items()),
        "<h2>Resolutions</h2>",
        _bars(figures["resolutions"]),
        "<h2>Labels</h2>",
        f"<p>{len(figures['labels'])} labels; {figures['unlabelled']} samples have none.</p>",
        _bars(figures["labels"]),
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        # Should a text ever slip through unescaped, it still can't run or fetch anything.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escape(folder)}</title><style>{_STYLE}</style></head><body>"
    )
    return head + "\n".join(parts) + "</body></html>\n"


def _splits(splits: Mapping[str, Mapping[str, int]]) -> str:
    keys = ("samples", "shards", "bytes")
    rows = [[name, *(f"{split[key]:,}" for key in keys)] for name, split in splits.items()]
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    head = "<tr><th>split</th><th>samples</th><th>shards</th><th>bytes</th></tr>"
    return f"<table>{head}{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _pixels(pixels: Mapping[str, Any]) -> str:
    if not pixels["sampled"]:
        return "No picture's pixels could be read."
    mean, std = (", ".join(f"{value:.3f}" for value in pixels[key]) for key in ("mean", "std"))
    return (
        f"Pixels in 0 … 1 (R, G, B): mean {mean}; standard deviation {std}; "
        f"of {pixels['sampled']} pictures, evenly spaced."
    )


def _histogram(title: str, values: Mapping[str, Any]) -> str:
    counts: Sequence[int] = values["histogram"]["counts"]
    edges: Sequence[float] = values["histogram"]["edges"]
    most = max(1, *counts)
    step = _WIDTH / len(counts)
    bars = []
    for number, count in enumerate(counts):
        height = count * _HEIGHT / most
        tip = f"{edges[number]:,g} to {edges[number + 1]:,g}: {count:,}"
        bars.append(
            f'<rect x="{number * step:.1f}" y="{_HEIGHT - height:.1f}" width="{step - 1:.1f}" '
            f'height="{height:.1f}"><title>{tip}</title></rect>'
        )
    keys = ("least", "5 %", "median", "95 %", "most")
    spread = ", ".join(f"{key} {values[key]:,g}" for key in keys)
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{title}">{"".join(bars)}'
        f"</svg><br><small>{edges[0]:,g} to {edges[-1]:,g}, highest bar {most:,}<br>{spread}</small>"
        "</figure>"
    )


def _bars(counts: Mapping[str, int]) -> str:
    most = max([1, *counts.values()])
    rows = [
        f"<tr><td>{escape(name)}</td><td>{count:,}</td>"
        f'<td class="wide"><div class="bar" style="width:{100 * count / most:.1f}%"></div></td></tr>'
        for name, count in list(counts.items())[:_MAX_BARS]
    ]
    more = f"<p>and {len(counts) - _MAX_BARS:,} more</p>" if len(counts) > _MAX_BARS else ""
    return f"<table>{''.join(rows)}</table>{more}"
