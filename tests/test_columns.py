"""Parquet files and saved Hugging Face data sets as sources."""

import json
import subprocess
import sys

import pytest

from shards.pack import main
from tests.pictures_on_disk import drawn, rejected, samples, write_files

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FEATURES = {"label": {"names": ["chow", "pug"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}


def table(numbers, is_struct=True):
    pictures = [drawn(number) for number in numbers]
    images = [{"bytes": data, "path": None} for data in pictures] if is_struct else pictures
    labels = [number % 2 for number in numbers]
    notes = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return pa.table({"image": images, "label": labels}).replace_schema_metadata(notes)


def got(out):
    return {data: (split, about["label"]) for split, data, about in samples(out)}


def test_a_folder_of_parquet_as_the_hub_serves_it_is_packed(tmp_path, capsys):
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    groups = {"train-00000-of-00002": (0, 5), "train-00001-of-00002": (5, 9), "test-0": (9, 12)}
    for name, (start, end) in groups.items():
        pq.write_table(table(range(start, end)), data / f"{name}.parquet", row_group_size=2)
    assert main([str(tmp_path / "set"), str(tmp_path / "out")]) == 0
    assert "source    parquet" in capsys.readouterr().out
    assert got(tmp_path / "out") == {
        drawn(n): ("train" if n < 9 else "test", ("chow", "pug")[n % 2]) for n in range(12)
    }
    names = {about["source"] for _, _, about in samples(tmp_path / "out")}
    assert "data/train-00000-of-00002.parquet/000000004" in names


def test_one_file_with_plain_bytes_texts_and_gaps_is_packed(tmp_path):
    columns = {
        "jpg": [drawn(0), None, drawn(2), b""],
        "breed": ["chow", "pug", None, "pug"],
        "split": ["train", "train", "val", "train"],
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    assert main([str(tmp_path / "x.parquet"), str(tmp_path / "out")]) == 0
    assert got(tmp_path / "out") == {drawn(0): ("train", "chow"), drawn(2): ("val", None)}
    assert set(rejected(tmp_path / "out").values()) == {
        "no bytes: the row holds no picture, or its path only"
    }


def test_a_data_set_saved_to_disk_is_packed(tmp_path):
    write_files(tmp_path / "set", {"dataset_dict.json": '{"splits": ["train", "test"]}'})
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        write_files(tmp_path / "set" / split, {"dataset_info.json": "{}", "state.json": "{}"})
        path = tmp_path / "set" / split / "data-00000-of-00001.arrow"
        saved = table(numbers)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, saved.schema) as writer:
            writer.write_table(saved, max_chunksize=2)
    assert main([str(tmp_path / "set"), str(tmp_path / "out")]) == 0
    assert got(tmp_path / "out") == {
        drawn(n): ("train" if n < 6 else "test", ("chow", "pug")[n % 2]) for n in range(9)
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"text": ["a"]}, "has the columns ['text']"), (None, "is no readable parquet file")],
)
def test_a_file_that_is_no_use_is_named(tmp_path, capsys, columns, message):
    path = tmp_path / "x.parquet"
    if columns:
        pq.write_table(pa.table(columns), path)
    else:
        path.write_bytes(b"PAR1 no PAR1")
    assert main([str(path), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_without_pyarrow_the_message_says_what_to_install(tmp_path):
    pq.write_table(table(range(2)), tmp_path / "x.parquet")
    code = (
        "import sys; sys.modules['pyarrow'] = None; from shards.pack import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.parquet"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "needs pyarrow, which is absent: pip install 'dvae[parquet]'" in done.stderr


def test_other_pictures_under_the_same_names_are_not_already_packed(tmp_path, capsys):
    old, new = (tmp_path / folder / "set" / "x.parquet" for folder in ("old", "new"))
    for path, numbers in ((old, (0, 1, 2)), (new, (0, 1, 8))):
        path.parent.mkdir(parents=True)
        pq.write_table(table(numbers), path)
    out = tmp_path / "out"
    assert main([str(old), str(out)]) == 0
    assert main([str(new), str(out)]) == 2
    assert "made otherwise (the files that hold the pictures differ)" in capsys.readouterr().err
    assert main([str(new), str(out), "--append"]) == 0
    assert set(got(out)) == {drawn(number) for number in (0, 1, 2, 8)}
    assert main([str(new), str(out)]) == 0
    assert "already packed" in capsys.readouterr().out


def test_a_set_packed_before_files_were_told_apart_is_still_the_same(tmp_path, capsys):
    path, out = tmp_path / "x.parquet", tmp_path / "out"
    pq.write_table(table(range(3)), path)
    assert main([str(path), str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_bytes())
    del manifest["about"]["options"]["files"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(path), str(out)]) == 0
    assert "already packed" in capsys.readouterr().out
