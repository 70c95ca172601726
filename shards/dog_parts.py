"""What drawn dogs are made of: their shapes and colours, and how each part is painted.

A part is one or more blobs, ellipses that may taper and bend, on a plane with x to the right and y
down, about -1 to 1 over the picture. Parts are painted from back to front and lit as if round.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[Any]  # float32: (R, R) numbers, (3, R, R) colours 0 to 1 or (3, 1, 1) one colour
Random = np.random.Generator
EDGE = 0.012  # half the width over which an edge is blurred

# Colours are hexadecimal; where there are several, one is chosen.
OUTDOORS = "9cc8ec b8d8f0 f3c9a0 c7d3e8 86b4dc", "6f9d4a 86ad55 a3a558 578a4c cfd8de d9c48f"
INDOORS = "d9c7b0 b7c9c4 c8b6cf e3d3a8 a9bccf d8a99a 9fb59a", "8a5f3d b08a60 6f6a68 a5785a c9b79a"
COLLARS = "c8403a 2f6fb5 3f9a5c e0a82e 7b4fa0 2a9d9a d9679a"
IRISES = "5a3216 6b3d1a 4a2a13 7d4a1e 6b3d1a 5a3216 9a682c 7fb4dc"
NOSES = "232024 2c2728 232024 2c2728 7a4a3c"
WHITE, PINK = "f3efe6", "ed7880"
COATS: dict[str, tuple[str, dict[str, str]]] = {  # colours, then marks over them with theirs
    "black": ("2f2d33 26262b", {"muzzle": "45424a"}),
    "chocolate": ("5c3925 6b432b 4a2d1f", {"muzzle": "85593c"}),
    "red": ("a8552c b5632f 96481f", {"muzzle chest": "cf8d58"}),
    "golden": ("d6a050 cf9243 e0b468", {"muzzle chest": "f0d8ac"}),
    "cream": ("ead8b5 e6cfa6 f0e2c6", {"muzzle chest": "f8efdd"}),
    "white": ("f3f0ea ece8e2", {"muzzle": "fbf8f2"}),
    "gray": ("878c95 747a86 9a9ca0", {"muzzle chest": "b4b8bf"}),
    "tan-points": ("2d2b30 55351f", {"cheeks brows muzzle chest": "c47f3f b8713a"}),
    "tricolor": ("2c2a2e", {"cheeks brows": "b9713a c4803f", "blaze muzzle chest": WHITE}),
    "blaze": ("b0602f 33302f 6a4129 8a8d94 c98f4d", {"blaze muzzle chest": WHITE}),
    "black-mask": ("d9b27a c99a5c bd8648", {"muzzle": "2b2728 3a302c"}),
    "husky": ("6b7079 35353a a8643a 8c8f96", {"face muzzle chest": WHITE}),
    "patched": (WHITE, {"patches": "3a3432 8f5128 c98f4d 7d8088"}),
    "spotted": (WHITE, {"spots": "2b2a2d 5b3824"}),
    "brindle": ("a9753f 96683c b38a58", {"stripes muzzle": "4a3323"}),
    "merle": ("a3acb8 b9a79b", {"blots": "42454f 6a4a3a", "blaze muzzle chest": WHITE}),
}
# Marks all over the dog: cells of their noise across and down.
SCATTERED = {"patches": (5, 5), "blots": (9, 9), "spots": (22, 22), "stripes": (8, 30)}


class Blob(NamedTuple):
    """A shape; one off the middle line appears on both sides, and this is the right one."""

    x: float
    y: float
    width: float  # half of it, as is the height
    height: float
    depth: float = 0.0  # towards the viewer: how far it moves when the head turns
    angle: float = 0.0  # radians, its top to the right
    taper: float = 0.0  # > 0 narrows the top, < 0 the bottom
    bend: float = 0.0  # sideways shift of both ends, in widths

    def scaled(self, width: float, height: float, down: float = 0.0) -> "Blob":
        """The same, so many times wider and higher, and moved down."""
        size = {"width": self.width * width, "height": self.height * height}
        return self._replace(y=self.y + down, **size)


EYES = (Blob(0.19, -0.07, 0.075, 0.075, 0.2),)
MUZZLES = (
    Blob(0, 0.27, 0.20, 0.28, depth=0.50, taper=0.12),
    Blob(0, 0.23, 0.24, 0.23, depth=0.34, taper=0.12),
    Blob(0, 0.19, 0.31, 0.20, depth=0.16, taper=0.12),
)
EARS = (  # those behind the head stand up, the others hang over it
    Blob(0.30, -0.50, 0.17, 0.31, -0.1, 0.30, 0.75),
    Blob(0.37, -0.44, 0.20, 0.30, -0.1, 0.55, 0.35),
    Blob(0.38, -0.36, 0.17, 0.21, 0.1, -0.75, -0.70, 0.10),
    Blob(0.33, -0.33, 0.16, 0.18, 0.1, -0.30, -0.65),
    Blob(0.41, -0.08, 0.14, 0.33, 0.0, -0.22, 0.35, 0.10),
    Blob(0.43, 0.08, 0.17, 0.46, 0.0, -0.12, 0.40, 0.10),
)
MARKS = {
    "blaze": Blob(0, -0.15, 0.09, 0.40, 0.2, taper=0.4),
    "brows": Blob(0.15, -0.21, 0.06, 0.045, 0.2),
    "cheeks": Blob(0.20, 0.30, 0.24, 0.20, 0.1),
    "chest": Blob(0, 1.0, 0.26, 0.48),
    "face": Blob(0.17, 0.08, 0.21, 0.33, 0.15, 0.3),
}


class Canvas:
    """The picture while it is painted, and where its pixels lie on the plane that turns with it."""

    def __init__(self, resolution: int, rng: Random) -> None:
        line = (np.arange(resolution, dtype=np.float32) * 2 + 1) / resolution - 1
        right, down = rng.uniform(-0.06, 0.06), rng.uniform(0.06, 0.14)
        tilt, scale = rng.normal(0, 0.08), rng.uniform(1.1, 1.25)
        x, y = np.meshgrid((line - right) / scale, (line - down) / scale)
        self.x, self.y = x + tilt * y, y - tilt * x
        self.turn = rng.uniform(-0.3, 0.3), rng.uniform(-0.12, 0.12)
        self.light = rng.uniform(-0.7, 0.7)  # < 0: from the left
        self.rgb = np.zeros((3, *x.shape), np.float32)
        self.subject = np.zeros_like(x)  # how much of each pixel is dog: only that takes shadows

    def distance(self, blob: Blob) -> Field:
        """Roughly the distance to a blob's edge, negative inside."""
        x, y = self.x - blob.depth * self.turn[0], self.y - blob.depth * self.turn[1] - blob.y
        x = np.abs(x) - blob.x if blob.x else x
        cos, sin = math.cos(blob.angle), math.sin(blob.angle)
        v = (y * cos - x * sin) * (1 / blob.height)
        u = (x * cos + y * sin) * (1 / blob.width) - blob.bend * v * v
        u /= np.maximum(1 + blob.taper * v, 0.12)
        return (np.sqrt(u * u + v * v) - 1) * min(blob.width, blob.height)

    def noise(self, wide: int, high: int, rng: Random) -> Field:
        """Smooth noise of so many cells, about -1 to 1."""
        cells = Image.fromarray(rng.uniform(-1, 1, (high, wide)).astype(np.float32))
        return np.asarray(cells.resize(self.x.shape, Image.Resampling.BICUBIC))

    def paint(self, colour: Field | float, alpha: Field) -> None:
        """Lay a colour over the picture."""
        self.rgb = mix(self.rgb, colour, alpha)

    def fill(self, grey: float, blob: Blob, alpha: float = 1.0) -> None:
        """Lay a flat shape over the picture."""
        self.paint(grey, alpha * step(-self.distance(blob), EDGE))

    def sculpt(
        self, colour: Field, edge: Field, radius: float, shadow: float, relief: Field | float = 0.0
    ) -> None:
        """Lay a part over the picture, round up to `radius` inside its edge, and its shadow."""
        self.rgb *= 1 - shadow * self.subject * np.exp(np.maximum(edge, 0) * -16)
        inwards = np.clip(edge * (-1 / radius), 0, 1)
        height = radius * np.sqrt(inwards * (2 - inwards) + 1e-4) + relief
        down, right = np.gradient(height, 2 / len(height))
        facing = (0.7 - self.light * right + 0.55 * down) / np.sqrt(down**2 + right**2 + 1)
        lit = colour * np.clip(0.5 + 0.75 * facing, 0.3, 1.2) + 0.1 * np.maximum(facing, 0) ** 6
        inside = step(-edge, EDGE)
        self.paint(lit, inside)
        self.subject = np.maximum(self.subject, inside)


def choose(colours: str, rng: Random) -> Field:
    """One of some colours, slightly varied."""
    values = np.frombuffer(bytes.fromhex(str(rng.choice(colours.split()))), np.uint8)
    return (values / 255 + rng.normal(0, 0.02)).astype(np.float32).reshape(3, 1, 1)


def varied(blobs: tuple[Blob, ...], rng: Random) -> Blob:
    """One of some shapes, a little wider, narrower, longer or shorter."""
    return blobs[rng.integers(len(blobs))].scaled(rng.uniform(0.88, 1.12), rng.uniform(0.88, 1.12))


def mix(a: Field, b: Field | float, where: Field | float) -> Field:
    """Colours `a` where the mask is 0 and `b` where it is 1."""
    return a + (b - a) * where


def step(value: Field, width: float) -> Field:
    """0 below -width, 1 above it, smooth between."""
    t = np.clip(value * (0.5 / width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def draw_background(canvas: Canvas, rng: Random) -> None:
    """Sky over hills or a wall over a floor, now and then so blurred that no horizon shows."""
    outdoors = rng.random() < 0.5
    above, below = (choose(colours, rng) for colours in (OUTDOORS if outdoors else INDOORS))
    hills = 0.1 * outdoors * np.sin(rng.uniform(1, 3) * canvas.x + rng.uniform(-3, 3))
    canvas.rgb += above * (1 - 0.12 * canvas.y + 0.15 * canvas.light * canvas.x)
    depth = canvas.y - hills - rng.uniform(0.1, 0.4)
    canvas.paint(below * (1.05 - 0.25 * canvas.y), step(depth, 0.02 if rng.random() < 0.7 else 1.2))


def coat_colours(canvas: Canvas, label: str, muzzle: Blob, rng: Random) -> tuple[Field, Field]:
    """The coat's colours at every pixel: of head and body, and of the ears."""
    base, marks = COATS[label]
    coat = ears = choose(base, rng)
    shapes = MARKS | {"muzzle": muzzle.scaled(1.1, 1.3, down=0.3 * muzzle.height)}
    for names, colours in marks.items():
        second = choose(colours, rng)
        for name in names.split():
            noise = canvas.noise(*SCATTERED.get(name, (12, 12)), rng)
            if name in SCATTERED:
                where = step(noise - 0.2, 0.1)
                ears = mix(ears, second, where)
            else:
                where = step(-canvas.distance(shapes[name]) - 0.03 * noise, 0.05)
            coat = mix(coat, second, where)
    return coat, ears


def draw_body(canvas: Canvas, coat: Field, fluff: Field, rng: Random) -> None:
    """Neck and shoulders, mostly with a collar."""
    neck = canvas.distance(Blob(0, 0.40, 0.30, 0.5))
    shoulders = canvas.distance(Blob(0, 1.05, rng.uniform(0.54, 0.68), 0.66))
    if rng.random() < 0.7:
        band = np.abs(canvas.y - 0.58 + 0.35 * canvas.x**2) - 0.05
        coat = mix(coat, choose(COLLARS, rng), step(-band, EDGE))
    canvas.sculpt(coat, np.minimum(neck, shoulders) + fluff, 0.35, shadow=0)


def draw_ears(canvas: Canvas, ears: Blob, coat: Field, fluff: Field, rng: Random) -> None:
    """Both ears, pink inside where they stand."""
    if ears.depth < 0:
        inside = step(-canvas.distance(ears.scaled(0.62, 0.7, down=0.06)), 0.03)
        coat = mix(coat, 0.4 * coat + 0.4 * choose(PINK, rng), inside)
    canvas.sculpt(coat, canvas.distance(ears) + fluff, 0.13, shadow=0.4)


def draw_head(canvas: Canvas, muzzle: Blob, coat: Field, fluff: Field, rng: Random) -> None:
    """Skull, cheeks and muzzle as one."""
    skull = Blob(0, -0.12, rng.uniform(0.38, 0.45), 0.39)
    cheeks = skull.scaled(rng.uniform(0.78, 1.0), 0.75, down=0.24)
    bumps = (
        (muzzle, 0.28),
        (Blob(0, muzzle.y / 2 - 0.1, 0.10, 0.24, muzzle.depth * 0.6), 0.3 * muzzle.depth),
        (Blob(0.19, -0.20, 0.12, 0.08, 0.2), 0.06),
        (Blob(muzzle.width / 2, muzzle.y + 0.05, 0.1, 0.11, muzzle.depth), 0.07),
    )
    relief = sum(rise * step(-canvas.distance(blob), 0.09) for blob, rise in bumps)
    edge = np.minimum.reduce([canvas.distance(blob) for blob in (skull, cheeks, muzzle)])
    canvas.sculpt(coat, edge + fluff, 0.38, shadow=0.6, relief=relief)


def draw_eyes(canvas: Canvas, eyes: Blob, rng: Random) -> None:
    """Dark lids, iris, pupil and a glint."""
    canvas.fill(0.06, eyes.scaled(1.3, 1.16))
    iris = choose(IRISES, rng) * (0.9 + (canvas.y - eyes.y) / eyes.height * 0.5)
    canvas.paint(iris, step(-canvas.distance(eyes), EDGE))
    canvas.fill(0.04, eyes.scaled(0.6, 0.63))
    canvas.fill(0.97, eyes.scaled(0.28, 0.28, down=-0.35 * eyes.height))


def draw_mouth(canvas: Canvas, muzzle: Blob, rng: Random) -> None:
    """The lips, and sometimes the tongue."""
    wide, high, y, depth = muzzle.width, muzzle.height, muzzle.y, muzzle.depth
    lips = canvas.distance(Blob(0.36 * wide, y, 0.36 * wide, 0.42 * high, depth))
    lower = step(canvas.y - y - depth * canvas.turn[1], 0.03)
    if rng.random() < 0.35:
        tongue = canvas.distance(Blob(0, y + 0.74 * high, 0.095, 0.16, depth))
        canvas.sculpt(choose(PINK, rng), np.maximum(tongue, -lips), 0.09, shadow=0.3)
    canvas.paint(0.07, 0.85 * lower * step(0.011 - np.abs(lips), 0.01))


def draw_nose(canvas: Canvas, muzzle: Blob, rng: Random) -> None:
    """The nose, broad at the top, with nostrils and a wet glint."""
    wide, y, depth = 0.055 + muzzle.width / 4, muzzle.y - muzzle.height / 2, muzzle.depth + 0.06
    nose = canvas.distance(Blob(0, y, wide, wide * 0.74, depth, taper=-0.28))
    canvas.sculpt(choose(NOSES, rng), nose, 0.08, shadow=0.35)
    canvas.fill(0.04, Blob(wide * 0.46, y + wide * 0.18, wide * 0.2, wide * 0.15, depth))
    canvas.fill(0.95, Blob(0, y - wide * 0.36, wide * 0.34, wide * 0.13, depth), 0.5)
