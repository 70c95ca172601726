"""Weights by what a user calls them: a run, a weights folder, a checkpoint, or a Hub id."""

from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dvae.checkpoint import AVERAGE, NETWORK, STATE, Checkpoints, State, read_state
from dvae.config import Config
from dvae.data.location import shown
from dvae.diffusers_layout import is_diffusers, read_diffusers
from dvae.errors import CheckpointError, UserError
from dvae.files import damage
from dvae.losses import current_scale
from dvae.recipe import parse_config, read_toml
from dvae.weights import CONFIG, MODEL, About, Weights, open_network, read_weights

FORMS = "give a run, its weights folder, one of its checkpoints/step-N, a folder of diffusers' AutoencoderKL, or a Hub id"


def load(source: str) -> Weights:
    """Weights from a run, a weights folder, a checkpoint of a run, or a Hub id.

    Raises:
        UserError: there is no such thing.
        CheckpointError: the folder is damaged or holds something else.
    """
    path = _named(Path(source))
    if (path / STATE).is_file():
        return _of_checkpoint(path.absolute())
    if is_diffusers(path):
        return read_diffusers(path)
    for folder in (path / "weights", path):
        if (folder / CONFIG).is_file() or (folder / MODEL).is_file():
            return read_weights(folder)
    if path.exists():
        raise UserError(f"{shown(source)} holds no weights: {FORMS}")
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"{shown(source)} does not exist: {FORMS}")
    try:
        return Weights.from_pretrained(source)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{shown(source)} is neither a folder here nor on the Hub: {shown(reason)}"
        ) from None


def _named(path: Path) -> Path:
    """The checkpoint that `checkpoints/best` or `checkpoints/last` means; other paths as they are."""
    if path.parent.name != "checkpoints" or path.name not in ("best", "last") or path.exists():
        return path
    newest, _ = Checkpoints(path.parent, 1).newest()
    if newest is None:
        raise CheckpointError(f"{path.parent} holds no whole checkpoint")
    if path.name == "last":
        return newest
    best = read_state(newest).best_step
    if best is None:
        raise CheckpointError(f"{path.parents[1]} was not measured yet: take {path.parent}/last")
    return path.parent / f"step-{best:08d}"


def state_of(source: str) -> State | None:
    """The counters of a run's newest whole checkpoint, or of the checkpoint itself; None of others."""
    path = _named(Path(source))
    if (path / STATE).is_file():
        return read_state(path)
    newest, _ = Checkpoints(path / "checkpoints", keep=1).newest()
    return read_state(newest) if newest else None


def _of_checkpoint(path: Path) -> Weights:
    """What would have been exported at a step of a run: the averaged weights where there are any."""
    wrong = damage(path)
    if wrong:
        raise CheckpointError(f"{path} is damaged: {wrong}: take another checkpoint of the run")
    recipe = path.parents[1] / "config.toml"
    config = parse_config(read_toml(recipe), str(recipe))
    averaged = path / AVERAGE
    tensors = averaged if averaged.is_file() else path / NETWORK
    return open_network(tensors, describe(config, read_state(path)), recipe.name)


def describe(config: Config, state: State) -> About:
    """What the weights of a moment of a run are."""
    return About(
        config.model,
        config.loss,
        current_scale(config.loss, state.mean_error),
        state.step,
        dict(state.metrics),
        state.measured,
        config.model_dump(mode="json", exclude={"run"}),
    )
