"""Download a public dog data set from its official address, to be packed as it is.

    python -m shards.fetch stanford-dogs data/stanford --accept-terms
    python -m shards.pack data/stanford data/dogs --boxes source

The terms are shown first. A file has its final name when it's whole: downloads go on where they were
cut (Range), also in the next run; where a checksum is pinned the file has to have it, and else its
SHA-256 is recorded in SHA256SUMS, and later downloads have to agree. Compressed tars and zips end as
plain tars, since a folder of those is packed as it is.
"""

import argparse
import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dvae.errors import FULL, ResourceError, UserError, exit_code_of
from dvae.files import TEMPORARY, flush, locked, sha256, write_bytes
from shards import tar
from shards.archives import Zip
from shards.downloads import BY_HAND, DOWNLOADS, Archive, Download
from shards.options import Parser
from shards.pictures import PictureError
from shards.resume import download as resumed_download

SUMS = "SHA256SUMS"
_CHUNK = 1 << 20  # bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Download; returns the exit code."""
    parser = Parser(prog="python -m shards.fetch", description="Download a dog data set.")
    parser.add_argument(
        "name",
        metavar="NAME",
        choices=[*DOWNLOADS, *BY_HAND],
        help=", ".join([*DOWNLOADS, *BY_HAND]),
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder that receives the archives"
    )
    parser.add_argument("--accept-terms", action="store_true", help="you have read the terms")
    return exit_code_of(lambda: _run(parser.parse_args(arguments)))


def _run(arguments: argparse.Namespace) -> None:
    if arguments.name in BY_HAND:
        raise UserError(BY_HAND[arguments.name])
    download = DOWNLOADS[arguments.name]
    sys.stdout.write(f"{download.terms}\n")
    if not arguments.accept_terms:
        raise UserError(
            "nothing was downloaded: if you agree to the terms above, add --accept-terms"
        )
    try:
        fetch(download, arguments.folder)
    except OSError as error:
        kind = ResourceError if error.errno in FULL else UserError
        raise kind(
            f"{error.filename or arguments.folder} cannot be written ({error.strerror}): mend that "
            f"and run the command again, it goes on where it was"
        ) from None
    sys.stdout.write(f"next  python -m shards.pack {arguments.folder} OUT\n")


def fetch(download: Download, folder: Path) -> None:
    """Download what isn't there yet; what is there has to be as it was.

    Raises:
        UserError: no answer, or a file that isn't what it should be.
        OSError: a file can't be written.
    """
    with locked(folder):
        for archive in download.archives:
            _fetch_one(archive, folder)


def _fetch_one(archive: Archive, folder: Path) -> None:
    name = archive.name
    final = folder / f"{name.partition('.')[0]}.tar"
    sums = _read_sums(folder)
    if final.exists():
        if sums.get(final.name) != sha256(final):
            raise UserError(f"{final} is not what {SUMS} says: delete it and run this again")
        sys.stdout.write(f"{final} is there already\n")
        return
    part = folder / f"{TEMPORARY}{name}"
    plain = folder / f"{TEMPORARY}{final.name}"
    resumed_download(archive.url, part)
    try:
        digest = _checked(archive, part, sums.get(name))
        if plain != part:
            (_unzip if name.endswith(".zip") else _uncompress)(part, plain)
        _check_tar(plain, archive.url)
    except UserError:
        part.unlink()  # going on from bytes that are wrong would never help
        raise
    sums |= {name: digest, final.name: sha256(plain)}
    lines = [f"{digest}  {file}\n" for file, digest in sorted(sums.items())]
    write_bytes(folder / SUMS, "".join(lines).encode())
    plain.replace(final)
    part.unlink(missing_ok=True)
    is_pinned = archive.md5 or archive.sha256
    origin = "as pinned" if is_pinned else f"recorded in {SUMS}, since nobody pins it"
    sys.stdout.write(f"{final}: {final.stat().st_size} bytes, checksum {origin}\n")


def _read_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that was fetched into a folder before."""
    if not (folder / SUMS).exists():
        return {}
    lines = (line.split() for line in (folder / SUMS).read_text().splitlines())
    return {words[1]: words[0] for words in lines if len(words) == 2}


def _checked(archive: Archive, path: Path, recorded: str | None) -> str:
    """The SHA-256 of an archive that is what was pinned, and what was recorded before."""
    digest = sha256(path)
    md5 = _md5(path) if archive.md5 else None
    for kind, found, pinned in (("MD5", md5, archive.md5), ("SHA256", digest, archive.sha256)):
        if pinned not in (None, found):
            raise UserError(
                f"{archive.url} gave a file with the {kind} {found}, not {pinned}: try again; "
                f"if its publisher has replaced it, download it by hand and pack that"
            )
    if recorded not in (None, digest):
        raise UserError(
            f"{archive.url} gave another file than before, by {SUMS}: if that's meant to be so, "
            f"delete the line of {path.name.removeprefix(TEMPORARY)} there and run this again"
        )
    return digest


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unzip(path: Path, plain: Path) -> None:
    """A plain tar of what a zip holds."""
    try:
        packed = Zip(path)
        with plain.open("wb") as target:
            with tarfile.open(fileobj=target, mode="w") as made:
                for item in packed.files(Counter()):
                    member = tarfile.TarInfo(os.fsdecode(item.name))
                    member.size = item.size
                    made.addfile(member, io.BytesIO(packed.read(item)))
            flush(target)
    except (UserError, PictureError) as error:
        plain.unlink(missing_ok=True)
        raise UserError(f"{path.name} is damaged ({error}): run this again") from None


def _uncompress(path: Path, plain: Path) -> None:
    try:
        with gzip.open(path) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
            flush(target)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        plain.unlink()
        raise UserError(f"{path.name} is damaged ({error}): run this again") from None


def _check_tar(path: Path, url: str) -> None:
    """Tell an archive from a page that apologises, where no checksum does."""
    with path.open("rb") as file:
        try:
            next(tar.members(file, path.name))
        except (UserError, StopIteration):
            raise UserError(f"{url} gave something that is no tar: try again later") from None


if __name__ == "__main__":
    sys.exit(main())
