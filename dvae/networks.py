"""From a recipe's `model` part to a network."""

import torch
from torch import Tensor

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


def network_of(config: ModelConfig, tensors: dict[str, Tensor]) -> LatentModel:
    """A network that holds the given tensors themselves, none of it copied and nothing to learn."""
    with torch.device("meta"):
        model = build(config)
    model.load_state_dict({name: value.detach() for name, value in tensors.items()}, assign=True)
    return model.requires_grad_(False)
