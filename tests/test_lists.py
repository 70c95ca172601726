"""shards/lists.py through the packer: lists of paths and URLs, with labels, boxes and splits."""

import os
import socket

import pytest

from shards.pack import main
from tests.faulty_server import cut, serving, status
from tests.pictures_on_disk import drawn, rejected, samples, write_files

CSV = """file,label,split,x0,y0,x1,y1,remark
a/1.jpg,chow,train,1,2,21,32,"one, two"
a/2.jpg,pug,val,,,,,

a/3.jpg,,,0,0,10,10,x
"""
JSONL = """{"file": "a/1.jpg", "label": "chow", "split": "train", "box": [1, 2, 21, 32]}
{"file": "a/2.jpg", "label": "pug", "split": "val"}

{"file": "a/3.jpg", "box": [0, 0, 10, 10], "other": {}}
"""
LISTED = {
    "a/1.jpg": ("train", "chow", (20, 30)),
    "a/2.jpg": ("val", "pug", (40, 40)),
    "a/3.jpg": ("train", None, (10, 10)),
}


@pytest.fixture
def folder(tmp_path):
    files = {f"a/{number}.jpg": drawn(number) for number in range(5)}
    return write_files(tmp_path / "set", files)


def made_of(out):
    return {
        about["source"]: (split, about["label"], (about["width"], about["height"]))
        for split, _, about in samples(out)
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", CSV),
        ("list.CSV", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("list.tsv", CSV.replace('"one, two"', "x").replace(",", "\t")),
        ("list.jsonl", JSONL),
    ],
)
def test_a_list_says_label_split_and_box(folder, tmp_path, name, text):
    write_files(folder, {name: text})
    assert main([str(folder / name), str(tmp_path / "out"), "--boxes", "source"]) == 0
    assert made_of(tmp_path / "out") == LISTED
    assert main([str(folder / name), str(tmp_path / "whole")]) == 0
    assert {size for _, _, size in made_of(tmp_path / "whole").values()} == {(40, 40)}


def test_a_text_list_names_a_picture_a_line(folder, tmp_path):
    absolute = folder / "a" / "4.jpg"
    write_files(folder, {"list.txt": f"a/1.jpg\n\n./a/2.jpg\r\n{absolute}\na/gone.jpg\n"})
    assert main([str(folder / "list.txt"), str(tmp_path / "out")]) == 0
    assert sorted(made_of(tmp_path / "out")) == sorted(["a/1.jpg", "a/2.jpg", str(absolute)])
    assert rejected(tmp_path / "out") == {"a/gone.jpg": "cannot be read: No such file or directory"}


def test_a_picture_may_stand_in_several_lines_with_several_boxes(folder, tmp_path):
    rows = ("0,0,10,10", "5,5,25,30", "0,0,40,20")
    text = "file,x0,y0,x1,y1\n" + "".join(f"a/1.jpg,{row}\n" for row in rows)
    write_files(folder, {"list.csv": text})
    assert main([str(folder / "list.csv"), str(tmp_path / "out"), "--boxes", "source"]) == 0
    sizes = [(about["width"], about["height"]) for _, _, about in samples(tmp_path / "out")]
    assert sizes == [(10, 10), (20, 25), (40, 20)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "line 1: no column 'file' or 'url'"),
        ("x.csv", "path,label\na,b\n", "line 1: no column 'file' or 'url'"),
        ("x.csv", "file,label\na.jpg\n", "line 2: 1 fields, not 2"),
        ("x.csv", 'file\n"a.jpg\n', "line 2: unexpected end of data"),
        ("x.csv", "file,x0,y0,x1,y1\na,1,2,3,\n", "line 2: the box ['1', '2', '3', '']"),
        ("x.csv", "file,x0,y0,x1,y1\na,,,,\nb,1,2,3,x\n", "line 3: the box"),
        ("x.txt", "a.jpg\npipe:touch probe\n", "line 2: 'pipe:touch probe' is neither a path"),
        ("x.txt", "file:///etc/passwd\n", "line 1: 'file:///etc/passwd' is neither a path"),
        ("x.txt", "a\0b.jpg\n", "line 1: no file or URL"),
        ("x.jsonl", '{"file": "a.jpg"}\n[1]\n', "line 2: not a JSON object"),
        ("x.jsonl", '{"label": "a"}\n', "line 1: no file or URL"),
        ("x.jsonl", '{"file": "a", "label": ["x"]}\n', "line 1: label is"),
        ("x.jsonl", '{"file": "a", "box": 3}\n', "line 1: the box 3 is not"),
        (
            "x.jsonl",
            '{"file": "a", "box": [0, 0, 1.5, 2]}',
            "line 1: the box [0, 0, 1.5, 2] is not",
        ),
        ("x.jsonl", '{"file": "a", "box": [0, 0, Infinity, 2]}', "line 1: the box"),
        ("x.jsonl", '{"file": "\\ud800"}', "line 1: a name with half a character"),
        ("x.jsonl", "[" * 100_000, "line 1: not a JSON object"),
        ("x.txt", "a" * (2 << 20), "line 1: 1048576 characters or more"),
        ("x.csv", "file,split\n1.jpg,../up\n", "SOURCE names the split '../up'"),
    ],
)
def test_a_broken_list_is_an_error_that_names_the_line(tmp_path, capsys, name, text, message):
    write_files(tmp_path, {name: text, "1.jpg": drawn(1)})
    assert main([str(tmp_path / name), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "probe").exists()


def test_pictures_come_from_urls_through_faults(tmp_path):
    files = {f"/{name}.jpg": drawn(number) for number, name in enumerate("abcdefg")}
    faults = {
        "/b.jpg": cut(2),
        "/c.jpg": status(503, 2),
        "/d.jpg": cut(99),
        "/e.jpg": status(503, 99),
        "/f.jpg": status(403, 99),
    }
    with serving(files, faults) as (address, server), socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/x.jpg"
        urls = [f"{address}{name}" for name in (*files, "/gone.jpg")]
        rows = [f"{url},{number}" for number, url in enumerate([*urls, dead])]
        write_files(tmp_path, {"list.csv": "\n".join(["url,label", *rows]) + "\n"})
        assert main([str(tmp_path / "list.csv"), str(tmp_path / "out"), "--workers", "8"]) == 0
    got = {os.path.basename(about["source"]): data for _, data, about in samples(tmp_path / "out")}
    assert got == {name: files[f"/{name}"] for name in ("a.jpg", "b.jpg", "c.jpg", "g.jpg")}
    reasons = {os.path.basename(url): why for url, why in rejected(tmp_path / "out").items()}
    assert reasons == {
        "d.jpg": "cannot be read: the connection breaks again and again",
        "e.jpg": "cannot be read: too many 503 error responses",
        "f.jpg": "cannot be read: status 403",
        "gone.jpg": "cannot be read: status 404",
        "x.jpg": "cannot be read: no answer (NewConnectionError)",
    }


def test_a_url_gives_at_most_as_many_bytes_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("shards.lists.MAX_BYTES", 5000)
    with serving({"/a.jpg": drawn(0), "/b.jpg": bytes(1 << 20)}, {}) as (address, _):
        write_files(tmp_path, {"list.txt": f"{address}/a.jpg\n{address}/b.jpg\n"})
        assert main([str(tmp_path / "list.txt"), str(tmp_path / "out")]) == 0
    assert rejected(tmp_path / "out") == {
        f"{address}/b.jpg": "cannot be read: more than 5000 bytes"
    }
