"""Training from anywhere: the same weights from http as from a disk; tars of others; a real S3."""

import json
import shutil

import fsspec
import pytest
from safetensors.torch import load_file

from dvae.data.manifest import find_split
from dvae.data.objects import ObjectStore
from dvae.data.patience import Patience
from dvae.data.reader import BadSample, Reader
from dvae.errors import UserError
from dvae.sources import find_sources
from shards.index import main as index
from tests.fault_server import serving
from tests.faults.shard_files import picture, write_tar
from tests.s3_server import SECRET, run

WINDOW = "data.window=4"


def weights(recipe, name):
    return load_file(recipe.parent / "runs" / name / "weights" / "model.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all((one[key] == two[key]).all() for key in one)


def test_training_from_http_gives_the_weights_of_training_from_a_disk(
    recipe, shards, train, tmp_path, capfd
):
    # An epoch has six steps, and windows end after its fourth and sixth.
    common = [WINDOW, "train.global_batch_size=8", "optim.schedule=constant"]
    assert train(recipe, "run.name=local", *common, "train.steps=7") == 0
    with serving(shards, "reset in the body") as server:
        address = server.url.removeprefix("http://")
        url = f"http://dog:hushhush@{address}/data?sig=s1gnature"
        remote = [*common, f"data.train={url}"]
        assert train(recipe, "run.name=http", *remote, "train.steps=3") == 0
        assert not equal(weights(recipe, "local"), weights(recipe, "http"))
        told = "".join(capfd.readouterr())
        more = ["train.steps=7", "data.ahead=2"]  # it goes on inside a window
        assert train(recipe, "run.name=http", *remote, *more) == 0
        new = "".join(capfd.readouterr())
        assert ("step 3: psnr" in new, "step 6: psnr" in new) == (False, True)
        kept = [f"data.cache_dir={tmp_path / 'cache'}", f"data.cache_bytes={1 << 20}"]
        once = ["train.steps=7", "data.threads=1"]
        assert train(recipe, "run.name=kept", *remote, *once, *kept) == 0
    assert equal(weights(recipe, "local"), weights(recipe, "http"))
    assert equal(weights(recipe, "local"), weights(recipe, "kept"))
    told += new + "".join(capfd.readouterr())
    files = [path for path in recipe.parent.rglob("*") if path.is_file()]
    texts = [told.encode(), *(path.read_bytes() for path in files)]
    assert len(texts) > 10
    assert not any(secret in text for secret in (b"hushhush", b"s1gnature") for text in texts)


def test_remote_windows_that_would_not_fit_into_memory_are_refused(
    recipe, shards, train, capsys, monkeypatch
):
    monkeypatch.setattr("dvae.streams.available_memory", lambda: 100_000)  # on a tiny machine
    with serving(shards) as server:
        assert train(recipe, f"data.train={server.url}/data", WINDOW) == 2
    assert "data.window=4 of remote shards would hold" in capsys.readouterr().err
    assert train(recipe, "train.steps=1") == 0  # local ones hold none


def test_remote_shards_without_a_window_are_refused_with_the_remedy(recipe, shards, train, capsys):
    with serving(shards) as server:
        assert train(recipe, f"data.train={server.url}/data?sig=s1gnature") == 2
        told = capsys.readouterr().err
        assert "set data.window=32, or data.cache_dir" in told
        assert train(recipe, f"data.train={server.url}/data?sig=s1gnature", "data.windw=1") == 2
        told += capsys.readouterr().err
        assert train(recipe, f"data.trian={server.url}/data?sig=s1gnature") == 2
        told += capsys.readouterr().err
    assert "s1gnature" not in told


def test_a_cache_lets_the_whole_of_a_remote_data_set_be_permuted(recipe, shards, train, tmp_path):
    assert train(recipe, "run.name=local") == 0
    with serving(shards) as server:
        remote = [f"data.train={server.url}/data", f"data.cache_dir={tmp_path / 'cache'}"]
        assert train(recipe, "run.name=http", *remote) == 0
    assert equal(weights(recipe, "local"), weights(recipe, "http"))


def foreign(folder):
    """Tars as others make them: pictures in several formats, classes in cls or txt or json."""
    folder.mkdir()
    for split in ("train", "val"):
        for number in range(2):
            entries = []
            for sample in range(20):
                data = picture(sample + 20 * number)
                entries.append((f"{sample:03d}.jpg", data))
                extension = ("cls", "txt", "json")[sample % 3]
                note = b'{"label": "7"}' if extension == "json" else b"7"
                entries.append((f"{sample:03d}.{extension}", note))
            write_tar(folder / f"{split}-{number}.tar", entries)
    names = folder / "names.txt"
    names.write_text("\n".join(sorted(path.name for path in folder.glob("*.tar"))) + "\n\n")
    return names


def test_tars_of_others_behind_http_are_read_once_and_train(recipe, train, tmp_path, capsys):
    names, out = foreign(tmp_path / "foreign"), tmp_path / "out"
    tars = {path.name: path.stat().st_size for path in names.parent.glob("*.tar")}
    with serving(names.parent) as server:
        assert index([f"{server.url}/foreign", str(out), "--names", str(names)]) == 0
        sizes = {name: tars[name] + 1 for name in tars}  # a byte was asked for to learn the size
        assert server.bytes == sizes
        assert sorted(p.name for p in out.iterdir() if p.suffix == ".tar") == []
        assert not list(out.glob(".tmp-*"))
        reader = Reader(find_split(out, "train"))
        assert {reader.about(sample)["label"] for sample in range(40)} == {"7"}
        assert reader.picture(21).data == picture(21)
        assert train(recipe, f"data.train={out}", WINDOW) == 0
    capsys.readouterr()
    assert json.loads((out / "manifest.json").read_text())["base"] == f"{server.url}/foreign"


def refused(capsys, message, *arguments):
    capsys.readouterr()
    assert index([str(argument) for argument in arguments]) != 0
    told = capsys.readouterr().err
    assert message in told
    assert "hushhush" not in told


def test_remote_tars_that_cannot_be_indexed_are_refused_with_the_remedy(tmp_path, capsys):
    names, out = foreign(tmp_path / "foreign"), tmp_path / "out"
    with serving(names.parent) as server:
        url = f"{server.url}/foreign"
        refused(capsys, "give a local folder OUT", url)
        refused(capsys, "give it by --names", url, out)
        secret = url.replace("http://", "http://dog:hushhush@")
        refused(capsys, "put them into ~/.netrc", secret, out, "--names", names)
        for line, message in (
            ("pipe:cat /etc/passwd", "line 2 of"),
            ("../train-0.tar", "line 2 of"),
            ("train-1.tar.gz", "is compressed: uncompress it there"),
            ("train-0.tar", "names a tar twice"),
            ("no-such-9.tar", "it is not there (404)"),
        ):
            names.write_text(f"train-0.tar\n{line}\n")
            refused(capsys, message, url, out, "--names", names)
        (names.parent / "train-1.tar").write_bytes(b"\x1f\x8b" + bytes(4000))
        names.write_text("train-0.tar\ntrain-1.tar\n")
        refused(capsys, "train-1.tar is compressed: uncompress it", url, out, "--names", names)
        (names.parent / "train-1.tar").write_bytes(b"\x01" * 2048)
        refused(capsys, "no valid tar header at byte 0", url, out, "--names", names)
    assert not (out / "manifest.json").exists()
    refused(capsys, "OUT and --names are for remote tars", names.parent, out)


def test_only_a_local_manifest_may_name_another_place_and_only_a_remote_one(shards, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    value = json.loads((copy / "manifest.json").read_text())
    for base in (str(shards), "pipe:id"):
        (copy / "manifest.json").write_text(json.dumps(value | {"base": base}))
        with pytest.raises(UserError, match="names the base|no place that data are read from"):
            find_split(copy, "train")
    (copy / "manifest.json").write_text(json.dumps(value | {"base": "https://elsewhere/data"}))
    with serving(copy) as server, pytest.raises(UserError, match="only a local manifest may"):
        find_split(f"{server.url}/copy", "train")


def test_sources_behind_urls_are_named_without_their_secrets(recipe, shards):
    from dvae.recipe import load_config

    with serving(shards) as server:
        paths = [f'{{path="{server.url}/{name}?sig=s1gnature"}}' for name in ("a", "b")]
        config = load_config(
            recipe, [f"data.sources=[{', '.join(paths)}]", 'data.train=""', WINDOW]
        )
        order = find_sources(config, 1).order
    assert order.names == ("a", "b")


_UPLOAD = """
import sys, fsspec
files = fsspec.filesystem("s3")
files.mkdir("bucket")
files.put(sys.argv[1] + "/", "bucket/dogs/", recursive=True)
"""


@pytest.mark.slow
def test_shards_packed_and_uploaded_to_s3_train_and_index_from_there(s3, shards, recipe, tmp_path):
    run(s3, "-c", _UPLOAD, shards)
    local = ["-m", "dvae.train", recipe, WINDOW]
    run(s3, *local, "run.name=local")
    told = run(s3, *local, "run.name=s3", "data.train=s3://bucket/dogs")
    assert equal(weights(recipe, "local"), weights(recipe, "s3"))
    out = tmp_path / "out"
    told += run(s3, "-m", "shards.index", "s3://bucket/dogs", out)
    told += run(s3, *local, "run.name=indexed", f"data.train={out}")
    assert equal(weights(recipe, "local"), weights(recipe, "indexed"))
    told += run(s3, *local, "run.name=gone", "data.train=s3://bucket/cats", code=3)
    assert "s3://bucket/cats/manifest.json: it is not there" in told
    told += run(
        {**s3, "AWS_SECRET_ACCESS_KEY": "hushhush"},
        *local,
        "run.name=shut",
        "data.train=s3://bucket/dogs",
        code=3,
    )
    assert told.count("access is refused") == 1
    assert SECRET not in told
    assert "hushhush" not in told


@pytest.mark.slow
def test_an_object_that_was_cut_is_told_at_once_and_costs_what_it_lacks(s3, shards, monkeypatch):
    for name in [name for name in s3 if name.startswith("AWS_")]:
        monkeypatch.setenv(name, s3[name])
    files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    files.mkdir("cutting")
    files.put(f"{shards}/", "cutting/dogs/", recursive=True)
    patience = Patience(total=20, first_pause=0.002, longest_pause=0.01)
    split = find_split(ObjectStore("s3://cutting/dogs", patience), "train")
    reader, local, shard = Reader(split), Reader(find_split(shards, "train")), split.shards[0]
    last = local.place(shard.samples - 1).offset
    whole = (shards / shard.name).read_bytes()
    for length in (last + 100, len(whole) // 2):
        files.pipe_file(f"cutting/dogs/{shard.name}", whole[:length])
        assert reader.picture(0).data == local.picture(0).data
        with pytest.raises(BadSample, match=rf"{shard.name}: it ends before what was asked for"):
            reader.picture(shard.samples - 1)
    files.rm("cutting", recursive=True)
