"""A discriminator beside the VAE, and a frozen encoder, under every engine: DDP's curve."""

import os

import pytest
import torch
from safetensors.torch import load_file

from .test_adversarial_training import GAME
from .test_launch_matrix import curves_agree, run

ENGINES = os.environ.get("DVAE_TEST_ENGINES", "").split()  # "fsdp2 zero1 zero2 zero3" by hand
STEPS = 16
FILES = ("model", "optimizer", "discriminator", "discriminator_optimizer")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not ENGINES, reason="minutes: name DVAE_TEST_ENGINES, as launch/README.md does"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two-networks")


@pytest.fixture(scope="module")
def overrides(folder, shards):
    """Only the decoder learns, from a run's weights, and against a discriminator."""
    run(folder, shards, "", 1, "start", "train.steps=4")
    # The engines cut what is contiguous, and a discriminator's game blows rounding up.
    return [
        *GAME[:-1],
        "train.channels_last=false",
        "train.micro_batch_size=4",
        f"train.steps={STEPS}",
        f"train.start={folder / 'runs' / 'start'}",
    ]


@pytest.fixture(scope="module")
def under_ddp(folder, shards, overrides):
    """The curve of DDP on two processes, for all of the network or its decoder."""
    found = {}

    def curve(decoder_only):
        if decoder_only not in found:
            more = f"train.decoder_only={decoder_only}"
            found[decoder_only] = run(
                folder, shards, "", 2, f"ddp-{decoder_only}", *overrides, more
            )
        return found[decoder_only]

    return curve


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("decoder_only", ["true", "false"])
def test_two_networks_learn_as_under_ddp(
    folder, shards, overrides, under_ddp, engine, decoder_only
):
    name = f"{engine}-{decoder_only}"
    more = f"train.decoder_only={decoder_only}"
    found = run(folder, shards, engine, 2, name, *overrides, more)
    curves_agree(under_ddp(decoder_only), found, 1e-4)
    for file in FILES:
        one, other = (
            load_file(folder / "runs" / a / f"checkpoints/step-{STEPS:08d}/{file}.safetensors")
            for a in (f"ddp-{decoder_only}", name)
        )
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            torch.testing.assert_close(other[key], tensor, rtol=1e-2, atol=1e-4)
