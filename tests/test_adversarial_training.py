"""Training against a discriminator: to the bit after a resume, in any split, and not for ever."""

import pytest
import torch
from safetensors.torch import load_file

import dvae.judges
from dvae.find import load

from .test_distributed import launch, recorded
from .test_train import equal, events, state, tensors

GAME = [
    "adversarial.weight=0.5",
    "adversarial.start=0.2",
    "adversarial.ramp=0.3",
    "adversarial.channels=8",
    "adversarial.layers=2",
    "adversarial.r1=0.1",
    "adversarial.penalty_every=2",
    "adversarial.lecam=0.1",
    "adversarial.augment=true",
    "loss.perceptual=2",
]


def test_a_run_with_its_judges_resumes_to_the_bit(recipe, train):
    runs = recipe.parent / "runs"
    game = [*GAME[:-1], "train.keep=9", "train.steps=12", "train.save_every=5"]
    assert train(recipe, "run.name=whole", *game) == 0
    assert train(recipe, "run.name=cut", *game) == 0
    for step in (9, 10, 12):  # what came after step 6 is lost
        folder = runs / "cut" / "checkpoints" / f"step-{step:08d}"
        (folder / "state.json").write_text("")
    ours = tensors(runs / "whole", 12)
    assert train(recipe, "run.name=cut", *game) == 0
    assert equal(ours, tensors(runs / "cut", 12))
    assert {name.split("/")[0] for name in ours} >= {"discriminator", "discriminator_optimizer"}
    standing = state(runs / "cut", 12)["standing"]
    assert standing == state(runs / "whole", 12)["standing"]
    assert standing["steps"] == 12
    assert standing["balance"] > 0
    scalars = set(events(runs / "whole").Tags()["scalars"])
    named = ["adversarial", "balance", "discriminator_loss"]
    assert {f"train/{name}" for name in named} <= scalars


def test_the_logged_loss_is_the_sum_of_its_terms(recipe, train):
    assert train(recipe, *GAME, "adversarial.start=0", "adversarial.ramp=0", "train.steps=3") == 0
    seen = events(recipe.parent / "runs" / "tiny")
    names = ("loss", "nll", "kl", "perceptual_effnet_lite0", "adversarial")
    loss, *terms = (seen.Scalars(f"train/{name}")[-1].value for name in names)
    assert loss == pytest.approx(sum(terms), rel=1e-5)
    assert all(abs(term) > 0 for term in terms)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_a_split_batch_gives_the_same_losses_with_an_adversary_too(recipe, tmp_path, loss):
    """1 x 16 pictures, and 2 processes x 4 pictures x 2 micro-batches, in fp64."""
    curves, weights = [], []
    for name, processes, micro in (("whole", 1, 0), ("split", 2, 4)):
        record = tmp_path / name
        record.mkdir()
        overrides = [f"run.name={name}", "train.steps=30", "train.precision=fp64"]
        overrides += [f"train.micro_batch_size={micro}", "eval.every=30", "train.save_every=30"]
        launch(recipe, processes, *overrides, *GAME[:-1], f"adversarial.loss={loss}", record=record)
        curves.append(recorded(record, processes))
        folder = recipe.parent / "runs" / name / "checkpoints" / "step-00000030"
        weights.append(load_file(folder / "discriminator.safetensors"))
    for a, b in zip(*curves, strict=True):
        assert a[0] == b[0]
        assert b[1:] == pytest.approx(a[1:], rel=1e-9)
    for key, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][key], tensor, rtol=1e-6, atol=1e-9)


def test_a_discriminator_that_wins_ends_the_run_at_the_last_good_checkpoint(
    recipe, train, monkeypatch, capsys
):
    class Oracle(dvae.judges.Discriminator):
        """It is told which half of the pictures was made, from the seventh step on."""

        seen = 0

        def forward(self, images):
            logits = super().forward(images)
            if not self.layers[0].weight.requires_grad:
                return logits
            Oracle.seen += 1
            told = torch.ones(len(images), device=images.device)
            told[len(images) // 2 :] = -1
            return logits + 1e3 * told[:, None, None, None] if Oracle.seen > 6 else logits

    monkeypatch.setattr(dvae.judges, "Discriminator", Oracle)
    monkeypatch.setattr("dvae.adversarial.KEEP", 0.0)
    overrides = ["adversarial.weight=0.5", "adversarial.start=0", "adversarial.patience=4"]
    overrides += ["adversarial.channels=8", "adversarial.layers=1", "train.steps=30"]
    overrides.append("train.audit=false")  # it asks the discriminator, too
    assert train(recipe, *overrides, "train.keep=1") == 5
    told = capsys.readouterr().err
    assert "weights/ and the last checkpoint are those of step 6" in told
    assert "train.start=" in told
    run = recipe.parent / "runs" / "tiny"
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert names[-1] == "step-00000006"
    assert load(str(run)).about.step == 6
    averaged = load_file(run / "checkpoints" / "step-00000006" / "ema.safetensors")
    assert equal(averaged, load_file(run / "weights" / "model.safetensors"))


def test_only_the_decoder_learns_where_the_recipe_says_so(recipe, trained, train):
    given = [f"train.start={trained}", "train.decoder_only=true", "run.name=decoder"]
    assert train(recipe, *given, *GAME[:-1]) == 0
    before = load_file(trained / "weights" / "model.safetensors")
    after = load_file(recipe.parent / "runs" / "decoder" / "weights" / "model.safetensors")
    encoder = ("stem", "encoder", "to_mean", "to_logvar")
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith(encoder), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.decoder_only=true"], "set train.start to a run"),
        (["train.start=nowhere"], "nowhere does not exist"),
        (["train.start={run}", "model.latent_dim=9"], "is of another network"),
        (["adversarial.loss=wgan"], "adversarial.loss"),
        (["loss.perceptual=1", "loss.perceptual_network=vgg16"], "vgg16-397923af.pth"),
    ],
)
def test_a_judge_or_start_that_cannot_be_had_is_told(
    recipe, trained, train, capsys, monkeypatch, tmp_path, overrides, message
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    given = [override.format(run=trained) for override in overrides]
    assert train(recipe, "run.name=other", *given) == 2
    assert message in capsys.readouterr().err
