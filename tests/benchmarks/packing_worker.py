"""One measurement of packing in a process of its own: prints a line of JSON.

python packing_worker.py PACKER PICTURES OUT
"""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

SIDE = 256  # pixels of what is resized
QUALITY = 92
SHARD = 64 << 20  # bytes
SAMPLES = 1000  # of img2dataset's shards

Pack = Callable[[Path, Path], None]


def files(pictures: Path) -> list[Path]:
    """The pictures, by name."""
    return sorted(pictures.iterdir())


def tar() -> Pack:
    """`tar cf`."""
    return lambda pictures, out: subprocess.run(
        ["tar", "cf", out / "all.tar", "-C", pictures, "."], check=True
    )


def ours(*flags: str, syncs: bool = True) -> Pack:
    """shards.pack; without fsync if told so, which only a benchmark may."""
    from shards.pack import main

    def pack(pictures: Path, out: Path) -> None:
        arguments = [str(pictures), str(out / "ours"), "--shard-bytes", str(SHARD), *flags]
        if not syncs:
            os.fsync = lambda descriptor: None
        with contextlib.redirect_stdout(io.StringIO()):
            if main(arguments):
                raise SystemExit("packing failed")

    return pack


def shardwriter(samples: Callable[[Path], Iterator[dict[str, Any]]]) -> Pack:
    """webdataset's writer, as its documentation shows it."""
    import webdataset

    def pack(pictures: Path, out: Path) -> None:
        with webdataset.ShardWriter(str(out / "%06d.tar"), maxsize=SHARD, verbose=0) as writer:
            for sample in samples(pictures):
                writer.write(sample)

    return pack


def untouched(pictures: Path) -> Iterator[dict[str, Any]]:
    """The pictures' bytes and what is known without opening them."""
    for number, path in enumerate(files(pictures)):
        yield {"__key__": f"{number:09d}", "jpg": path.read_bytes(), "json": {"source": path.name}}


def by_pillow(pictures: Path) -> Iterator[dict[str, Any]]:
    """The pictures at 256, with Pillow."""
    from PIL import Image

    for number, path in enumerate(files(pictures)):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=QUALITY)
        yield {"__key__": f"{number:09d}", "jpg": file.getvalue(), "json": {"source": path.name}}


def mds() -> Pack:
    """MosaicML Streaming's writer."""
    from streaming import MDSWriter

    def pack(pictures: Path, out: Path) -> None:
        columns = {"jpg": "bytes", "source": "str"}
        with MDSWriter(out=str(out / "mds"), columns=columns, size_limit=SHARD) as writer:
            for path in files(pictures):
                writer.write({"jpg": path.read_bytes(), "source": path.name})

    return pack


def img2dataset(**options: Any) -> Pack:
    """img2dataset from a list of file URLs, with one process a core."""
    from img2dataset import download

    def pack(pictures: Path, out: Path) -> None:
        listed = out / "urls.txt"
        listed.write_text("\n".join(f"file://{path}" for path in files(pictures)))
        with contextlib.redirect_stdout(io.StringIO()):
            download(
                url_list=str(listed),
                output_folder=str(out / "i2d"),
                output_format="webdataset",
                number_sample_per_shard=SAMPLES,
                enable_wandb=False,
                encode_quality=QUALITY,
                retries=0,
                **options,
            )
        report = [json.loads(path.read_text()) for path in (out / "i2d").glob("*_stats.json")]
        if sum(shard["successes"] for shard in report) != len(files(pictures)):
            raise SystemExit(f"img2dataset packed too little: {report}")

    return pack


def bare() -> Pack:
    """The loop at the bottom of the packer: decode, resize, encode, nothing else."""
    import numpy as np
    import simplejpeg
    from PIL import Image

    from shards.form import Form
    from shards.geometry import plan, resized
    from shards.pictures import SUBSAMPLING

    form = Form(size=SIDE)

    def pack(pictures: Path, out: Path) -> None:
        for path in files(pictures):
            data = path.read_bytes()
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            made = plan((width, height), None, form)
            least = height // made.factor, width // made.factor
            pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=least[0], min_width=least[1])
            small = resized(Image.fromarray(pixels), made, made.factor, 1)
            simplejpeg.encode_jpeg(np.ascontiguousarray(small), QUALITY, "RGB", SUBSAMPLING)

    return pack


PACKERS: dict[str, Callable[[], Pack]] = {
    "tar cf": tar,
    "ours, header": partial(ours, "--check", "header"),
    "ours, header, no fsync": partial(ours, "--check", "header", syncs=False),
    "ours, decoded": ours,
    "ShardWriter": partial(shardwriter, untouched),
    "MDSWriter": mds,
    "img2dataset": partial(
        img2dataset, processes_count=2, thread_count=16, disable_all_reencoding=True
    ),
    "bare loop, 256": bare,
    "ours, 256": partial(ours, "--size", str(SIDE), "--workers", "1"),
    "Pillow, 256": partial(shardwriter, by_pillow),
    "img2dataset, 256": partial(
        img2dataset, processes_count=1, thread_count=1, image_size=SIDE, resize_mode="keep_ratio"
    ),
}


def cpu_seconds() -> float:
    """Of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Measure, from after the imports."""
    name, pictures, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    pack = PACKERS[name]()
    for path in files(pictures):  # into the page cache
        path.read_bytes()
    began, cpu = time.perf_counter(), cpu_seconds()
    pack(pictures, out)
    result = {"seconds": time.perf_counter() - began, "cpu": cpu_seconds() - cpu}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
