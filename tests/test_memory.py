"""The plan's estimate of memory, against what real tensors take on the CPU."""

from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dvae.estimate import DEVICES, FREE, find_estimates, largest_micro_batch
from dvae.judges import make_judges
from dvae.losses import loss_terms
from dvae.memory import find_sizes, kept_bytes
from dvae.networks import build
from dvae.optim import make_optimizer
from dvae.recipe import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
COUNT = 4  # pictures


def config_of(name, *overrides):
    return load_config(CONFIGS / f"{name}.toml", ["data.train=nowhere", *overrides])


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def forward(model, config, count=COUNT):
    torch.manual_seed(0)
    images = torch.rand(count, 3, config.image_size, config.image_size) * 2 - 1
    noise = torch.randn(count, *model.latent_shape)
    output = model(images, noise)
    return loss_terms(output, images, config.loss, 1.0).nll.sum()


@pytest.mark.parametrize("name", ["resvae-64", "klvae-64", "dogvae-127"])
def test_weights_gradients_and_optimizer_have_the_bytes_of_real_ones(name):
    config = config_of(name)
    sizes, model = find_sizes(config), build(config.model)
    optimizer = make_optimizer(model, config.optim)
    forward(model, config, 2).backward()
    optimizer.step()
    assert sizes.weights == size(model.state_dict().values())
    assert sizes.gradients == size(p.grad for p in model.parameters())
    state = [value for fields in optimizer.state.values() for value in fields.values()]
    assert sizes.optimizer == size(state)


@pytest.mark.parametrize("name", ["resvae-64", "klvae-64"])
def test_activations_are_what_the_allocator_hands_out_in_a_forward_pass(name):
    config = config_of(name)
    sizes, model = find_sizes(config), build(config.model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss = forward(model, config)
    held = sum(event.self_cpu_memory_usage for event in record.events())
    assert loss.requires_grad
    assert sizes.once + COUNT * sizes.picture == pytest.approx(held, rel=0.1)


@pytest.mark.parametrize("name", ["resvae-64", "klvae-64"])
def test_backward_s_own_maps_fit_into_the_part_left_free(name):
    config = config_of(name)
    sizes, model = find_sizes(config), build(config.model)
    forward(model, config).backward()  # so that the gradients are there
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        forward(model, config, 2 * COUNT).backward()
    found = [one for one in record.profiler.kineto_results.events() if one.name() == "[memory]"]
    found.sort(key=lambda one: one.start_ns())
    peak = max(accumulate(one.nbytes() for one in found))
    kept = sizes.once + 2 * COUNT * sizes.picture
    assert kept < peak < kept / (1 - FREE)


@pytest.mark.parametrize("name", ["resvae-64", "klvae-64", "klvae-64-crisp"])
def test_fake_tensors_keep_the_bytes_that_real_ones_keep(name, fresh_accelerate):
    from accelerate import Accelerator

    config = config_of(name, "loss.perceptual=0", "adversarial.augment=true", "adversarial.r1=0.1")
    sizes = find_sizes(config)
    judges = make_judges(config, Accelerator(), torch.float32)
    kept = kept_bytes(config, build(config.model), judges, COUNT)
    assert sizes.once + COUNT * sizes.picture == pytest.approx(kept, rel=0.01)


def test_a_discriminator_and_a_seeing_network_are_counted():
    alone, both = find_sizes(config_of("klvae-64")), find_sizes(config_of("klvae-64-crisp"))
    assert alone.judges == alone.rival == 0
    assert both.judges > 5 * both.rival > 0
    assert both.picture > 1.5 * alone.picture


@pytest.mark.parametrize("name", ["resvae-64", "klvae-64"])
def test_checkpointing_fp64_and_a_frozen_encoder_show(name):
    plain = find_sizes(config_of(name))
    thrifty = find_sizes(config_of(name, "model.gradient_checkpointing=true"))
    assert thrifty.picture < 0.8 * plain.picture
    assert thrifty.weights == plain.weights
    assert find_sizes(config_of(name, "train.precision=fp64")).picture == 2 * plain.picture
    frozen = find_sizes(config_of(name, "train.start=x", "train.decoder_only=true"))
    assert frozen.gradients < plain.gradients
    assert frozen.picture < plain.picture
    assert torch.get_default_dtype() == torch.float32


def test_engines_cut_what_they_cut():
    config = config_of("klvae-256", "adversarial.weight=0", "train.micro_batch_size=2")
    sizes = find_sizes(config)
    found = {one.engine: one for one in find_estimates(config, sizes, 4, 1)}
    assert list(found) == ["DDP", "ZeRO-1", "ZeRO-2", "FSDP2", "ZeRO-3"]
    cut = {"weights": ["FSDP2", "ZeRO-3"], "gradients": ["ZeRO-2", "FSDP2", "ZeRO-3"]}
    cut |= {"optimizer": list(found)[1:], "average": ["FSDP2", "ZeRO-3"]}
    for part, engines in cut.items():
        for engine, one in found.items():
            whole = getattr(sizes, part)
            assert one.parts[part] == (whole / 4 if engine in engines else whole)
    assert found["DDP"].sent == 1.5 * sizes.gradients
    assert found["ZeRO-2"].sent == 0.75 * (4 * sizes.gradients + sizes.weights)
    assert found["FSDP2"].sent == 0.75 * (8 * sizes.weights + sizes.gradients)
    assert {one.parts["activations"] for one in found.values()} == {sizes.once + 2 * sizes.picture}


def test_the_largest_micro_batch_fits_and_the_next_does_not():
    config = config_of("klvae-256")
    sizes = find_sizes(config)
    other, memory = 1e9, DEVICES["l4"]
    micro = largest_micro_batch(sizes, 32, other, memory)
    assert 1 <= micro < 32
    assert other + sizes.once + micro * sizes.picture <= memory
    assert other + sizes.once + 2 * micro * sizes.picture > memory
    assert largest_micro_batch(sizes, 32, memory, memory) == 0


def test_an_engine_that_refuses_the_recipe_says_so():
    config = config_of("klvae-64-crisp", "train.guard=skip")
    for one in find_estimates(config, find_sizes(config), 2, 1):
        told = "train.guard=skip can't be used under DeepSpeed" in one.refusal
        assert told == one.engine.startswith("ZeRO")
