"""Named tensors in safetensors files: reading, comparing, and the digest that names a network."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dvae.errors import CheckpointError


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
