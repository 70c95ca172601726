"""Training runs in this process: what they leave, resuming to the bit, refusals, stopping."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import ROOT, give_network


def tensors(run, step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    files = sorted(folder.glob("*.safetensors"))
    return {f"{f.stem}/{k}": v.clone() for f in files for k, v in load_file(f).items()}


def state(run, step):
    return json.loads((run / "checkpoints" / f"step-{step:08d}" / "state.json").read_text())


def events(run):
    accumulator = EventAccumulator(str(run / "tensorboard"), {"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_leaves_recipe_checkpoints_weights_and_tensorboard(trained):
    assert {p.name for p in trained.iterdir() if not p.name.startswith(".")} == {
        "config.toml",
        "checkpoints",
        "weights",
        "tensorboard",
    }
    names = {p.name for p in (trained / "weights").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md", "manifest.json"}
    assert state(trained, 6)["step"] == 6
    seen = events(trained)
    scalars = set(seen.Tags()["scalars"])
    wanted = ["loss", "nll", "kl", "bits_per_dim", "lr", "grad_norm", "sigma", "beta"]
    assert {f"train/{n}" for n in wanted} <= scalars
    assert {"speed/images_per_second", "speed/wait", "val/psnr", "val/active_units"} <= scalars
    assert set(seen.Tags()["images"]) == {"reconstructions", "samples", "interpolations"}
    assert "val/kl_per_dim" in seen.Tags()["histograms"]
    assert "recipe/text_summary" in seen.Tags()["tensors"]


def test_the_loss_that_is_logged_is_the_one_that_is_trained(recipe, train):
    overrides = ["loss.beta=3", "loss.free_bits=0.5", "train.steps=2", "loss.scale=20"]
    assert train(recipe, *overrides) == 0
    seen = events(recipe.parent / "runs" / "tiny")
    last = {n: seen.Scalars(f"train/{n}")[-1].value for n in ("loss", "nll", "kl", "beta")}
    paid = (last["loss"] - last["nll"]) / last["beta"]
    assert last["beta"] == 3
    assert paid >= 8 * 0.5 - 1e-3  # each of 8 dimensions pays at least its free bits
    assert paid >= last["kl"] - 1e-3


def test_the_card_says_at_which_step_it_was_measured_after_a_resume_too(recipe, train):
    assert train(recipe, "train.steps=4", "eval.every=2", "optim.schedule=constant") == 0
    overrides = ["train.steps=6", "eval.every=100", "train.save_every=5"]
    run = recipe.parent / "runs" / "tiny"
    before = json.loads((run / "weights" / "config.json").read_text())
    assert (before["step"], before["measured"]) == (4, 4)
    assert train(recipe, *overrides, "optim.schedule=constant") == 0
    card = (run / "weights" / "README.md").read_text()
    assert "On the validation split at step 6:" in card
    assert "| psnr |" in card


def test_the_loss_falls(recipe, train):
    assert train(recipe, "train.steps=60", "eval.every=60", "optim.learning_rate=3e-3") == 0
    curve = [e.value for e in events(recipe.parent / "runs" / "tiny").Scalars("train/nll")]
    assert sum(curve[-5:]) < sum(curve[1:6])
    assert all(math.isfinite(v) for v in curve)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(recipe, train, monkeypatch):
    assert train(recipe, "run.name=whole") == 0
    runs = recipe.parent / "runs"

    import dvae.train

    class Power(Exception):
        pass

    def fail(run, *arguments):
        if run.state.step == 4:  # after the checkpoint of step 3, in the middle of step 5
            raise Power
        return add_up(run, *arguments)

    add_up = dvae.train.add_up
    monkeypatch.setattr(dvae.train, "add_up", fail)
    with pytest.raises(Power):
        train(recipe, "run.name=cut")
    monkeypatch.setattr(dvae.train, "add_up", add_up)
    assert list((runs / "cut" / "checkpoints").glob("step-*4")) == []
    assert train(recipe, "run.name=cut", "data.threads=1") == 0
    assert equal(tensors(runs / "whole", 6), tensors(runs / "cut", 6))
    assert state(runs / "whole", 6) == state(runs / "cut", 6)
    steps = [e.step for e in events(runs / "cut").Scalars("train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6]  # no zigzag: what was logged after step 3 is hidden


def test_micro_batches_give_the_whole_batch_s_weights(recipe, train):
    runs = recipe.parent / "runs"
    overrides = ["train.precision=fp64", "optim.ema=0"]
    assert train(recipe, "run.name=one", *overrides) == 0
    assert train(recipe, "run.name=four", "train.micro_batch_size=4", *overrides) == 0
    one, four = tensors(runs / "one", 6), tensors(runs / "four", 6)
    for name, tensor in one.items():
        if name.startswith("model/"):
            assert (four[name] - tensor).norm() <= 1e-9 * tensor.norm() + 1e-9, name


def test_a_finished_run_says_so_and_changes_nothing(recipe, train, trained, capsys):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*.safetensors")}
    assert train(recipe) == 0
    assert "done: 6 steps" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*.safetensors")} == before


def test_another_recipe_under_the_same_name_is_refused(recipe, train, trained, capsys):
    assert train(recipe, "loss.beta=3") == 2
    error = capsys.readouterr().err
    assert "loss.beta: 1.0 in the run, 3.0 asked for" in error
    assert "run.name" in error
    assert error.count("\n") == 1


def test_no_resume_refuses_a_run_that_exists(recipe, train, trained, capsys):
    assert train(recipe, "--no-resume") == 2
    assert "exists" in capsys.readouterr().err


def test_other_shards_under_the_same_path_are_refused(recipe, train, shards, tmp_path, capsys):
    copy = shutil.copytree(shards, tmp_path / "copy")
    assert train(recipe, f"data.train={copy}") == 0
    value = json.loads((copy / "manifest.json").read_text())
    value["splits"]["train"].pop()
    (copy / "manifest.json").write_text(json.dumps(value))
    assert train(recipe, f"data.train={copy}") == 3
    error = capsys.readouterr().err
    assert "1 shards removed (train-00000" in error
    assert "--accept-new-data" in error


def test_accepted_new_data_begin_a_new_epoch_and_go_on_to_the_bit(
    recipe, train, shards, tmp_path, capsys
):
    copy = shutil.copytree(shards, tmp_path / "copy")
    recipe.write_text(recipe.read_text().replace(str(shards), str(copy)))
    more = ["optim.schedule=constant", "train.save_every=2"]
    assert train(recipe, "train.steps=5", *more) == 0
    run = recipe.parent / "runs" / "tiny"
    before = state(run, 5)
    assert (before["first_step"], before["first_epoch"], before["epochs"]) == (0, 0, 2)
    value = json.loads((copy / "manifest.json").read_text())
    value["splits"]["train"].pop()
    (copy / "manifest.json").write_text(json.dumps(value))
    assert train(recipe, "train.steps=8", *more, "--accept-new-data") == 0
    after = state(run, 8)
    assert (after["first_step"], after["first_epoch"]) == (5, 2)
    assert after["data"] != before["data"]
    assert train(recipe, "train.steps=9", *more) == 0  # it was accepted for good


def test_a_damaged_newest_checkpoint_is_passed_over(recipe, train, trained, capsys):
    whole = tensors(trained, 6)
    victim = trained / "checkpoints" / "step-00000006" / "model.safetensors"
    victim.write_bytes(victim.read_bytes()[:-100])
    assert train(recipe) == 0
    assert "step-00000006 is damaged" in capsys.readouterr().out
    assert equal(tensors(trained, 6), whole)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train=/nowhere", "is not a folder"),
        ("train.global_batch_size=1000", "fewer than train.global_batch_size=1000"),
        ("train.micro_batch_size=5", "train.micro_batch_size=5 doesn't divide"),
        ("train.precision=int8", "train.precision"),
        ("train.precision=fp16", "needs an accelerator"),
        ("model.image_size=8", "model.image_size=8"),
        ("model.latent=4", "did you mean 'model.latent_dim'"),
    ],
)
def test_a_user_s_mistake_is_one_message_and_exit_code_2(recipe, train, capsys, override, message):
    assert train(recipe, override) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_shards_without_a_validation_split_are_refused(recipe, train, pictures, tmp_path, capsys):
    from shards.pack import main

    assert main([str(pictures), str(tmp_path / "only"), "--size", "36"]) == 0
    assert train(recipe, f"data.train={tmp_path / 'only'}") == 2
    assert "--val" in capsys.readouterr().err


def test_batchnorm_and_a_split_batch_are_refused(recipe, train, capsys):
    give_network(recipe, "dogvae")
    assert train(recipe, "train.micro_batch_size=4") == 2
    assert "statistics of its batch" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dogvae", "autoencoder"])
def test_the_historical_networks_train(recipe, train, name):
    give_network(recipe, name)
    overrides = ["train.steps=2", "optim.ema=0", "loss.scale=2.45934", "optim.name=adam"]
    assert train(recipe, *overrides) == 0
    weights = load_file(recipe.parent / "runs" / "tiny" / "weights" / "model.safetensors")
    assert all(torch.isfinite(t).all() for t in weights.values())


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss.likelihood=laplace"],
        ["loss.free_bits=0.1", "loss.schedule=cyclical", "loss.cycle_steps=4"],
        ["train.precision=bf16", "model.gradient_checkpointing=true"],
        ["data.window=4", "optim.ema=0", "optim.max_grad_norm=0"],
    ],
    ids=["laplace", "free bits", "bf16", "windows"],
)
def test_options_train(recipe, train, overrides):
    assert train(recipe, *overrides) == 0
    weights = load_file(recipe.parent / "runs" / "tiny" / "weights" / "model.safetensors")
    assert all(torch.isfinite(t).all() for t in weights.values())
    assert all(t.dtype == torch.float32 for t in weights.values())


def poison(monkeypatch, *steps, value=math.nan):
    import dvae.train

    def poisoned(run, batch, count, weight):
        sums = honest(run, batch, count, weight)
        if run.state.step in steps:
            next(run.bare.parameters()).grad.fill_(value)
        return sums

    honest = dvae.train.find_gradients
    monkeypatch.setattr(dvae.train, "find_gradients", poisoned)


def left_out(run):
    return [json.loads(line) for line in (run / "guard.jsonl").read_text().splitlines()]


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(
    recipe, train, monkeypatch, capsys
):
    poison(monkeypatch, 4)
    assert train(recipe) == 5
    assert "step 5 (epoch 1): its gradient is not finite" in capsys.readouterr().err
    run = recipe.parent / "runs" / "tiny"
    assert all(torch.isfinite(t).all() for t in tensors(run, 3).values())
    assert not (run / "checkpoints" / "step-00000005").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_what_is_not_finite_or_a_spike_is_left_out_where_the_recipe_says_so(
    recipe, train, monkeypatch, capsys, value
):
    poison(monkeypatch, 5, value=value)
    assert train(recipe, "train.guard=skip", "train.steps=7") == 0
    assert "step 6 left out" in capsys.readouterr().out
    run = recipe.parent / "runs" / "tiny"
    (line,) = left_out(run)
    assert (line["step"], line["guard"], len(line["samples"])) == (6, "skip", 16)
    assert "not finite, or more than 100 times" in line["reason"]
    assert all(torch.isfinite(t).all() for t in tensors(run, 7).values())


def test_a_rollback_takes_the_weights_of_the_last_checkpoint_and_goes_on(
    recipe, train, monkeypatch, capsys
):
    poison(monkeypatch, 4)
    assert train(recipe, "train.guard=rollback", "eval.every=100", "train.save_every=3") == 0
    assert "step 5: its gradient" in capsys.readouterr().out
    run = recipe.parent / "runs" / "tiny"
    assert state(run, 6)["rolled_back"] == 3
    moved = tensors(run, 6)
    assert {int(v) for k, v in moved.items() if k.endswith("/step")} == {4}  # three, and one more
    assert all(torch.isfinite(t).all() for t in moved.values())


def test_a_second_rollback_to_the_same_checkpoint_and_one_without_any_stop(
    recipe, train, monkeypatch
):
    poison(monkeypatch, 1)
    assert train(recipe, "train.guard=rollback", "run.name=first") == 5
    monkeypatch.undo()
    poison(monkeypatch, 4, 5)
    assert train(recipe, "train.guard=rollback", "train.steps=9", "eval.every=100") == 5


def test_weights_that_are_not_finite_are_not_saved(recipe, train, monkeypatch, capsys):
    import dvae.train

    def spoil(run, *arguments):
        follow(run, *arguments)
        if run.state.step == 3:
            next(run.bare.parameters()).data.fill_(math.inf)

    follow = dvae.train.follow
    monkeypatch.setattr(dvae.train, "follow", spoil)
    assert train(recipe, "train.save_every=1") == 5
    assert "not finite" in capsys.readouterr().err
    run = recipe.parent / "runs" / "tiny"
    assert not (run / "checkpoints" / "step-00000004").exists()
    assert all(torch.isfinite(t).all() for t in tensors(run, 3).values())


def test_a_loss_scale_that_collapsed_is_named():
    from dvae.guard import collapse_of

    assert collapse_of(2.0**16) == ""
    assert "fp16 has collapsed to 0.000488 (take train.precision=bf16)" in collapse_of(2.0**-11)


def spoiled(shards, tmp_path, samples):
    from dvae.data.manifest import find_split
    from dvae.data.reader import Reader

    copy = shutil.copytree(shards, tmp_path / "spoiled")
    reader = Reader(find_split(copy, "train"))
    for sample in samples:
        place = reader.place(sample)
        data = bytearray((copy / place.shard).read_bytes())
        data[place.offset + 50] ^= 255
        (copy / place.shard).write_bytes(data)
    return copy


def test_bad_samples_are_named_and_weigh_nothing(recipe, train, shards, tmp_path):
    copy = spoiled(shards, tmp_path, [2, 30])
    steps = 2 * 3  # at least an epoch
    assert train(recipe, f"data.train={copy}", "data.max_bad=0.2", f"train.steps={steps}") == 0
    run = recipe.parent / "runs" / "tiny"
    lines = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert {line["sample"] for line in lines} <= {2, 30}
    assert all(line["reason"] and line["shard"] and line["key"] for line in lines)
    assert state(run, steps)["bad_samples"] == len(lines) > 0


def test_too_many_bad_samples_end_the_run_with_a_report(recipe, train, shards, tmp_path, capsys):
    copy = spoiled(shards, tmp_path, range(40))
    assert train(recipe, f"data.train={copy}") == 3
    assert "data.max_bad=0.01" in capsys.readouterr().err


def test_a_run_without_a_good_sample_learns_nothing_and_breaks_nothing(
    recipe, train, shards, tmp_path
):
    from dvae.data.manifest import find_split

    count = int(find_split(shards, "train").counts.sum())
    copy = spoiled(shards, tmp_path, range(count))
    assert train(recipe, f"data.train={copy}", "data.max_bad=1", "train.steps=2") == 0
    run = recipe.parent / "runs" / "tiny"
    after = tensors(run, 2)
    assert all(torch.isfinite(t).all() for t in after.values())
    assert not any(name.startswith("optimizer/") for name in after)  # no step was taken
    assert state(run, 2)["bad_samples"] == 32


def test_bad_pictures_do_not_reach_the_statistics_of_a_batch(
    recipe, train, shards, tmp_path, monkeypatch
):
    """What stands in a bad picture's slot changes nothing, BatchNorm's averages included."""
    import dvae.data.batches

    give_network(recipe, "dogvae")
    copy = spoiled(shards, tmp_path, [2, 30, 31, 40])
    overrides = ["train.steps=3", "optim.ema=0", "data.max_bad=1", f"data.train={copy}"]
    assert train(recipe, "run.name=black", *overrides) == 0
    fill = dvae.data.batches.Pictures.decode_into

    def noisy(self, images, ids, crops):
        outcomes = fill(self, images, ids, crops)
        images[[outcome is not None for outcome in outcomes]] = 200
        return outcomes

    monkeypatch.setattr(dvae.data.batches.Pictures, "decode_into", noisy)
    assert train(recipe, "run.name=bright", *overrides) == 0
    runs = recipe.parent / "runs"
    assert state(runs / "black", 3)["bad_samples"] > 0
    assert equal(tensors(runs / "black", 3), tensors(runs / "bright", 3))


def test_a_damaged_recipe_of_a_run_is_told(recipe, train, trained, capsys):
    (trained / "config.toml").write_text("[train\n")
    assert train(recipe) == 2
    assert "config.toml is not TOML" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_made_is_told(recipe, train, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train(recipe, f"run.dir={tmp_path / 'file'}") == 2
    assert "cannot be written" in capsys.readouterr().err


def start(recipe, *overrides, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dvae.train", str(recipe), *overrides]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def wait_for(path, process, seconds=90):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_finished_step_and_the_run_goes_on_from_it(recipe, train, number):
    overrides = ["train.steps=100000", "optim.schedule=constant", "eval.every=100000"]
    run = recipe.parent / "runs" / "tiny"
    process = start(recipe, *overrides, "train.save_every=3")
    wait_for(run / "checkpoints" / "step-00000003" / "manifest.json", process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 128 + number, output
    step = int(re.search(r"stopped after step (\d+)", output)[1])
    assert state(run, step)["step"] == step
    assert train(recipe, *overrides, f"train.steps={step + 2}") == 0
    assert train(recipe, *overrides, f"train.steps={step + 2}", "run.name=whole") == 0
    whole = tensors(recipe.parent / "runs" / "whole", step + 2)
    assert equal(tensors(run, step + 2), whole)


@pytest.mark.slow
def test_a_second_trainer_on_the_same_run_is_refused_and_a_dead_one_does_not_block(recipe, train):
    overrides = ["train.steps=100000", "optim.schedule=constant", "eval.every=100000"]
    run = recipe.parent / "runs" / "tiny"
    first = start(recipe, *overrides, "train.save_every=3")
    wait_for(run / "checkpoints" / "step-00000003" / "manifest.json", first)
    second = start(recipe, *overrides)
    output = second.communicate(timeout=60)[0].decode()
    assert second.returncode == 2, output
    assert f"in use by process {first.pid}" in output
    first.kill()
    first.communicate()
    steps = max(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*")) + 1
    assert train(recipe, *overrides, f"train.steps={steps}") == 0


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_as_if_it_had_not_been(recipe, train):
    import random

    overrides = ["train.steps=24", "train.save_every=2", "eval.every=8"]
    assert train(recipe, *overrides, "run.name=whole") == 0
    dice = random.Random(0)
    runs = recipe.parent / "runs"
    for _ in range(4):
        process = start(recipe, *overrides, "run.name=killed")
        began = runs / "killed" / "config.toml"
        wait_for(began, process)
        time.sleep(dice.uniform(0.5, 3))
        process.kill()
        process.communicate()
    assert train(recipe, *overrides, "run.name=killed") == 0
    assert equal(tensors(runs / "whole", 24), tensors(runs / "killed", 24))
    assert not list((runs / "killed" / "checkpoints").glob(".tmp-*"))


def test_weights_that_are_missing_are_written_again(recipe, train, trained):
    shutil.rmtree(trained / "weights")
    assert train(recipe) == 0
    assert (trained / "weights" / "manifest.json").is_file()


def test_one_validation_picture_is_enough(recipe, train, pictures, tmp_path):
    from shards.pack import main

    (tmp_path / "one").mkdir()
    shutil.copy(next(pictures.rglob("*.png")), tmp_path / "one")
    out = tmp_path / "one-shard"
    assert main([str(tmp_path / "one"), str(out), "--size", "36", "--split", "val"]) == 0
    assert train(recipe, f"data.val={out}", "train.steps=3") == 0


def test_a_refused_start_does_not_claim_the_name(recipe, train, capsys):
    text = recipe.read_text()
    give_network(recipe, "dogvae")
    assert train(recipe, "train.micro_batch_size=4") == 2
    recipe.write_text(text)
    assert train(recipe) == 0


def test_accelerate_s_own_accumulation_is_refused(recipe, train, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert train(recipe) == 2
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" in capsys.readouterr().err


def test_a_mixture_trains_resumes_and_counts_its_sources_in_tensorboard(recipe, train, shards):
    sources = f'data.sources=[{{path="{shards}", weight=3}}, {{path="{shards}", weight=1}}]'
    mixed = ["data.train=", sources, "optim.schedule=constant"]
    assert train(recipe, *mixed, "run.name=whole") == 0
    assert train(recipe, *mixed, "train.steps=3") == 0
    assert train(recipe, *mixed, "data.threads=1") == 0
    runs = recipe.parent / "runs"
    for name, share in (("shards_0", 12), ("shards_1", 4)):
        for run in (runs / "whole", runs / "tiny"):
            found = events(run).Scalars(f"data/source_{name}")
            assert [(e.step, e.value) for e in found] == [(s, s * share) for s in range(1, 7)]
    assert equal(tensors(runs / "tiny", 6), tensors(runs / "whole", 6))
