"""What there is to train with: packages, devices, memory, disk, ports, locale; see `dvae.checks`, too."""

import importlib.metadata
import locale
import os
import platform
import re
import resource
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from dvae.checks import (
    SHARED_MEMORY,
    check_open_files,
    check_shared_memory,
    existing,
    free_bytes,
)
from dvae.notes import Note, amount, attempt, checked, noted

TESTED = Path(__file__).parents[1] / "constraints.txt"  # of a checkout
LITTLE_DISK = 1 << 30  # bytes
LITTLE_MEMORY = 2 << 30  # bytes; torch and a few threads that decode
PORTS = (
    (6006, "TensorBoard's", "tensorboard --port 0 takes another"),
    (29500, "the launcher's", "accelerate launch --main_process_port 0 takes another"),
)


def machine(folder: Path) -> Iterator[Note]:
    """Versions, devices, memory, disk, descriptors, ports, locale.

    Args:
        folder: where a run is or will be.
    """
    yield from versions()
    yield from devices()
    yield memory()
    yield shared_memory()
    yield open_files()
    yield disk(folder)
    for number, whose, remedy in PORTS:
        yield port(number, whose, remedy)
    yield encoding()
    yield home()


def versions() -> Iterator[Note]:
    """Of Python and of each package that is needed, or was installed by an extra, against ours."""
    yield Note("ok", "python", f"{platform.python_version()} on {platform.system()}")
    tested = _tested()
    for requirement in map(Requirement, importlib.metadata.requires("dvae") or ()):
        name = requirement.name
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if not requirement.marker:
                yield Note("wrong", name, f"isn't installed: pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            rule = f"{found}, and {requirement.specifier} is needed"
            yield Note("wrong", name, f"{rule}: pip install '{name}{requirement.specifier}'")
        elif not requirement.marker:
            newest = tested.get(_plain(name))
            good = newest is None or Version(found).release <= Version(newest).release
            remedy = f"{newest} was tested, not this: pip install -c constraints.txt {name}"
            yield noted(name, good, found, remedy)


def _tested() -> dict[str, str]:
    lines = TESTED.read_text().splitlines() if TESTED.is_file() else []
    pairs = (line.split("==") for line in lines if "==" in line)
    return {_plain(name): version for name, version in pairs}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def devices() -> Iterator[Note]:
    """What torch computes on, its memory, and whether it has bf16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = torch.backends.cpu.get_cpu_capability()
    bf16 = "with bf16" if _cpu_has_bf16() else "without bf16 in hardware"
    yield Note("ok", "cpu", f"{cores} cores, {kind}, {bf16}")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        yield _why_no_device()
    elif accelerator.type != "cuda":
        yield Note("ok", "device", accelerator.type)
    else:
        for number in range(torch.cuda.device_count()):
            yield from attempt("device", partial(_of_gpu, number))


def _of_gpu(number: int) -> Iterator[Note]:
    name = torch.cuda.get_device_name(number)
    free, total = torch.cuda.mem_get_info(number)
    bf16 = "with" if torch.cuda.get_device_capability(number) >= (8, 0) else "without"
    text = f"cuda:{number} {name} {bf16} bf16, {amount(free)} of {amount(total)} free"
    yield noted("device", free > total / 2, text, "another process has most of it: see nvidia-smi")


def _why_no_device() -> Note:
    if not Path("/dev/nvidiactl").exists():
        return Note("ok", "device", "no accelerator: training takes the CPU")
    built = torch.version.cuda or "no CUDA"
    return Note(
        "wrong",
        "device",
        f"there is an NVIDIA driver, and torch {torch.__version__} (made for {built}) can't use it: "
        "see nvidia-smi, CUDA_VISIBLE_DEVICES, and whether the driver is new enough for this torch",
    )


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None


def shared_memory() -> Note:
    """Where two processes of this machine would exchange gradients; threads decode without it."""
    if not SHARED_MEMORY.is_dir():
        return Note("ok", "shared memory", f"there is no {SHARED_MEMORY}; one process needs none")
    text = f"{SHARED_MEMORY} has {amount(free_bytes(SHARED_MEMORY))} free"
    return checked("shared memory", text, lambda: check_shared_memory(2), "warning")


def open_files() -> Note:
    """The descriptors that a process may hold."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    text = f"a process may hold {'any number' if most == resource.RLIM_INFINITY else most}"
    return checked("open files", text, lambda: check_open_files(1))


def disk(folder: Path) -> Note:
    """The room where a folder is, or will be."""
    there = existing(folder.absolute())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Note("wrong", "disk", f"{there} can't be written: choose another run.dir")
    free = free_bytes(there)
    found = f"{there} has {amount(free)} free"
    return noted("disk", free >= LITTLE_DISK, found, "make room, or set run.dir")


def memory() -> Note:
    """Host memory that is available, within the limit of a container."""
    free = available_memory()
    if free is None:
        return Note("ok", "memory", "can't be asked for here")
    remedy = "fewer data.threads, a smaller train.micro_batch_size, or a larger machine"
    return noted("memory", free >= LITTLE_MEMORY, f"{amount(free)} available", remedy)


def available_memory() -> int | None:
    """Bytes of host memory that are free, within the limit of a container; None: can't be asked for."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {name: int(value.split()[0]) << 10 for name, value in (x.split(":") for x in lines)}
        free = found["MemAvailable"]
    except (OSError, ValueError, KeyError):
        return None
    room = room_of_group(Path("/sys/fs/cgroup"))
    return free if room is None else min(free, room)


def room_of_group(folder: Path) -> int | None:
    """Bytes that a container (cgroup 2) may still take, its files' cache given back; None: no limit."""
    try:
        most, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = sum(
            int(x.split()[1]) for x in lines if x.startswith(("inactive_file ", "active_file "))
        )
        return most - used + cached
    except (OSError, ValueError, IndexError):  # no group, or "max"
        return None


def port(number: int, whose: str, remedy: str) -> Note:
    """Whether a port of this machine is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            return Note("warning", "port", f"{number}, {whose}: {error.strerror}: {remedy}")
    return Note("ok", "port", f"{number}, {whose}, is free")


def encoding() -> Note:
    """Whether names of files and messages can hold every letter."""
    names, told = sys.getfilesystemencoding(), sys.stdout.encoding or "none"
    good = all(name.lower().replace("-", "") == "utf8" for name in (names, told))
    text = f"{locale.setlocale(locale.LC_CTYPE)}: names of files are {names}, messages {told}"
    return noted("locale", good, text, "export LC_ALL=C.UTF-8")


def home() -> Note:
    """Where the Hub and torch keep what they fetched."""
    try:
        folder = Path.home()
    except RuntimeError:
        folder = Path("~")
    good = os.access(folder, os.W_OK)
    remedy = "set HOME, or HF_HOME and TORCH_HOME, to a folder that can be written"
    return noted("home", good, f"{folder} {'can' if good else 'can not'} be written", remedy)
