"""Between pictures of 8 bits and a network's tensors: normalising, grids, files."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dvae.data.batches import Batch, Pictures
from dvae.files import write_bytes
from dvae.losses import GREY_LEVELS

GAP = 2  # pixels between the pictures of a grid


def to_network(
    images: Tensor, device: torch.device, dtype: torch.dtype, channels_last: bool = True
) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [-1, 1], on the device."""
    planes = images.to(device, non_blocking=True).permute(0, 3, 1, 2)  # channels last in memory
    scaled = planes.to(dtype) / GREY_LEVELS - 1
    return scaled if channels_last else scaled.contiguous()


def as_input(images: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 -> [-1, 1], as networks and grids take it, on the CPU."""
    return to_network(images.permute(0, 2, 3, 1), torch.device("cpu"), torch.float32)


def some_pictures(source: Pictures, count: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Centres of `count` pictures of a split, drawn without replacement, but for the unreadable ones.

    Returns:
        (n, 3, S, S) uint8, and (n,) sample ids.
    """
    ids = np.random.default_rng(seed).permutation(len(source.reader))[:count]
    images = np.zeros((len(ids), source.image_size, source.image_size, 3), dtype=np.uint8)
    outcomes = source.decode_into(images, ids, source.crops(ids, np.zeros_like(ids)))
    good = np.array([outcome is None for outcome in outcomes])
    return torch.from_numpy(images[good]).permute(0, 3, 1, 2), ids[good]


def mirrored(images: Tensor, flips: np.ndarray) -> Tensor:
    """(B, 3, H, W) with the marked pictures mirrored; (B,) bool."""
    if not flips.any():
        return images
    marks = torch.from_numpy(flips).to(images.device)
    return torch.where(marks[:, None, None, None], images.flip(-1), images)


def batch_images(
    batch: Batch, device: torch.device, dtype: torch.dtype, channels_last: bool = True
) -> Tensor:
    """A batch as the network wants it: (n, 3, S, S) in [-1, 1], flips done."""
    return mirrored(to_network(batch.images, device, dtype, channels_last), batch.flips)


def to_pixels(images: Tensor) -> Tensor:
    """(B, 3, H, W) in about [-1, 1] -> the nearest 8-bit levels, (B, 3, H, W) uint8."""
    return ((images.float() + 1) * GREY_LEVELS).round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int) -> Tensor:
    """(n, 3, H, W) in about [-1, 1] -> one picture (3, h, w) uint8, row by row, gaps white."""
    pixels = to_pixels(images).cpu()
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = torch.full(
        (3, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), 255, dtype=torch.uint8
    )
    for number, picture in enumerate(pixels):
        y, x = (number // columns) * (height + GAP), (number % columns) * (width + GAP)
        sheet[:, y : y + height, x : x + width] = picture
    return sheet


def save_png(sheet: Tensor, path: Path) -> None:
    """Write (3, h, w) uint8 as a whole PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
