"""python -m shards.pack from and to a real S3 server, and from http: the bytes of a local packing."""

import shutil
import tarfile
from collections import Counter

import fsspec
import pytest

from shards.pack import main
from shards.remote_source import RemoteFolder
from shards.sources import Item
from tests.fault_server import serving
from tests.pictures_on_disk import rejected, samples
from tests.s3_server import SECRET, run
from tests.test_pack import make_source, packed, tree

pytestmark = pytest.mark.slow
FLAGS = ("--size", "20", "--val", "0.3", "--shard-bytes", "6K", "--workers", "2")
SMALL = ("--size", "16", "--ignore-splits")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source") / "photos", 40, texts=1)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    out = packed(source, tmp_path_factory.mktemp("whole") / "out", *FLAGS)
    return tree(out)


@pytest.fixture
def files(s3, monkeypatch):
    """The server's files; buckets that tests make are gone afterwards."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, s3[name])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    files.mkdir("packing")
    yield files
    files.rm("packing", recursive=True)


def there(files, folder):
    """What lies in a folder of the bucket, as `tree` gives it."""
    return {name.rsplit("/", 1)[1]: files.cat_file(name) for name in files.ls(folder, detail=False)}


def pack(s3, source, out, staging, *flags, code=0, **environment):
    command = ("-m", "shards.pack", source, out, *FLAGS, "--staging", staging, *flags)
    return run({**s3, **environment}, *command, code=code)


def test_a_folder_in_s3_packs_to_the_bytes_of_a_local_one(s3, files, source, whole, tmp_path):
    files.put(f"{source}/", "packing/photos/", recursive=True)
    told = pack(s3, "s3://packing/photos", "s3://packing/out/dogs", tmp_path / "staging")
    assert "rejected  1 (1 not a picture): see s3://packing/out/dogs/rejected.jsonl" in told
    assert there(files, "packing/out/dogs") == whole
    assert not [path for path in (tmp_path / "staging").rglob("*") if path.suffix == ".tar"]
    told = pack(s3, source, "s3://packing/out/dogs", tmp_path / "other")
    assert "already packed with these options" in told
    told = run(s3, "-m", "shards.verify", "s3://packing/out/dogs")
    assert "all right: " in told
    told = pack(
        s3, source, "s3://packing/out/dogs", tmp_path / "staging", "--quality", "50", code=2
    )
    assert "already holds shards made otherwise (quality: 92, asked 50)" in told
    assert SECRET not in told


@pytest.mark.parametrize("point", ["opened:30", "renamed:41"])
def test_a_killed_upload_goes_on_and_no_reader_saw_a_manifest(
    point, s3, files, source, whole, tmp_path
):
    staging = tmp_path / "staging"
    pack(s3, source, "s3://packing/out", staging, code=-9, DVAE_FAILPOINT=point)
    found = there(files, "packing/out")
    assert "manifest.json" not in found
    assert {n: data for n, data in found.items() if n != ".packing"}.items() <= whole.items()
    told = pack(s3, source, "s3://packing/out", staging)
    assert "shards of an earlier run" in told
    assert there(files, "packing/out") == whole
    # Another machine, which has nothing of it here, takes over too.
    files.rm("packing/out", recursive=True)
    pack(s3, source, "s3://packing/out", staging, code=-9, DVAE_FAILPOINT=point)
    pack(s3, source, "s3://packing/out", tmp_path / "another")
    assert there(files, "packing/out") == whole


def test_pictures_are_appended_and_overwritten_in_s3(s3, files, source, whole, tmp_path):
    staging, more = tmp_path / "staging", tmp_path / "more"
    pack(s3, source, "s3://packing/out", staging)
    shutil.copytree(source, more)
    make_source(more / "chow" / "again", 6)
    pack(s3, more, "s3://packing/out", staging, "--append")
    local = tmp_path / "local"
    assert main([str(source), str(local), *FLAGS]) == 0
    assert main([str(more), str(local), *FLAGS, "--append"]) == 0
    assert there(files, "packing/out") == tree(local)
    pack(s3, source, "s3://packing/out", staging, "--overwrite")
    assert there(files, "packing/out") == whole


def test_archives_and_shards_behind_urls_are_copied_and_packed(s3, files, source, tmp_path):
    archive = tmp_path / "photos.tar"
    with tarfile.open(archive, "w") as file:
        file.add(source, ".")
    local, staging = tmp_path / "local", tmp_path / "staging"
    assert main([str(archive), str(local), *FLAGS]) == 0
    with serving(tmp_path, "reset in the body") as server:
        http = [f"{server.url}/data/photos.tar", str(tmp_path / "http"), *FLAGS]
        assert main([*http, "--staging", str(staging)]) == 0
        assert main([f"{server.url}/data", str(tmp_path / "listed")]) == 2
    assert tree(tmp_path / "http") == tree(local)
    files.put(f"{local}/", "packing/dogs/", recursive=True)
    files.rm("packing/dogs/manifest.json")
    for name in files.glob("packing/dogs/*.*[!r]"):
        files.rm(name)
    pack(s3, "s3://packing/dogs", tmp_path / "again", staging, *SMALL)
    for path in local.glob("*[!r]"):
        path.unlink()
    assert main([str(local), str(tmp_path / "repacked"), *FLAGS, *SMALL]) == 0
    assert tree(tmp_path / "again") == tree(tmp_path / "repacked")


def test_a_list_names_pictures_in_s3(s3, files, tmp_path):
    source = make_source(tmp_path / "photos", 4)
    files.put(f"{source}/", "packing/photos/", recursive=True)
    names = [str(path.relative_to(source)) for path in sorted(source.rglob("*.*"))]
    urls = [f"s3://packing/photos/{name}" for name in [*names, "gone.jpg"]]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    pack(s3, tmp_path / "list.txt", tmp_path / "out", tmp_path / "staging", "--size", "99")
    got = {about["source"]: data for _, data, about in samples(tmp_path / "out")}
    assert got == {
        url: (source / name).read_bytes() for url, name in zip(urls, names, strict=False)
    }
    assert rejected(tmp_path / "out") == {
        urls[-1]: "cannot be read: s3://packing/photos/gone.jpg: it is not there"
    }


def test_hidden_keys_are_counted_and_a_web_folder_is_refused(s3, files, capsys, tmp_path):
    files.pipe({"packing/odd/.thumbs/c.jpg": b"x", "packing/odd/pug/d.jpg": b"xyz"})
    ignored = Counter()
    folder = RemoteFolder("s3://packing/odd")
    assert Item(b"pug/d.jpg", 3) in list(folder.files(ignored))
    assert ignored == {"hidden files": 1}
    assert folder.read(Item(b"pug/d.jpg", 3)) == b"xyz"
    assert main(["https://127.0.0.1:1/photos", str(tmp_path / "out")]) == 2
    assert "can't be listed: give an archive" in capsys.readouterr().err
    assert main([str(tmp_path), "https://127.0.0.1:1/out"]) == 2
    assert "can't be written to" in capsys.readouterr().err
