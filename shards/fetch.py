"""Download a public dog data set from its official address, to be packed as it is.

    python -m shards.fetch stanford-dogs data/stanford --accept-terms
    python -m shards.pack data/stanford data/dogs --boxes source

The terms are shown first. A file has its final name when it's whole: downloads go on where they were
cut (Range), also in the next run; where a checksum is known the file has to have it, and else its
SHA-256 is recorded in SHA256SUMS, and later downloads have to agree. Compressed tars end as plain
ones, since those can be read in place.
"""

import argparse
import gzip
import hashlib
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from dvae.errors import UserError, exit_code_of
from dvae.files import TEMPORARY, flush, locked, sha256, write_bytes
from shards import tar
from shards.downloads import BY_HAND, DOWNLOADS, Archive, Download
from shards.options import Parser
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
        raise UserError(
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
    name = archive.url.rsplit("/", 1)[1]
    final = folder / name.replace(".tgz", ".tar").removesuffix(".gz")
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
        _check(archive, part, sums.get(name))
        if plain != part:
            _uncompress(part, plain)
        _check_tar(plain, archive.url)
    except UserError:
        part.unlink()  # going on from bytes that are wrong would never help
        raise
    sums |= {name: sha256(part), final.name: sha256(plain)}
    lines = [f"{digest}  {file}\n" for file, digest in sorted(sums.items())]
    write_bytes(folder / SUMS, "".join(lines).encode())
    plain.replace(final)
    part.unlink(missing_ok=True)
    origin = "as pinned" if archive.md5 else f"recorded in {SUMS}, since nobody pins it"
    sys.stdout.write(f"{final}: {final.stat().st_size} bytes, checksum {origin}\n")


def _read_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that was fetched into a folder before."""
    if not (folder / SUMS).exists():
        return {}
    lines = (line.split() for line in (folder / SUMS).read_text().splitlines())
    return {words[1]: words[0] for words in lines if len(words) == 2}


def _check(archive: Archive, path: Path, recorded: str | None) -> None:
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if archive.md5 not in (None, md5):
        raise UserError(
            f"{archive.url} gave a file with the MD5 {md5}, not {archive.md5}: try again"
        )
    if recorded not in (None, sha256(path)):
        raise UserError(
            f"{archive.url} gave another file than before, by {SUMS}: if that's meant to be so, "
            f"delete the line of {path.name.removeprefix(TEMPORARY)} there and run this again"
        )


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
