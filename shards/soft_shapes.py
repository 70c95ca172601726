"""Soft shapes on a canvas, lit as if they were round: what the drawn dogs are made of.

A shape is a blob (an ellipse that may taper, bend and square off) in the coordinates of a `Frame`:
x to the right, y down, about -1 to 1 over the picture, and a depth towards the viewer that moves a
part sideways when what it belongs to turns. Shapes are painted from back to front.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]  # float32: (R, R) numbers, (3, R, R) colours or (3, 1, 1) one colour, 0 to 1
Point = tuple[float, float, float]  # x, y, depth


@dataclass(frozen=True)
class Frame:
    """Coordinates of every pixel as one part of the picture sees them."""

    x: Field
    y: Field
    yaw: float = 0.0
    pitch: float = 0.0

    def moved(self, dx: float, dy: float, angle: float, scale: float = 1.0) -> "Frame":
        """The same pixels seen from something shifted, turned by `angle` radians and scaled."""
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        x, y = self.x * cos, self.y * cos
        x -= cos * dx + sin * dy
        y -= cos * dy - sin * dx
        if angle != 0:
            x += sin * self.y
            y -= sin * self.x
        return Frame(x, y, self.yaw, self.pitch)

    def place(self, at: Point) -> tuple[float, float]:
        """Where a point appears once the whole has turned."""
        return at[0] * (1 - 0.3 * abs(self.yaw)) + at[2] * self.yaw, at[1] + at[2] * self.pitch

    def blob(
        self,
        at: Point,
        radii: tuple[float, float],
        angle: float = 0.0,
        taper: float = 0.0,
        bend: float = 0.0,
        power: float = 2.0,
    ) -> Field:
        """Roughly the distance to a blob's edge, negative inside.

        Args:
            at: the centre.
            radii: half width and half height.
            angle: turn to the right, radians.
            taper: > 0 narrows the top, < 0 the bottom.
            bend: sideways shift of both ends, in half widths.
            power: 2 is an ellipse, more is squarer.
        """
        part = self.moved(*self.place(at), angle)
        u, v = part.x, part.y
        u *= 1 / radii[0]
        v *= 1 / radii[1]
        if bend:
            u -= bend * v * v
        if taper:
            u /= np.maximum(1 + taper * v, 0.12)
        u, v = (u * u, v * v) if power == 2 else (np.abs(u) ** power, np.abs(v) ** power)
        u += v
        distance = np.sqrt(u) if power == 2 else u ** (1 / power)
        distance -= 1
        distance *= min(radii)
        return np.asarray(distance)


@dataclass(frozen=True)
class Canvas:
    """The picture while it is painted, and the light that falls on it."""

    rgb: Field
    subject: Field  # how much of each pixel the dog covers so far: only that takes shadows
    pixel: float
    light: Point
    warmth: Field

    def around(self, frame: Frame, at: Point, reach: float) -> tuple["Canvas", Frame]:
        """The part of canvas and frame within `reach` of a point; painting there is painting here."""
        x, y = frame.place(at)
        near = (np.abs(frame.x - x) < reach) & (np.abs(frame.y - y) < reach)
        window = tuple(_extent(np.asarray(near.any(axis))) for axis in (1, 0))
        part = Canvas(
            self.rgb[:, *window], self.subject[window], self.pixel, self.light, self.warmth
        )
        return part, Frame(frame.x[window], frame.y[window], frame.yaw, frame.pitch)

    def paint(self, colour: Field, alpha: Field) -> None:
        """Lay a colour over the picture."""
        change = colour - self.rgb
        change *= alpha
        self.rgb[:] += change

    def paint_part(self, colour: Field, alpha: Field) -> None:
        """Lay a part of the dog over the picture; later parts cast their shadows on it."""
        self.paint(colour, alpha)
        np.maximum(self.subject, alpha, out=self.subject)

    def shade(self, distance: Field, reach: float, strength: float) -> None:
        """Darken the dog within `reach` of a part that is about to be painted."""
        shadow = np.exp(np.maximum(distance, 0) * (-1 / reach))
        self.rgb[:] *= 1 - strength * self.subject * shadow

    def lit(self, height: Field, albedo: Field, gloss: float = 0.12) -> Field:
        """A surface's colours under the light, from its height towards the viewer."""
        down, right = np.gradient(height, self.pixel)
        lx, ly, lz = self.light
        facing = (lz - lx * right - ly * down) / np.sqrt(down * down + right * right + 1)
        diffuse = np.clip(0.35 + 0.65 * facing, 0.1, 1)
        shine = np.maximum(facing, 0) ** 2
        dim = one_colour(0.38, 0.36, 0.44)
        colours = (1.14 * self.warmth - dim) * diffuse
        colours += dim
        colours *= albedo
        colours += gloss * self.warmth * (shine * shine * shine)
        return np.asarray(colours)


def _extent(touched: Field) -> slice:
    """From the first to the last true value, and at least two values for a gradient."""
    found = np.flatnonzero(touched)
    first, last = (int(found[0]), int(found[-1])) if len(found) else (0, 0)
    first = min(first, len(touched) - 2)
    return slice(first, max(last + 1, first + 2))


def one_colour(red: float, green: float, blue: float) -> Field:
    """A colour that mixes with fields of colours."""
    return np.array([red, green, blue], np.float32).reshape(3, 1, 1)


def smooth_step(value: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, smooth between."""
    t = value - low
    t *= 1 / (high - low)
    np.clip(t, 0, 1, out=t)
    t *= t * (3 - 2 * t)
    return t


def mix(a: Field, b: Field, mask: Field) -> Field:
    """Colours `a` where the mask is 0 and `b` where it is 1."""
    change = (b - a) * mask
    change += a
    return np.asarray(change)


def coverage(distance: Field) -> Field:
    """How much of each pixel a shape covers, 0 to 1."""
    down, right = np.gradient(distance)
    return np.asarray(np.clip(0.5 - distance / np.sqrt(down * down + right * right + 1e-9), 0, 1))


def union(a: Field, b: Field, blend: float) -> Field:
    """Distance to two shapes that flow into each other over `blend`."""
    h = np.maximum(blend - np.abs(a - b), 0)
    return np.asarray(np.minimum(a, b) - h * h * (0.25 / blend))


def dome(distance: Field, radius: float) -> Field:
    """Height of a shape that is round at its edge and flat further in than `radius`."""
    t = np.clip(distance * (-1 / radius), 0, 1)
    return np.asarray(radius * np.sqrt(t * (2 - t) + 1e-4))


def noise(grid: Field, u: Field, v: Field) -> Field:
    """Smooth noise, 0 to 1, that repeats as a square `grid` of random values does.

    The grid's side is a power of two.
    """
    last = len(grid) - 1
    whole_u, whole_v = np.floor(u), np.floor(v)
    s, t = u - whole_u, v - whole_v
    s *= s * (3 - 2 * s)
    t *= t * (3 - 2 * t)
    cell = (whole_u.astype(np.int32) & last) * len(grid) + (whole_v.astype(np.int32) & last)
    cell = cell.astype(np.intp)
    along = []  # in-place sums: at this size a temporary array costs more than its arithmetic
    for corners in (grid, np.roll(grid, -1, axis=1)):
        value = corners.take(cell)
        value += (np.roll(corners, -1, axis=0).take(cell) - value) * s
        along.append(value)
    return np.asarray(along[0] + (along[1] - along[0]) * t)
