"""From a recipe's `model` part to a network."""

import torch
from torch import Tensor, nn

from dvae.config import Config
from dvae.errors import UserError
from dvae.model_config import AutoencoderConfig, DogVAEConfig, KLVAEConfig, ModelConfig
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


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a picture's output depends on the other pictures of its batch while training."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


def check_statistics(config: Config, model: nn.Module, world_size: int) -> None:
    """Refuse to split a batch whose statistics the network needs as a whole.

    Raises:
        UserError: naming the network.
    """
    train = config.train
    splits = train.micro_batch_size == "auto"
    splits = splits or train.micro_batch(world_size) * world_size < train.global_batch_size
    if splits and has_batch_statistics(model):
        raise UserError(
            f"model.name={config.model.name} normalises by the statistics of its batch, which "
            "micro-batches never hold at once: set train.micro_batch_size=0, or take model.name=resvae"
        )
