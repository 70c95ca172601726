"""Where known dog data sets come from, on what terms, and how to get those behind a login.

A checksum stands here only where it's pinned in public: torchvision's OxfordIIITPet has the MD5 of
Oxford's two archives, tensorflow/datasets (url_checksums/stanford_dogs.txt) the SHA-256 of Stanford's
three, fastai (fastai/data/download_checks.py) the MD5 of its own, and LS4GAN/uvcgan2
(scripts/download_dataset.sh) the SHA-256 of AFHQ. What nobody pins, Tsinghua's, is recorded when it's
first fetched.
"""

from typing import NamedTuple


class Archive(NamedTuple):
    """A file at its official address."""

    url: str
    md5: str | None = None
    sha256: str | None = None
    called: str = ""  # where the URL doesn't end with the file's name

    @property
    def name(self) -> str:
        """The file's name."""
        return self.called or self.url.rsplit("/", 1)[1]


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
_THU = "https://cg.cs.tsinghua.edu.cn/ThuDogs"
_FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas"

DOWNLOADS = {
    "stanford-dogs": Download(
        f"Stanford Dogs, 20,580 pictures of 120 breeds, about 800 MB. {_STANFORD}/main.html\n"
        f"{_IMAGENET}.\nCite Khosla, Jayadevaprakash, Yao and Li, FGVC 2011.",
        tuple(
            Archive(f"{_STANFORD}/{name}.tar", sha256=digest)
            for name, digest in (
                ("images", "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
                ("annotation", "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd"),
                ("lists", "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c"),
            )
        ),
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
            (Archive(f"{_FASTAI}/imagewoof2{suffix}.tgz", md5),),
        )
        for suffix, md5 in (
            ("", "2cc1c1e36e20cb6fd24ffb978edcb487"),
            ("-320", "7a1fd92672a559a85de76e4810a20c21"),
            ("-160", "3559b194123981a540b87132dbda412f"),
        )
    },
    "afhq": Download(
        "AFHQ, about 5,000 pictures of dogs' faces (and 10,000 of cats and wild animals), 512x512.\n"
        "https://github.com/clovaai/stargan-v2: CC BY-NC 4.0, not for commercial use.\n"
        "Cite Choi, Uh, Yoo and Ha, StarGAN v2, CVPR 2020.",
        (
            Archive(
                "https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1",
                sha256="7f63dcc14ef58c0e849b59091287e1844da97016073aac20403ae6c6132b950f",
                called="afhq.zip",
            ),
        ),
    ),
    "tsinghua-dogs": Download(
        f"Tsinghua Dogs, 70,428 pictures of 130 breeds, in low resolution, about 2.5 GB. {_THU}/\n"
        "The page names no licence, its authors' https://github.com/dejungle/Tsinghua-Dogs the MIT one;\n"
        "the photographs' copyright is their owners'. Cite Zou, Zhang, Mu and Zhang, CVM 2020.",
        (
            Archive(
                "https://cloud.tsinghua.edu.cn/f/80013ef29c5f42728fc8/?dl=1",
                called="low-resolution.zip",
            ),
            Archive(f"{_THU}/low-annotations.zip"),
            Archive(f"{_THU}/TrainValSplit.zip"),
        ),
    ),
}

_KAGGLE = (
    "log in at kaggle.com, accept the competition's rules, then: kaggle competitions download -c"
)
BY_HAND = {
    "dogs-vs-cats": f"dogs-vs-cats is behind a login: {_KAGGLE} dogs-vs-cats; unpack the outer zip, "
    "then pack its train.zip",
    "dog-breeds": f"dog-breed-identification is behind a login: {_KAGGLE} "
    "dog-breed-identification; pack that zip as it is",
}
