"""Where known dog data sets come from, on what terms, and how to get those behind a login.

A checksum stands here only where a second authority pins it: torchvision's OxfordIIITPet has the
MD5 of Oxford's two archives. The others' SHA-256 is recorded when they're first fetched.
"""

from typing import NamedTuple


class Archive(NamedTuple):
    """A file at its official address."""

    url: str
    md5: str | None = None


class Download(NamedTuple):
    """A data set that anyone may download."""

    terms: str
    archives: tuple[Archive, ...]


_IMAGENET = (
    "The photographs come from ImageNet, which does not own them: for non-commercial research and "
    "education only, see https://image-net.org/download"
)
_STANFORD = "http://vision.stanford.edu/aditya86/ImageNetDogs"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/pets"
_FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas"

DOWNLOADS = {
    "stanford-dogs": Download(
        f"Stanford Dogs, 20,580 pictures of 120 breeds, about 800 MB. {_STANFORD}/main.html\n"
        f"{_IMAGENET}.\nCite Khosla, Jayadevaprakash, Yao and Li, FGVC 2011.",
        tuple(Archive(f"{_STANFORD}/{name}.tar") for name in ("images", "annotation", "lists")),
    ),
    "oxford-pets": Download(
        f"Oxford-IIIT Pet, 4,978 pictures of 25 dog breeds (and 12 of cats), about 800 MB. {_OXFORD}/\n"
        "The site says CC BY-SA 4.0; the photographs' copyright is their owners'.\n"
        "Cite Parkhi, Vedaldi, Zisserman and Jawahar, CVPR 2012.",
        (
            Archive(f"{_OXFORD}/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            Archive(f"{_OXFORD}/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
    ),
    **{
        f"imagewoof{suffix}": Download(
            f"Imagewoof{suffix}, 12,954 pictures of 10 breeds. https://github.com/fastai/imagenette\n"
            f"The list is Apache 2.0. {_IMAGENET}.",
            (Archive(f"{_FASTAI}/imagewoof2{suffix}.tgz"),),
        )
        for suffix in ("", "-320", "-160")
    },
}

_KAGGLE = (
    "log in at kaggle.com, accept the competition's rules, then: kaggle competitions download -c"
)
BY_HAND = {
    "afhq": "AFHQ (CC BY-NC 4.0) is given by its authors: follow 'AFHQ' in "
    "https://github.com/clovaai/stargan-v2 to afhq.zip, then pack that zip as it is",
    "dogs-vs-cats": f"dogs-vs-cats is behind a login: {_KAGGLE} dogs-vs-cats; unpack the outer zip, "
    "then pack its train.zip",
    "dog-breeds": f"dog-breed-identification is behind a login: {_KAGGLE} "
    "dog-breed-identification; pack that zip as it is",
    "tsinghua-dogs": "Tsinghua Dogs is on its authors' page https://cg.cs.tsinghua.edu.cn/ThuDogs/ "
    "in several parts: unpack low-resolution, Low-Annotations and TrainAndValList into one folder, "
    "then pack that",
}
