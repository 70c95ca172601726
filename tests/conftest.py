"""Small real shards and a small recipe that the tests share."""

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # the tests' sizes are the CPU's
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of tiny networks wait for each other

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or the children would ignore it, too

pytest_plugins = ["tests.s3_server"]

ROOT = Path(__file__).parents[1]
DOGS = ROOT.parent / "shared" / "dogs"  # real photographs, where they are

RECIPE = """
[model]
name = "resvae"
image_size = 32
channels = [16, 32]
latent_dim = 8
patch_size = 2

[data]
train = "{shards}"
crop_min = 0.8
threads = 2

[optim]
learning_rate = 1e-3
ema = 0.9

[train]
steps = 6
global_batch_size = 16
log_every = 1
save_every = 3

[eval]
every = 3
grid = 2

[run]
dir = "{runs}"
"""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """64 drawn dogs in folders by coat."""
    from shards.drawn_dogs import draw_dog

    folder = tmp_path_factory.mktemp("pictures")
    for number in range(64):
        image, label = draw_dog(0, number, 40)
        (folder / label).mkdir(exist_ok=True)
        image.save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def shards(pictures, tmp_path_factory) -> Path:
    """The same as JPEG shards: train and val, several tars."""
    from shards.pack import main

    out = tmp_path_factory.mktemp("data") / "shards"
    arguments = [str(pictures), str(out), "--size", "36", "--val", "0.25", "--shard-bytes", "60000"]
    assert main(arguments) == 0
    assert len(list(out.glob("train-*.tar"))) > 1
    return out


@pytest.fixture
def recipe(shards, tmp_path) -> Path:
    """A recipe that trains in a second."""
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(shards=shards, runs=tmp_path / "runs"))
    return path


def give_network(recipe: Path, name: str) -> None:
    """Let a recipe train another network, with its defaults."""
    network = f'[model]\nname = "{name}"\n\n'
    recipe.write_text(re.sub(r"\[model\].*?\n\n", network, recipe.read_text(), flags=re.S))


def reset_accelerate() -> None:
    """Forget the state that Accelerate keeps in the process."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps its state in the process; give a test its own."""
    reset_accelerate()
    yield reset_accelerate
    reset_accelerate()


@contextlib.contextmanager
def training():
    """Train in this process by the function given: recipe, overrides -> exit code."""
    import signal

    from dvae.train import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(recipe: Path, *overrides: str) -> int:
        reset_accelerate()
        return main([str(recipe), *overrides])

    yield run
    reset_accelerate()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def train():
    """Train in this process: recipe, overrides -> exit code."""
    with training() as run:
        yield run


@pytest.fixture
def trained(recipe, train) -> Path:
    """A finished run of the small recipe."""
    assert train(recipe) == 0
    return recipe.parent / "runs" / "tiny"
