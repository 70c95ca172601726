"""The layouts of known dog data sets, built small in their true form from any eight pictures.

A builder gives the files by name, and of each dog its split, its label and the size of its box.
"""

import struct
import zlib


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
