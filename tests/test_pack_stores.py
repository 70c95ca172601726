"""python -m shards.pack from and to object stores by fsspec: the bytes of a local packing."""

import importlib.util
from collections import Counter
from types import SimpleNamespace

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from dvae.data.location import OBJECTS
from dvae.data.objects import ObjectStore
from dvae.data.patience import Patience
from dvae.data.storage import StoreError
from shards.pack import main
from shards.verify import main as verify
from tests.pictures_on_disk import drawn, rejected, samples, write_files
from tests.test_pack import make_source, packed, tree

HASTY = Patience(total=8, first_pause=0.002, longest_pause=0.01)
FLAGS = ("--size", "20", "--val", "0.3", "--shard-bytes", "12K", "--workers", "2")


@pytest.fixture
def memory(monkeypatch):
    """The files of memory://, which is allowed meanwhile, gone afterwards: they die with a process."""
    for module in ("dvae.data.location", "shards.lists"):
        monkeypatch.setattr(f"{module}.OBJECTS", (*OBJECTS, "memory"))
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def there(files, folder):
    return {name.rsplit("/", 1)[1]: files.cat_file(name) for name in files.ls(folder, detail=False)}


def test_a_pack_to_and_from_memory_has_the_bytes_of_a_local_one(memory, tmp_path, capsys):
    source = make_source(tmp_path / "photos", 30, texts=1)
    whole = tree(packed(source, tmp_path / "out", *FLAGS))
    staging = ("--staging", str(tmp_path / "staging"))
    assert main([str(source), "memory://data/dogs", *FLAGS, *staging]) == 0
    assert there(memory, "/data/dogs") == whole
    memory.put(f"{source}/", "/data/photos/", recursive=True)
    assert main(["memory://data/photos", "memory://data/again", *FLAGS, *staging]) == 0
    assert there(memory, "/data/again") == whole
    assert not list((tmp_path / "staging").rglob("*.tar"))
    assert verify(["memory://data/again"]) == 0
    assert "all right: 30 samples" in capsys.readouterr().out
    assert main([str(source), "memory://data/again", *FLAGS, *staging]) == 0
    assert "already packed with these options" in capsys.readouterr().out


def test_a_list_may_name_objects(memory, tmp_path, capsys):
    memory.pipe({f"/bucket/a {number}.jpg": drawn(number) for number in range(3)})
    urls = [f"memory://bucket/a {number}.jpg" for number in range(4)]
    write_files(tmp_path, {"list.txt": "\n".join([*urls, "here.jpg"]), "here.jpg": drawn(9)})
    assert main([str(tmp_path / "list.txt"), str(tmp_path / "out")]) == 0
    got = {about["source"]: data for _, data, about in samples(tmp_path / "out")}
    assert got == {"here.jpg": drawn(9)} | {urls[number]: drawn(number) for number in range(3)}
    assert rejected(tmp_path / "out") == {
        urls[3]: "cannot be read: memory://bucket/a 3.jpg: it is not there"
    }


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket/x.jpg", "'s3://***@bucket' holds credentials"),
        ("gs://bucket", "'gs://bucket' names no object: write gs://BUCKET/PATH"),
        ("gs://a::file:///x.jpg", "is no place that data are read from"),
        ("S3://bucket/x.jpg", "line 1: 'S3://bucket/x.jpg' is neither a path nor"),
        ("sftp://host/x.jpg", "line 1: 'sftp://host/x.jpg' is neither a path nor"),
    ],
)
def test_an_object_that_cannot_be_meant_is_told_before_packing(tmp_path, capsys, url, message):
    write_files(tmp_path, {"list.txt": url})
    assert main([str(tmp_path / "list.txt"), str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "secret" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("scheme", "package"), [("gs", "gcsfs"), ("az", "adlfs"), ("oss", "ossfs")]
)
def test_a_client_that_is_not_installed_is_named_with_its_command(
    scheme, package, tmp_path, capsys
):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    source = make_source(tmp_path / "photos", 3)
    write_files(tmp_path, {"list.txt": f"{scheme}://bucket/x.jpg"})
    out, url = str(tmp_path / "out"), f"{scheme}://bucket/dogs"
    for arguments in ([str(source), url], [url, out], [str(tmp_path / "list.txt"), out]):
        assert main(arguments) == 2
        assert f"needs a client: pip install {package}" in capsys.readouterr().err
    assert verify([url]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///x", "zip::s3://b/x", "memory://x/y"])
def test_a_place_of_another_kind_is_refused_with_those_that_are_not(url, tmp_path, capsys):
    for arguments in ([url, str(tmp_path)], [str(tmp_path), url]):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert "is no place that data are read from: give a local folder, https://" in told


class OddError(Exception):
    """As each client has its own."""


class Odd(MemoryFileSystem):
    """A client that gives each file at the second attempt, and that one store can't be opened with."""

    protocol = "gs"
    asked = Counter()

    def __init__(self, **options):
        if Odd.asked["account"]:
            raise OddError("no account")
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("gs://", "memory://"))

    def cat_file(self, path, start=None, end=None, **options):
        Odd.asked[path] += 1
        if Odd.asked[path] == 1:
            raise OddError("come again")
        return super().cat_file(path, start, end, **options)


def test_a_client_s_own_errors_are_tried_again_or_told(memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Odd, "asked", Counter())
    monkeypatch.setitem(_registry, "gs", Odd)
    memory.pipe({f"/odd/{number}.jpg": drawn(number) for number in range(2)})
    assert main(["gs://odd", str(tmp_path / "out"), "--workers", "2"]) == 0
    assert len(list(samples(tmp_path / "out"))) == 2
    assert Odd.asked == {"/odd/0.jpg": 2, "/odd/1.jpg": 2}
    Odd.asked["account"] = 1
    assert main([str(tmp_path), "gs://another"]) == 2
    assert "'gs://another' can't be opened (no account): set the store's" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["status", "code", "status_code"])
@pytest.mark.parametrize("status", [401, "403"])
def test_a_client_s_refusal_is_told_at_once(memory, monkeypatch, name, status):
    asked = wrong_client(monkeypatch, OddError("no"))
    asked.error.response = SimpleNamespace(**{name: status})
    refused = "gs://odd/0.jpg: access is refused: set credentials"
    with pytest.raises(StoreError, match=refused):
        ObjectStore("gs://odd", HASTY).read("0.jpg", 0, 9)
    asked.error = OddError("no")
    setattr(asked.error, name, status)
    with pytest.raises(StoreError, match=refused):
        ObjectStore("gs://odd", HASTY).size("0.jpg")
    assert asked.times == 2


@pytest.mark.parametrize("mistake", [TypeError, AttributeError, NotImplementedError])
def test_a_mistake_of_the_program_is_not_taken_for_the_store_s(memory, monkeypatch, mistake):
    asked = wrong_client(monkeypatch, mistake("of the program"))
    with pytest.raises(mistake, match="of the program"):
        ObjectStore("gs://odd", HASTY).read("0.jpg", 0, 9)
    assert asked.times == 1


def wrong_client(monkeypatch, error):
    """A client of gs:// that raises an error at each request, and counts them."""
    asked = SimpleNamespace(error=error, times=0)

    class Wrong(Odd):
        def cat_file(self, *_, **__):
            asked.times += 1
            raise asked.error

        size = cat_file

    monkeypatch.setitem(_registry, "gs", Wrong)
    return asked
