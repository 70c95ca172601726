"""The parts of a drawn dog, from back to front: body, ears, head, eyes, mouth, nose."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shards.soft_shapes import (
    Canvas,
    Field,
    Frame,
    Point,
    coverage,
    dome,
    mix,
    noise,
    one_colour,
    smooth_step,
    union,
)

SIDES = (-1, 1)  # left and right of the picture
DARK = one_colour(0.09, 0.06, 0.06)
PINK = one_colour(0.93, 0.47, 0.50)


class Muzzle(NamedTuple):
    """Proportions of a muzzle seen from the front."""

    width: float
    height: float
    y: float
    depth: float
    nose_y: float


class Ear(NamedTuple):
    """An ear on the right of the head; the left one mirrors it."""

    at: Point
    radii: tuple[float, float]
    angle: float
    taper: float
    bend: float
    hangs: bool


MUZZLES = {
    "long": Muzzle(0.20, 0.28, 0.27, 0.50, 0.16),
    "medium": Muzzle(0.24, 0.23, 0.23, 0.34, 0.10),
    "flat": Muzzle(0.31, 0.20, 0.19, 0.16, 0.055),
}
EARS = {
    "pricked": Ear((0.30, -0.50, -0.1), (0.17, 0.31), 0.30, 0.75, 0.0, False),
    "bat": Ear((0.37, -0.44, -0.1), (0.20, 0.30), 0.55, 0.35, 0.0, False),
    "folded": Ear((0.38, -0.36, 0.1), (0.17, 0.21), -0.75, -0.70, 0.10, True),
    "button": Ear((0.33, -0.33, 0.1), (0.16, 0.18), -0.30, -0.65, 0.0, True),
    "floppy": Ear((0.44, -0.08, 0.0), (0.14, 0.33), -0.22, 0.35, 0.10, True),
    "long": Ear((0.46, 0.08, 0.0), (0.17, 0.46), -0.12, 0.40, 0.10, True),
}


@dataclass(frozen=True, kw_only=True)
class Dog:
    """What one dog looks like, whatever its coat."""

    muzzle: Muzzle
    ears: tuple[Ear, Ear]
    skull_width: float
    jaw: float
    eye_radius: float
    eye_spacing: float
    eye_colour: Field
    nose_colour: Field
    fluff: float
    tongue: bool
    collar: Field | None
    shoulders: float

    @property
    def snout(self) -> Point:
        """Centre of the muzzle."""
        return 0.0, self.muzzle.y, self.muzzle.depth


class Fur(NamedTuple):
    """Colours of the coat at every pixel of the head's frame, and which way its hairs lie."""

    head: Field
    ears: Field
    body: Field
    hair: Field


def streaks(frame: Frame, grid: Field) -> Field:
    """Hairs that run away from the nose, about -1 to 1."""
    dx, dy = frame.x, frame.y - 0.1
    turn = np.arctan2(dx, -dy) * (len(grid) / (2 * np.pi))  # whole turns: no seam
    radius = np.sqrt(dx * dx + dy * dy)
    return 1.2 * noise(grid, turn, radius * 7) + 0.8 * noise(grid, turn * 2, radius * 12) - 1


def draw_dog_parts(canvas: Canvas, frame: Frame, upright: Frame, dog: Dog, fur: Fur) -> None:
    """Paint a whole dog: the body in the `upright` frame, the head in its own."""
    draw_body(canvas, upright, dog, fur)
    ears = [(side, ear) for side, ear in zip(SIDES, dog.ears, strict=True)]
    for side, ear in ears:
        if not ear.hangs:
            draw_ear(canvas, frame, dog, side, ear, fur)
    draw_head(canvas, frame, dog, fur)
    for side, ear in ears:
        if ear.hangs:
            draw_ear(canvas, frame, dog, side, ear, fur)
    for side in SIDES:
        draw_eye(*canvas.around(frame, (side * dog.eye_spacing, -0.07, 0.2), 0.2), dog, side)
    draw_mouth(*canvas.around(frame, dog.snout, 0.42), dog)
    draw_nose(*canvas.around(frame, (0, dog.muzzle.nose_y, dog.muzzle.depth), 0.24), dog)


def draw_body(canvas: Canvas, frame: Frame, dog: Dog, fur: Fur) -> None:
    """Chest and shoulders, with the collar where there is one."""
    neck = frame.blob((0, 0.40, 0.0), (0.34, 0.5))
    chest = frame.blob((0, 1.10, 0.0), (dog.shoulders, 0.62), power=2.3)
    body = union(neck, chest, 0.3)
    colours = canvas.lit(dome(body - 0.02, 0.35), fur.body * 0.93)
    if dog.collar is not None:
        band = np.abs(frame.y - 0.58 + 0.35 * frame.x * frame.x) - 0.05
        strap = dog.collar * (0.6 + 0.5 * smooth_step(-body, 0, 0.3))
        colours = mix(colours, strap, smooth_step(-band, -0.01, 0.01))
    canvas.paint_part(colours, coverage(body + fur.hair * 0.02))


def draw_ear(canvas: Canvas, frame: Frame, dog: Dog, side: int, ear: Ear, fur: Fur) -> None:
    """One ear, with its pink inside unless it hangs."""
    at = (side * ear.at[0] * dog.skull_width / 0.42, ear.at[1], ear.at[2])
    radii = (ear.radii[0] * (1 - 0.4 * side * frame.yaw), ear.radii[1])
    shape = frame.blob(at, radii, side * ear.angle, ear.taper, side * ear.bend)
    feathers = smooth_step(frame.y, ear.at[1] - 0.1, ear.at[1] + 0.25) if ear.hangs else 0.4
    edge = shape + fur.hair * feathers * dog.fluff
    if ear.hangs:
        canvas.shade(edge, 0.05, 0.4)
    colours = canvas.lit(dome(shape - dog.fluff, 0.13) * 0.8, fur.ears)
    if not ear.hangs:
        lower = (at[0] - side * 0.01, at[1] + 0.06, at[2])
        inside = frame.blob(lower, (radii[0] * 0.62, radii[1] * 0.7), side * ear.angle, ear.taper)
        pink = 0.38 * fur.ears + 0.36 * one_colour(0.85, 0.56, 0.50)
        colours = mix(colours, pink, 0.9 * smooth_step(-inside, -0.02, 0.05))
    canvas.paint_part(colours, coverage(edge))


def draw_head(canvas: Canvas, frame: Frame, dog: Dog, fur: Fur) -> None:
    """Skull, cheeks and muzzle, flowing into each other."""
    muzzle = dog.muzzle
    skull = frame.blob((0, -0.12, 0.0), (dog.skull_width, 0.39), power=2.12)
    cheeks = frame.blob((0, 0.12, 0.06), (dog.skull_width * dog.jaw, 0.28))
    snout = frame.blob(dog.snout, (muzzle.width, muzzle.height), taper=0.12, power=2.4)
    outline = union(union(skull, cheeks, 0.12), snout, 0.10)
    height = dome(outline - dog.fluff, 0.38) + 0.30 * smooth_step(-snout, -0.10, 0.15)
    bridge = frame.blob((0, 0.5 * muzzle.nose_y - 0.06, muzzle.depth * 0.6), (0.10, 0.24))
    height += 0.10 * muzzle.depth / 0.3 * smooth_step(-bridge, -0.07, 0.08)
    for side in SIDES:
        brow = frame.blob((side * dog.eye_spacing, -0.20, 0.2), (0.12, 0.08))
        socket = frame.blob((side * dog.eye_spacing, -0.06, 0.2), (0.11, 0.10))
        lip = (side * 0.48 * muzzle.width, muzzle.y + 0.05, muzzle.depth)
        height += 0.06 * smooth_step(-brow, -0.08, 0.08) - 0.03 * smooth_step(-socket, -0.08, 0.08)
        height += 0.07 * smooth_step(-frame.blob(lip, (0.1, 0.11)), -0.05, 0.1)
    edge = outline + fur.hair * dog.fluff
    canvas.shade(edge, 0.08, 0.5)
    under = smooth_step(frame.y - frame.place(dog.snout)[1], -0.02, 0.3)
    dim = 1 - 0.30 * under * np.exp(np.abs(snout) * -14) * (snout > 0)
    canvas.paint_part(canvas.lit(height, fur.head * dim), coverage(edge))


def draw_eye(canvas: Canvas, frame: Frame, dog: Dog, side: int) -> None:
    """One eye: dark lids, iris, pupil, and a glint on the side of the light."""
    radius = dog.eye_radius
    at = (side * dog.eye_spacing, -0.07, 0.2)
    wide = radius * (1 - 0.35 * side * frame.yaw)
    lids = frame.blob(at, (wide * 1.30, radius * 1.16), side * 0.22)
    ball = frame.blob(at, (wide, radius))
    canvas.shade(lids, 0.03, 0.35)
    canvas.paint(DARK, coverage(lids))
    rise = smooth_step(frame.y, at[1] - radius, at[1] + radius)
    canvas.paint(dog.eye_colour * (0.4 + 1.0 * rise), coverage(ball))
    canvas.paint(DARK * 0.5, coverage(frame.blob(at, (wide * 0.60, radius * 0.63))))
    aside = radius * (0.33 if canvas.light[0] > 0 else -0.33)
    for dx, dy, size in ((aside, -0.38 * radius, 0.28), (-aside, 0.45 * radius, 0.13)):
        glint = frame.blob((at[0] + dx, at[1] + dy, at[2]), (radius * size, radius * size))
        canvas.paint(one_colour(1.0, 1.0, 1.0), 0.9 * coverage(glint))


def draw_mouth(canvas: Canvas, frame: Frame, dog: Dog) -> None:
    """The line under the nose, the lips, and the tongue where it is out."""
    muzzle = dog.muzzle
    x, y = frame.place((0.0, muzzle.y + 0.28 * muzzle.height, muzzle.depth))
    middle = np.abs(frame.x - x)
    across = middle / muzzle.width
    lips = y + 0.17 * muzzle.height * np.sin(np.clip(across / 0.72, 0, 1) * np.pi)
    if dog.tongue:
        at = (0.0, muzzle.y + 0.74 * muzzle.height, muzzle.depth)
        tongue = frame.blob(at, (0.095, 0.16), taper=0.1, power=2.3)
        tongue = np.maximum(tongue, lips - frame.y)
        canvas.shade(tongue, 0.02, 0.4)
        canvas.paint_part(canvas.lit(dome(tongue, 0.09), PINK, 0.2), coverage(tongue))
        crease = np.maximum(middle - 0.006, tongue + 0.05)
        canvas.paint(PINK * 0.6, 0.6 * smooth_step(-crease, -0.008, 0.004))
    line = np.maximum(np.abs(frame.y - lips) - 0.011, (across - 0.74) * muzzle.width)
    top = frame.place((0.0, muzzle.nose_y, muzzle.depth + 0.06))[1]
    stem = np.maximum(middle - 0.009, np.maximum(top - frame.y, frame.y - y))
    canvas.paint(DARK, 0.85 * smooth_step(-np.minimum(line, stem), -0.012, 0.004))


def draw_nose(canvas: Canvas, frame: Frame, dog: Dog) -> None:
    """The nose, broad at the top, with two nostrils and a wet glint."""
    y, depth = dog.muzzle.nose_y, dog.muzzle.depth + 0.06
    wide = 0.055 + 0.25 * dog.muzzle.width
    shape = frame.blob((0, y, depth), (wide, wide * 0.74), taper=-0.28, power=2.5)
    canvas.shade(shape, 0.03, 0.35)
    canvas.paint(canvas.lit(dome(shape, 0.08), dog.nose_colour, 0.45), coverage(shape))
    for side in SIDES:
        at = (side * wide * 0.46, y + wide * 0.18, depth)
        hole = frame.blob(at, (wide * 0.2, wide * 0.15), side * -0.5)
        canvas.paint(dog.nose_colour * 0.2, 0.9 * smooth_step(-hole, -0.008, 0.01))
    aside = 0.25 * wide if canvas.light[0] > 0 else -0.25 * wide
    glint = frame.blob((aside, y - wide * 0.36, depth), (wide * 0.34, wide * 0.13))
    canvas.paint(one_colour(1.0, 1.0, 1.0), 0.55 * smooth_step(-glint, -0.006, 0.012))
