"""The layouts of known dog data sets: which pictures, which class, which split, which box.

Sources: vision.stanford.edu/aditya86/ImageNetDogs, www.robots.ox.ac.uk/~vgg/data/pets,
github.com/clovaai/stargan-v2 (AFHQ), github.com/fastai/imagenette (Imagewoof),
kaggle.com/c/dogs-vs-cats, kaggle.com/c/dog-breed-identification, cg.cs.tsinghua.edu.cn/ThuDogs.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from shards.geometry import Box
from shards.mat import read_texts
from shards.notes import Notes
from shards.voc import BODIES_FIRST, HEADS_FIRST


class Known(NamedTuple):
    """What a layout says about a picture."""

    label: str | None
    split: str | None = None
    box: Box | None = None


Describe = Callable[[re.Match[str]], Known | str]  # a str: what the picture is counted as, left out


class Layout(NamedTuple):
    """How a data set lies in its folder or archive; the patterns match whole names."""

    name: str
    pictures: str
    marks: tuple[str, ...]  # a source has this layout if each pattern matches a file
    notes: str  # the other files that are read
    describe: Callable[[Notes], Describe]


def _stanford(notes: Notes) -> Describe:
    """Boxes hold whole dogs; the lists say train or test."""
    splits = {
        text: split
        for split in ("train", "test")
        for text in notes.parsed(
            rf"(lists/)?{split}_list\.mat", lambda data: read_texts(data, "file_list")
        )
    }

    def describe(match: re.Match[str]) -> Known:
        folder, label, name = match.groups()
        box = notes.box(f"Annotation/{folder}/{name}")
        return Known(label, splits.get(f"{folder}/{name}.jpg"), box)

    return describe


def _oxford(notes: Notes) -> Describe:
    """Dogs only; boxes hold heads; trainval.txt is train."""
    is_dog = {row[0]: row[2] == "2" for row in notes.rows(r"annotations/list\.txt", columns=4)}
    splits = {
        row[0]: split
        for split, file in (("train", "trainval"), ("test", "test"))
        for row in notes.rows(rf"annotations/{file}\.txt", columns=4)
    }

    def describe(match: re.Match[str]) -> Known | str:
        name, breed = match.groups()
        if name not in is_dog:
            return "pictures that list.txt does not name"
        if not is_dog[name]:
            return "pictures of other animals"
        return Known(breed, splits.get(name), notes.box(f"annotations/xmls/{name}.xml"))

    return describe


def _afhq(notes: Notes) -> Describe:
    return lambda match: (
        Known("dog", match[1]) if match[2] == "dog" else "pictures of other animals"
    )


_WOOFS = {
    "n02086240": "Shih-Tzu",
    "n02087394": "Rhodesian_ridgeback",
    "n02088364": "beagle",
    "n02089973": "English_foxhound",
    "n02093754": "Border_terrier",
    "n02096294": "Australian_terrier",
    "n02099601": "golden_retriever",
    "n02105641": "Old_English_sheepdog",
    "n02111889": "Samoyed",
    "n02115641": "dingo",
}


def _imagewoof(notes: Notes) -> Describe:
    """The noisy labels aren't used: the folders have the right ones."""
    return lambda match: Known(_WOOFS[match[2]], match[1])


def _dogs_vs_cats(notes: Notes) -> Describe:
    return lambda match: Known("dog") if match[1] == "dog" else "pictures of other animals"


def _dog_breeds(notes: Notes) -> Describe:
    """The pictures in test/ have no breed and are left out."""
    breeds = {row[0]: row[1] for row in notes.table(r"labels\.csv", ("id", "breed"))}

    def describe(match: re.Match[str]) -> Known | str:
        if match[1] == "test":
            return "pictures without a label"
        breed = breeds.get(match[2])
        return Known(breed) if breed else "pictures that labels.csv does not name"

    return describe


def _tsinghua(notes: Notes, kinds: Sequence[str] = HEADS_FIRST) -> Describe:
    """Boxes hold heads, or whole dogs."""
    splits = {
        re.sub(r"^[./]+", "", row[0]): split
        for split, file in (("train", "train"), ("val", "validation"))
        for row in notes.rows(rf"TrainAndValList/{file}\.lst", columns=1)
    }

    def describe(match: re.Match[str]) -> Known:
        kind, folder, label, name = match.groups()
        box = notes.box(f"{kind.capitalize()}-Annotations/{folder}/{name}.xml", kinds)
        return Known(label, splits.get(f"{folder}/{name}"), box)

    return describe


_WOOF = f"(?:{'|'.join(_WOOFS)})"

_TSINGHUA = Layout(
    "tsinghua-dogs",
    r"(low|high)-resolution/(\d+-n\d+-([^/]+))/([^/]+\.jpe?g)",
    (r"(low|high)-resolution/\d+-n\d+-[^/]+/[^/]+\.jpe?g",),
    r"TrainAndValList/(train|validation)\.lst|(Low|High)-Annotations/[^/]+/[^/]+\.xml",
    _tsinghua,
)

LAYOUTS = (
    Layout(
        "stanford-dogs",
        r"Images/(n\d{8}-([^/]+))/([^/]+)\.jpg",
        (r"Images/n\d{8}-[^/]+/[^/]+\.jpg",),
        r"(lists/)?(train|test)_list\.mat|Annotation/[^/]+/[^/]+",
        _stanford,
    ),
    Layout(
        "oxford-pets",
        r"images/(([^/]+)_\d+)\.jpg",
        (r"images/[^/]+\.jpg", r"annotations/list\.txt"),
        r"annotations/((list|trainval|test)\.txt|xmls/[^/]+\.xml)",
        _oxford,
    ),
    Layout(
        "afhq",
        r"(train|val|test)/(dog|cat|wild)/[^/]+\.(?:jpg|png)",
        (r"train/dog/[^/]+\.(jpg|png)", r"(val|test)/dog/[^/]+\.(jpg|png)"),
        "",
        _afhq,
    ),
    Layout(
        "imagewoof",
        rf"(train|val)/({_WOOF})/[^/]+\.JPEG",
        (rf"train/{_WOOF}/[^/]+\.JPEG", rf"val/{_WOOF}/[^/]+\.JPEG"),
        "",
        _imagewoof,
    ),
    Layout(
        "dogs-vs-cats",
        r"(?:train/)?(dog|cat)\.\d+\.jpg",
        (r"(train/)?dog\.\d+\.jpg",),
        "",
        _dogs_vs_cats,
    ),
    Layout(
        "dog-breeds",
        r"(train|test)/([0-9a-f]{32})\.jpg",
        (r"train/[0-9a-f]{32}\.jpg", r"labels\.csv"),
        r"labels\.csv",
        _dog_breeds,
    ),
    _TSINGHUA,
    # Only ever named, as it has the same marks: the boxes are those of whole dogs.
    _TSINGHUA._replace(
        name="tsinghua-dogs-bodies", describe=partial(_tsinghua, kinds=BODIES_FIRST)
    ),
)

FOLDER, SHARDS = "folder", "webdataset"
ALIASES = {"dog-breed-identification": "dog-breeds"}  # as Kaggle calls it
NAMES = (FOLDER, SHARDS, *(layout.name for layout in LAYOUTS))  # what --layout may name
