"""The `dvae` command on a trained run: real files in, real pictures out, mistakes in words."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dvae.cli import main
from dvae.data.manifest import find_split
from dvae.find import load

from .conftest import give_network


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def test_sample_writes_a_grid_that_the_seed_decides(trained, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ["sample", str(trained), "--count", "6", "--seed", str(seed), "--columns", "3"]
        assert main([*arguments, "--out", str(tmp_path / f"{name}.png")]) == 0
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert a.shape == (2 * 34 - 2, 3 * 34 - 2, 3)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_temperature_zero_is_the_decoder_s_answer_to_the_prior_s_mean(trained, tmp_path):
    out = tmp_path / "cold.png"
    assert (
        main(
            [
                "sample",
                str(trained),
                "--count",
                "2",
                "--temperature",
                "0",
                "--columns",
                "2",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    sheet = pixels(out)
    assert np.array_equal(sheet[:, :32], sheet[:, 34:])


def test_samples_are_decoded_from_the_prior_alone(trained):
    from dvae import generate

    weights = load(str(trained))
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(3, 8, generator=generator)
    with torch.no_grad():
        expected = weights.model.decode(z)
    torch.testing.assert_close(generate.sample(weights, 3, 5), expected)


def test_a_checkpoint_is_opened_as_what_was_exported_at_its_step(trained, tmp_path):
    weights = load(str(trained))
    checkpoint = load(str(trained / "checkpoints" / "step-00000006"))
    assert checkpoint.about == weights.about
    z = torch.ones(1, 8)
    assert torch.equal(checkpoint.model.decode(z), weights.model.decode(z))
    earlier = load(str(trained / "checkpoints" / "step-00000003"))
    assert earlier.about.step == earlier.about.measured == 3
    assert not torch.equal(earlier.model.decode(z), weights.model.decode(z))


def test_a_damaged_checkpoint_is_told(trained, capsys):
    path = trained / "checkpoints" / "step-00000003"
    (path / "model.safetensors").write_bytes(b"")
    assert main(["sample", str(path)]) == 4
    assert "step-00000003 is damaged" in capsys.readouterr().err


def test_more_columns_than_pictures_are_as_many_as_pictures(trained, tmp_path):
    out = tmp_path / "s.png"
    assert (
        main(["sample", str(trained), "--count", "2", "--columns", "9999", "--out", str(out)]) == 0
    )
    assert pixels(out).shape == (32, 2 * 34 - 2, 3)


@pytest.mark.parametrize("kind", ["folder", "files", "shards"])
def test_reconstruct_puts_pictures_over_what_came_back(trained, pictures, shards, tmp_path, kind):
    files = sorted(pictures.rglob("*.png"))[:3]
    source = {"folder": [pictures], "files": files, "shards": [shards]}[kind]
    out = tmp_path / "r.png"
    arguments = ["reconstruct", str(trained), *map(str, source), "--count", "3", "--out", str(out)]
    assert main(arguments) == 0
    assert pixels(out).shape == (2 * 34 - 2, 3 * 34 - 2, 3)
    if kind == "files":
        with Image.open(files[0]) as image:
            original = image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        assert np.abs(pixels(out)[:32, :32].astype(int) - np.asarray(original)).mean() < 3


def test_more_pictures_than_columns_fill_rows_in_pairs(trained, pictures, tmp_path):
    out = tmp_path / "r.png"
    arguments = ["reconstruct", str(trained), str(pictures), "--count", "5", "--columns", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert pixels(out).shape == (6 * 34 - 2, 2 * 34 - 2, 3)


def test_interpolate_begins_and_ends_at_the_reconstructions(trained, pictures, tmp_path):
    a, b = sorted(pictures.rglob("*.png"))[:2]
    out, ends = tmp_path / "i.png", tmp_path / "r.png"
    assert (
        main(["interpolate", str(trained), str(a), str(b), "--count", "4", "--out", str(out)]) == 0
    )
    assert main(["reconstruct", str(trained), str(a), str(b), "--out", str(ends)]) == 0
    line, pair = pixels(out).astype(int), pixels(ends).astype(int)
    assert line.shape == (32, 4 * 34 - 2, 3)
    assert np.abs(line[:, :32] - pair[34:, :32]).max() <= 1
    assert np.abs(line[:, -32:] - pair[34:, 34:]).max() <= 1


def test_encode_writes_the_posterior_of_every_sample(trained, shards, tmp_path):
    out = tmp_path / "latents"
    assert main(["encode", str(trained), str(shards), str(out), "--split", "val"]) == 0
    count = int(find_split(shards, "val").counts.sum())
    tensors = load_file(out / "latents.safetensors")
    assert tensors["mean"].shape == tensors["logvar"].shape == (count, 8)
    assert tensors["ids"].tolist() == list(range(count))
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == count
    assert all(row["label"] and row["key"] for row in rows)
    assert (out / "manifest.json").is_file()


def test_evaluate_prints_a_table_and_writes_the_same_as_json(trained, shards, tmp_path, capsys):
    out = tmp_path / "e.json"
    assert main(["evaluate", str(trained), str(shards), "--out", str(out)]) == 0
    values, shown = json.loads(out.read_text()), capsys.readouterr().out
    assert f"{values['psnr']:.2f}" in shown
    assert f"{values['bits_per_dim']:.4f}" in shown
    kept = load(str(trained)).about.metrics
    assert values["psnr"] == pytest.approx(kept["psnr"], rel=1e-4)
    assert values["kl"] == pytest.approx(kept["kl"], rel=1e-4)


def test_train_trains_and_passes_its_exit_code_on(recipe, train, capsys):
    # `train` is asked for so that signals and Accelerate's state are put back afterwards.
    assert main(["train", str(recipe), "train.steps=1"]) == 0
    assert main(["train", str(recipe), "train.stepz=1"]) == 2
    assert "did you mean 'train.steps'" in capsys.readouterr().err


def test_evaluate_may_take_fewer_pictures(trained, shards, tmp_path):
    out = tmp_path / "e.json"
    assert main(["evaluate", str(trained), str(shards), "--images", "5", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["images"] == 5


def test_a_plain_autoencoder_is_not_sampled(recipe, train, capsys):
    give_network(recipe, "autoencoder")
    assert train(recipe, "train.steps=1") == 0
    assert main(["sample", str(recipe.parent / "runs" / "tiny")]) == 2
    assert "plain autoencoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "nowhere"], "nowhere does not exist"),
        (["sample", "{shards}"], "holds no weights"),
        (["evaluate", "{run}", "nowhere"], "nowhere is not a folder"),
        (["evaluate", "{run}", "{run}"], "has no manifest.json"),
        (["reconstruct", "{run}", "nowhere.jpg"], "nowhere.jpg cannot be read"),
        (["reconstruct", "{run}", "{run}/config.toml"], "is not a picture that can be used"),
        (["reconstruct", "{run}", "{run}/tensorboard"], "no picture in"),
        (["interpolate", "{run}", "a.jpg", "b.jpg"], "a.jpg cannot be read"),
        (["evaluate", "{run}", "{shards}", "--out", "no/such/x.json"], "can't be written"),
        (["evaluate", "{run}", "x" * 300], "File name too long"),
        (["encode", "{run}", "{shards}", "x", "--split", "test"], "no split 'test'"),
        (["sample", "{run}", "--out", "{run}"], "is a folder"),
        (["sample", "{run}", "--device", "nonsense"], "--device=nonsense"),
        (["sample", "{run}", "--device", "meta"], "--device=meta"),
        (["sample", "{run}/checkpoints"], "holds no weights"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(trained, shards, capsys, arguments, message):
    filled = [a.format(run=trained, shards=shards) for a in arguments]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "x", "--count", "0"],
        ["sample", "x", "--count", "many"],
        ["sample", "x", "--temperature", "-1"],
        ["sample", "x", "--temperature", "nan"],
        ["paint", "x"],
        [],
    ],
)
def test_a_wrong_option_is_told_by_the_command_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_encode_never_replaces_a_folder(trained, shards, pictures, capsys):
    before = sorted(pictures.rglob("*"))
    assert main(["encode", str(trained), str(shards), str(pictures)]) == 2
    assert "exists" in capsys.readouterr().err
    assert sorted(pictures.rglob("*")) == before


def test_a_spatial_latent_goes_through_every_command(recipe, train, shards, pictures, tmp_path):
    text = recipe.read_text().replace('name = "resvae"', 'name = "klvae"')
    text = text.replace("latent_dim = 8\npatch_size = 2", "latent_channels = 2")
    recipe.write_text(text)
    assert train(recipe) == 0
    run = str(recipe.parent / "runs" / "tiny")
    first, second = sorted(pictures.rglob("*.png"))[:2]
    for arguments in (
        ["sample", run, "--count", "2"],
        ["interpolate", run, str(first), str(second), "--count", "3"],
        ["reconstruct", run, str(first)],
    ):
        assert main([*arguments, "--out", str(tmp_path / "sheet.png")]) == 0
    assert main(["encode", run, str(shards), str(tmp_path / "latents")]) == 0
    latents = load_file(tmp_path / "latents" / "latents.safetensors")
    assert latents["mean"].shape == latents["logvar"].shape == (48, 2, 16, 16)
    assert main(["evaluate", run, str(shards), "--out", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["latent_dim"] == len(figures["kl_per_dim"]) == 512
    assert sum(figures["kl_per_dim"]) == pytest.approx(figures["kl"], rel=1e-6)
