"""A folder as an NFS server shows it that is restarted: everything in it is a stale handle for a while.

    python tests/faults/stale_folder.py REAL MOUNT FLAG

A file system (FUSE) that hands everything through to the folder REAL, and answers ESTALE to everything while
the file FLAG exists. Needs root and libfuse (`bash tests/faults/install.sh`).
"""

import errno
import functools
import os
import sys
from pathlib import Path

from mfusepy import FUSE, FuseOSError, Operations


def asked(operation):
    """An operation that is answered ESTALE while the flag is there."""

    @functools.wraps(operation)
    def ask(self, *args):
        if os.path.exists(self.flag):
            raise FuseOSError(errno.ESTALE)
        return operation(self, *args)

    return ask


class Stale(Operations):
    """What the kernel asks for, asked of another folder."""

    use_ns = True

    def __init__(self, real: str, flag: str) -> None:
        self.real, self.flag = real, flag

    def at(self, path: str) -> str:
        """Where it really is."""
        return self.real + path

    @asked
    def getattr(self, path, fh=None):
        found = os.lstat(self.at(path))
        names = ("mode", "nlink", "uid", "gid", "size")
        times = {
            f"st_{name}": getattr(found, f"st_{name}_ns") for name in ("atime", "mtime", "ctime")
        }
        return {f"st_{name}": getattr(found, f"st_{name}") for name in names} | times

    @asked
    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.at(path))]

    @asked
    def open(self, path, flags):
        return os.open(self.at(path), flags)

    @asked
    def create(self, path, mode, fi=None):
        return os.open(self.at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    @asked
    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    @asked
    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    @asked
    def truncate(self, path, length, fh=None):
        os.truncate(self.at(path), length)

    @asked
    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    @asked
    def fsyncdir(self, path, datasync, fh):
        return 0

    def release(self, path, fh):
        os.close(fh)

    @asked
    def mkdir(self, path, mode):
        os.mkdir(self.at(path), mode)

    @asked
    def rmdir(self, path):
        os.rmdir(self.at(path))

    @asked
    def unlink(self, path):
        os.unlink(self.at(path))

    @asked
    def rename(self, old, new):
        os.rename(self.at(old), self.at(new))

    @asked
    def chmod(self, path, mode):
        os.chmod(self.at(path), mode)

    @asked
    def utimens(self, path, times=None):
        os.utime(self.at(path), ns=times)

    @asked
    def statfs(self, path):
        found = os.statvfs(self.at(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}


if __name__ == "__main__":
    real, mount, flag = sys.argv[1:]
    Path(mount).mkdir(exist_ok=True)
    FUSE(Stale(real, flag), mount, foreground=True, default_permissions=True)
