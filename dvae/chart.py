"""A chart of lines as SVG, which opens in any browser."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 720, 420, 60  # pixels
COLOURS = ("#222222", "#1b7837", "#2166ac", "#92c5de", "#b2182b", "#e08214", "#762a83")
TICKS = 5

Line = Sequence[tuple[float, float]]  # points from left to right


def line_chart(
    lines: Mapping[str, Line], title: str, x: str, y: str, logarithmic: bool = False
) -> str:
    """Lines with a legend.

    Args:
        lines: name -> its points.
        title: over the chart.
        x: what the axis is, with its unit.
        y: likewise.
        logarithmic: whether y is; points at 0 and below are left out.
    """
    shape = {
        name: [
            (a, math.log10(b) if logarithmic else b) for a, b in line if b > 0 or not logarithmic
        ]
        for name, line in lines.items()
    }
    points = [point for line in shape.values() for point in line]
    left, right = _range([a for a, _ in points])
    low, high = _range([b for _, b in points])

    def at(a: float, b: float) -> tuple[float, float]:
        across = MARGIN + (a - left) / (right - left) * (WIDTH - 2 * MARGIN)
        return across, HEIGHT - MARGIN - (b - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(WIDTH / 2, 24, title, "middle"),
        _text(WIDTH / 2, HEIGHT - 12, x, "middle"),
        _text(8, MARGIN - 14, y, "start"),
    ]
    for step in range(TICKS + 1):
        a, b = (lo + (hi - lo) * step / TICKS for lo, hi in ((left, right), (low, high)))
        parts.append(_text(at(a, low)[0], HEIGHT - MARGIN + 18, f"{a:.3g}", "middle"))
        shown = f"{10**b:.2g}" if logarithmic else f"{b:.3g}"
        parts.append(_text(MARGIN - 8, at(left, b)[1] + 4, shown, "end"))
        (x0, y0), (x1, _) = at(left, b), at(right, b)
        parts.append(f'<path d="M{x0:.1f} {y0:.1f}H{x1:.1f}" stroke="#dddddd"/>')
    for number, (name, line) in enumerate(shape.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for a, b in (at(*point) for point in line) if len(line) < 12 else ():
            parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>')
        parts.append(_text(WIDTH - MARGIN, MARGIN + 16 * number, name, "end", colour))
    return "\n".join([*parts, "</svg>\n"])


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"
