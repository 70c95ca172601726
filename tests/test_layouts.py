"""The layouts of known dog data sets, built small in their true form from photographs or drawn dogs."""

import json
import struct
import zipfile
import zlib

import pytest

from shards.mat import read_texts
from shards.pack import main
from shards.voc import read_box
from tests.conftest import DOGS
from tests.pictures_on_disk import dogs, rejected, samples, write_files

REAL = pytest.param(
    True, marks=pytest.mark.skipif(not DOGS.is_dir(), reason=f"no photographs in {DOGS}")
)


@pytest.fixture(params=[False, REAL], ids=["drawn", "photographs"])
def pictures(request):
    return dogs(8, request.param)


def voc(corners, box="bndbox", size=(4000, 4000)):
    names = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in names)
    return (
        f"<annotation>\n<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"<object><name>dog</name><{box}>{inside}</{box}></object></annotation>"
    )


def mat(variables):
    """A MATLAB file of level 5 with cell arrays of texts, compressed as MATLAB writes them."""

    def element(kind, body):
        return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)

    def matrix(kind, dims, name, *parts):
        head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<ii", *dims))
        return element(14, head + element(1, name.encode()) + b"".join(parts))

    data = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    for name, texts in variables.items():
        cells = [matrix(4, (1, len(t)), "", element(4, t.encode("utf-16-le"))) for t in texts]
        body = zlib.compress(matrix(1, (len(texts), 1), name, *cells))
        data += struct.pack("<II", 15, len(body)) + body
    return data


def stanford(pictures):
    names = [f"{'n02085620-Chihuahua' if n % 2 else 'n02086240-Shih-Tzu'}" for n in range(6)]
    paths = [f"{name}/{name[:9]}_{number}" for number, name in enumerate(names)]
    files = {f"Images/{path}.jpg": data for path, data in zip(paths, pictures, strict=False)}
    files |= {f"Annotation/{path}": voc((3, 4, 30, 28)) for path in paths}
    lists = {"train": paths[:4], "test": paths[4:], "file": paths}
    for name, group in lists.items():
        cells = {"file_list": [f"{path}.jpg" for path in group], "annotation_list": group}
        files[f"{name}_list.mat"] = mat(cells)
    splits = {f"Images/{p}.jpg": ("train", "test")[n > 3] for n, p in enumerate(paths)}
    labels = {f"Images/{p}.jpg": p.split("/")[0].split("-", 1)[1] for p in paths}
    return files, {name: (splits[name], labels[name], (28, 25)) for name in splits}


def oxford(pictures):
    names = ["american_bulldog_1", "american_bulldog_2", "Abyssinian_1", "pug_10", "pug_11"]
    species = [2, 2, 1, 2, 2]
    files = {f"images/{n}.jpg": data for n, data in zip(names, pictures, strict=False)}
    rows = [
        f"{name} {number} {kind} 1"
        for number, (name, kind) in enumerate(zip(names, species, strict=True))
    ]
    files["annotations/list.txt"] = "\n".join(
        ["#Image CLASS-ID SPECIES BREED ID", "#SPECIES: 1:Cat 2:Dog", *rows]
    )
    files["annotations/trainval.txt"] = "\n".join(rows[:3])
    files["annotations/test.txt"] = "\n".join(rows[3:])
    files["annotations/xmls/pug_10.xml"] = voc((1, 1, 30, 20))
    files["annotations/trimaps/pug_10.png"] = pictures[7]
    files["images/Abyssinian_100.mat"] = b"MATLAB"
    files["images/unlisted_1.jpg"] = pictures[6]
    return files, {
        "images/american_bulldog_1.jpg": ("train", "american_bulldog", None),
        "images/american_bulldog_2.jpg": ("train", "american_bulldog", None),
        "images/pug_10.jpg": ("test", "pug", (30, 20)),
        "images/pug_11.jpg": ("test", "pug", None),
    }


def afhq(pictures):
    names = ["train/dog/a.jpg", "train/dog/b.png", "val/dog/c.jpg", "train/cat/d.jpg"]
    files = dict(zip(names, pictures, strict=False)) | {"val/wild/e.jpg": pictures[5]}
    return files, {name: (name.split("/")[0], "dog", None) for name in names[:3]}


def imagewoof(pictures):
    names = ["train/n02086240/n02086240_1.JPEG", "train/n02115641/n02115641_2.JPEG"]
    names += ["val/n02111889/n02111889_3.JPEG"]
    files = dict(zip(names, pictures, strict=False))
    files["noisy_imagewoof.csv"] = (
        "path,noisy_labels_0,noisy_labels_1,noisy_labels_5,noisy_labels_25,noisy_labels_50,is_valid\n"
        f"{names[0]},n02086240,n02115641,n02086240,n02086240,n02086240,False\n"
    )
    labels = ("Shih-Tzu", "dingo", "Samoyed")
    wanted = {n: (n.split("/")[0], label, None) for n, label in zip(names, labels, strict=True)}
    return files, wanted


def dogs_vs_cats(pictures):
    files = {f"train/dog.{n}.jpg": pictures[n] for n in range(3)}
    files |= {"train/cat.0.jpg": pictures[3], "test1/1.jpg": pictures[4]}
    return files, {f"train/dog.{n}.jpg": ("train", "dog", None) for n in range(3)}


def dog_breeds(pictures):
    ids = [f"{number:032x}" for number in range(5)]
    files = {f"train/{name}.jpg": data for name, data in zip(ids[:3], pictures, strict=False)}
    files |= {f"test/{name}.jpg": data for name, data in zip(ids[3:], pictures[3:], strict=False)}
    files["labels.csv"] = "id,breed\n" + "".join(
        f"{name},{breed}\n" for name, breed in zip(ids[:3], ("pug", "chow", "pug"), strict=True)
    )
    files["sample_submission.csv"] = "id,pug,chow\n"
    breeds = ("pug", "chow", "pug")
    return files, {f"train/{n}.jpg": ("train", b, None) for n, b in zip(ids, breeds, strict=False)}


def tsinghua(pictures):
    folders = ["200-n000008-Airedale", "1043-n000001-Shiba_Dog", "200-n000008-Airedale"]
    paths = [f"{folder}/n10703{number}" for number, folder in enumerate(folders)]
    files = {f"low-resolution/{p}.jpg": data for p, data in zip(paths, pictures, strict=False)}
    both = voc((1, 1, 22, 20), "headbndbox").replace(
        "</object>",
        voc((1, 1, 39, 39), "bodybndbox").split("<name>dog</name>")[1].split("</obj")[0]
        + "</object>",
    )
    files |= {f"Low-Annotations/{p}.jpg.xml": both for p in paths}
    files["TrainAndValList/train.lst"] = "".join(f".//{p}.jpg\n" for p in paths[:2])
    files["TrainAndValList/validation.lst"] = f".//{paths[2]}.jpg\n"
    labels = ("Airedale", "Shiba_Dog", "Airedale")
    splits = ("train", "train", "val")
    return files, {
        f"low-resolution/{path}.jpg": (split, label, (22, 20))
        for path, split, label in zip(paths, splits, labels, strict=True)
    }


BUILDERS = {
    "stanford-dogs": stanford,
    "oxford-pets": oxford,
    "afhq": afhq,
    "imagewoof": imagewoof,
    "dogs-vs-cats": dogs_vs_cats,
    "dog-breeds": dog_breeds,
    "tsinghua-dogs": tsinghua,
}
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
    assert main([str(folder), str(tmp_path / "b"), "--layout", "imagewoof"]) == 2
    assert "has not the layout imagewoof" in capsys.readouterr().err


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
