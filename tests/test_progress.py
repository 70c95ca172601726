"""What commands show of how far they are: on a terminal a bar, in a log a line now and then."""

import os
import pty
import re
import subprocess
import sys

import pytest

from shards.pack import main
from tests.test_pack import make_source, packed


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "photos", 30, texts=3)


def on_a_terminal(*arguments):
    """What a command that ends well writes to a terminal on its stderr."""
    ours, its = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=its
    ) as process:
        os.close(its)
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # how a terminal ends
            os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


def test_packing_shows_its_rate_the_time_left_and_what_is_rejected(source, tmp_path):
    shown = on_a_terminal("shards.pack", source, tmp_path / "out")
    states = re.findall(r"\rpacking: +(\d+)%\|[^|]*\| (\d+)/33 \[([^\]]*)\]", shown)
    assert states[0] == ("0", "0", "00:00<?, ?img/s")
    assert states[-1][:2] == ("100", "33")
    assert re.fullmatch(r"\d\d:\d\d<00:00, +[\d.]+(img/s|s/img), rejected=3", states[-1][2])


def test_verifying_shows_its_rate_and_the_time_left(source, tmp_path):
    shown = on_a_terminal("shards.verify", packed(source, tmp_path / "out"))
    states = re.findall(r"\rverifying: +(\d+)%\|[^|]*\| ([\d.]+k)/([\d.]+k) \[([^\]]*)\]", shown)
    percent, done, total, times = states[-1]
    assert (percent, done) == ("100", total)
    assert re.fullmatch(r"\d\d:\d\d<00:00, +[\d.]+[kM]?B/s", times)


def test_a_log_gets_lines_now_and_then(source, tmp_path, monkeypatch, capfd):
    assert main([str(source), str(tmp_path / "quick")]) == 0
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("shards.progress.SECONDS", 0)
    assert main([str(source), str(tmp_path / "out")]) == 0
    told = capfd.readouterr().err
    lines = told.splitlines()
    assert "\r" not in told
    assert len(lines) == 34
    assert all(re.match(r"packing: +\d+%\|.*\| \d+/33 \[", line) for line in lines)
    assert re.search(
        r"100%\|.*\| 33/33 \[\d\d:\d\d<00:00, .*(img/s|s/img), rejected=3\]$", lines[-1]
    )
