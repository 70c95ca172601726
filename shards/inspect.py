"""Look into a folder of shards.

    python -m shards.inspect DIR [--out FOLDER]

Prints counts, sizes, resolutions, labels and the mean and standard deviation of the pixels. With
`--out`, FOLDER receives the same as figures.json, a contact sheet contact.png, and index.html: one
file with the sheet and histograms, which needs nothing else. Pixels are those of 1024 pictures at most,
evenly spaced over the samples, so the same shards give the same figures. Use `shards.verify` to
check shards; this reads what it can.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dvae.data.storage import LocalStore
from dvae.errors import UserError, exit_code_of
from dvae.files import whole_file, write_bytes, write_json
from shards.census import TILE, Census, take_census, tasks
from shards.options import Parser
from shards.page import page
from shards.parallel import in_order
from shards.pictures import quiet
from shards.progress import progress
from shards.sources import shown
from shards.verify import manifest_of

_COLUMNS = 8  # tiles in a row of the contact sheet
_BINS = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Inspect; returns the exit code."""
    parser = Parser(prog="python -m shards.inspect", description="Figures of a folder of shards.")
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder that holds the shards")
    add("--out", type=Path, metavar="FOLDER", help="write figures.json, contact.png and index.html")
    return exit_code_of(lambda: inspect(**vars(parser.parse_args(arguments))))


def inspect(folder: Path, out: Path | None) -> None:
    """Print the figures of a folder of shards, and write the report into `out`.

    Raises:
        UserError: no shards, a damaged manifest or index, a folder that can't be written.
    """
    work = tasks(manifest_of(LocalStore(folder)))
    with quiet() as stderr:
        results = in_order(take_census, work, min(os.cpu_count() or 1, 8))
        bar = progress("inspecting", stderr, "shard", len(work), items=results)
        censuses = list(bar)
    if not any(census.sizes for census in censuses):
        raise UserError(f"{str(folder)!r} holds no sample: pack more pictures")
    found = figures(censuses)
    sys.stdout.write(_summary(found))
    if out:
        tiles = [tile for census in censuses for tile in census.tiles]
        _write(folder, out, found, contact_sheet(tiles))


def _write(folder: Path, out: Path, found: dict[str, Any], sheet: Image.Image) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "figures.json", found)
        with whole_file(out / "contact.png") as file:
            sheet.save(file, "PNG")
        text = page(shown(os.fsencode(folder)), found, (out / "contact.png").read_bytes())
        write_bytes(out / "index.html", text.encode())
    except OSError as error:
        raise UserError(
            f"--out {str(out)!r} cannot be written ({error.strerror}): give another folder"
        ) from None
    sys.stdout.write(f"report         {shown(os.fsencode(out / 'index.html'))}\n")


def figures(censuses: Sequence[Census]) -> dict[str, Any]:
    """All numbers of the report, as JSON."""
    labels: Counter[str] = sum((census.labels for census in censuses), Counter())
    sides = np.array([side for census in censuses for side in census.sides]).reshape(-1, 2)
    resolutions = Counter(f"{width}x{height}" for width, height in sides.tolist())
    ranges = {
        "width": sides[:, 0],
        "height": sides[:, 1],
        "aspect": sides[:, 0] / sides[:, 1],
        "picture_bytes": np.array([size for census in censuses for size in census.sizes]),
        "shard_bytes": np.array([census.shard.bytes for census in censuses]),
        "shard_samples": np.array([census.shard.samples for census in censuses]),
    }
    return {
        "splits": _splits(censuses),
        "labels": dict(sorted(labels.items(), key=lambda item: (-item[1], item[0]))),
        "unlabelled": sum(census.unlabelled for census in censuses),
        "unreadable": sum(census.unreadable for census in censuses),
        "resolutions": dict(resolutions.most_common(20)),
        "ranges": {name: _range(values) for name, values in ranges.items() if len(values)},
        "pixels": _pixels([moment for census in censuses for moment in census.moments]),
    }


def _splits(censuses: Sequence[Census]) -> dict[str, dict[str, int]]:
    splits: dict[str, dict[str, int]] = {}
    for census in censuses:
        split = splits.setdefault(census.split, {"shards": 0, "samples": 0, "bytes": 0})
        split["shards"] += 1
        split["samples"] += census.shard.samples
        split["bytes"] += census.shard.bytes
    return splits


def _range(values: np.ndarray) -> dict[str, Any]:
    """The quantiles of some numbers, and their histogram."""
    quantiles = np.quantile(values, [0, 0.05, 0.5, 0.95, 1])
    counts, edges = np.histogram(values, _BINS)
    names = ("least", "5 %", "median", "95 %", "most")
    return {
        **{name: round(float(value), 4) for name, value in zip(names, quantiles, strict=True)},
        "mean": round(float(values.mean()), 4),
        "histogram": {"edges": np.round(edges, 4).tolist(), "counts": counts.tolist()},
    }


def _pixels(moments: Sequence[np.ndarray]) -> dict[str, Any]:
    """Mean and standard deviation of R, G, B in 0 … 1; each sampled picture weighs the same."""
    if not moments:
        return {"sampled": 0}
    mean, square = np.mean(moments, 0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return {
        "sampled": len(moments),
        "mean": np.round(mean, 4).tolist(),
        "std": np.round(std, 4).tolist(),
    }


def contact_sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Tiles in rows, with white between them."""
    rows = max(1, -(-len(tiles) // _COLUMNS))
    step = TILE + 4
    sheet = Image.new("RGB", (_COLUMNS * step + 4, rows * step + 4), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % _COLUMNS * step + 4, number // _COLUMNS * step + 4))
    return sheet


def _summary(found: dict[str, Any]) -> str:
    lines = [
        f"split          {name}: {split['samples']} samples in {split['shards']} shards, "
        f"{split['bytes']} bytes"
        for name, split in found["splits"].items()
    ]
    for name, values in found["ranges"].items():
        spread = " … ".join(f"{values[key]:g}" for key in ("least", "median", "most"))
        lines.append(f"{name:<15}{spread} (least … median … most)")
    common = ", ".join(f"{name!r} {count}" for name, count in list(found["labels"].items())[:5])
    lines.append(f"labels         {len(found['labels'])}{f': {common} …' if common else ''}")
    lines.append(f"unlabelled     {found['unlabelled']}")
    lines.append(f"unreadable     {found['unreadable']}")
    pixels = found["pixels"]
    if pixels["sampled"]:
        lines.append(
            f"pixels         mean {pixels['mean']}, std {pixels['std']} of R, G, B in 0 … 1, "
            f"{pixels['sampled']} pictures sampled"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
