"""A command in a process of its own, with little memory, few files and little time."""

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass

SECONDS = 10
MEMORY = 300 << 20  # bytes that may be resident
_CODE = """
import re, resource, runpy, sys
status = open("/proc/self/status")  # while there is a descriptor for it
for name, limit in {limits!r}.items():
    resource.setrlimit(getattr(resource, name), (limit, limit))
sys.argv[:] = {argv!r}
try:
    {code}
finally:
    # Not ru_maxrss, which begins with what the process that forked this one held.
    print(re.search("VmHWM:.*", status.read())[0])
"""


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    code: int
    out: str
    err: str
    resident: int  # bytes, at most


def run_limited(
    module: str, *argv: object, code: str = "", seconds: int = SECONDS, **limits: int
) -> Ended:
    """Run a module, or `code` with its name in `sys.argv`, under limits such as RLIMIT_AS=2**30."""
    code = (
        textwrap.indent(code, "    ").strip()
        or f"runpy.run_module({module!r}, run_name='__main__')"
    )
    text = _CODE.format(limits=limits, argv=[module, *map(str, argv)], code=code)
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    kibibytes = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert kibibytes, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr, int(kibibytes[1]) << 10)
