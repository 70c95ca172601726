"""Other loaders at the same work: each function yields uint8 batches without end.

"turbo" is libjpeg-turbo through simplejpeg as a user would write it: at 1, 1/2 or 1/4, a crop,
functional.interpolate. A peer named `…_ours` is given our whole decoder instead, its second half too:
what it loses then is what surrounds decoding. Imports stand inside the functions: each needs a package
of its own.
"""

import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from loading_job import BATCH, LEAST_AREA, Job, random_square
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from dvae.data.decode import Crop, decode
from dvae.data.reader import Picture

Batches = Iterator[Any]
Decoder = Callable[[bytes, int], Tensor]


def turbo(data: bytes, size: int) -> Tensor:
    """A JPEG -> (3, S, S) uint8, cropped and flipped at random."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    x, y, side = random_square(width, height)
    scale = next((d for d in (4, 2) if side / d >= 1.4 * size), 1)
    pixels = simplejpeg.decode_jpeg(
        data, "RGB", min_height=-(-height // scale), min_width=-(-width // scale), min_factor=1
    )
    x, y, side = x // scale, y // scale, side // scale
    square = torch.from_numpy(pixels[y : y + side, x : x + side]).permute(2, 0, 1)[None]
    image = functional.interpolate(square, (size, size), mode="bilinear", antialias=True)[0]
    return image.flip(-1) if random.random() < 0.5 else image


def our_decoder(data: bytes, size: int) -> Tensor:
    """The same through `dvae.data.decode`."""
    side = math.sqrt(random.uniform(LEAST_AREA, 1))
    image = torch.empty(size, size, 3, dtype=torch.uint8)
    crop = Crop(side, random.random(), random.random())
    decode(Picture(bytes(data), 1), image.numpy(), crop, 10**8)  # litdata gives a memoryview
    planes = image.permute(2, 0, 1)
    return planes.flip(-1) if random.random() < 0.5 else planes


def define_operators() -> None:
    """Let torchvision be imported: its wheel's own operators are for another build of torch."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)  # dropped, it would take its operators back


_kept: list[Any] = []


class Original(Dataset):
    """DogVAE's data set: it lists the folder for each picture, and resizes it twice."""

    def __init__(self, folder: Path, size: int) -> None:
        from torchvision.transforms import v2

        self.folder = folder
        self.resize = v2.Compose([v2.PILToTensor(), v2.Resize((size, size), antialias=True)])
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomResizedCrop((size, size), scale=(LEAST_AREA, 1), antialias=True),
            ]
        )

    def __len__(self) -> int:
        return len(os.listdir(self.folder))

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        name = os.listdir(self.folder)[index]
        return self.augment(self.resize(Image.open(self.folder / name)).float())


def original(job: Job) -> Batches:
    """As its notebook has it: no worker process."""
    dataset = Original(job.data / "pictures", job.size)
    sampler = RandomSampler(dataset, num_samples=10**7)
    return iter(DataLoader(dataset, batch_size=BATCH, sampler=sampler))


def _webdataset(job: Job, decoded: Callable[[Any], Any]) -> Batches:
    import webdataset

    dataset = webdataset.WebDataset(job.tars, shardshuffle=len(job.tars)).repeat().shuffle(1000)
    dataset = decoded(dataset).batched(BATCH, partial=False)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=job.workers)
    return (batch for (batch,) in loader)


def webdataset_stock(job: Job) -> Batches:
    """Its own Pillow decoder and torchvision's transforms on uint8."""
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop((job.size, job.size), (LEAST_AREA, 1), (1, 1), antialias=True)
    transform = v2.Compose([v2.PILToTensor(), crop, v2.RandomHorizontalFlip()])
    return _webdataset(job, lambda d: d.decode("pil").to_tuple("jpg").map_tuple(transform))


def webdataset_turbo(job: Job, decoder: Decoder = turbo) -> Batches:
    """webdataset, and the turbo decoder."""
    return _webdataset(job, lambda d: d.to_tuple("jpg").map_tuple(lambda b: decoder(b, job.size)))


def webdataset_ours(job: Job) -> Batches:
    """webdataset, and our decoder."""
    return webdataset_turbo(job, our_decoder)


def streaming(job: Job, decoder: Decoder = turbo) -> Batches:
    """MosaicML Streaming from its own format, and the turbo decoder."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Pictures(StreamingDataset):
        def __getitem__(self, index: int) -> Tensor:
            return decoder(super().__getitem__(index)["jpg"], job.size)

    clean_stale_shared_memory()
    dataset = Pictures(local=str(job.data / "mds"), shuffle=True, batch_size=BATCH)
    loader = DataLoader(dataset, BATCH, num_workers=job.workers, drop_last=True)
    return _endless(loader)


def streaming_ours(job: Job) -> Batches:
    """The same with our decoder."""
    return streaming(job, our_decoder)


def litdata(job: Job, decoder: Decoder = turbo) -> Batches:
    """litdata from its own format, and the turbo decoder."""
    from litdata import StreamingDataLoader, StreamingDataset

    class Pictures(StreamingDataset):
        def __getitem__(self, index: Any) -> Tensor:
            return decoder(super().__getitem__(index), job.size)

    dataset = Pictures(str(job.data / "litdata"), shuffle=True, drop_last=True)
    return _endless(StreamingDataLoader(dataset, batch_size=BATCH, num_workers=job.workers))


def litdata_ours(job: Job) -> Batches:
    """The same with our decoder."""
    return litdata(job, our_decoder)


def grain(job: Job, decoder: Decoder = turbo) -> Batches:
    """grain's threads over our offset index, and the turbo decoder."""
    import grain
    from loading_ours import reader_of

    reader = reader_of(job.data / "shards", verify=False)

    class Tars:
        def __len__(self) -> int:
            return len(reader)

        def __getitem__(self, index: int) -> np.ndarray:
            return decoder(reader.picture(int(index)).data, job.size).numpy()

    dataset = grain.MapDataset.source(Tars()).shuffle(seed=0).repeat()
    options = grain.ReadOptions(num_threads=job.workers, prefetch_buffer_size=2 * BATCH)
    return iter(dataset.to_iter_dataset(options).batch(BATCH))


def grain_ours(job: Job) -> Batches:
    """The same with our decoder."""
    return grain(job, our_decoder)


def dali(job: Job) -> Batches:
    """DALI's CPU pipeline with its fused decode and crop."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=job.workers, device_id=None)
    def pipeline() -> Any:
        jpeg = fn.readers.webdataset(paths=job.tars, ext=["jpg"], random_shuffle=True)
        image = fn.decoders.image_random_crop(
            jpeg, random_area=[LEAST_AREA, 1.0], random_aspect_ratio=[1.0, 1.0]
        )
        kind = types.DALIInterpType.INTERP_LINEAR
        image = fn.resize(image, size=[job.size, job.size], interp_type=kind, antialias=True)
        return fn.flip(image, horizontal=fn.random.coin_flip())

    built = pipeline()
    built.build()
    while True:
        yield np.array(built.run()[0].as_tensor())


def ffcv(job: Job) -> Batches:
    """FFCV from its own format, JPEGs encoded by it at quality 90."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    crop = RandomResizedCropRGBImageDecoder((job.size, job.size), (LEAST_AREA, 1), (1, 1))
    loader = Loader(
        str(job.data / "ffcv.beton"),
        batch_size=BATCH,
        num_workers=job.workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=True,
        pipelines={"image": [crop, RandomHorizontalFlip(), ToTensor()], "label": None},
    )
    return (batch for (batch,) in _endless(loader))


def _endless(loader: Any) -> Batches:
    while True:
        yield from loader
