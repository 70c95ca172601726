"""The networks: shapes, sizes, gradients, and what they may not do."""

import pytest
import torch

from dvae.models.dogvae import Autoencoder, DogVAE
from dvae.models.klvae import KLVAE
from dvae.models.resvae import ResVAE

SMALL = {"image_size": 32, "channels": (8, 16), "latent_dim": 6, "patch_size": 2}


def networks():
    return [
        (DogVAE(), 127, (256,)),
        (Autoencoder(), 127, (256,)),
        (ResVAE(**SMALL), 32, (6,)),
        (ResVAE(image_size=32, channels=(8, 16, 24), num_res_blocks=2), 32, (128,)),
        (KLVAE(image_size=32, channels=(8, 16)), 32, (4, 16, 16)),
        (KLVAE(32, (8, 16, 16), 2, 2, attention=True, quant_conv=True), 32, (2, 8, 8)),
    ]


def test_the_historical_network_has_its_published_size():
    assert sum(p.numel() for p in DogVAE().parameters()) == 2_880_983


def test_the_historical_encoder_passes_through_its_published_sizes():
    h, sizes = torch.zeros(2, 3, 127, 127), []
    for layer in DogVAE().encoder:
        h = layer(h)
        if isinstance(layer, torch.nn.Conv2d):
            sizes.append(tuple(h.shape[1:]))
    assert sizes == [(32, 63, 63), (64, 31, 31), (128, 15, 15), (128, 7, 7), (128, 3, 3)]


@pytest.mark.parametrize(("model", "size", "latent"), networks(), ids=lambda v: type(v).__name__)
def test_forward_gives_a_reconstruction_and_a_posterior_and_every_parameter_a_gradient(
    model, size, latent
):
    images = torch.rand(3, 3, size, size) * 2 - 1
    output = model(images)
    assert output.reconstruction.shape == images.shape
    assert output.mean.shape == (3, *latent)
    loss = output.reconstruction.square().mean() + output.mean.square().mean()
    if model.is_variational:
        assert output.logvar.shape == (3, *latent)
        loss = loss + output.logvar.square().mean()
    else:
        assert output.logvar is None
    # A zero-initialised end hides what stands before it: move every parameter off its start.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    output = model(images)
    loss = output.reconstruction.square().mean() + output.mean.square().mean()
    if model.is_variational:
        loss = loss + output.logvar.square().mean()
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_given_noise_decides_z():
    model, images, noise = ResVAE(**SMALL).eval(), torch.rand(2, 3, 32, 32), torch.randn(2, 6)
    assert torch.equal(model(images, noise).reconstruction, model(images, noise).reconstruction)
    mean, logvar = model.encode(images)
    expected = model.decode(mean + torch.exp(0.5 * logvar) * noise)
    torch.testing.assert_close(model(images, noise).reconstruction, expected)


def test_a_picture_s_code_does_not_depend_on_its_batch():
    model, images = ResVAE(**SMALL).train(), torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(model.encode(images)[0][:1], model.encode(images[:1])[0])


def test_a_new_resvae_starts_at_the_prior():
    model = ResVAE()
    mean, logvar = model.encode(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert mean.abs().max() < 0.5
    assert logvar.abs().max() < 0.5


def test_upsampling_makes_no_checkerboard():
    model = ResVAE(image_size=64, channels=(8, 8, 8), latent_dim=4).eval()
    with torch.no_grad():
        for stage in model.decoder:
            for part in stage:
                if hasattr(part, "conv"):
                    out = part(torch.ones(1, part.conv.in_channels, 8, 8))[0, :, 3:-3, 3:-3]
                    torch.testing.assert_close(out, out[:, :1, :1].expand_as(out))


@pytest.mark.parametrize("patch_size", [2, 4])
def test_a_new_decoder_shows_no_grid_of_patches(patch_size):
    model = ResVAE(image_size=64, channels=(8, 16), latent_dim=4, patch_size=patch_size).eval()
    with torch.no_grad():
        out = model.decoder_head(torch.randn(1, 8, 1, 1).expand(1, 8, 16, 16))
    inside = out[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(inside, inside[:, :, :1, :1].expand_as(inside))


def test_gradient_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    plain = ResVAE(**SMALL)
    thrifty = ResVAE(**SMALL, gradient_checkpointing=True)
    thrifty.load_state_dict(plain.state_dict())
    images, noise = torch.rand(2, 3, 32, 32), torch.randn(2, 6)
    for model in (plain, thrifty):
        model.train()(images, noise).reconstruction.square().sum().backward()
    for a, b in zip(plain.parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(
    ("stages", "patch_size", "grid"), [(3, 1, 16), (4, 1, 8), (5, 1, 4), (4, 2, 4)]
)
def test_a_klvae_s_latents_are_smaller_by_a_factor_for_each_stage(stages, patch_size, grid):
    model = KLVAE(64, channels=(8,) * stages, latent_channels=3, patch_size=patch_size)
    mean, _ = model.encode(torch.zeros(1, 3, 64, 64))
    assert tuple(mean.shape[1:]) == model.latent_shape == (3, grid, grid)
    assert model.latent_dim == 3 * grid * grid


def test_a_klvae_can_have_the_size_of_stable_diffusion_s():
    with torch.device("meta"):
        model = KLVAE(
            256, (128, 256, 512, 512), 4, 2, attention=True, norm_groups=32, quant_conv=True
        )
    assert sum(p.numel() for p in model.parameters()) == 83_653_863


@pytest.mark.parametrize("model", [ResVAE(**SMALL), KLVAE(32, (8, 16)), DogVAE(), Autoencoder()])
def test_with_a_frozen_encoder_only_the_decoder_learns(model):
    model.freeze_encoder()
    images = torch.rand(2, 3, model.image_size, model.image_size)
    assert not model.encode(images)[0].requires_grad
    z = torch.zeros(2, *model.latent_shape)
    model.decode(z).sum().backward()
    left = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert left == []
