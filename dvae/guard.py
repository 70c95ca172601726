"""What may not reach the weights: bad samples, what isn't finite or is a spike, a lost game."""

import json
import math
from statistics import median

from dvae.checkpoint import State, read_state
from dvae.data.batches import Batch
from dvae.errors import DataError, DiscriminatorWonError, NonFiniteError
from dvae.files import append, keep_lines
from dvae.find import load
from dvae.resume import restored
from dvae.session import BAD_SAMPLES, Run, as_tensor, say
from dvae.weights import export

REPORT = "guard.jsonl"  # in the run's folder: every step that wasn't taken
USUAL = 5  # good steps that a spike is measured by
SHORT = ".4g"  # of what a spike is measured by: a checkpoint keeps it
SMALLEST_SCALE = 2.0**-10  # of fp16; it begins at 2^16


def count_good(run: Run, batch: Batch) -> float:
    """The pictures of the global batch that could be read; notes the others.

    Raises:
        DataError: more are bad than `data.max_bad` allows.
        RuntimeError: the pictures read and the bad ones of all processes aren't the global batch.
    """
    config, state = run.config, run.state
    batch.append_bad(config.folder / BAD_SAMPLES, "train", state.step + 1)
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


def forget_later(run: Run) -> None:
    """Forget what was noted of steps later than the run's: it does them again. All processes call this."""
    if run.accelerator.is_main_process:
        for name in (BAD_SAMPLES, REPORT):
            keep_lines(run.config.folder / name, lambda line: line["step"] <= run.state.step)
    run.accelerator.wait_for_everyone()


def is_odd(run: Run, grad_norm: float) -> bool:
    """Whether this process's gradient isn't finite or is a spike."""
    return not math.isfinite(grad_norm) or _is_spike(run, grad_norm, run.state.norms)


def what_is_wrong(run: Run, loss: float, odd: float) -> str:
    """Why the optimizer may not move; empty where it may. The same answer on all processes.

    Args:
        run: whose optimizer it is.
        loss: of the global batch, nats per image.
        odd: how many processes hold a gradient that `is_odd`.
    """
    scaler = run.accelerator.scaler
    if not math.isfinite(loss):
        return "its loss is not finite"
    if scaler is not None:  # an overflowing gradient is the scaler's affair, until it gives in
        return collapse_of(scaler.get_scale()) if odd else ""
    if odd:
        return (
            f"its gradient is not finite, or more than {run.config.train.spike:g} times the usual"
        )
    if _is_spike(run, loss, run.state.losses):
        return f"its loss of {loss:.4g} is more than {run.config.train.spike:g} times the usual"
    return ""


def collapse_of(scale: float) -> str:
    """What to say of a loss scale of fp16 that has been halved too often; empty where it hasn't."""
    if scale >= SMALLEST_SCALE:
        return ""
    return f"the loss scale of fp16 has collapsed to {scale:.3g} (take train.precision=bf16)"


def note_good(state: State, loss: float, grad_norm: float) -> None:
    """Remember a good step: later ones are measured by its like."""
    state.losses = [*state.losses, float(format(loss, SHORT))][-USUAL:]
    if math.isfinite(grad_norm):  # it isn't where fp16's scaler left the step out
        state.norms = [*state.norms, float(format(grad_norm, SHORT))][-USUAL:]


def leave_out(run: Run, batch: Batch, count: float, reason: str) -> None:
    """Take no step: there was no good picture, or something is wrong.

    With `train.guard=skip` the batch is left out; with `rollback` the weights are those of the last
    checkpoint again, so that all batches since are; `guard.jsonl` names the samples and the reason.

    Raises:
        NonFiniteError: the recipe says stop, or there's no other checkpoint to go back to.
    """
    if not count:
        return
    if run.accelerator.scaler is not None:
        run.accelerator.scaler.update()  # the gradients were unscaled: it waits for a step otherwise
    step, action = run.state.step + 1, run.config.train.guard
    _write_down(run, batch, reason, action)
    if action == "skip":
        say(run, f"step {step} left out: {reason}; {run.config.folder / REPORT} names its samples")
        return
    if action == "rollback" and _roll_back(run):
        say(run, f"step {step}: {reason}; back to the weights of step {run.state.rolled_back}")
        return
    raise NonFiniteError(
        f"step {step} (epoch {batch.epoch}): {reason}: {run.config.folder / REPORT} names its samples "
        "and the last checkpoint is whole: go on with train.guard=skip, or lower optim.learning_rate "
        "under another run.name"
    )


def _is_spike(run: Run, value: float, usual: list[float]) -> bool:
    factor = run.config.train.spike
    return bool(factor) and len(usual) == USUAL and value > factor * median(map(abs, usual))


def _write_down(run: Run, batch: Batch, reason: str, action: str) -> None:
    """Append a line to a list that all processes share."""
    line = {
        "step": run.state.step + 1,
        "epoch": batch.epoch,
        "process": run.accelerator.process_index,
        "reason": reason,
        "guard": action,
        "samples": batch.ids.tolist(),
    }
    append(run.config.folder / REPORT, (json.dumps(line) + "\n").encode())


def _roll_back(run: Run) -> bool:
    """Take the weights of the last checkpoint; False if there's none, or it led here before."""
    run.saver.wait()
    run.accelerator.wait_for_everyone()
    path, _ = run.checkpoints.newest()
    if path is None or read_state(path).step == run.state.rolled_back:
        return False
    before = restored(run.checkpoints, run.bare, run.ema is not None, is_main=False)
    assert before.network is not None
    assert before.optimizer is not None
    run.engine.put(run.engine.parts(), before.network)
    for name, buffer in run.bare.named_buffers():
        if name in before.network:
            buffer.copy_(before.network[name])
    if run.ema and before.average:
        run.engine.put(run.ema.parts, before.average)
    run.engine.load_optimizer(before.optimizer)
    saved = before.state
    run.state.mean_error, run.state.rolled_back = saved.mean_error, saved.step
    run.state.losses, run.state.norms = saved.losses, saved.norms
    run.state.standing = saved.standing
    run.judges.restore(saved, path)
    return True


def check_game(run: Run) -> None:
    """Stop where the discriminator has won for too long, and fall back to the last good checkpoint.

    Raises:
        DiscriminatorWonError: it has; the weights folder is that checkpoint's, later ones are gone.
    """
    config, state, adversary = run.config, run.state, run.judges.adversary
    if adversary is None or not adversary.has_won():
        return
    run.saver.wait()
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
