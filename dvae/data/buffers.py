"""Memory that batches are decoded into."""

import weakref

import numpy as np
import torch


class Buffers:
    """Memory for batches, taken again once nobody holds it: fresh memory costs page faults."""

    def __init__(self) -> None:
        self._pin = torch.cuda.is_available()
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A uint8 tensor of any content; pinned where there is a GPU, by torch's own cache."""
        if self._pin:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        while self._free:
            memory = self._free.pop()
            if memory.shape == shape:
                break
        else:
            memory = np.empty(shape, dtype=np.uint8)
        lent = memory.view()  # every tensor and array over it keeps this one alive
        weakref.finalize(lent, self._free.append, memory)
        return torch.from_numpy(lent)
