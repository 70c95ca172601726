"""The `model` part of a recipe: which network, and of what shape."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dvae.schema import Channels, Part

Latents = Annotated[int, Field(ge=1, le=65536)]


class DogVAEConfig(Part):
    """The historical network at 127 pixels."""

    name: Literal["dogvae"]
    latent_dim: Latents = 256

    @property
    def image_size(self) -> int:
        """Pixels, height = width."""
        return 127


class AutoencoderConfig(Part):
    """The historical network without its Gaussian."""

    name: Literal["autoencoder"]
    latent_dim: Latents = 256

    @property
    def image_size(self) -> int:
        """Pixels, height = width."""
        return 127


class ResVAEConfig(Part):
    """The residual VAE; see `dvae.models.resvae.ResVAE`."""

    name: Literal["resvae"]
    image_size: int = Field(64, ge=11, le=4096)  # pixels; SSIM looks through windows of 11
    channels: tuple[Channels, ...] = Field((32, 64, 128, 192), max_length=12)
    latent_dim: Latents = 128
    num_res_blocks: int = Field(1, ge=1, le=64)
    patch_size: int = Field(1, ge=1, le=64)  # pixels
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _check_sizes(self) -> "ResVAEConfig":
        check_halvings(self.image_size, self.channels, self.patch_size)
        return self


class KLVAEConfig(Part):
    """The spatial VAE; see `dvae.models.klvae.KLVAE`."""

    name: Literal["klvae"]
    image_size: int = Field(64, ge=11, le=4096)  # pixels
    channels: tuple[Channels, ...] = Field((32, 64, 128), max_length=12)
    latent_channels: int = Field(4, ge=1, le=1024)
    num_res_blocks: int = Field(1, ge=1, le=64)
    patch_size: int = Field(1, ge=1, le=64)  # pixels
    attention: bool = False
    norm_groups: int = Field(8, ge=1, le=8192)
    quant_conv: bool = False
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _check_sizes(self) -> "KLVAEConfig":
        check_halvings(self.image_size, self.channels, self.patch_size)
        if any(width % self.norm_groups for width in self.channels):
            raise ValueError(
                f"norm_groups={self.norm_groups} must divide all of channels={list(self.channels)}"
            )
        return self


def check_halvings(image_size: int, channels: tuple[int, ...], patch_size: int = 1) -> None:
    """Refuse a picture that can't be halved once for each stage after the first."""
    if not channels:
        raise ValueError("channels=[] must name at least one stage")
    factor = patch_size * 2 ** (len(channels) - 1)
    if image_size % factor:
        patches = f"patch_size {patch_size}, " if patch_size > 1 else ""
        raise ValueError(
            f"image_size={image_size} must be a multiple of {factor} "
            f"({patches}halved {len(channels) - 1} times)"
        )


ModelConfig = Annotated[
    DogVAEConfig | AutoencoderConfig | ResVAEConfig | KLVAEConfig, Field(discriminator="name")
]
