"""Known dog data sets are recognised by their layout, with their dogs, classes, splits and boxes."""

import json
import re
import zipfile

import pytest

from shards.mat import read_texts
from shards.pack import main
from shards.voc import read_box
from tests.conftest import DOGS
from tests.dog_layouts import BUILDERS, afhq, stanford, voc
from tests.pictures_on_disk import dogs, rejected, samples, write_files

REAL = pytest.param(
    True, marks=pytest.mark.skipif(not DOGS.is_dir(), reason=f"no photographs in {DOGS}")
)


@pytest.fixture(params=[False, REAL], ids=["drawn", "photographs"])
def pictures(request):
    return dogs(8, request.param)


CORNERS = ("xmin", "ymin", "xmax", "ymax")
WITH_BOXES = ("stanford-dogs", "oxford-pets", "tsinghua-dogs")


def packed(source, out, name, capsys, *flags):
    assert main([str(source), str(out), *flags]) == 0
    assert f"source    {name} " in capsys.readouterr().out
    assert rejected(out) == {}
    return {about["source"]: (split, about) for split, _, about in samples(out)}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_layout_is_recognised_with_its_dogs_classes_and_splits(name, pictures, tmp_path, capsys):
    files, wanted = BUILDERS[name](pictures)
    folder = write_files(tmp_path / "set", files)
    made = packed(folder, tmp_path / "out", name, capsys)
    got = {source: (split, about["label"]) for source, (split, about) in made.items()}
    assert got == {source: (split, label) for source, (split, label, _) in wanted.items()}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert manifest["about"]["classes"] == sorted({label for _, label, _ in wanted.values()})


@pytest.mark.parametrize("name", WITH_BOXES)
def test_a_layouts_boxes_are_cut_where_they_are_asked_for(name, pictures, tmp_path, capsys):
    files, wanted = BUILDERS[name](pictures)
    folder = write_files(tmp_path / "set", files)
    made = packed(folder, tmp_path / "out", name, capsys, "--boxes", "source")
    for source, (_, _, size) in wanted.items():
        about = made[source][1]
        assert size is None or (about["width"], about["height"]) == size
        assert ("source_sha256" in about) == (size is not None)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_zip_with_a_top_folder_gives_the_same_bytes(name, pictures, tmp_path, capsys):
    files, _ = BUILDERS[name](pictures)
    folder = write_files(tmp_path / "set", files)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in reversed(sorted(folder.rglob("*"))):
            file.write(path, f"top/{path.relative_to(folder)}")
        file.writestr("__MACOSX/top/._x.jpg", b"AppleDouble")
    packed(folder, tmp_path / "a", name, capsys)
    packed(tmp_path / "set.zip", tmp_path / "b", name, capsys)
    tars = sorted(path.name for path in (tmp_path / "a").glob("*.tar"))
    assert tars
    for tar in tars:
        assert (tmp_path / "a" / tar).read_bytes() == (tmp_path / "b" / tar).read_bytes()


@pytest.mark.skipif(not DOGS.is_dir(), reason=f"no photographs in {DOGS}")
def test_the_real_oxford_pets_are_packed_as_they_lie(tmp_path, capsys):
    pets, flags = DOGS / "pets", ("--boxes", "source", "--check", "header", "--size", "64")
    made = packed(pets, tmp_path / "out", "oxford-pets", capsys, *flags)
    names = {path.stem for path in (pets / "images").glob("*.jpg")}
    lines = (pets / "annotations" / "trainval.txt").read_text().splitlines()
    trained = {line.split()[0] for line in lines}
    assert {source: split for source, (split, _) in made.items()} == {
        f"images/{name}.jpg": "train" if name in trained else "test" for name in names
    }
    boxed = [path.stem for path in (pets / "annotations" / "xmls").glob("*.xml")]
    assert boxed
    for name in boxed:
        text = (pets / "annotations" / "xmls" / f"{name}.xml").read_text()
        x0, y0, x1, y1 = (int(re.search(rf"<{c}>(\d+)<", text)[1]) for c in CORNERS)
        about = made[f"images/{name}.jpg"][1]
        shape = (x1 - x0 + 1) / (y1 - y0 + 1)
        assert about["width"] / about["height"] == pytest.approx(shape, abs=0.03)


def test_a_few_pictures_with_a_known_name_make_no_layout(tmp_path, capsys):
    files = dict(zip([f"mine/{n}.jpg" for n in range(7)], dogs(7, False), strict=True))
    folder = write_files(tmp_path / "set", files | {"train/dog.1.jpg": dogs(8, False)[7]})
    assert main([str(folder), str(tmp_path / "out")]) == 0
    assert len(list(samples(tmp_path / "out"))) == 8
    assert "source    " not in capsys.readouterr().out


def test_a_layout_can_be_named_or_refused(tmp_path, capsys):
    folder = write_files(tmp_path / "set", afhq(dogs(8, False))[0])
    assert main([str(folder), str(tmp_path / "out"), "--layout", "folder"]) == 0
    labels = {about["label"] for _, _, about in samples(tmp_path / "out")}
    assert labels == {"train/dog", "val/dog", "train/cat", "val/wild"}
    for name in ("imagewoof", "dog-breed-identification"):
        assert main([str(folder), str(tmp_path / "b"), "--layout", name]) == 2
    told = capsys.readouterr().err
    assert "has not the layout imagewoof" in told
    assert "has not the layout dog-breeds" in told


def test_the_boxes_of_whole_dogs_can_be_asked_for(pictures, tmp_path, capsys):
    folder = write_files(tmp_path / "set", BUILDERS["tsinghua-dogs"](pictures)[0])
    name = "tsinghua-dogs-bodies"
    made = packed(folder, tmp_path / "out", name, capsys, "--layout", name, "--boxes", "source")
    sizes = {(about["width"], about["height"]) for _, about in made.values()}
    assert sizes == {(39, 39)}


def test_val_is_taken_from_train_only_and_never_beside_a_val_of_the_source(tmp_path, capsys):
    folder = write_files(tmp_path / "stanford", stanford(dogs(8, False))[0])
    assert main([str(folder), str(tmp_path / "a"), "--val", "0.5", "--seed", "1"]) == 0
    splits = {about["source"]: split for split, _, about in samples(tmp_path / "a")}
    tests = [name for name, split in splits.items() if split == "test"]
    assert sorted(name[-5] for name in tests) == ["4", "5"]
    assert set(splits.values()) == {"train", "val", "test"}
    folder = write_files(tmp_path / "afhq", afhq(dogs(8, False))[0])
    assert main([str(folder), str(tmp_path / "b"), "--val", "0.5"]) == 2
    assert "SOURCE names a split val of its own" in capsys.readouterr().err
    assert main([str(folder), str(tmp_path / "b"), "--ignore-splits"]) == 0
    assert {split for split, _, _ in samples(tmp_path / "b")} == {"train"}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("test_list.mat", "", "'test_list.mat', which cannot be read (no MATLAB file"),
        ("test_list.mat", "x" * 126 + "IM" + "y" * 20, "'test_list.mat', which cannot be read"),
    ],
)
def test_a_damaged_list_is_named(tmp_path, capsys, file, text, message):
    folder = write_files(tmp_path / "set", stanford(dogs(8, False))[0] | {file: text})
    assert main([str(folder), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_annotation_is_counted_and_its_picture_stays_whole(tmp_path, capsys):
    files = stanford(dogs(8, False))[0]
    first, second, third = [name for name in files if name.startswith("Annotation/")][:3]
    files |= {first: "<annotation>", second: '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'}
    files |= {third: voc((9, 9, "nan", 3))}
    folder = write_files(tmp_path / "set", files)
    assert main([str(folder), str(tmp_path / "out"), "--boxes", "source"]) == 0
    assert "3 damaged annotations" in capsys.readouterr().out
    whole = [a["source"] for _, _, a in samples(tmp_path / "out") if "source_sha256" not in a]
    assert len(whole) == 3


def test_the_largest_box_counts_and_is_cut_to_the_picture():
    small, large = voc((1, 1, 5, 5)), voc((0, 3, 90, 50), size=(60, 40))
    both = large.replace("</object>", "</object>" + small[small.index("<object>") : -13])
    assert read_box(both.encode()) == (0, 2, 60, 40)
    assert read_box(b"<annotation/>") is None


def test_texts_of_a_matlab_file_are_those_that_scipy_writes(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    numpy = pytest.importorskip("numpy")
    texts = ["n02085620-Chihuahua/n02085620_5927.jpg", "ab", "\u00e9", ""]
    cells = numpy.empty((len(texts), 1), object)
    cells[:, 0] = texts
    for is_compressed in (False, True):
        path = tmp_path / "list.mat"
        scipy_io.savemat(path, {"n": 3, "file_list": cells}, do_compression=is_compressed)
        assert read_texts(path.read_bytes(), "file_list") == texts
        with pytest.raises(ValueError, match="'n' is no cell array"):
            read_texts(path.read_bytes(), "n")
