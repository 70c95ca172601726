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
from shards import dog_parts as dog

OVERSAMPLING = 2
ORIGIN = "origin"  # the key of a PNG text
BOUNDS = {"count": (1, 999_999), "size": (16, 2048), "seed": (0, 2**63 - 1), "workers": (1, 256)}


def begin(seed: int, number: int) -> tuple[str, np.random.Generator]:
    """The coat of one picture, and the random numbers that draw the rest of it."""
    sequence = np.random.SeedSequence(seed, spawn_key=(number,))
    rng = np.random.Generator(np.random.PCG64(sequence))
    return str(rng.choice(list(dog.COATS))), rng


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
    canvas = dog.Canvas(size * OVERSAMPLING, rng)
    muzzle, ears, eyes = (dog.varied(kinds, rng) for kinds in (dog.MUZZLES, dog.EARS, dog.EYES))
    fluff = rng.uniform(0.002, 0.016) * canvas.noise(40, 40, rng)
    coat, ear_coat = dog.coat_colours(canvas, label, muzzle, rng)
    dog.draw_background(canvas, rng)
    dog.draw_body(canvas, coat, fluff, rng)
    if ears.depth < 0:
        dog.draw_ears(canvas, ears, ear_coat, fluff, rng)
    dog.draw_head(canvas, muzzle, coat, fluff, rng)
    if ears.depth >= 0:
        dog.draw_ears(canvas, ears, ear_coat, fluff, rng)
    dog.draw_eyes(canvas, eyes, rng)
    dog.draw_mouth(canvas, muzzle, rng)
    dog.draw_nose(canvas, muzzle, rng)
    pixels = (canvas.rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels)).reduce(OVERSAMPLING), label


def write_picture(out: Path, seed: int, size: int, number: int) -> bool:
    """Draw one picture into its coat's folder, unless it's there; whether it was drawn."""
    path = out / begin(seed, number)[0] / f"dog-{number:06d}.png"
    if path.exists():
        return False
    image, _ = draw_dog(seed, number, size)
    text = PngInfo()
    text.add_text(ORIGIN, origin_of(seed, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without ".png" it is no picture to `shards.pack`.
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.stem}")
    image.save(temporary, "PNG", pnginfo=text)
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
        raise UserError(f"{found} was {origin}, not {origin_of(seed, size)}: name another folder")


def write_pictures(out: Path, count: int, size: int, seed: int, workers: int) -> int:
    """Draw what is missing of a series on several processes; how many pictures were drawn."""
    write = partial(write_picture, out, seed, size)
    bar = partial(tqdm, total=count, unit="dog", disable=None)
    if workers == 1:
        return sum(bar(map(write, range(count))))
    no_ctrl_c = (signal.SIGINT, signal.SIG_IGN)  # the parent ends them
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, no_ctrl_c) as pool:
        return sum(bar(pool.map(write, range(count), chunksize=16)))


def run(arguments: argparse.Namespace) -> None:
    """Check what was asked, draw it, and say what there is now."""
    given = vars(arguments)
    try:
        check(**given)
        drawn = write_pictures(**given)
    except OSError as error:
        raise UserError(f"{error}: mend that, or name another folder") from error
    counts = f"{arguments.count} dogs, {drawn} of them new"
    sys.stdout.write(f"{arguments.out}: {counts}, one folder per coat\n")


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
