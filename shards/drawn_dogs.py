"""Draw dogs: thousands of different labelled pictures for a first run, without a download.

    python -m shards.drawn_dogs OUT --count 3000 --size 96

writes `OUT/<coat>/dog-000123.png`. Picture i of a seed depends on nothing but seed, i and size;
pictures that exist already are left.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from dvae.errors import UserError, exit_code_of
from dvae.files import TEMPORARY
from shards.dog_anatomy import draw_dog_parts
from shards.dog_coats import COATS, coat_fur, colour, sample_dog
from shards.soft_shapes import Canvas, Frame, mix, one_colour, smooth_step

SUPERSAMPLING = 2
ORIGIN = "origin"  # the key of a PNG text
BOUNDS = {"count": (1, 999_999), "size": (16, 2048), "seed": (0, 2**63 - 1), "workers": (1, 256)}
WALLS = "d9c7b0 b7c9c4 c8b6cf e3d3a8 a9bccf d8a99a 9fb59a e8e2d8"
FLOORS = "8a5f3d b08a60 6f6a68 a5785a c9b79a"
SKIES = "9cc8ec b8d8f0 f3c9a0 c7d3e8 86b4dc"
MEADOWS = "6f9d4a 86ad55 a3a558 578a4c cfd8de d9c48f"


def draw_meadow(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """Sky over grass, snow or sand."""
    sky, ground = colour(SKIES, rng), colour(MEADOWS, rng)
    canvas.rgb[:] = mix(sky, sky * 0.4 + 0.6, smooth_step(frame.y, -1, 0.3))
    for height, shade in ((0.0, 0.85), (0.3, 1.05)):
        horizon = rng.uniform(0.0, 0.2) + height
        swell = 0.1 * np.sin(rng.uniform(1, 3) * frame.x + rng.uniform(-3, 3))
        near = mix(ground * shade, ground * (shade - 0.3), smooth_step(frame.y, 0.1, 1.1))
        canvas.paint(near, smooth_step(frame.y - swell, horizon - 0.04, horizon + 0.04))


def draw_room(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A wall, its skirting board and the floor."""
    wall, floor = colour(WALLS, rng), colour(FLOORS, rng)
    edge = rng.uniform(0.25, 0.5)
    away = 1 + frame.y - np.sign(canvas.light[0]) * frame.x
    canvas.rgb[:] = wall * 1.03 - 0.1 * away
    canvas.paint(wall * 0.4 + 0.58, smooth_step(frame.y - edge, -0.02, 0.02))
    canvas.paint(floor, smooth_step(frame.y - edge - 0.1, -0.02, 0.02))


def draw_studio(canvas: Canvas, frame: Frame, rng: np.random.Generator) -> None:
    """A gradient that darkens to its corners, sometimes with blurred lights."""
    above, below = colour(f"{WALLS} {SKIES}", rng), colour(f"{WALLS} {MEADOWS}", rng)
    canvas.rgb[:] = mix(
        above, below, smooth_step(frame.y + rng.uniform(-0.6, 0.6) * frame.x, -1, 1)
    )
    canvas.rgb[:] *= 1.04 - 0.16 * (frame.x**2 + frame.y**2)
    for _ in range(rng.choice([0, 8])):
        radius = rng.uniform(0.1, 0.28)
        spot = frame.blob((rng.uniform(-1, 1), rng.uniform(-1, 1), 0.0), (radius, radius))
        canvas.paint(colour(f"{WALLS} {MEADOWS}", rng), 0.5 * smooth_step(-spot, -0.04, 0.04))


BACKGROUNDS = (draw_meadow, draw_room, draw_studio)


def blank_canvas(resolution: int, rng: np.random.Generator) -> tuple[Canvas, Frame]:
    """A canvas under a light from the upper left or right, and its frame."""
    line = (np.arange(resolution) * 2 + 1) / resolution - 1
    frame = Frame(*np.meshgrid(line.astype(np.float32), line.astype(np.float32)))
    aside = rng.uniform(0.25, 0.7) * rng.choice([-1, 1])
    length = float(np.hypot(aside, 1.0))
    light = (float(aside) / length, -0.65 / length, 0.76 / length)
    tint = rng.uniform(-1, 1)
    warmth = one_colour(1 + 0.05 * tint, 1.0, 1 - 0.06 * tint)
    rgb = np.zeros((3, resolution, resolution), np.float32)
    subject = np.zeros((resolution, resolution), np.float32)
    return Canvas(rgb, subject, 2 / resolution, light, warmth), frame


def begin(seed: int, number: int) -> tuple[str, np.random.Generator]:
    """The coat of one picture, and the random numbers that draw the rest of it."""
    sequence = np.random.SeedSequence(seed, spawn_key=(number,))
    rng = np.random.Generator(np.random.PCG64(sequence))
    return str(rng.choice(list(COATS))), rng


def draw_dog(seed: int, number: int, size: int) -> tuple[Image.Image, str]:
    """Draw one dog.

    Args:
        seed: names a series of pictures, >= 0.
        number: which picture of the series, >= 0.
        size: width and height in pixels.

    Returns:
        The RGB picture and its coat's name, the same for the same arguments.
    """
    label, rng = begin(seed, number)
    dog = sample_dog(COATS[label], rng)
    canvas, picture = blank_canvas(size * SUPERSAMPLING, rng)
    BACKGROUNDS[rng.integers(len(BACKGROUNDS))](canvas, picture, rng)
    turned = Frame(picture.x, picture.y, rng.uniform(-0.3, 0.3), rng.uniform(-0.12, 0.12))
    dx, dy, scale = rng.uniform(-0.05, 0.05), rng.uniform(0.06, 0.14), rng.uniform(1.1, 1.24)
    frame = turned.moved(dx, dy, rng.normal(0, 0.09), scale)
    fur = coat_fur(COATS[label], frame, dog, rng)
    draw_dog_parts(canvas, frame, turned.moved(dx, dy, 0, scale), dog, fur)
    small = canvas.rgb.reshape(3, size, SUPERSAMPLING, size, SUPERSAMPLING).mean((2, 4))
    pixels = (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels)), label


def write_picture(out: Path, seed: int, size: int, number: int) -> bool:
    """Draw one picture into its coat's folder, unless it's there; whether it was drawn."""
    path = out / begin(seed, number)[0] / f"dog-{number:06d}.png"
    if path.exists():
        return False
    image, _ = draw_dog(seed, number, size)
    origin = PngInfo()
    origin.add_text(ORIGIN, origin_of(seed, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(
        f"{TEMPORARY}{os.getpid()}-{path.stem}"
    )  # no picture to `shards.pack`
    image.save(temporary, "PNG", pnginfo=origin)
    temporary.replace(path)
    return True


def origin_of(seed: int, size: int) -> str:
    """What each picture says of itself, so that two series never mix in one folder."""
    return f"drawn with --seed {seed} --size {size}"


def check(out: Path, count: int, size: int, seed: int, workers: int) -> None:
    """Refuse what cannot be drawn.

    Raises:
        UserError: a number is out of range, or the folder holds a file or another series.
    """
    given = {"count": count, "size": size, "seed": seed, "workers": workers}
    for name, (least, most) in BOUNDS.items():
        if not least <= given[name] <= most:
            raise UserError(f"--{name} {given[name]}: give a whole number from {least} to {most}")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, not a folder: name a new or empty folder for the dogs")
    found = next(out.glob("*/dog-*.png"), None)
    if found is None:
        return
    with Image.open(found) as image:
        origin = image.info.get(ORIGIN, "not drawn by this command")
    if origin != origin_of(seed, size):
        raise UserError(
            f"{found} was {origin}, not {origin_of(seed, size)}: name another folder for this series"
        )


def prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and have the C library keep the memory that it is given back.

    Freeing one large block raises glibc's threshold for that, which takes a quarter off the time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    np.ones(3_000_000)


def write_pictures(out: Path, count: int, size: int, seed: int, workers: int) -> int:
    """Draw what is missing of a series on several processes; how many pictures were drawn."""
    write = partial(write_picture, out, seed, size)
    bar = partial(tqdm, total=count, unit="dog", disable=None)
    if workers == 1:
        return sum(bar(map(write, range(count))))
    with ProcessPoolExecutor(workers, get_context("spawn"), prepare_worker) as pool:
        return sum(bar(pool.map(write, range(count), chunksize=16)))


def run(arguments: argparse.Namespace) -> None:
    """Check what was asked, draw it, and say what there is now."""
    given = vars(arguments)
    try:
        check(**given)
        drawn = write_pictures(**given)
    except OSError as error:
        raise UserError(
            f"{error}: mend that, or name another folder than {arguments.out}"
        ) from error
    sys.stdout.write(
        f"{arguments.out}: {arguments.count} dogs, {drawn} of them new, one folder per coat\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `python -m shards.drawn_dogs`; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the pictures, one sub-folder per coat")
    parser.add_argument("--count", type=int, default=3000, help="pictures (default %(default)s)")
    parser.add_argument("--size", type=int, default=96, help="pixels a side (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which series (default %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per CPU)"
    )
    return exit_code_of(lambda: run(parser.parse_args(arguments)))


if __name__ == "__main__":
    raise SystemExit(main())
