"""What may not reach the weights: bad samples, what is not finite, a generator that lost its game."""

from dvae.data.batches import Batch
from dvae.errors import DataError, DiscriminatorWonError, NonFiniteError
from dvae.find import load
from dvae.session import BAD_SAMPLES, Run, as_tensor, say
from dvae.weights import export


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


def check_game(run: Run) -> None:
    """Stop where the discriminator has won for too long, and fall back to the last good checkpoint.

    Raises:
        DiscriminatorWonError: it has; the weights folder is that checkpoint's, later ones are gone.
    """
    config, state, adversary = run.config, run.state, run.judges.adversary
    if adversary is None or not adversary.has_won():
        return
    good = run.checkpoints.names().get(state.good_step or 0)
    if good and run.accelerator.is_main_process:
        weights = load(str(good))
        export(config.folder / "weights", weights.model, weights.about)
        run.checkpoints.remove_after(weights.about.step)
    run.accelerator.wait_for_everyone()
    raise DiscriminatorWonError(
        f"the discriminator told pictures from reconstructions at will for {state.standing.won} steps, "
        f"to step {state.step}: adversarial.patience={config.adversarial.patience} allows no more. "
        + (
            f"weights/ and the last checkpoint are those of step {state.good_step}: "
            if good
            else ""
        )
        + f"begin another run.name from it (train.start={config.folder}) with a slower discriminator: "
        "a lower adversarial.learning_rate, adversarial.r1=1 or adversarial.augment=true"
    )
