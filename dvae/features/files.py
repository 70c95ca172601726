"""Where the weights of a feature network lie; nothing is ever downloaded."""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from dvae.errors import UserError

FOLDER = "DVAE_WEIGHTS"  # the environment's name for a folder of weights files


class MissingWeightsError(UserError):
    """The user hasn't the weights of a network."""


def find_weights(name: str, network: str) -> Path:
    """The file `name`, in the folder DVAE_WEIGHTS or in torch hub's cache.

    Raises:
        MissingWeightsError: it is in neither; says where to put it.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [Path(folder) for folder in (os.environ.get(FOLDER), cache) if folder]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise MissingWeightsError(
        f"{network} needs its weights, {name}, and dvae downloads none: put the file into a folder "
        f"and set {FOLDER} to it, or into {cache}; or take another network"
    )


def load_checked(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a weights file whose SHA-256 begins with `digest`; no code of it runs.

    Raises:
        UserError: the file is another one, or cut short.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(digest):
        raise UserError(
            f"{path} has the SHA-256 {found[: len(digest)]}…, not {digest}: it is damaged, or another "
            "network's: get it again"
        )
    return torch.load(path, map_location="cpu", weights_only=True)
