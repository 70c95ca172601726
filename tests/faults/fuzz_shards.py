"""Reads thousands of damaged copies of small shards: `python tests/faults/fuzz_shards.py --count 10000`.

Each case damages a copy of two shards, reads it with the index it had, then with one made anew from
the damaged tars. Cases run in child processes, so that a crash, a hang of 5 s or 300 MB above the
imports are seen; a case depends on its number alone, and `--first N --count 1` repeats it.
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

from dvae.data.index import read_index
from dvae.data.manifest import read_splits
from dvae.data.reader import Reader
from dvae.data.tar_header import BLOCK, is_whole, number
from dvae.errors import UserError
from shards.index import index
from tests.faults import mutations
from tests.faults.shard_files import make_shards, picture, read_all

SECONDS = 5  # that a case may take
MEMORY = 300 << 20  # bytes above the imports
CHILDREN = 2
KINDS = mutations.OF_TARS + mutations.OF_INDEXES
WHOLE = {number: picture(number) for number in range(8)}
LABELS = [{"label": f"dog {number}"} for number in WHOLE]
# What has to be found, each time, by whoever has the index.
FOUND = {
    "truncate": "refused",
    "flip_header": "bad",
    "flip_json_header": "JSON lost",
    "flip_picture": "bad",
    "flip_json": "JSON lost",
}


def with_index(folder: Path, kind: str) -> str:
    """Read a damaged folder with its own index; what came of it."""
    try:
        split = read_splits(folder).get("train")
        if split is None:
            return "refused"
        reader = Reader(split)
        read = read_all(folder, reader=reader)
        notes = [reader.about(sample) for sample in range(len(reader))]
    except UserError:
        return "refused"
    for sample, data in read.delivered.items():
        if kind in vars(mutations) and getattr(mutations, kind) in mutations.OF_TARS:
            assert data == WHOLE[sample], "another picture, or a damaged one"
        number = next(n for n, whole in WHOLE.items() if data == whole)
        assert notes[sample] in ({}, LABELS[number]), "another's JSON, or a damaged one"
    if read.bad:
        return "bad"
    return "whole" if all(notes) else "JSON lost"


def without_index(folder: Path) -> str:
    """Index the damaged tars anew and read them; what came of it."""
    for path in [*folder.glob("*.npy"), folder / "manifest.json"]:
        path.unlink(missing_ok=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            index(folder)
        read = read_all(folder)
    except UserError:
        return "refused"
    check_pairs(folder)
    if read.bad:
        return "bad"
    return "whole" if list(read.delivered.values()) == list(WHOLE.values()) else "fewer or other"


def check_pairs(folder: Path) -> None:
    """Every row names a whole member of the damaged tar, and a JSON of the same key."""
    for shard in read_splits(folder)["train"].shards:
        data = (folder / shard.name).read_bytes()
        for row in read_index(folder, shard):
            places = [(int(row["offset"]), int(row["size"]))]
            if row["json_size"]:
                places.append((int(row["json_offset"]), int(row["json_size"])))
            headers = [data[offset - BLOCK : offset] for offset, _ in places]
            assert all(map(is_whole, headers)), "no member"
            sizes = [number(header[124:136]) for header in headers]
            assert sizes == [size for _, size in places], "a part of a member"
            assert len({header[:100].split(b".")[0] for header in headers}) == 1, "mixed"


def run_case(case: int, original: Path, folder: Path) -> tuple[str, str, str]:
    """Kind of damage, what reading with the index gave, what reading without it gave."""
    kind = KINDS[case % len(KINDS)]
    draw = Random(case)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    kind(folder, draw)
    indexed = with_index(folder, kind.__name__)
    assert indexed == FOUND.get(kind.__name__, indexed), f"not found: {indexed}"
    if kind in mutations.OF_INDEXES:
        return kind.__name__, indexed, "-"
    return kind.__name__, indexed, without_index(folder)


def child(first: int, count: int) -> None:
    """Run cases and print how often each outcome came, and the memory taken."""
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        original = make_shards(Path(name) / "original", shards=2)
        before = _resident("VmRSS")
        outcomes: Counter[tuple[str, str, str]] = Counter()
        for case in range(first, first + count):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                outcomes[run_case(case, original, Path(name) / "damaged")] += 1
            except BaseException:
                print(f"case {case} ({KINDS[case % len(KINDS)].__name__})", file=sys.stderr)
                raise
        faulthandler.cancel_dump_traceback_later()
    rows = [[*key, times] for key, times in outcomes.items()]
    print(json.dumps({"rows": rows, "memory": _resident("VmHWM") - before}))


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def fuzz(count: int, first: int = 0) -> Counter[tuple[str, str, str]]:
    """Run cases in child processes; how often each outcome came.

    Raises:
        RuntimeError: a child crashed, hung or took too much memory, or a case gave a wrong result.
    """
    share = -(-count // CHILDREN)
    starts = range(first, first + count, share)
    children = []
    for start in starts:
        size = min(share, first + count - start)
        command = [sys.executable, __file__, "--child", "--first", str(start), "--count", str(size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        children.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
    ended = [(process, *process.communicate()) for process in children]  # all, before any is judged
    outcomes: Counter[tuple[str, str, str]] = Counter()
    for process, out, err in ended:
        if process.returncode:
            raise RuntimeError(f"a child ended with {process.returncode}:\n{err[-4000:]}")
        result = json.loads(out.splitlines()[-1])
        if result["memory"] > MEMORY:
            raise RuntimeError(f"{result['memory'] >> 20} MB above the imports")
        for *key, times in result["rows"]:
            outcomes[tuple(key)] += times
    return outcomes


def table(outcomes: Counter[tuple[str, str, str]]) -> str:
    """Kinds of damage x outcomes."""
    ends = ("refused", "bad", "JSON lost", "whole")
    again = ("refused", "bad", "fewer or other", "whole")
    lines = [f"{'':22}{'read with its index':^44}{'indexed anew':^56}"]
    lines.append(
        f"{'':22}" + "".join(f"{e:>11}" for e in ends) + "".join(f"{e:>16}" for e in again)
    )
    for kind in (kind.__name__ for kind in KINDS):
        first, second = Counter(), Counter()
        for (name, indexed, anew), times in outcomes.items():
            if name == kind:
                first[indexed] += times
                second[anew] += times
        cells = "".join(f"{first[e]:11}" for e in ends) + "".join(f"{second[e]:16}" for e in again)
        lines.append(f"{kind:22}{cells}")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.first, given.count)
    else:
        print(table(fuzz(given.count, given.first)))


if __name__ == "__main__":
    main()
