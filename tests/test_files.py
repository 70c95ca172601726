"""dvae/files.py: what has its final name is whole."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tracemalloc

import pytest

from dvae.errors import UserError
from dvae.files import (
    MANIFEST,
    damage,
    keep_lines,
    locked,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
)


def test_whole_file_holds_what_was_written_and_leaves_no_other_file(tmp_path):
    with whole_file(tmp_path / "a") as file:
        file.write(b"1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_whole_file_leaves_the_old_one_when_the_block_fails(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with contextlib.suppress(RuntimeError), whole_file(tmp_path / "a") as file:
        file.write(b"new")
        raise RuntimeError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_write_json_never_holds_the_whole_text(tmp_path):
    values = list(range(100_000))
    tracemalloc.start()
    try:
        write_json(tmp_path / "a", values)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert json.loads((tmp_path / "a").read_bytes()) == values


def test_write_json_gives_the_same_bytes_for_the_same_value(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "y": [2]})
    write_json(tmp_path / "b", {"y": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _folder(path, **files):
    with whole_folder(path) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)
    return path


def test_whole_folder_replaces_the_old_one(tmp_path):
    _folder(tmp_path / "f", a="1", b="2")
    _folder(tmp_path / "f", a="3")
    assert sorted(os.listdir(tmp_path / "f")) == ["a", MANIFEST]
    assert (tmp_path / "f" / "a").read_text() == "3"
    assert os.listdir(tmp_path) == ["f"]
    assert damage(tmp_path / "f") is None


def test_whole_folder_keeps_the_old_one_when_the_block_fails(tmp_path):
    _folder(tmp_path / "f", a="1")
    with contextlib.suppress(RuntimeError), whole_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("2")
        raise RuntimeError
    assert (tmp_path / "f" / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "a").write_text("12"), "a has 2 of 3 bytes"),
        (lambda f: (f / "a").write_text("12X"), "a does not have the SHA-256"),
        (lambda f: (f / "a").unlink(), "a is missing"),
        (lambda f: (f / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda f: (f / MANIFEST).write_text("[" * 100_000), "manifest.json is missing"),
        (lambda f: (f / MANIFEST).write_text('{"files": {"../a": {}}}'), "manifest.json is"),
    ],
)
def test_damage_names_what_is_wrong(tmp_path, harm, message):
    folder = _folder(tmp_path / "f", a="123")
    harm(folder)
    assert message in damage(folder)


def test_a_manifest_that_leads_out_of_its_folder_is_damage(tmp_path):
    folder = _folder(tmp_path / "f", a="123")
    (tmp_path / "a").write_text("123")
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"a"', '"../a"'))
    assert "../a" in damage(folder)


_HOLD = """
import pathlib, sys, time
from dvae.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_a_second_process_out_and_dies_with_its_holder(tmp_path):
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        told = rf"in use by process {holder.pid} on {re.escape(socket.gethostname())} since "
        told += r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC: wait"
        with pytest.raises(UserError, match=told), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        pass


def test_lines_that_are_kept_stay_as_they_are_and_half_a_line_goes(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_bytes(b'{"step":  1}\n{"step": 3}\n{"st{"step": 2}\n[]\n{"step": 2}\n{"step": 1}')
    keep_lines(path, lambda line: line["step"] <= 2)
    assert path.read_bytes() == b'{"step":  1}\n{"step": 2}\n'
    keep_lines(tmp_path / "none", bool)
    assert os.listdir(tmp_path) == ["list.jsonl"]
