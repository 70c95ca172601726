"""What the diagrams are made of: text, boxes, arrows and pictures, as SVG."""

import base64
import io
import math

from PIL import Image

INK, MUTED, LINE, GROUND = "#2b2f36", "#626b78", "#8a93a0", "#fbfaf7"
BLUE, AMBER, GREEN, RED = "#4a78a8", "#b8842a", "#4f8a58", "#b5483a"
PALE = {BLUE: "#e2ebf5", AMBER: "#f9ecd2", GREEN: "#e0eee0", RED: "#f6dfda", LINE: "#f0eeea"}
HUES = (BLUE, AMBER, GREEN, RED)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


def page(height: int, title: str, *parts: str) -> str:
    """A whole SVG, 800 wide; its title is read aloud by screen readers."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" width="800" '
        f'height="{height}" role="img" font-family="{FONT}">\n<title>{title}</title>\n'
        f'<rect x=".5" y=".5" width="799" height="{height - 1}" rx="12" fill="{GROUND}" '
        'stroke="#d9d5cb"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def text(
    x: float, y: float, words: str, size: int = 13, fill: str = INK, at: str = "middle"
) -> str:
    """Lines of text, parted by a bar; `*` before a line makes it bold."""
    lines = []
    for number, line in enumerate(words.split("|")):
        bold = ' font-weight="600"' if line.startswith("*") else ""
        lines.append(
            f'<text x="{x:g}" y="{y + number * size * 1.35:g}" font-size="{size}" fill="{fill}" '
            f'text-anchor="{at}"{bold}>{line.removeprefix("*")}</text>'
        )
    return "\n".join(lines)


def note(x: float, y: float, words: str) -> str:
    """Small grey lines of text that begin at x."""
    return text(x, y, words, 12, MUTED, "start")


def heading(x: float, y: float, words: str) -> str:
    """A bold line of text that begins at x."""
    return text(x, y, f"*{words}", 15, at="start")


def shape(points: str, hue: str, dash: str = "") -> str:
    """A filled outline along an SVG path."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<path d="{points}" fill="{PALE[hue]}" stroke="{hue}" stroke-width="1.4" '
        f'stroke-linejoin="round"{dashed}/>'
    )


def box(x: float, y: float, w: float, h: float, hue: str, words: str = "") -> str:
    """A box with text in its middle."""
    outline = shape(f"M{x:g} {y:g}h{w:g}v{h:g}h{-w:g}z", hue)
    first = y + h / 2 + 4.5 - 13 * 1.35 / 2 * words.count("|")
    return outline + (text(x + w / 2, first, words) if words else "")


def network(x: float, cy: float, words: str) -> str:
    """An encoder, which narrows, or a decoder, which widens: 96 x 96."""
    left, right = (48, 26) if words == "encoder" else (26, 48)
    outline = f"M{x:g} {cy - left:g}L{x + 96:g} {cy - right:g}V{cy + right:g}L{x:g} {cy + left:g}z"
    return shape(outline, BLUE) + text(x + 48, cy + 5, words, 14)


def arrow(*points: tuple[float, float], hue: str = MUTED, dash: str = "") -> str:
    """A line through points, with a head at its end."""
    (x0, y0), (x, y) = points[-2:]
    length = math.hypot(x - x0, y - y0)
    dx, dy = (x - x0) / length, (y - y0) / length
    corners = [(x, y), (x - 9 * dx + 4 * dy, y - 9 * dy - 4 * dx)]
    corners.append((x - 9 * dx - 4 * dy, y - 9 * dy + 4 * dx))
    tip = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*points[:-1], (x - 8 * dx, y - 8 * dy)])
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{line}" fill="none" stroke="{hue}" stroke-width="1.6"{dashed}/>'
        f'<polygon points="{tip}" fill="{hue}"/>'
    )


def dot(x: float, y: float, radius: float, fill: str) -> str:
    """A filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}"/>'


def picture(x: float, y: float, side: float, image: Image.Image) -> str:
    """An embedded PNG in a thin frame; 6 bits a colour, which compress to half."""
    file = io.BytesIO()
    image.point(lambda value: value & 0xFC | value >> 6).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<image x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" '
        f'href="data:image/png;base64,{data}"/>\n<rect x="{x:g}" y="{y:g}" width="{side:g}" '
        f'height="{side:g}" fill="none" stroke="{LINE}"/>'
    )


def code_space(y: float, caption: str, *inside: str) -> str:
    """A frame of 320 x 190 for two of the code's dimensions."""
    frame = f'<rect x="24" y="{y:g}" width="320" height="190" rx="6" fill="#fff" stroke="{LINE}"/>'
    return "\n".join((frame, *inside, note(24, y + 209, caption)))


def decoded_point(cx: float, cy: float, hue: str, result: Image.Image) -> str:
    """A point of the code space on its way through the decoder."""
    mark = dot(cx, cy, 10, GROUND) + dot(cx, cy, 7, hue) + text(cx, cy + 4.5, "*?", 12, "#fff")
    return "\n".join(
        (arrow((cx + 11, cy), (420, cy), hue=hue), mark, network(420, cy, "decoder"))
        + (arrow((516, cy), (548, cy), hue=hue), picture(548, cy - 44, 88, result))
    )


def edge(x: float, y: float, places: list[float], hue: str) -> str:
    """A brightness profile of 80 x 40: the mean of edges at places in [0, 1]."""
    steps = "".join(
        f"H{x + 80 * place:.1f}V{y + 40 - 40 * (i + 1) / len(places):.1f}"
        for i, place in enumerate(places)
    )
    return (
        f'<path d="M{x:g} {y + 40:g}{steps}H{x + 80:g}" fill="none" stroke="{hue}" '
        'stroke-width="2"/>'
        f'<path d="M{x:g} {y + 46:g}h80" stroke="{LINE}"/>'
    )
