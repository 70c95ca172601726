"""What strangers may send: pickles that run a command, command URLs, odd tars, pictures, runs."""

import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from dvae.files import MANIFEST, write_manifest
from tests.faults.shard_files import picture


class Touch:
    """Unpickling it runs a command that makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def pickled(canary: Path, name: str = "") -> bytes:
    """Bytes that make the canary when they are unpickled, in the form that a file's name asks for."""
    if name.endswith("npy"):
        file = io.BytesIO()
        np.save(file, np.array([Touch(canary)], dtype=object), allow_pickle=True)
        return file.getvalue()
    if name.endswith("npz"):
        file = io.BytesIO()
        np.savez(file, a=np.array([Touch(canary)], dtype=object))
        return file.getvalue()
    return pickle.dumps(Touch(canary))


PICKLES = ("pkl", "pickle", "pyd", "pth", "pt", "ten", "npy", "npz", "mp", "cbor", "py")

COMMANDS = (
    "pipe:touch CANARY",
    "pipe:touch CANARY; cat a.tar",
    "a.tar::pipe:touch CANARY",
    "|touch CANARY",
    "$(touch CANARY)",
    "`touch CANARY`",
    "-",
    "ftp://127.0.0.1:9/a.tar",
    "file://host/a.tar",
    "${HOME}/a.tar",
    "{0..9999999999}.tar",
    "*.tar",
)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member that is no plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def renamed(path: str) -> bytes:
    """A tar whose PAX header gives its first member another path."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as made:
        info = tarfile.TarInfo("harmless.jpg")
        data = picture(2)
        info.size, info.pax_headers = len(data), {"path": path}
        made.addfile(info, io.BytesIO(data))
        good = tarfile.TarInfo("good.jpg")
        good.size = len(picture(1))
        made.addfile(good, io.BytesIO(picture(1)))
    return file.getvalue()


def one_member(entry: tarfile.TarInfo | str) -> bytes:
    """A tar of a special member, or of a picture of this name; a second, harmless one follows."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as made:
        for each in (entry, "good.jpg"):
            info = each if isinstance(each, tarfile.TarInfo) else tarfile.TarInfo(each)
            data = picture(1) if info is not each else b""
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


def through_a_link(outside: Path) -> bytes:
    """A link to a folder, and a picture below that link's name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as made:
        made.addfile(special("door", tarfile.SYMTYPE, str(outside)))
        info = tarfile.TarInfo("door/a.jpg")
        info.size = len(picture(1))
        made.addfile(info, io.BytesIO(picture(1)))
    return file.getvalue()


TARS = {  # name -> the bytes of a tar, given a file outside that must stay as it is
    "a symbolic link": lambda o: one_member(special("a.jpg", tarfile.SYMTYPE, str(o))),
    "a hard link": lambda o: one_member(special("a.jpg", tarfile.LNKTYPE, f"../{o.name}")),
    "a FIFO": lambda o: one_member(special("a.jpg", tarfile.FIFOTYPE)),
    "a character device": lambda o: one_member(special("a.jpg", tarfile.CHRTYPE)),
    "a block device": lambda o: one_member(special("a.jpg", tarfile.BLKTYPE)),
    "an absolute name": lambda o: one_member(f"{o.parent}/new.jpg"),
    "a name that climbs": lambda o: one_member("../new.jpg"),
    "a name that climbs amid": lambda o: one_member("a/../../new.jpg"),
    "a PAX path that climbs": lambda o: renamed("../new.jpg"),
    "an absolute PAX path": lambda o: renamed(f"{o.parent}/new.jpg"),
    "a long name that climbs": lambda o: one_member("a/" * 60 + "../" * 62 + "new.jpg"),
    "a name below a link": lambda o: through_a_link(o.parent),
    "a name with a command": lambda o: one_member(f"$(touch {o.parent}/new).jpg"),
}


def png_that_says(width: int, height: int) -> bytes:
    """A small PNG whose header promises another size."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def text_bomb() -> bytes:
    """A PNG with 256 MiB of compressed text in it."""
    text = b"a\0\0" + zlib.compress(bytes(256 << 20), 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    data = png_that_says(4, 4)
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(b"zTXt" + text)) + data[33:]


PICTURES = {  # name -> (file name, bytes), given the canary
    "PostScript": (
        "a.jpg",
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch CANARY) (w) file\n",
    ),
    "MVG": ("a.png", "push graphic-context\nfill 'url(https://x\"|touch CANARY\")'\npop"),
    "MSL": (
        "a.jpg",
        '<image><read filename="ephemeral:CANARY"/><write filename="CANARY"/></image>',
    ),
    "SVG": (
        "a.png",
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg><image href="CANARY"/>&e;</svg>',
    ),
    "PDF": ("a.jpg", "%PDF-1.4\n1 0 obj<</OpenAction<</S/Launch/F(touch CANARY)>>>>\n"),
    "HTML": ("a.jpeg", "<script>fetch('file://CANARY')</script>"),
    "an HTTP link": ("a.webp", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "a pickle": ("a.jpg", lambda canary: pickled(canary)),
    "a picture and a pickle": ("a.jpg", lambda canary: picture(3) + pickled(canary)),
    "10^10 pixels": ("a.png", lambda _: png_that_says(100_000, 100_000)),
    "256 MiB of text": ("a.png", lambda _: text_bomb()),
    "a command for a name": ("$(touch canary); touch canary #.jpg", lambda _: picture(4)),
    "an option for a name": ("--out=canary.jpg", lambda _: picture(5)),
}


def picture_of(form: str, canary: Path) -> tuple[str, bytes]:
    """The name and the bytes of one of `PICTURES`."""
    name, made = PICTURES[form]
    return name, made(canary) if callable(made) else made.replace("CANARY", str(canary)).encode()


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of a checkpoint or weights folder, and let its manifest vouch for it."""
    (folder / name).write_bytes(data)
    write_manifest(folder)


def vouching_for(folder: Path, name: str) -> None:
    """Let a manifest name a file elsewhere."""
    value = json.loads((folder / MANIFEST).read_text())
    value["files"][name] = {"bytes": 6, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(value))


NESTED = b"[" * 100_000
HUGE_HEADER = struct.pack("<Q", 2**62) + b"{}"


def one_error(capsys, code: int, expected: int = 2) -> None:
    """A command ended with the documented code and one message."""
    told = capsys.readouterr().err.splitlines()
    assert code == expected, told
    assert len([line for line in told if line.startswith("error: ")]) == 1
    assert "Traceback" not in "".join(told)
