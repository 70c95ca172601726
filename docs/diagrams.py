"""Draw the README's diagrams: `python docs/diagrams.py [OUT]` writes them anew, the same each time.

Each is 800 wide and stands on a light ground of its own, for light and dark pages alike. The dogs
are those of `shards.drawn_dogs`; the sample ids of `data.svg` come from `dvae.data.order`.
"""

import base64
import io
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from dvae.data.order import Order, share
from shards.drawn_dogs import draw_dog

INK, MUTED, LINE, GROUND = "#2b2f36", "#626b78", "#8a93a0", "#fbfaf7"
BLUE, AMBER, GREEN, RED = "#4a78a8", "#b8842a", "#4f8a58", "#b5483a"
PALE = {BLUE: "#e2ebf5", AMBER: "#f9ecd2", GREEN: "#e0eee0", RED: "#f6dfda", LINE: "#f0eeea"}
HUES = (BLUE, AMBER, GREEN, RED)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
PIXELS = 96  # of an embedded picture
NUMBERS, CODE = 127 * 127 * 3, 256  # of a picture and of its code


def page(height: int, title: str, *parts: str) -> str:
    """A whole SVG, 800 wide; its title is read aloud by screen readers."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" width="800" '
        f'height="{height}" role="img" font-family="{FONT}">\n<title>{title}</title>\n'
        f'<rect x=".5" y=".5" width="799" height="{height - 1}" rx="12" fill="{GROUND}" '
        'stroke="#d9d5cb"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def text(x: float, y: float, words: str, size: int = 13, fill: str = INK, at: str = "middle") -> str:
    """Lines of text, parted by a bar; `*` before a line makes it bold."""
    lines = []
    for number, line in enumerate(words.split("|")):
        bold = ' font-weight="600"' if line.startswith("*") else ""
        lines.append(
            f'<text x="{x:g}" y="{y + number * size * 1.35:g}" font-size="{size}" fill="{fill}" '
            f'text-anchor="{at}"{bold}>{line.removeprefix("*")}</text>'
        )
    return "\n".join(lines)


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


def dog(number: int, blur: float = 0.0) -> Image.Image:
    """A drawn dog, blurred as a small network would give it back."""
    image, _ = draw_dog(0, number, PIXELS)
    return image.filter(ImageFilter.GaussianBlur(blur)).resize((48, 48)) if blur else image


def noise() -> Image.Image:
    """What a decoder may make of a code it never met: patches of colour."""
    rng = np.random.default_rng(7)
    rough = Image.fromarray(rng.integers(40, 220, (8, 8, 3), dtype=np.uint8)).resize((48, 48))
    fine = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    return Image.blend(rough, fine, 0.35)


def code_space(y: float, caption: str, *inside: str) -> str:
    """A frame of 320 x 190 for two of the code's dimensions."""
    frame = f'<rect x="24" y="{y:g}" width="320" height="190" rx="6" fill="#fff" stroke="{LINE}"/>'
    return "\n".join((frame, *inside, text(184, y + 209, caption, 12, MUTED)))


def decoded_point(cx: float, cy: float, hue: str, result: Image.Image) -> str:
    """A point of the code space on its way through the decoder."""
    mark = dot(cx, cy, 10, GROUND) + dot(cx, cy, 7, hue) + text(cx, cy + 4.5, "*?", 12, "#fff")
    return "\n".join(
        (arrow((cx + 11, cy), (420, cy), hue=hue), mark, network(420, cy, "decoder"))
        + (arrow((516, cy), (548, cy), hue=hue), picture(548, cy - 44, 88, result))
    )


def autoencoder() -> str:
    """A plain autoencoder, and why it can't be sampled."""
    rng = np.random.default_rng(3)
    islands = [
        dot(*(centre + rng.normal(0, 1, 2) * (15, 11)), 3.2, hue)
        for centre, hue in zip(((82, 276), (120, 396), (272, 270), (296, 398)), HUES, strict=True)
        for _ in range(26)
    ]
    cells = [box(388, 58 + 12 * i, 24, 12, AMBER) for i in range(8)]
    return page(
        470,
        "A plain autoencoder: it reconstructs, but a random code decodes to noise",
        picture(24, 58, 96, dog(43)) + text(72, 174, "picture"),
        arrow((120, 106), (200, 106)) + network(200, 106, "encoder"),
        arrow((296, 106), (388, 106)) + "".join(cells) + text(400, 174, "code: 256 numbers"),
        arrow((412, 106), (504, 106)) + network(504, 106, "decoder"),
        arrow((600, 106), (680, 106)) + picture(680, 58, 96, dog(43, 2)),
        text(728, 174, "reconstruction"),
        text(24, 34, "*Autoencoder", 15, at="start"),
        text(24, 218, "*Its code space", 15, at="start"),
        code_space(232, "dots: codes of the training pictures (2 of 256 dimensions)", *islands),
        decoded_point(190, 327, RED, noise()),
        text(660, 300, "*noise|the decoder|never met|such a code", 13, RED, "start"),
        text(420, 412, "Nothing tells the encoder where codes should lie:|islands with empty space "
             "between them. A random point|falls between, so there is no way to ask for a new dog.",
             12, MUTED, "start"),
    )  # fmt: skip


def clouds() -> str:
    """N(0, I) as rings, and the posteriors of many pictures filling it."""
    rng = np.random.default_rng(5)
    rings = [
        f'<ellipse cx="184" cy="395" rx="{52 * r}" ry="{31 * r}" fill="none" stroke="{LINE}" '
        'stroke-dasharray="3 4"/>'
        for r in (1, 2, 3)
    ]
    spread = []
    for i in range(46):
        x, y = (184, 395) + np.clip(rng.normal(0, 1, 2), -2.2, 2.2) * (52, 30)
        spread.append(
            f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="22" ry="15" fill="{HUES[i % 4]}" '
            f'fill-opacity=".2"/>{dot(x, y, 1.8, HUES[i % 4])}'
        )
    return "\n".join(spread + rings)


def vae() -> str:
    """The VAE: reparameterisation, loss, and a code space that can be sampled."""
    plus, times = (
        f'<circle cx="{x}" cy="{y}" r="11" fill="#fff" stroke="{AMBER}" stroke-width="1.4"/>'
        + text(x, y + 5.5, sign, 16)
        for x, y, sign in ((440, 106, "+"), (386, 138, "×"))
    )
    return page(
        562,
        "A variational autoencoder: mean, logvar, reparameterisation, loss and sampling",
        text(24, 34, "*Variational autoencoder", 15, at="start"),
        picture(24, 58, 96, dog(43)) + text(72, 174, "picture"),
        arrow((120, 106), (144, 106)) + network(144, 106, "encoder"),
        arrow((240, 96), (264, 76)) + box(264, 58, 84, 32, AMBER, "mean"),
        arrow((240, 118), (264, 138)) + box(264, 122, 84, 32, AMBER, "logvar"),
        arrow((348, 74), (440, 74), (440, 95)) + arrow((348, 138), (375, 138)) + times + plus,
        text(306, 174, "σ = exp(½ logvar)", 12, MUTED),
        arrow((397, 138), (440, 138), (440, 117)) + arrow((451, 106), (476, 106)),
        box(476, 80, 40, 52, AMBER, "*z") + arrow((516, 106), (544, 106)),
        network(544, 106, "decoder") + arrow((640, 106), (680, 106)),
        picture(680, 58, 96, dog(43, 2)) + text(728, 174, "reconstruction"),
        arrow((386, 194), (386, 149), hue=GREEN) + shape("M326 194h120v28h-120z", GREEN, "4 3"),
        text(386, 213, "ε ~ N(0, I)") + text(464, 200, "*z = mean + σ · ε", 14, at="start"),
        text(464, 219, "ε is drawn outside: gradients reach mean and σ", 12, MUTED, "start"),
        box(24, 240, 752, 34, LINE, "loss  =  reconstruction  +  β · KL( N(mean, σ²) ‖ N(0, I) ),"
            "  both in nats per picture"),
        code_space(300, "clouds: N(mean, σ²) of the training pictures; rings: N(0, I)", clouds()),
        decoded_point(214, 395, GREEN, dog(74, 2)),
        text(660, 380, "*a new dog|from a random|z ~ N(0, I)", 13, GREEN, "start"),
        text(420, 478, "The KL pulls every cloud towards N(0, I), the noise|makes neighbours "
             "overlap: few empty places are left,|so a random point decodes to a dog.",
             12, MUTED, "start"),
    )  # fmt: skip


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


def blur() -> str:
    """Why a small code and a squared error blur."""
    large = draw_dog(0, 43, 112)[0]
    offsets = [(2 * i, (5 * i) % 9 * 2) for i in range(9)]
    shifted = [large.crop((x, y, x + 96, y + 96)) for x, y in offsets]
    mean = np.mean([np.asarray(image, np.float64) for image in shifted], 0) + 0.5
    places = [0.18 + 0.08 * i for i in range(9)]
    shown = [
        picture(24 + 104 * n, 214, 80, shifted[i]) + edge(24 + 104 * n, 312, [places[i]], BLUE)
        for n, i in enumerate((0, 3, 6, 8))
    ]
    return page(
        460,
        "Why it blurs: the mean of many sharp pictures is not sharp",
        text(24, 34, "*Why it blurs", 15, at="start"),
        text(24, 64, f"a picture: 127 × 127 × 3 = {NUMBERS:,} numbers", at="start"),
        box(24, 72, 752, 22, BLUE),
        text(24, 120, f"its code: {CODE} numbers", at="start"),
        box(24, 128, 752 * CODE / NUMBERS, 22, AMBER),
        text(36, 144, f"{NUMBERS / CODE:.0f} to 1, drawn to scale", 12, MUTED, "start"),
        text(24, 198, "*Many sharp pictures share one code …", 14, at="start"),
        *shown,
        text(220, 384, "brightness along one row: a sharp edge, each at another place", 12, MUTED),
        arrow((428, 254), (484, 254)) + box(484, 230, 60, 48, AMBER, "one|code"),
        arrow((544, 254), (600, 254)) + picture(600, 214, 80, Image.fromarray(mean.astype("uint8"))),
        text(600, 198, "*… one answer: their mean", 14, at="start"),
        edge(600, 312, places, RED) + text(640, 384, "the edge became a ramp", 12, RED),
        arrow((428, 336), (600, 336)) + text(514, 326, "mean", 12, MUTED),
        text(24, 420, "With the squared error the likeliest answer is the mean of all pictures "
             "that fit the code.|It is close to each of them, and as sharp as none.", at="start"),
    )  # fmt: skip


def lanes(x: float, y: float, ids: np.ndarray, world_size: int) -> str:
    """Three steps of 8 slots, (3, 8) ids, cut into one share a process."""
    parts = [text(x + 116, y, f"*{world_size} process{'es' * (world_size > 1)}", 14)]
    for rank in range(world_size):
        slots = range(8)[share(8, rank, world_size)]
        parts += [
            box(x + 29 * slot, y + 14 + 26 * step, 29, 26, HUES[rank])
            + text(x + 29 * slot + 14.5, y + 31 + 26 * step, str(ids[step, slot]), 11)
            for slot in slots
            for step in range(len(ids))
        ]
        middle = x + 29 * (slots[0] + slots[-1] + 1) / 2
        parts.append(text(middle, y + 110, f"rank {rank}", 12, HUES[rank]))
    return "\n".join(parts)


def data() -> str:
    """From photographs to weights, and one order for any number of processes."""
    order = Order(np.full(4, 250), seed=0, batch_size=8, window=64)
    ids = np.stack([order.ids(0, step) for step in range(3)])
    stack = [picture(24 + 12 * i, 84 - 12 * i, 64, dog(n)) for i, n in enumerate((74, 46, 43))]
    steps = ("read the bytes,|check their CRC", "threads decode,|crop, resize", "uint8 batch|"
             "(n, S, S, 3)", "model,|on the device", "*weights|.safetensors")  # fmt: skip
    chain = [box(24 + 155 * i, 426, 131, 52, (BLUE, BLUE, AMBER, BLUE, GREEN)[i], words)
             for i, words in enumerate(steps)]  # fmt: skip
    return page(
        510,
        "How data flows: the same order of pictures for 1, 2 and 4 processes",
        text(24, 34, "*Pack once", 15, at="start"),
        *stack,
        text(68, 168, "your photographs", 12, MUTED),
        arrow((118, 104), (158, 104)) + box(158, 80, 148, 48, BLUE, "python -m|shards.pack"),
        arrow((306, 104), (346, 104)),
        box(346, 62, 196, 26, GREEN, "train-000000.tar …"),
        text(556, 80, "pictures, a WebDataset", 12, MUTED, "start"),
        box(346, 92, 196, 26, GREEN, "train-000000.index.npy …"),
        text(556, 110, "where each picture lies", 12, MUTED, "start"),
        box(346, 122, 196, 26, GREEN, "manifest.json"),
        text(556, 140, "names, sizes, SHA-256", 12, MUTED, "start"),
        text(24, 206, "*Share out the order", 15, at="start"),
        text(24, 228, "order(seed, epoch, step) gives the ids of a global batch: here 8 slots, a "
             "lane each, for 3 steps.", at="start"),
        *(lanes(24 + 260 * i, 262, ids, size) for i, size in enumerate((1, 2, 4))),
        text(24, 408, "*Train: each process", 15, at="start"),
        *chain,
        *(arrow((155 + 155 * i, 452), (179 + 155 * i, 452)) for i in range(4)),
        text(400, 394, "", 12),
    )  # fmt: skip


def main(out: Path = Path(__file__).parent) -> None:
    """Write every diagram into a folder."""
    for draw in (autoencoder, vae, blur, data):
        (out / f"{draw.__name__}.svg").write_bytes(draw().encode())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
