"""python -m shards.fetch against a server on this machine that cuts, changes and lies."""

import gzip
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from shards.downloads import BY_HAND, DOWNLOADS, Archive, Download
from shards.fetch import SUMS, main
from shards.pack import main as pack
from tests.dog_layouts import BUILDERS
from tests.faulty_server import cut, serving, status
from tests.pictures_on_disk import dogs, drawn, samples


def tar_of(files):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return raw.getvalue()


PETS = {f"images/pug_{number}.jpg": drawn(number, side=90) for number in range(4)}
ROWS = "".join(f"pug_{number} 1 2 1\n" for number in range(4)).encode()
IMAGES = gzip.compress(tar_of(PETS), mtime=0)
ANNOTATIONS = tar_of({"annotations/list.txt": ROWS, "annotations/test.txt": ROWS[:11]})
FILES = {"/d/images.tar.gz": IMAGES, "/d/annotations.tar": ANNOTATIONS}


@pytest.fixture
def published(monkeypatch):
    """Publish the small data set at an address, the MD5 of its pictures pinned."""

    def publish(address, md5=None):
        archives = (
            Archive(f"{address}/d/images.tar.gz", md5 or hashlib.md5(IMAGES).hexdigest()),
            Archive(f"{address}/d/annotations.tar"),
        )
        monkeypatch.setitem(DOWNLOADS, "oxford-pets", Download("The terms.", archives))

    return publish


def fetched(folder, *flags):
    return main(["oxford-pets", str(folder), "--accept-terms", *flags])


def names(folder):
    return sorted(name for name in os.listdir(folder) if name != ".lock")


def test_cut_downloads_go_on_where_they_were_and_are_packed_as_they_are(
    tmp_path, published, capsys
):
    faults = {"/d/images.tar.gz": cut(5, 700), "/d/annotations.tar": status(503, 1)}
    with serving(FILES, faults) as (address, server):
        published(address)
        assert fetched(tmp_path / "set") == 0
    told = capsys.readouterr().out
    assert told.startswith("The terms.\n")
    assert f"images.tar: {len(gzip.decompress(IMAGES))} bytes, checksum as pinned" in told
    assert "annotations.tar: 10240 bytes, checksum recorded in SHA256SUMS" in told
    starts = [f"bytes={start}-" for start in range(700, 3501, 700)]
    assert server.ranges == [None, *starts, None, None]
    assert names(tmp_path / "set") == [SUMS, "annotations.tar", "images.tar"]
    assert (tmp_path / "set" / "images.tar").read_bytes() == gzip.decompress(IMAGES)
    assert pack([str(tmp_path / "set"), str(tmp_path / "out")]) == 0
    got = {about["source"]: (split, data) for split, data, about in samples(tmp_path / "out")}
    assert got == {
        name: ("test" if name == "images/pug_0.jpg" else "train", data)
        for name, data in PETS.items()
    }


def test_without_agreeing_to_the_terms_nothing_is_asked_for(tmp_path, published, capsys):
    with serving(FILES, {}) as (address, server):
        published(address)
        assert main(["oxford-pets", str(tmp_path / "set")]) == 2
    told = capsys.readouterr()
    assert (told.out, server.requests.total()) == ("The terms.\n", 0)
    assert "add --accept-terms" in told.err
    assert not (tmp_path / "set").exists()


def test_a_later_run_goes_on_and_a_finished_one_asks_for_nothing(tmp_path, published, capsys):
    with serving(FILES, {"/d/images.tar.gz": lambda h, d, n: cut(1, 900)(h, d, n) or gone(h)}) as (
        address,
        server,
    ):
        published(address)
        assert fetched(tmp_path / "set") == 2
        assert "status 404" in capsys.readouterr().err
        assert names(tmp_path / "set") == [".tmp-images.tar.gz", ".tmp-images.tar.gz.json"]
        server.faults.clear()
        assert fetched(tmp_path / "set") == 0
        assert server.ranges[2:] == ["bytes=900-", None]
        before = server.requests.total()
        assert fetched(tmp_path / "set") == 0
        assert server.requests.total() == before
    assert "images.tar is there already" in capsys.readouterr().out


def gone(handler):
    handler.answer(404, b"no")
    return True


def test_a_killed_run_leaves_no_final_name_and_the_next_goes_on(tmp_path, published):
    def slow(handler, data, number):
        if number == 1:
            handler.body(data, 1500)
            time.sleep(5)
        return number == 1

    with serving(FILES, {"/d/images.tar.gz": slow}) as (address, server):
        published(address)
        code = (
            "import sys; from shards.fetch import fetch; from pathlib import Path;"
            "from shards.downloads import *;"
            "fetch(Download('', (Archive(sys.argv[1]),)), Path(sys.argv[2]))"
        )
        url = f"{address}/d/images.tar.gz"
        command = [sys.executable, "-c", code, url, str(tmp_path / "set")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            part = tmp_path / "set" / ".tmp-images.tar.gz"
            until = time.monotonic() + 30
            while not (part.exists() and part.with_name(f"{part.name}.json").exists()):
                assert time.monotonic() < until
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert "images.tar" not in names(tmp_path / "set")
        assert fetched(tmp_path / "set") == 0
    assert (tmp_path / "set" / "images.tar").read_bytes() == gzip.decompress(IMAGES)


def test_another_version_at_the_server_is_fetched_from_its_start(tmp_path, published):
    old = gzip.compress(tar_of({"x": bytes(999)}), mtime=5)
    with serving({**FILES, "/d/images.tar.gz": old}, {"/d/images.tar.gz": cut(1, 50)}) as (
        address,
        server,
    ):
        published(address)
        server.faults["/d/images.tar.gz"] = lambda h, d, n: cut(1, 50)(h, d, n) or gone(h)
        assert fetched(tmp_path / "set") == 2
        server.files, server.faults = FILES, {}
        assert fetched(tmp_path / "set") == 0
    assert (tmp_path / "set" / "images.tar").read_bytes() == gzip.decompress(IMAGES)


@pytest.mark.parametrize(
    ("url", "data", "message"),
    [
        ("/d/images.tar.gz", IMAGES[:-9] + b"x" + IMAGES[-8:], "gave a file with the MD5"),
        ("/d/annotations.tar", b"<html>Try again later</html>" * 30, "something that is no tar"),
        ("/d/annotations.tar", b"", "something that is no tar"),
    ],
)
def test_what_is_not_the_file_never_gets_its_name(tmp_path, published, capsys, url, data, message):
    with serving({**FILES, url: data}, {}) as (address, _):
        published(address)
        assert fetched(tmp_path / "set") == 2
    assert message in capsys.readouterr().err
    final = os.path.basename(url).removesuffix(".gz")
    assert final not in names(tmp_path / "set")
    assert f".tmp-{os.path.basename(url)}" not in names(tmp_path / "set")


def test_a_file_that_changed_since_it_was_recorded_is_refused(tmp_path, published, capsys):
    with serving(dict(FILES), {}) as (address, server):
        published(address)
        assert fetched(tmp_path / "set") == 0
        (tmp_path / "set" / "annotations.tar").write_bytes(b"changed")
        assert fetched(tmp_path / "set") == 2
        assert "annotations.tar is not what SHA256SUMS says" in capsys.readouterr().err
        (tmp_path / "set" / "annotations.tar").unlink()
        server.files["/d/annotations.tar"] = tar_of({"annotations/list.txt": b"other"})
        assert fetched(tmp_path / "set") == 2
        assert "gave another file than before" in capsys.readouterr().err


def test_a_server_that_brings_nothing_ends_in_one_message(tmp_path, published, capsys):
    with serving(FILES, {"/d/images.tar.gz": cut(99, 0)}) as (address, _):
        published(address)
        assert fetched(tmp_path / "set") == 2
    assert "brings no more bytes after 0 (ProtocolError)" in capsys.readouterr().err


@pytest.mark.parametrize("name", BY_HAND)
def test_what_is_behind_a_login_is_explained(name, tmp_path, capsys):
    assert main([name, str(tmp_path / "set"), "--accept-terms"]) == 2
    assert "pack" in capsys.readouterr().err


def zip_of(files):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return raw.getvalue()


def test_zips_become_tars_that_are_packed_together(tmp_path, monkeypatch, capsys):
    made, wanted = BUILDERS["tsinghua-dogs"](dogs(4, False))
    groups = {name: {} for name in ("low-resolution", "low-annotations", "TrainValSplit")}
    for name, data in made.items():
        group = name.partition("/")[0].lower()
        groups[group if group in groups else "TrainValSplit"][name] = data
    files = {f"/{name}.zip": zip_of(group) for name, group in groups.items()}
    files["/f/1/?dl=1"] = files.pop("/low-resolution.zip")
    good = hashlib.sha256(files["/f/1/?dl=1"]).hexdigest()
    with serving(files, {"/f/1/?dl=1": cut(2, 300)}) as (address, _):
        for digest in ("0" * 64, good):
            first = Archive(f"{address}/f/1/?dl=1", sha256=digest, called="low-resolution.zip")
            others = [Archive(f"{address}/{name}.zip") for name in list(groups)[1:]]
            download = Download("The terms.", (first, *others))
            monkeypatch.setitem(DOWNLOADS, "tsinghua-dogs", download)
            code = main(["tsinghua-dogs", str(tmp_path / "set"), "--accept-terms"])
            told = capsys.readouterr()
            assert code == (0 if digest == good else 2)
            assert (f"SHA256 {good}, not {digest}: try again" in told.err) == bool(code)
    assert "low-resolution.tar: " in told.out
    assert names(tmp_path / "set") == [SUMS, *sorted(f"{name}.tar" for name in groups)]
    assert pack([str(tmp_path / "set"), str(tmp_path / "out"), "--boxes", "source"]) == 0
    got = {
        about["source"]: (split, about["label"]) for split, _, about in samples(tmp_path / "out")
    }
    assert got == {name: (split, label) for name, (split, label, _) in wanted.items()}


def test_a_damaged_zip_never_becomes_a_tar(tmp_path, monkeypatch, capsys):
    data = zip_of({"train/dog/1.jpg": drawn(1), "val/dog/2.jpg": drawn(2)})
    flipped = data[:200] + bytes([data[200] ^ 1]) + data[201:]
    for wrong in (flipped, data[:-9], b"<html>sign in</html>"):
        with serving({"/afhq.zip": wrong}, {}) as (address, _):
            download = Download("The terms.", (Archive(f"{address}/afhq.zip"),))
            monkeypatch.setitem(DOWNLOADS, "afhq", download)
            assert main(["afhq", str(tmp_path / "set"), "--accept-terms"]) == 2
        assert "afhq.zip is damaged (" in capsys.readouterr().err
        assert names(tmp_path / "set") == []


def test_every_official_address_is_http_and_what_is_pinned_is_named():
    archives = {a.name: a for download in DOWNLOADS.values() for a in download.archives}
    for archive in archives.values():
        assert archive.url.startswith(("https://", "http://vision.stanford.edu/"))
        assert archive.name.endswith((".tar", ".tar.gz", ".tgz", ".zip"))
        assert archive.md5 is None or re.fullmatch("[0-9a-f]{32}", archive.md5)
        assert archive.sha256 is None or re.fullmatch("[0-9a-f]{64}", archive.sha256)
    unpinned = {
        name for name, archive in archives.items() if not archive.md5 and not archive.sha256
    }
    assert unpinned == {"low-resolution.zip", "low-annotations.zip", "TrainValSplit.zip"}
