"""From a recipe's `model` part to a network."""

from dvae.config import AutoencoderConfig, DogVAEConfig, KLVAEConfig, ModelConfig
from dvae.models.blocks import LatentModel
from dvae.models.dogvae import Autoencoder, DogVAE
from dvae.models.klvae import KLVAE
from dvae.models.resvae import ResVAE


def build(config: ModelConfig) -> LatentModel:
    """The network that a recipe names, with torch's current generator for its weights."""
    if isinstance(config, DogVAEConfig):
        return DogVAE(config.latent_dim)
    if isinstance(config, AutoencoderConfig):
        return Autoencoder(config.latent_dim)
    if isinstance(config, KLVAEConfig):
        return KLVAE(**config.model_dump(exclude={"name"}))
    return ResVAE(**config.model_dump(exclude={"name"}))
