"""Coats of the drawn dogs: which colours, and how they lie on head, ears and body."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shards.dog_anatomy import EARS, MUZZLES, SIDES, Dog, Ear, Fur, streaks
from shards.soft_shapes import Field, Frame, Point, mix, noise, one_colour, smooth_step

WHITE = one_colour(0.95, 0.93, 0.89)
EYES = "5a3216 6b3d1a 4a2a13 7d4a1e 9a682c"
COLLARS = "c8403a 2f6fb5 3f9a5c e0a82e 7b4fa0 2a9d9a d9679a"


class Coat(NamedTuple):
    """A kind of coat: hexadecimal colours to choose from, their pattern, and the ears it goes with."""

    base: str
    second: str
    pattern: str
    ears: str


COATS = {
    "black": Coat("2f2d33 26262b", "45424a", "muzzle", "floppy button folded"),
    "chocolate": Coat("5c3925 6b432b 4a2d1f", "85593c", "muzzle", "floppy long"),
    "red": Coat("a8552c b5632f 96481f", "cf8d58", "muzzle", "floppy long pricked"),
    "golden": Coat("d6a050 cf9243 e0b468", "f0d8ac", "muzzle", "floppy floppy folded"),
    "cream": Coat("ead8b5 e6cfa6 f0e2c6", "f8efdd", "muzzle", "floppy pricked folded bat"),
    "white": Coat("f3f0ea ece8e2", "fbf8f2", "muzzle", "pricked floppy button"),
    "gray": Coat("878c95 747a86 9a9ca0", "b4b8bf", "muzzle", "floppy folded pricked bat"),
    "tan-points": Coat("2d2b30 55351f", "c47f3f b8713a", "points", "pricked floppy long"),
    "tricolor": Coat("2c2a2e 33302f", "b9713a c4803f", "tricolor", "floppy long folded"),
    "blaze": Coat("b0602f 33302f 6a4129 8a8d94 c98f4d", "f6f2ea", "blaze", "folded floppy button"),
    "black-mask": Coat("d9b27a c99a5c bd8648", "2b2728 3a302c", "mask", "button pricked floppy"),
    "husky": Coat("6b7079 35353a a8643a 8c8f96", "f5f3ee", "husky", "pricked"),
    "patched": Coat(
        "f4f0e8 efe9dd", "3a3432 8f5128 c98f4d 7d8088", "patches", "button folded floppy"
    ),
    "spotted": Coat("f4f2ee", "2b2a2d 5b3824", "spots", "floppy button"),
    "brindle": Coat("a9753f 96683c b38a58", "3b2a20 2f2622", "brindle", "pricked button bat"),
    "merle": Coat("a3acb8 b9a79b", "42454f 6a4a3a", "merle", "folded floppy"),
}


def colour(choices: str, rng: np.random.Generator, spread: float = 0.02) -> Field:
    """One of some hexadecimal colours, slightly varied."""
    chosen = bytes.fromhex(str(rng.choice(choices.split())))
    varied = np.frombuffer(chosen, np.uint8) / 255 + rng.normal(0, spread)
    return one_colour(*np.clip(varied, 0.02, 1))


def sample_ear(kind: str, rng: np.random.Generator) -> Ear:
    """An ear of a kind, a little larger or smaller and turned."""
    ear, size = EARS[kind], rng.uniform(0.88, 1.12)
    radii = (ear.radii[0] * size, ear.radii[1] * size)
    return ear._replace(radii=radii, angle=ear.angle + rng.normal(0, 0.06))


def sample_dog(coat: Coat, rng: np.random.Generator) -> Dog:
    """The proportions and small colours of one dog."""
    brown_nose = coat.base.startswith("5c") or rng.random() < 0.1
    blue_eyed = coat.pattern in ("husky", "merle") and rng.random() < 0.6
    kind, other = rng.choice(coat.ears.split(), 2)
    ear = sample_ear(str(kind), rng)
    return Dog(
        muzzle=MUZZLES[str(rng.choice(["long", "medium", "medium", "flat"]))],
        ears=(ear, sample_ear(str(other), rng) if rng.random() < 0.08 else ear),
        skull_width=rng.uniform(0.38, 0.45),
        jaw=rng.uniform(0.78, 1.0),
        eye_radius=rng.uniform(0.064, 0.086),
        eye_spacing=rng.uniform(0.175, 0.21),
        eye_colour=colour("7fb4dc 9cc4e4" if blue_eyed else EYES, rng),
        nose_colour=colour("7a4a3c 8a5a50" if brown_nose else "232024 2c2728", rng, 0.01),
        fluff=float(rng.choice([0.004, 0.010, 0.018, 0.027])),
        tongue=bool(rng.random() < 0.35),
        collar=colour(COLLARS, rng) if rng.random() < 0.7 else None,
        shoulders=rng.uniform(0.50, 0.64),
    )


class Markings:
    """Masks, 0 to 1 at every pixel of a head's frame, that patterns are made of."""

    def __init__(self, frame: Frame, dog: Dog, rng: np.random.Generator) -> None:
        self.frame, self.dog = frame, dog
        self.grid = rng.random((32, 32), dtype=np.float32)
        self.wobble = 0.06 * (noise(self.grid, frame.x * 6, frame.y * 6) - 0.5)
        self.middle = np.abs(frame.x - frame.place((0.0, 0.0, 0.2))[0])
        self.stripe_width = rng.uniform(0.03, 0.09)
        self.side = int(rng.choice(SIDES))
        self.both = bool(rng.random() < 0.5)

    def within(self, distance: Field, width: float = 0.05) -> Field:
        """Inside a shape, with an edge that is uneven and `width` soft."""
        return smooth_step(-distance - self.wobble, -width, width)

    def muzzle(self, width: float = 0.05, margin: float = 0.0) -> Field:
        """The muzzle."""
        shape = self.dog.muzzle
        radii = (shape.width * 1.1 + margin, shape.height * 1.3 + margin)
        at = (0.0, shape.y + 0.3 * shape.height, shape.depth)
        return self.within(self.frame.blob(at, radii, power=2.2), width)

    def stripe(self) -> Field:
        """A stripe from the forehead to the muzzle."""
        stripe = self.middle - self.stripe_width - 0.05 * np.maximum(self.frame.y, -0.4)
        ends = np.maximum(-0.42 - self.frame.y, self.frame.y - self.dog.muzzle.y)
        return self.within(np.maximum(stripe, ends), 0.03)

    def pair(self, at: Point, radii: tuple[float, float], angle: float = 0.0) -> Field:
        """A spot on either side of the face."""
        spots = [
            self.frame.blob((side * at[0], at[1], at[2]), radii, side * angle) for side in SIDES
        ]
        return self.within(np.minimum(*spots), 0.03)

    def chest(self, width: float) -> Field:
        """The middle of the chest."""
        return self.within(np.maximum(np.abs(self.frame.x) - width, 0.4 - self.frame.y))

    def blots(self, scale: float, share: float) -> Field:
        """Scattered blots over about a `share` of everything."""
        x, y = self.frame.x + self.wobble, self.frame.y - self.wobble
        value = noise(self.grid, (0.8 * x - 0.6 * y + 3) * scale, (0.6 * x + 0.8 * y + 5) * scale)
        return smooth_step(value, 0.92 - share, 1.0 - share)


Colours = tuple[Field, Field, Field]  # of head, ears and body


def _muzzle(on: Markings, base: Field, second: Field) -> Colours:
    return mix(base, second, 0.75 * on.muzzle(0.12)), base, mix(base, second, 0.5 * on.chest(0.2))


def _points(on: Markings, base: Field, second: Field) -> Colours:
    cheeks = on.within(on.frame.blob((0, 0.32, 0.1), (0.42, 0.22)))
    brows = on.pair((0.15, -0.21, 0.2), (0.06, 0.045))
    tan = np.maximum(np.maximum(cheeks, on.muzzle()), brows)
    return mix(base, second, tan), base, mix(base, second, on.chest(0.25))


def _tricolor(on: Markings, base: Field, second: Field) -> Colours:
    head, ears, _ = _points(on, base, second)
    white = np.maximum(on.stripe(), on.muzzle(margin=-0.03))
    return mix(head, WHITE, white), ears, mix(base, WHITE, on.chest(0.25))


def _blaze(on: Markings, base: Field, second: Field) -> Colours:
    face = np.maximum(on.stripe(), on.muzzle())
    return mix(base, second, face), base, mix(base, second, on.chest(0.3))


def _mask(on: Markings, base: Field, second: Field) -> Colours:
    eyes = on.pair((0.19, -0.07, 0.2), (0.10, 0.09))
    face = 0.94 * np.maximum(on.muzzle(0.12, 0.02), 0.6 * eyes)
    return mix(base, second, face), 0.3 * base + 0.7 * second, base


def _husky(on: Markings, base: Field, second: Field) -> Colours:
    face = np.maximum(on.pair((0.17, 0.08, 0.15), (0.21, 0.33), 0.3), on.muzzle())
    return mix(base, second, face), base, mix(base, second, on.chest(0.4))


def _patches(on: Markings, base: Field, second: Field) -> Colours:
    here = smooth_step(on.side * on.frame.x, -0.01, 0.01) if not on.both else 1 + 0 * on.frame.x
    eyes = on.pair((0.25, -0.12, 0.15), (0.2, 0.26), 0.2) * here
    return mix(base, second, eyes), mix(base, second, here), mix(base, second, on.blots(2.5, 0.3))


def _spots(on: Markings, base: Field, second: Field) -> Colours:
    few, many = mix(base, second, on.blots(11, 0.24)), mix(base, second, on.blots(6, 0.5))
    return few, many, few


def _brindle(on: Markings, base: Field, second: Field) -> Colours:
    x, y = on.frame.x, on.frame.y
    wave = np.sin(26 * (y + 0.35 * on.middle) + 7 * noise(on.grid, x * 5, y * 5))
    coat = mix(base, second, 0.7 * smooth_step(wave, -0.3, 0.8))
    return mix(coat, second, 0.6 * on.muzzle(0.1)), coat, coat


def _merle(on: Markings, base: Field, second: Field) -> Colours:
    coat = mix(base, second, on.blots(5, 0.45))
    white = np.maximum(on.stripe(), on.muzzle())
    return mix(coat, WHITE, white), coat, mix(coat, WHITE, on.chest(0.3))


PATTERNS: dict[str, Callable[[Markings, Field, Field], Colours]] = {
    "muzzle": _muzzle,
    "points": _points,
    "tricolor": _tricolor,
    "blaze": _blaze,
    "mask": _mask,
    "husky": _husky,
    "patches": _patches,
    "spots": _spots,
    "brindle": _brindle,
    "merle": _merle,
}


def coat_fur(coat: Coat, frame: Frame, dog: Dog, rng: np.random.Generator) -> Fur:
    """The coat of one dog at every pixel of its head's frame."""
    base, second = colour(coat.base, rng), colour(coat.second, rng)
    hair = streaks(frame, rng.random((64, 64), dtype=np.float32))
    sheen = 1 + (0.03 + 2.2 * dog.fluff) * hair
    head, ears, body = PATTERNS[coat.pattern](Markings(frame, dog, rng), base, second)
    return Fur(head * sheen, ears * sheen, body * sheen, hair)
