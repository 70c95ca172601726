"""What there is to train with: packages, devices, and what `dvae.checks` looks at."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from dvae import checks
from dvae.checks import Note, amount, attempt, noted

TESTED = Path(__file__).parents[1] / "constraints.txt"  # of a checkout
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
    yield checks.memory()
    yield checks.shared_memory()
    yield checks.open_files()
    yield checks.disk(folder)
    for number, whose, remedy in PORTS:
        yield checks.port(number, whose, remedy)
    yield checks.encoding()
    yield checks.home()


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
