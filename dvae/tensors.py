"""Named tensors in safetensors files: writing, reading, comparing, and the digest that names a network."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dvae.errors import CheckpointError

Tensors = dict[str, Tensor]  # by the names of a network's state_dict


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Raises:
        OSError: it can't be written, as on a full disk.
    """
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata)
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))  # the library doesn't raise OSError
        if not found:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None


def mismatches(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """How names and shapes differ, in words; empty where they don't."""
    lines = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    lines += [f"{name} is not expected" for name in found.keys() - wanted.keys()]
    lines += [
        f"{name} has the shape {list(found[name].shape)}, not {list(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    return "; ".join(sorted(lines)[:5])


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and numbers, as 64 hexadecimal digits.

    It is of what a network is, not of a file: the same on any device and in any checkpoint.
    """
    result = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        result.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        result.update(tensor.flatten().view(torch.uint8).numpy().data)
    return result.hexdigest()
