"""Draw the README's diagrams: `python docs/diagrams.py [OUT]` writes them anew, the same each time.

Each is 800 wide and stands on a light ground of its own, for light and dark pages alike. The dogs
are those of `shards.drawn_dogs`; the sample ids of `data.svg` come from `dvae.data.order`.
"""

import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from svg_shapes import (
    AMBER,
    BLUE,
    GREEN,
    HUES,
    LINE,
    MUTED,
    RED,
    arrow,
    box,
    code_space,
    decoded_point,
    dot,
    edge,
    heading,
    network,
    note,
    page,
    picture,
    shape,
    text,
)

from dvae.data.order import Order, share
from shards.drawn_dogs import draw_dog

PIXELS = 96  # of an embedded picture
COUNT = 48  # clouds
NUMBERS, CODE = 127 * 127 * 3, 256  # of a picture and of its code


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


def autoencoder() -> str:
    """A plain autoencoder, and why it can't be sampled."""
    rng = np.random.default_rng(3)
    islands = [
        dot(*(centre + rng.normal(0, 1, 2) * (15, 11)), 3.2, hue)
        for centre, hue in zip(((82, 276), (120, 396), (272, 270), (290, 384)), HUES, strict=True)
        for _ in range(26)
    ]
    cells = [box(388, 58 + 12 * i, 24, 12, AMBER) for i in range(8)]
    return page(
        462,
        "A plain autoencoder: it reconstructs, but a random code decodes to noise",
        picture(24, 58, 96, dog(43)) + text(72, 174, "picture"),
        arrow((120, 106), (200, 106)) + network(200, 106, "encoder"),
        arrow((296, 106), (388, 106)) + "".join(cells) + text(400, 174, "code: 256 numbers"),
        arrow((412, 106), (504, 106)) + network(504, 106, "decoder"),
        arrow((600, 106), (680, 106)) + picture(680, 58, 96, dog(43, 2)),
        text(728, 174, "reconstruction"),
        heading(24, 34, "Autoencoder"),
        heading(24, 218, "Its code space"),
        code_space(232, "dots: codes of training pictures, 2 of 256 numbers", *islands),
        decoded_point(190, 327, RED, noise()),
        text(660, 300, "*noise|the decoder|never met|such a code", 13, RED, "start"),
        note(
            420,
            412,
            "Nothing tells the encoder where codes should lie:|islands with empty space "
            "between them. A random point|falls between, so there is no way to ask for a new dog.",
        ),
    )


def clouds(cx: float, cy: float) -> str:
    """N(0, I) as rings, and the posteriors of many pictures filling it."""
    parts = []
    for i in range(COUNT):
        radius = math.sqrt(-2 * math.log(1 - (i + 0.5) / COUNT))  # the quantiles of N(0, I)
        x = cx + 44 * radius * math.cos(2.4 * i)  # 2.4: about the golden angle
        y = cy + 29 * radius * math.sin(2.4 * i)
        cloud = f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="24" ry="16" fill="{HUES[i % 4]}" '
        parts.append(cloud + f'fill-opacity=".2"/>{dot(x, y, 1.8, HUES[i % 4])}')
    for ring in (1, 2, 3):
        ellipse = f'<ellipse cx="{cx:g}" cy="{cy:g}" rx="{44 * ring}" ry="{29 * ring}" '
        parts.append(ellipse + f'fill="none" stroke="{LINE}" stroke-dasharray="3 4"/>')
    return "\n".join(parts)


def vae() -> str:
    """The VAE: reparameterisation, loss, and a code space that can be sampled."""
    plus, times = (
        f'<circle cx="{x}" cy="{y}" r="11" fill="#fff" stroke="{AMBER}" stroke-width="1.4"/>'
        + text(x, y + 5.5, sign, 16)
        for x, y, sign in ((440, 106, "+"), (386, 138, "×"))
    )
    loss = "loss = reconstruction + β · KL( N(mean, σ²) ‖ N(0, I) ), both in nats per picture"
    return page(
        546,
        "A variational autoencoder: mean, logvar, reparameterisation, loss and sampling",
        heading(24, 34, "Variational autoencoder"),
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
        text(386, 213, "ε ~ N(0, I)") + heading(464, 200, "z = mean + σ · ε"),
        note(464, 219, "ε is drawn outside: gradients reach mean and σ"),
        box(24, 240, 752, 34, LINE, loss),
        heading(24, 304, "Its code space"),
        code_space(318, "clouds: N(mean, σ²) of each picture; rings: N(0, I)", clouds(184, 413)),
        decoded_point(214, 413, GREEN, dog(9, 1.6)),
        text(660, 398, "*a new dog|from a random|z ~ N(0, I)", 13, GREEN, "start"),
        note(
            420,
            494,
            "The KL pulls every cloud towards N(0, I), and the|noise makes neighbours "
            "overlap: few places stay|empty, so a random point can decode to a dog.",
        ),
    )


def blur() -> str:
    """Why a small code and a squared error blur."""
    large, _ = draw_dog(0, 43, PIXELS + 14)
    shifted = [
        large.crop((x, y, x + PIXELS, y + PIXELS)) for x in range(0, 15, 2) for y in range(0, 15, 2)
    ]
    mean = Image.fromarray(np.mean(shifted, 0).round().astype(np.uint8))
    places = [0.2 + 0.01 * i for i in range(61)]
    shown = [
        picture(24 + 104 * n, 214, 80, shifted[i]) + edge(24 + 104 * n, 312, [place], BLUE)
        for n, (i, place) in enumerate(((0, 0.74), (21, 0.58), (42, 0.42), (63, 0.26)))
    ]
    return page(
        460,
        "Why it blurs: the mean of many sharp pictures is not sharp",
        heading(24, 34, "Why it blurs"),
        text(24, 64, f"a picture: 127 × 127 × 3 = {NUMBERS:,} numbers", at="start"),
        box(24, 72, 752, 22, BLUE),
        text(24, 120, f"its code: {CODE} numbers", at="start"),
        box(24, 128, 752 * CODE / NUMBERS, 22, AMBER),
        note(36, 144, f"{NUMBERS / CODE:.0f} to 1, drawn to scale"),
        heading(24, 198, "Many sharp pictures share one code …"),
        *shown,
        text(220, 384, "brightness along one row: a sharp edge, each at another place", 12, MUTED),
        arrow((428, 254), (484, 254)) + box(484, 230, 60, 48, AMBER, "one|code"),
        arrow((544, 254), (632, 254)) + picture(632, 214, 80, mean),
        text(672, 198, "*… one answer: their mean", 15),
        edge(632, 312, places, RED) + text(672, 384, "the edge became a ramp", 12, RED),
        arrow((428, 336), (632, 336)) + text(530, 326, "mean", 12, MUTED),
        text(
            24,
            420,
            "With the squared error the likeliest answer is the mean of all pictures "
            "that fit the code.|It is close to each of them, and as sharp as none.",
            at="start",
        ),
    )


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
    steps = (
        (BLUE, "read the bytes,|check their CRC"),
        (BLUE, "threads decode,|crop, resize"),
        (AMBER, "uint8 batch|(n, S, S, 3)"),
        (BLUE, "model; gradients|averaged over all"),
        (GREEN, "*weights|.safetensors"),
    )
    return page(
        524,
        "How data flows: the same order of pictures for 1, 2 and 4 processes",
        heading(24, 34, "Pack once"),
        *stack,
        note(24, 168, "your photographs"),
        arrow((118, 104), (158, 104)) + box(158, 80, 148, 48, BLUE, "python -m|shards.pack"),
        arrow((306, 104), (346, 104)),
        box(346, 62, 196, 26, GREEN, "train-000000.tar …"),
        note(556, 80, "pictures, a WebDataset"),
        box(346, 92, 196, 26, GREEN, "train-000000.index.npy …"),
        note(556, 110, "where each picture lies"),
        box(346, 122, 196, 26, GREEN, "manifest.json"),
        note(556, 140, "names, sizes, SHA-256"),
        heading(24, 206, "Share out the order"),
        text(
            24,
            228,
            "order(seed, epoch, step) names the pictures of a global batch: here 8 lanes, "
            "3 steps.|More processes cut it into more shares; the order stays the same.",
            at="start",
        ),
        *(lanes(24 + 260 * i, 280, ids, size) for i, size in enumerate((1, 2, 4))),
        heading(24, 428, "Train: each process"),
        *(box(24 + 155 * i, 446, 131, 52, *step) for i, step in enumerate(steps)),
        *(arrow((155 + 155 * i, 472), (179 + 155 * i, 472)) for i in range(4)),
    )


def main(out: Path = Path(__file__).parent) -> None:
    """Write every diagram into a folder."""
    for draw in (autoencoder, vae, blur, data):
        (out / f"{draw.__name__}.svg").write_bytes(draw().encode())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
