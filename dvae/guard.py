"""What may not reach the weights: bad samples, and a loss or gradient that is not finite."""

from dvae.data.batches import Batch
from dvae.errors import DataError, NonFiniteError
from dvae.session import BAD_SAMPLES, Run, as_tensor, say


def count_good(run: Run, batch: Batch) -> float:
    """The pictures of the global batch that could be read; notes the others.

    Raises:
        DataError: more are bad than `data.max_bad` allows.
        RuntimeError: the pictures read and the bad ones of all processes aren't the global batch.
    """
    config, state = run.config, run.state
    batch.append_bad(config.folder / BAD_SAMPLES, "train")
    counts = as_tensor(run, [float(batch.weights.sum()), float(len(batch.bad))])
    good, bad = run.accelerator.reduce(counts, "sum").tolist()
    if good + bad != config.train.global_batch_size:
        raise RuntimeError(
            f"step {state.step + 1}: {good:g} samples read and {bad:g} bad ones are not the "
            f"{config.train.global_batch_size} of the global batch: this is a fault of dvae's"
        )
    state.bad_samples += round(bad)
    seen = max((state.step + 1) * config.train.global_batch_size, run.streams.sources.order.samples)
    if state.bad_samples > config.data.max_bad * seen:
        raise DataError(
            f"{state.bad_samples} bad samples by step {state.step + 1} are more than "
            f"data.max_bad={config.data.max_bad:g} allows: {config.folder / BAD_SAMPLES} "
            "names them; pack the data again, or raise the limit"
        )
    return good


def leave_out(run: Run, batch: Batch, count: float) -> None:
    """Take no step: there was no good picture, or the loss isn't finite and the recipe says skip.

    Raises:
        NonFiniteError: the loss isn't finite and the recipe says stop.
    """
    if not count:
        return
    if run.accelerator.scaler is not None:
        run.accelerator.scaler.update()  # the gradients were unscaled: it waits for a step otherwise
    if run.config.train.guard == "skip":
        say(run, f"step {run.state.step + 1} left out: its loss or gradient is not finite")
        return
    raise NonFiniteError(
        f"the loss or its gradient is not finite at step {run.state.step + 1} (epoch {batch.epoch}, "
        f"samples {batch.ids[:8].tolist()} … on process {run.accelerator.process_index}): the "
        "last checkpoint is whole: go on with train.guard=skip, or lower optim.learning_rate under "
        "another run.name"
    )
