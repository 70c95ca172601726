"""The pictures that loaders are measured on, and the formats that the peers want.

    python loading_data.py FORMAT FOLDER      in the peers' environment: mds, litdata or ffcv

FOLDER gets pictures/, shards/ (their bytes), stored-N/ (shards at a training size), and the formats.
"""

import shutil
import sys
from pathlib import Path

from loading_job import PICTURES, REPEATS, stored_size

SIDE = 512  # pixels of the enlarged pictures
QUALITY = 90


def make(photos: Path, folder: Path, enlarge: bool, sizes: list[int]) -> None:
    """Fill a folder with 2,000 of the photographs and with our shards of them, once."""
    make_pictures(photos, folder, enlarge)
    packed(folder, "shards")
    for size in sizes if enlarge else []:
        packed(folder, f"stored-{size}", "--size", str(stored_size(size)))


def make_pictures(photos: Path, folder: Path, enlarge: bool) -> None:
    """2,000 of the photographs in pictures/, once."""
    if not (folder / "pictures").is_dir():
        files = sorted(photos.rglob("*.jpg"))
        chosen = files[:: max(1, len(files) // PICTURES)][:PICTURES]
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for number, file in enumerate(chosen):
            target = unfinished / f"{number:05}.jpg"
            enlarged(file, target) if enlarge else shutil.copyfile(file, target)
        unfinished.rename(folder / "pictures")


def enlarged(file: Path, target: Path) -> None:
    """The largest centred square at 512 x 512."""
    from PIL import Image

    image = Image.open(file).convert("RGB")
    side = min(image.size)
    x, y = (image.width - side) // 2, (image.height - side) // 2
    box = (x, y, x + side, y + side)
    image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box).save(target, quality=QUALITY)


def packed(folder: Path, name: str, *options: str) -> None:
    """Shards of the pictures; several, as webdataset's workers share them out."""
    from shards.pack import main

    size = sum(path.stat().st_size for path in (folder / "pictures").iterdir())
    if not (folder / name / "manifest.json").exists():
        arguments = [str(folder / "pictures"), str(folder / name)]
        if main([*arguments, "--shard-bytes", str(max(size // 8, 10**6)), *options]):
            raise SystemExit(f"packing {folder / name} failed")


def jpegs(folder: Path) -> list[bytes]:
    """The pictures' bytes, each several times: peers that end an epoch slowly need not."""
    return [path.read_bytes() for path in sorted((folder / "pictures").iterdir())] * REPEATS


def write_mds(folder: Path) -> None:
    """MosaicML Streaming's format."""
    from streaming import MDSWriter

    with MDSWriter(out=str(folder / "mds"), columns={"jpg": "bytes"}) as writer:
        for data in jpegs(folder):
            writer.write({"jpg": data})


def write_litdata(folder: Path) -> None:
    """litdata's format."""
    from litdata import optimize

    paths = sorted(str(path) for path in (folder / "pictures").iterdir()) * REPEATS
    optimize(_read, paths, str(folder / "litdata"), chunk_bytes="64MB", num_workers=1)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def write_ffcv(folder: Path) -> None:
    """FFCV's format, which encodes anew."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter
    from PIL import Image

    class Pictures:
        paths = sorted((folder / "pictures").iterdir()) * REPEATS

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.open(self.paths[index]).convert("RGB"), 0

    image = RGBImageField(write_mode="jpg", jpeg_quality=QUALITY)
    writer = DatasetWriter(str(folder / "ffcv.beton"), {"image": image, "label": IntField()})
    writer.from_indexed_dataset(Pictures())


if __name__ == "__main__":
    if sys.argv[1] != "ffcv":
        from loading_peers import define_operators

        define_operators()
    writers = {"mds": write_mds, "litdata": write_litdata, "ffcv": write_ffcv}
    writers[sys.argv[1]](Path(sys.argv[2]))
