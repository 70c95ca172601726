"""Checkpoints and weights folders: whole, verified, pickle-free, and open anywhere."""

import json
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from dvae.checkpoint import Checkpoints, State
from dvae.config import LossConfig, OptimConfig
from dvae.ema import Ema
from dvae.errors import CheckpointError, UserError
from dvae.files import remove_unfinished
from dvae.find import load
from dvae.model_config import ResVAEConfig
from dvae.networks import build, network_of
from dvae.optim import (
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from dvae.resume import restored
from dvae.weights import About, Weights, export, read_weights

SMALL = ResVAEConfig(name="resvae", image_size=32, channels=(8, 16), latent_dim=8, patch_size=2)


def trained_parts(steps=3, seed=0):
    torch.manual_seed(seed)
    model = build(SMALL).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, OptimConfig())
    ema = Ema(dict(model.named_parameters()), 0.9)
    for step in range(steps):
        model(torch.rand(4, 3, 32, 32)).reconstruction.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(dict(model.named_parameters()), step)
    return model, ema, optimizer


def files_of(model, ema, optimizer):
    """What a run saves."""
    return {
        "model.safetensors": model.state_dict(),
        "ema.safetensors": ema.parts,
        "optimizer.safetensors": optimizer_tensors(model, optimizer),
    }


def restore(folder, model, ema, optimizer):
    """Into another run's parts, as a run does that goes on."""
    before = restored(Checkpoints(folder, 1), model, True, True)
    model.load_state_dict(before.network)
    for name, part in ema.parts.items():
        part.copy_(before.average[name])
    load_optimizer_tensors(model, optimizer, before.optimizer)
    return before.state


def tensors_of(model, ema, optimizer):
    state = [optimizer.state[p] for p in model.parameters()]
    return [
        *model.state_dict().values(),
        *ema.parts.values(),
        *(s[k] for s in state for k in sorted(s)),
    ]


def test_what_is_restored_is_what_was_saved_to_the_bit(tmp_path):
    parts = trained_parts()
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(State(step=3, mean_error=1.5, data="abc"), files_of(*parts))
    other = trained_parts(steps=1, seed=1)
    state = restore(tmp_path, *other)
    assert (state.step, state.mean_error, state.data) == (3, 1.5, "abc")
    for a, b in zip(tensors_of(*parts), tensors_of(*other), strict=True):
        assert torch.equal(a, b)
    for parameter in other[0].parameters():
        assert other[2].state[parameter]["exp_avg"].stride() == parameter.stride()


def test_the_last_and_the_best_are_kept(tmp_path):
    parts = trained_parts(1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 7):
        checkpoints.save(State(step=step, best_step=2 if step >= 2 else None), files_of(*parts))
    assert list(checkpoints.names()) == [2, 5, 6]
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "no manifest", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, damage):
    parts = trained_parts(1)
    checkpoints = Checkpoints(tmp_path, keep=2)
    older = checkpoints.save(State(step=1), files_of(*parts))
    newer = checkpoints.save(State(step=2), files_of(*parts))
    victim = newer / "optimizer.safetensors"
    data = bytearray(victim.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif damage == "cut":
        victim.write_bytes(data[:-10])
    elif damage == "missing":
        victim.unlink()
    elif damage == "no manifest":
        (newer / "manifest.json").unlink()
    else:
        for file in newer.iterdir():
            file.unlink()
    found, passed = checkpoints.newest()
    assert found == older
    assert len(passed) == 1
    assert "step-00000002 is damaged" in passed[0]


def test_a_folder_that_a_killed_run_left_is_no_checkpoint_and_is_removed(tmp_path):
    (tmp_path / ".tmp-99-step-00000009").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.newest() == (None, [])
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    Checkpoints(tmp_path, 1).save(State(step=1), files_of(*trained_parts(1)))
    other = build(SMALL.model_copy(update={"latent_dim": 9}))
    with pytest.raises(CheckpointError, match=r"to_mean.bias has the shape \[8\], not \[9\]"):
        restored(Checkpoints(tmp_path, 1), other, True, True)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path):
    path = Checkpoints(tmp_path, 1).save(State(step=1), files_of(*trained_parts(1)))
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def about(**changes):
    parts = {
        "model": SMALL,
        "loss": LossConfig(beta=2.0),
        "scale": 12.5,
        "step": 7,
        "metrics": {"psnr": 20.5},
        "measured": 6,
        "recipe": {"train": {"seed": 3}},
    }
    return About(**(parts | changes))


def test_a_weights_folder_opens_as_what_was_exported(tmp_path):
    model, *_ = trained_parts(1)
    export(tmp_path / "run" / "weights", model, about())
    for source in (tmp_path / "run", tmp_path / "run" / "weights"):
        weights = load(str(source))
        assert weights.about == about()
        z = torch.randn(2, 8)
        torch.testing.assert_close(weights.model.decode(z), model.eval().decode(z))
        for a, b in zip(weights.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(a, b)
    assert "PSNR" not in (tmp_path / "run" / "weights" / "README.md").read_text()
    assert "On the validation split at step 6:" in (tmp_path / "run/weights/README.md").read_text()
    assert "| psnr | 20.5 |" in (tmp_path / "run" / "weights" / "README.md").read_text()


def test_from_pretrained_and_save_pretrained_are_inverse(tmp_path):
    model, *_ = trained_parts(1)
    Weights(model, about()).save_pretrained(tmp_path / "w")
    weights = Weights.from_pretrained(str(tmp_path / "w"))
    for a, b in zip(weights.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_tensors_open_with_safetensors_alone(tmp_path):
    model, *_ = trained_parts(1)
    export(tmp_path / "w", model, about())
    code = (
        "import sys, json; from safetensors import safe_open\n"
        f"with safe_open({str(tmp_path / 'w' / 'model.safetensors')!r}, 'pt') as f:\n"
        "    names = list(f.keys()); about = json.loads(f.metadata()['config'])\n"
        "assert 'dvae' not in sys.modules\n"
        "assert about['model']['name'] == 'resvae'\n"
        "assert not [n for n in names if n.startswith(('module.', '_orig_mod.'))]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_exporting_again_replaces_the_folder(tmp_path):
    model, *_ = trained_parts(1)
    export(tmp_path / "w", model, about())
    export(tmp_path / "w", model, about(step=8))
    assert read_weights(tmp_path / "w").about.step == 8
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: (w / "model.safetensors").write_bytes(b"x"), "is damaged"),
        (lambda w: (w / "config.json").write_text("{}"), "is damaged"),
        (lambda w: [(w / n).unlink() for n in ("manifest.json", "model.safetensors")], "missing"),
        (
            lambda w: [(w / "manifest.json").unlink(), (w / "config.json").write_text("{}")],
            "has the format None",
        ),
        (
            lambda w: [(w / "manifest.json").unlink(), (w / "config.json").write_text("[")],
            "is not a weights configuration",
        ),
    ],
)
def test_damaged_weights_are_refused_in_words(tmp_path, spoil, message):
    model, *_ = trained_parts(1)
    export(tmp_path / "w", model, about())
    spoil(tmp_path / "w")
    with pytest.raises(CheckpointError, match=message):
        load(str(tmp_path / "w"))


def test_weights_of_another_network_are_refused(tmp_path):
    model, *_ = trained_parts(1)
    export(tmp_path / "w", model, about())
    (tmp_path / "w" / "manifest.json").unlink()
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    config["model"]["latent_dim"] = 9
    (tmp_path / "w" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not of its config.json's network"):
        load(str(tmp_path / "w"))


@pytest.mark.parametrize("source", ["nowhere", "/no/where/at/all", "./x", "nobody/nothing-here"])
def test_weights_that_do_not_exist_are_named(source):
    with pytest.raises(UserError, match=source):
        load(source)


def test_exported_tensors_are_finite_and_named_as_in_the_network(tmp_path):
    model, ema, _ = trained_parts()
    export(tmp_path / "w", network_of(SMALL, ema.parts), about())
    tensors = load_file(tmp_path / "w" / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.isfinite(t).all() for t in tensors.values())


def test_learning_rate_warms_up_and_falls_by_a_cosine():
    config = OptimConfig(learning_rate=1.0, warmup_steps=10, min_learning_rate=0.1)
    rates = [learning_rate(step, config, 110) for step in (0, 9, 10, 60, 109, 500)]
    assert rates[:3] == [0.1, 1.0, 1.0]
    assert rates[3] == pytest.approx(0.55)
    assert rates[4] == pytest.approx(0.1, abs=1e-3)
    assert rates[5] == pytest.approx(0.1)
    constant = OptimConfig(learning_rate=1.0, schedule="constant")
    assert learning_rate(10**6, constant, 5) == 1.0


def test_the_average_follows_the_weights():
    model, ema, _ = trained_parts()
    for averaged in ema.parts.values():
        assert torch.isfinite(averaged).all()
        assert not averaged.requires_grad
    ema.decay = 0.0
    ema.update(dict(model.named_parameters()), 10**6)
    for name, new in model.named_parameters():
        assert torch.equal(ema.parts[name], new)


def test_a_network_of_given_tensors_copies_none_of_them():
    model, ema, _ = trained_parts()
    shown = network_of(SMALL, model.state_dict())
    for name, parameter in shown.named_parameters():
        assert parameter.data_ptr() == model.get_parameter(name).data_ptr()
        assert not parameter.requires_grad
        assert model.get_parameter(name).requires_grad


def test_a_configuration_that_asks_for_more_than_the_file_holds_is_refused(tmp_path):
    model, *_ = trained_parts(1)
    Weights(model, about()).save_pretrained(tmp_path / "w")
    value = json.loads((tmp_path / "w" / "config.json").read_text())
    value["model"] |= {"latent_dim": 65536, "channels": [8192] * 6, "image_size": 4096}
    (tmp_path / "w" / "config.json").write_text(json.dumps(value))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="not of its config.json's network"):
        load(str(tmp_path / "w"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000  # KiB; the network would take terabytes


def test_damaged_later_checkpoints_do_not_count_among_those_that_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    parts = trained_parts(1)
    for step in (1, 2, 9):
        checkpoints.save(State(step=step), files_of(*parts))
    (tmp_path / "step-00000009" / "state.json").write_text("")
    for step in (3, 4):
        checkpoints.save(State(step=step), files_of(*parts))
    assert set(checkpoints.names()) == {3, 4, 9}
