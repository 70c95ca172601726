"""python -m shards.pack: a user's mistake ends with exit code 2 and one line that names the remedy."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dvae.files import locked
from shards.index import main as index
from shards.pack import main
from tests.test_pack import tree


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.jpg")
    return folder


def fails(capsys, message, *arguments):
    """The command exits 2 with one line on stderr that holds `message`, and nothing on stdout."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith("error: ")
    assert message in told.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--size", "0"), "--size 0: give a side in pixels, 1 to 65535"),
        (("--size", "70000"), "--size 70000"),
        (("--size", "big"), "argument --size: invalid int value: 'big'"),
        (("--quality", "101"), "--quality 101: give a quality from 1 to 100"),
        (("--resize", "none", "--size", "8"), "--resize none changes no size"),
        (("--resize", "crop"), "--resize crop needs --size"),
        (("--resize", "wider"), "argument --resize: invalid choice: 'wider'"),
        (("--format", "gif"), "argument --format: invalid choice: 'gif'"),
        (("--box-margin", "-1"), "--box-margin -1.0: give a share"),
        (("--box-margin", "nan"), "--box-margin nan"),
        (("--min-size", "0"), "--min-size 0"),
        (("--max-aspect", "0.5"), "--max-aspect 0.5: give 1 or more"),
        (("--min-laplacian", "nan"), "--min-laplacian nan: give 0 or more"),
        (("--boxes", "source"), "SOURCE names no boxes"),
        (("--layout", "cats"), "argument --layout: invalid choice: 'cats'"),
        (("--val", "0"), "--val 0.0: give a share between 0 and 1"),
        (("--val", "1"), "--val 1.0"),
        (("--val", "nan"), "--val nan"),
        (("--val", "0.5", "--split", "x"), "leave --split out"),
        (("--val", "0.0001"), "leaves the split val empty with 4 pictures"),
        (("--split", "a.b"), "--split 'a.b'"),
        (("--split", "../up"), "--split '../up'"),
        (("--split", "a2"), "--split 'a2'"),
        (("--shard-bytes", "0"), "--shard-bytes 0"),
        (("--shard-bytes", "many"), "'many' is no size such as 256MB"),
        (("--workers", "0"), "--workers 0: give 1 or more"),
        (("--resume", "--overwrite"), "--overwrite: not allowed with argument --resume"),
        (("--boxes", "/nowhere/boxes.csv"), "--boxes '/nowhere/boxes.csv' cannot be read: No such"),
        (("--siz", "64", "--colour"), "unrecognized arguments: --colour"),
    ],
)
def test_a_wrong_flag_is_named(source, tmp_path, capsys, flags, message):
    fails(capsys, message, source, tmp_path / "out", *flags)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_missing_argument_is_named(source, capsys):
    fails(capsys, "the following arguments are required: OUT", source)


def test_a_source_that_gives_nothing_is_named(source, tmp_path, capsys):
    out = tmp_path / "out"
    fails(capsys, "does not exist: give the folder", tmp_path / "nowhere", out)
    fails(capsys, "is not a folder", source / "0.jpg", out)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("")
    fails(capsys, "holds no picture", tmp_path / "empty", out)
    (tmp_path / "empty" / "a.jpg").write_text("")
    fails(capsys, "none of the 1 pictures", tmp_path / "empty", out)


def test_an_output_that_cannot_be_used_is_named(source, tmp_path, capsys):
    fails(capsys, "is a file: give a folder", source, source / "0.jpg")
    fails(capsys, "cannot be written (Not a directory)", source, source / "0.jpg" / "out")
    with locked(tmp_path / "busy"):
        fails(capsys, f"in use by process {os.getpid()}", source, tmp_path / "busy")


def test_other_options_or_pictures_are_refused_without_overwrite(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(source), str(out), "--size", "4"]) == 0
    fails(capsys, "made otherwise (size: 4, asked 6): give another", source, out, "--size", "6")
    (source / "new.jpg").write_bytes((source / "0.jpg").read_bytes())
    fails(capsys, "the names or sizes of the pictures differ", source, out, "--size", "4")
    (source / "new.jpg").unlink()
    (out / "train-000000.tar").write_bytes(b"")
    fails(capsys, "or pack again with --overwrite", source, out, "--size", "4")
    assert main([str(source), str(out), "--size", "6", "--overwrite"]) == 0


def test_tars_that_are_not_ours_are_never_touched(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(source), str(out)]) == 0
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    data = (out / "train-000000.tar").read_bytes()
    (foreign / "train-000000.tar").write_bytes(data)
    fails(capsys, "holds tars that shards.pack did not write", source, foreign, "--overwrite")
    assert index([str(foreign)]) == 0
    fails(capsys, "holds shards that shards.pack did not write", source, foreign, "--overwrite")
    assert (foreign / "train-000000.tar").read_bytes() == data


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "other/9"}', "[" * 100_000])
def test_a_damaged_manifest_is_named(source, tmp_path, capsys, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(text)
    fails(capsys, "manifest.json", source, tmp_path / "out", "--overwrite")


def test_a_full_disk_ends_in_one_line_and_leaves_no_unfinished_file(source, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)
    for number in range(40):  # more than is written at a time
        Image.fromarray(np.roll(noise, number, 0)).save(source / f"{number}.png")
    code = (
        "import resource, signal, sys; from shards.pack import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
    assert "/out/train-000000.tar' cannot be written (File too large)" in done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == [".lock", ".packing"]


def test_strict_packs_all_that_can_be_and_ends_with_3_each_time(source, tmp_path, capsys):
    out = tmp_path / "out"
    (source / "twin.jpg").write_bytes((source / "0.jpg").read_bytes())
    assert (
        main([str(source), str(out), "--strict", "--dedupe", "exact"]) == 0
    )  # a twin is no reject
    (source / "twin.jpg").unlink()
    (source / "text.jpg").write_text("no picture")
    (source / "cut.jpg").write_bytes((source / "0.jpg").read_bytes()[:-99])
    assert main([str(source), str(out), "--overwrite"]) == 0
    packed = tree(out)
    for flags in (["--overwrite"], [], ["--resume"]):
        capsys.readouterr()
        assert main([str(source), str(out), "--strict", *flags]) == 3
        told = capsys.readouterr().err
        assert told.startswith(
            "error: --strict: 2 of 6 pictures were rejected, the others are packed"
        )
        assert told.endswith(f"{out}/rejected.jsonl\n")
        assert tree(out) == packed


def test_packing_does_not_load_torch(source, tmp_path):
    code = "import sys, shards.pack, shards.index; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_manifest_says_what_determined_the_bytes(source, tmp_path):
    assert main([str(source), str(tmp_path / "out"), "--size", "4", "--seed", "9"]) == 0
    about = json.loads((tmp_path / "out" / "manifest.json").read_bytes())["about"]
    assert (about["options"]["size"], about["options"]["seed"]) == (4, 9)
    assert about["made_by"].startswith("shards.pack of dvae ")
