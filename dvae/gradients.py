"""The gradients of a step: its pictures through the network, in parts that the memory can hold."""

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from dvae.data.batches import Batch
from dvae.errors import is_out_of_memory, words_of
from dvae.latents import keyed_normal
from dvae.losses import loss_terms
from dvae.networks import has_batch_statistics
from dvae.out_of_memory import next_smaller, short_of_memory
from dvae.pictures import batch_images
from dvae.session import Run, as_tensor, say


def find_gradients(run: Run, batch: Batch, count: float, beta: float) -> Tensor:
    """`forward_and_backward`; with `train.micro_batch_size=auto` in smaller parts where memory is short.

    A process that runs out of it tells the others before any gradient is summed. All of them forget
    what they have and begin the step again with parts of the next smaller size, so that the result is
    that of a run which began with this size.

    Raises:
        ResourceError: not even one picture at a time fits a process.
    """
    if run.config.train.micro_batch_size != "auto":
        return forward_and_backward(run, batch, count, beta)
    while True:
        found = _attempt(run, batch, count, beta)
        failed = as_tensor(run, [float(isinstance(found, str))])
        if not run.accelerator.reduce(failed, "sum").item():
            assert not isinstance(found, str)
            run.engine.sum_gradients()
            return found
        run.engine.zero_grad()
        clear_device_cache(garbage_collection=True)
        _take_smaller_parts(run, found if isinstance(found, str) else "another process")


def _attempt(run: Run, batch: Batch, count: float, beta: float) -> Tensor | str:
    """The sums, or the library's words where memory is short; all that was held is free again then."""
    try:
        return forward_and_backward(run, batch, count, beta)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return words_of(error)


def _take_smaller_parts(run: Run, words: str) -> None:
    world_size, before = run.accelerator.num_processes, run.micro_batch
    smaller = next_smaller(before, run.config.train.global_batch_size // world_size)
    if not smaller:
        raise short_of_memory(run.config, world_size, words, before)
    run.micro_batch = smaller
    say(
        run,
        f"step {run.state.step + 1}: out of memory with {before} pictures at a time: now {smaller} "
        f"(train.micro_batch_size={smaller} spares the attempt)",
    )


def forward_and_backward(run: Run, batch: Batch, count: float, beta: float) -> Tensor:
    """Gradients of the mean loss of the global batch, in nats per number of a picture.

    Returns:
        This process's sums of the first six of `Totals`: (6,) float64.
    """
    config, accelerator = run.config, run.accelerator
    device, dtype = accelerator.device, next(run.bare.parameters()).dtype
    run.judges.begin()
    size, seed = run.micro_batch, config.train.seed
    sums = as_tensor(run, [0.0] * 6)
    if not count:  # of all processes: none of them goes through the network
        return sums
    if has_batch_statistics(run.bare):  # which bad pictures would spoil
        batch = batch.part(np.flatnonzero(batch.weights))
    for start in range(0, max(1, len(batch.ids)), size):  # with none, too, where others wait for it
        micro = batch.part(slice(start, start + size))
        images = batch_images(micro, device, dtype, config.train.channels_last)
        noise = keyed_normal(micro.ids, run.bare.latent_shape, seed, micro.epochs, like=images)
        weights = torch.from_numpy(micro.weights).to(device)
        is_last = start + size >= len(batch.ids)
        with run.engine.accumulating(is_last):
            run.heartbeat.enter("in the forward pass", run.state.step, is_own=True)
            output = run.engine.model(images, noise)
            # Judges ask for gradients at it, and at its own output an engine would take them for the last.
            made = output.reconstruction.view_as(images)
            terms = loss_terms(output._replace(reconstruction=made), images, config.loss, run.scale)
            judged = run.judges.terms(made, images, terms.nll, micro, count, run.state.step)
            losses = (terms.nll + beta * terms.kl_paid + judged.sum(1)) * weights
            # DDP takes the mean over the processes; the loss is a sum over them, so it is undone.
            mean = losses.sum() * (accelerator.num_processes / (max(count, 1) * config.dims))
            run.heartbeat.enter("in the backward pass and its all-reduce", run.state.step)
            run.engine.backward(mean, is_last)
        each = torch.stack([terms.error, terms.nll, terms.kl, terms.kl_paid, *judged.mT], dim=1)
        sums += (each.detach().to(sums.dtype) * weights[:, None].to(sums.dtype)).sum(0)
    return sums
