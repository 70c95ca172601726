"""DogVAE, the network that this toolkit began with, and the same without its Gaussian.

    images (B, 3, 127, 127) --5 convolutions, k5 s2--> (B, 128, 3, 3) -> 1152 -> 256
        -> mean, logvar (B, 256) -> z (B, 256)
        -> 1152 -> (B, 128, 3, 3) --5 transposed convolutions--> (B, 3, 127, 127)

127 -> 63 -> 31 -> 15 -> 7 -> 3 pixels. 2,880,983 parameters. Kingma & Welling 2013,
https://arxiv.org/abs/1312.6114. Every detail passes through the 3 channels after the last ReLU.
"""

from torch import Tensor, nn

from dvae.models.blocks import LatentModel, VAEOutput, reparameterise

CHANNELS = (3, 32, 64, 128, 128, 128)
IMAGE_SIZE = 127  # pixels
GRID = 3  # pixels of the innermost map


class ConvEncoder(nn.Sequential):
    """(B, 3, 127, 127) -> (B, 256)."""

    def __init__(self, latent_dim: int) -> None:
        layers: list[nn.Module] = []
        for before, after in zip(CHANNELS[:-1], CHANNELS[1:], strict=True):
            layers += [nn.Conv2d(before, after, 5, stride=2, padding=1)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        flat = CHANNELS[-1] * GRID * GRID
        super().__init__(*layers, nn.Flatten(), nn.Linear(flat, latent_dim))


class ConvDecoder(nn.Sequential):
    """(B, 256) -> (B, 3, 127, 127)."""

    def __init__(self, latent_dim: int) -> None:
        flat = CHANNELS[-1] * GRID * GRID
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, flat),
            nn.Unflatten(1, (CHANNELS[-1], GRID, GRID)),
        ]
        reverse = CHANNELS[::-1]
        for before, after in zip(reverse[:-1], reverse[1:], strict=True):
            layers += [nn.ConvTranspose2d(before, after, 5, stride=2, padding=1)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Conv2d(3, 3, 5, padding=2), nn.BatchNorm2d(3), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(3, 3, 5, padding=2))


class DogVAE(LatentModel):
    """The historical VAE; its BatchNorm makes a picture depend on its batch while training."""

    image_size = IMAGE_SIZE
    encoder_parts = ("encoder", "to_mean", "to_logvar")

    def __init__(self, latent_dim: int = 256) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        self.encoder = ConvEncoder(latent_dim)
        self.to_mean = nn.Linear(latent_dim, latent_dim)
        self.to_logvar = nn.Linear(latent_dim, latent_dim)
        self.decoder = ConvDecoder(latent_dim)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 127, 127) in [-1, 1] -> mean, logvar, each (B, 256)."""
        features = self.encoder(images)
        return self.to_mean(features), self.to_logvar(features)

    def decode(self, z: Tensor) -> Tensor:
        """(B, 256) -> (B, 3, 127, 127) in about [-1, 1]."""
        return self.decoder(z)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encode, draw one z per image (from `noise` (B, 256) where given), decode."""
        mean, logvar = self.encode(images)
        return VAEOutput(self.decode(reparameterise(mean, logvar, noise)), mean, logvar)


class Autoencoder(LatentModel):
    """DogVAE without the Gaussian: it reconstructs, and nothing says where its codes lie."""

    image_size = IMAGE_SIZE
    is_variational = False
    encoder_parts = ("encoder",)

    def __init__(self, latent_dim: int = 256) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        self.encoder = ConvEncoder(latent_dim)
        self.decoder = ConvDecoder(latent_dim)

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        """(B, 3, 127, 127) in [-1, 1] -> code (B, 256), and no variance."""
        return self.encoder(images), None

    def decode(self, z: Tensor) -> Tensor:
        """(B, 256) -> (B, 3, 127, 127) in about [-1, 1]."""
        return self.decoder(z)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Encode and decode; `noise` is not used."""
        code = self.encoder(images)
        return VAEOutput(self.decode(code), code, None)
