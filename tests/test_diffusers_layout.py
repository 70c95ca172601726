"""A klvae's weights go to diffusers and come back: the same latents and pictures on both sides."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from dvae.cli import main
from dvae.config import LossConfig
from dvae.diffusers_layout import LDM_LOSS, MODEL, from_diffusers, read_diffusers, write_diffusers
from dvae.errors import CheckpointError, UserError
from dvae.find import load
from dvae.model_config import KLVAEConfig
from dvae.networks import build
from dvae.weights import About, Weights, export

CONFIGS = [
    KLVAEConfig(name="klvae", image_size=32, channels=(8, 16), latent_channels=3),
    KLVAEConfig(
        name="klvae",
        image_size=32,
        channels=(32, 32, 64),
        num_res_blocks=2,
        attention=True,
        norm_groups=32,
        quant_conv=True,
    ),
    KLVAEConfig(name="klvae", image_size=32, channels=(16, 16), patch_size=2, attention=True),
]


def weights_of(config) -> Weights:
    """A network whose every parameter is off its start, so that none can be lost unseen."""
    torch.manual_seed(0)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Weights(model, About(config, LossConfig(), 7.0, 5, {"latent_std": 2.0}, 5, {}))


@pytest.fixture(scope="module")
def autoencoder_kl():
    return pytest.importorskip("diffusers", reason="pip install diffusers").AutoencoderKL


@pytest.fixture(
    scope="module", params=CONFIGS, ids=["plain", "as Stable Diffusion's", "on patches"]
)
def weights(request):
    return weights_of(request.param)


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def assert_equal_networks(ours, theirs, images, patch_size):
    patches = functional.pixel_unshuffle(images, patch_size)
    posterior = theirs.encode(patches).latent_dist
    mean, logvar = ours.encode(images)
    torch.testing.assert_close(mean, posterior.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logvar, posterior.logvar, rtol=1e-5, atol=1e-5)
    assert mean.std() > 0.01
    decoded = functional.pixel_shuffle(theirs.decode(posterior.mean).sample, patch_size)
    torch.testing.assert_close(ours.decode(mean), decoded, rtol=1e-5, atol=1e-5)
    assert decoded.std() > 0.01


def test_diffusers_opens_what_is_exported(weights, images, tmp_path, autoencoder_kl):
    write_diffusers(tmp_path / "out", weights)
    theirs = autoencoder_kl.from_pretrained(tmp_path / "out")
    assert theirs.config.scaling_factor == 0.5
    assert_equal_networks(weights.model, theirs.eval(), images, weights.about.model.patch_size)


def test_what_diffusers_saves_opens_here(weights, images, tmp_path, autoencoder_kl):
    config = weights.about.model
    torch.manual_seed(3)
    pixels = 3 * config.patch_size**2
    theirs = autoencoder_kl(
        in_channels=pixels,
        out_channels=pixels,
        sample_size=config.image_size // config.patch_size,
        block_out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * len(config.channels),
        up_block_types=("UpDecoderBlock2D",) * len(config.channels),
        layers_per_block=config.num_res_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        mid_block_add_attention=config.attention,
        use_quant_conv=config.quant_conv,
        use_post_quant_conv=config.quant_conv,
    ).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(str(tmp_path / "theirs"))
    assert ours.about.model == config
    assert_equal_networks(ours.model, theirs, images, config.patch_size)


def test_the_exported_weights_come_back_to_the_bit(weights, tmp_path):
    write_diffusers(tmp_path / "out", weights)
    back = load(str(tmp_path / "out"))
    assert (back.about.model, back.about.loss) == (weights.about.model, LDM_LOSS)
    for name, tensor in weights.model.state_dict().items():
        assert torch.equal(tensor, back.model.state_dict()[name])


def test_the_attention_s_earlier_names_are_known(tmp_path):
    weights = weights_of(CONFIGS[1])
    write_diffusers(tmp_path / "out", weights)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(tmp_path / "out" / MODEL)
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): value for key, value in tensors.items()}
    save_file(tensors, tmp_path / "out" / MODEL)
    back = read_diffusers(tmp_path / "out").model.state_dict()
    assert all(torch.equal(back[name], t) for name, t in weights.model.state_dict().items())


def test_the_command_exports_and_uses_what_it_exported(tmp_path, pictures):
    weights = weights_of(CONFIGS[0])
    export(tmp_path / "w", weights.model, weights.about)
    assert main(["export", str(tmp_path / "w"), str(tmp_path / "out"), "--device", "cpu"]) == 0
    sheets = []
    for source in ("w", "out"):
        path = tmp_path / f"{source}.png"
        arguments = ["reconstruct", str(tmp_path / source), str(pictures), "--count", "3"]
        assert main([*arguments, "--out", str(path), "--device", "cpu"]) == 0
        sheets.append(path.read_bytes())
    assert sheets[0] == sheets[1]
    with pytest.raises(UserError, match="exists: give the name of a new folder"):
        write_diffusers(tmp_path / "out", weights)


def test_other_networks_are_refused_in_words(trained, tmp_path):
    with pytest.raises(UserError, match="only klvae can be exported"):
        write_diffusers(tmp_path / "out", load(str(trained)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "_class_name='UNet2DModel'"),
        ({"in_channels": 1}, "in_channels=1"),
        ({"act_fn": "relu"}, "act_fn='relu'"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "AttnDownEncoderBlock2D"),
        ({"norm_num_groups": 3}, "norm_groups=3 must divide"),
        ({"sample_size": None}, "image_size"),
    ],
)
def test_what_a_klvae_is_not_is_named(tmp_path, change, message):
    write_diffusers(tmp_path / "out", weights_of(CONFIGS[0]))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        from_diffusers(config | change, "config.json")
