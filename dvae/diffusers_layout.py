"""KLVAE's weights in the layout of diffusers' AutoencoderKL, both ways.

A folder of it holds `config.json` and `diffusion_pytorch_model.safetensors`. The tensors have the names of
`dvae.models.klvae`, but for the skips of residual blocks. Of a network that works on patches of p pixels
diffusers' has 3 p p channels: its pictures are `torch.nn.functional.pixel_unshuffle(images, p)`.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dvae.config import LossConfig
from dvae.errors import CheckpointError, UserError
from dvae.files import whole_folder
from dvae.model_config import KLVAEConfig
from dvae.tensors import read_tensors, write_tensors
from dvae.weights import CONFIG, About, Weights, network_of

KIND = "AutoencoderKL"
MODEL = "diffusion_pytorch_model.safetensors"
# What latent diffusion trains with, in this toolkit's units: pixels in [-1, 1] have 127.5 grey levels.
LDM_LOSS = LossConfig(likelihood="laplace", scale=127.5, beta=1e-6)
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
FIXED = {"act_fn": "silu"}  # what KLVAE has no choice of


def is_diffusers(folder: Path) -> bool:
    """Whether a folder looks like one of diffusers' models."""
    return (folder / MODEL).is_file()


def write_diffusers(out: Path, weights: Weights) -> None:
    """Write a folder that `diffusers.AutoencoderKL.from_pretrained` opens.

    Raises:
        UserError: the network isn't a klvae, or the folder exists.
    """
    model = weights.about.model
    if not isinstance(model, KLVAEConfig):
        raise UserError(
            f"model.name={model.name} has no counterpart in diffusers: only klvae can be exported"
        )
    if out.exists():
        raise UserError(f"{out} exists: give the name of a new folder")
    tensors = {
        name.replace(".skip.", ".conv_shortcut."): tensor
        for name, tensor in weights.model.state_dict().items()
    }
    config = to_diffusers(model, weights.about.metrics.get("latent_std"))
    with whole_folder(out) as temporary:
        write_tensors(tensors, temporary / MODEL, {"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def to_diffusers(model: KLVAEConfig, latent_std: float | None) -> dict[str, Any]:
    """The `config.json` of a network; `latent_std` is that of z over pictures, where it was measured."""
    stages, pixels = len(model.channels), 3 * model.patch_size**2
    return FIXED | {
        "_class_name": KIND,
        "in_channels": pixels,
        "out_channels": pixels,
        "sample_size": model.image_size // model.patch_size,
        "block_out_channels": list(model.channels),
        "down_block_types": ["DownEncoderBlock2D"] * stages,
        "up_block_types": ["UpDecoderBlock2D"] * stages,
        "latent_channels": model.latent_channels,
        "layers_per_block": model.num_res_blocks,
        "mid_block_add_attention": model.attention,
        "norm_num_groups": model.norm_groups,
        "use_quant_conv": model.quant_conv,
        "use_post_quant_conv": model.quant_conv,
        "scaling_factor": 1 / latent_std if latent_std else 1.0,
    }


def from_diffusers(config: dict[str, Any], source: str) -> KLVAEConfig:
    """The network that a `config.json` describes.

    Raises:
        CheckpointError: this toolkit has no such network.
    """
    quant = bool(config.get("use_quant_conv", True))
    blocks = {*config.get("down_block_types", []), *config.get("up_block_types", [])}
    pixels = config.get("in_channels", 3)
    patch_size = math.isqrt(pixels // 3) if isinstance(pixels, int) and pixels >= 3 else 1
    channels = 3 * patch_size**2
    wanted = FIXED | {
        "_class_name": KIND,
        "in_channels": channels,
        "out_channels": channels,
        "use_post_quant_conv": quant,
    }
    given = {"in_channels": 3, "out_channels": 3, "act_fn": "silu", "use_post_quant_conv": True}
    given |= config
    differ = [f"{key}={given.get(key)!r}" for key in wanted if given.get(key) != wanted[key]]
    differ += sorted(blocks - {"DownEncoderBlock2D", "UpDecoderBlock2D"})
    if differ:
        raise CheckpointError(f"{source} is not of a klvae: {', '.join(differ)}")
    try:
        size = config["sample_size"]
        return KLVAEConfig.model_validate(
            {
                "name": "klvae",
                "image_size": size * patch_size if isinstance(size, int) else size,
                "patch_size": patch_size,
                "channels": tuple(config["block_out_channels"]),
                "latent_channels": config["latent_channels"],
                "num_res_blocks": config["layers_per_block"],
                "attention": config.get("mid_block_add_attention", True),
                "norm_groups": config["norm_num_groups"],
                "quant_conv": quant,
            }
        )
    except (ValidationError, KeyError, TypeError) as error:
        reason = str(error).replace("\n", " ")
        raise CheckpointError(f"{source} is not of a klvae: {reason}") from None


def read_diffusers(folder: Path) -> Weights:
    """Open a folder that diffusers wrote, as a network of this toolkit.

    Its latents are those before `scaling_factor`; log variances are clamped to this toolkit's range.

    Raises:
        CheckpointError: it is damaged, or of another kind of network.
    """
    path = folder / CONFIG
    try:
        config = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a configuration of diffusers: {error}") from None
    about = About(from_diffusers(config, str(path)), LDM_LOSS, 127.5, 0, {}, None, {})
    tensors = {_our_name(name): value for name, value in read_tensors(folder / MODEL).items()}
    return network_of(tensors, about, str(folder / MODEL), CONFIG)


def _our_name(name: str) -> str:
    name = name.replace(".conv_shortcut.", ".skip.")
    found = re.fullmatch(r"(.*\.attentions\.\d+)\.(\w+)\.(weight|bias)", name)
    if found and found[2] in OLD_NAMES:
        name = f"{found[1]}.{OLD_NAMES[found[2]]}.{found[3]}"
    return name
