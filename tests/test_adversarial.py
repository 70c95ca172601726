"""The discriminator, its losses and penalties by hand, and the balance of gradients."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from dvae.adversarial import CHANCE, LARGEST_BALANCE, Adversary, Pairs, discriminator_loss
from dvae.augment import DRAWS, diff_augment, draws
from dvae.config import AdversarialConfig
from dvae.models.discriminator import Discriminator, SpectralConv


def images(count=4, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64) * 2 - 1


def adversary(**changes) -> Adversary:
    torch.manual_seed(0)
    game = {"weight": 0.5, "start": 0.0, "ramp": 0.0, "channels": 8, "layers": 2} | changes
    config = AdversarialConfig(**game)
    discriminator = Discriminator(config.channels, config.layers, config.norm).double()
    return Adversary(config, 100, discriminator, Accelerator())


def pairs(count=4, drawn=None) -> Pairs:
    made = (0.8 * images(count)).requires_grad_()
    return Pairs(images(count), made, drawn, torch.ones(count, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["spectral", "group", "none"])
def test_a_picture_s_logits_do_not_depend_on_its_batch(norm):
    network = Discriminator(8, 3, norm).double()
    assert network(images(2, 64)).shape == (2, 1, 6, 6)
    torch.testing.assert_close(network(images(4))[:1], network(images(4)[:1]))
    network(images()).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


def test_the_spectral_norm_is_that_of_linear_algebra_and_moves_only_when_told():
    torch.manual_seed(0)
    conv = SpectralConv(8, 16, stride=1)
    for _ in range(200):
        conv.iterate()
    x = torch.randn(2, 8, 9, 9)
    expected = conv.weight / torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
    wanted = nn.functional.conv2d(x, expected, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), wanted, rtol=1e-3, atol=1e-4)
    before = conv.u.clone()
    conv.train()(x)
    assert torch.equal(conv.u, before)


def test_losses_of_the_discriminator_by_hand():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.0]])
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx((0 + 0.5 + 0 + 1) / 2)
    relativistic = (math.log1p(math.exp(-5)) + math.log1p(math.exp(-0.5))) / 2
    assert discriminator_loss(real, fake, "relativistic").item() == pytest.approx(relativistic)
    for kind, chance in CHANCE.items():
        zero = torch.zeros(1, 1)
        assert discriminator_loss(zero, zero, kind).item() == pytest.approx(chance)


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_the_discriminator_learns_to_tell_and_the_term_pulls_towards_the_real(loss):
    one = adversary(loss=loss, learning_rate=1e-2, adaptive=False)
    for step in range(1, 60):
        one.begin()
        one.learn(pairs(), 4, step)
        one.step(1.0)
    assert one.standing.loss < 0.9 * CHANCE[loss]
    assert one.standing.real > one.standing.fake
    seen = pairs()
    (slope,) = torch.autograd.grad(one.term(seen, seen.weights, 1).sum(), seen.reconstructions)
    nearer = seen._replace(reconstructions=seen.reconstructions - 1e-3 * slope / slope.norm())
    assert one.term(nearer, seen.weights, 1).sum() < one.term(seen, seen.weights, 1).sum()


def test_the_term_leaves_no_gradient_in_the_discriminator_and_learning_none_in_the_generator():
    one, seen = adversary(adaptive=False), pairs()
    one.term(seen, seen.weights, 1).sum().backward()
    assert not [p for p in one.discriminator.parameters() if p.grad is not None]
    seen.reconstructions.grad = None
    one.learn(seen, 4, 1)
    assert seen.reconstructions.grad is None
    assert all(p.grad is not None for p in one.discriminator.parameters())


def test_the_balance_makes_both_gradients_equally_long_and_is_bounded():
    one, seen = adversary(weight=1.0, norm="none"), pairs()
    likelihood = lambda s: 0.5 * (s.reconstructions - s.images).abs().flatten(1).sum(1)  # noqa: E731
    assert not one.term(seen, likelihood(seen), 0).any()  # not measured yet
    one.learn(seen, 4, 0)
    one.step(0.0)  # at a rate of 0 the discriminator stays
    lengths = [
        torch.autograd.grad(term.sum(), seen.reconstructions)[0].norm()
        for term in (likelihood(seen), one.term(seen, likelihood(seen), 1))
    ]
    torch.testing.assert_close(lengths[1], lengths[0], rtol=1e-9, atol=0)
    before = one.standing.balance
    one.begin()
    one.term(seen, 1e9 * likelihood(seen), 0)
    one.learn(seen, 4, 0)
    one.step(0.0)
    assert before < one.standing.balance < LARGEST_BALANCE  # it moves slowly, up to its bound


def test_the_term_is_let_in_after_its_start_by_a_ramp():
    one = adversary(start=0.2, ramp=0.1)
    assert [one.ramp(step) for step in (0, 19, 20, 25, 30, 99)] == [0, 0, 0, 0.5, 1, 1]
    seen = pairs()
    assert not one.term(seen, seen.weights, 19).requires_grad


class Linear(nn.Module):
    """A discriminator whose slope is known: its weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 3 * 32 * 32, dtype=torch.float64))

    def forward(self, x):
        return (x.flatten(1) @ self.weight)[:, None, None, None]

    def iterate(self):
        pass


@pytest.mark.parametrize("name", ["r1", "r2"])
def test_gradient_penalties_have_their_known_gradient_and_come_lazily(name):
    plain, penalised = (adversary(penalty_every=4, **p) for p in ({}, {name: 0.3}))
    for one in (plain, penalised):
        one.discriminator = Linear()
    for step, weight in ((4, 0.3 * 4), (5, 0.0)):
        for one in (plain, penalised):
            one.discriminator.weight.grad = None
            one.learn(pairs(), 4, step)
        extra = penalised.discriminator.weight.grad - plain.discriminator.weight.grad
        torch.testing.assert_close(extra, weight * plain.discriminator.weight.detach())


def test_lecam_pulls_the_logits_to_the_other_s_running_mean():
    plain, pulled = adversary(), adversary(lecam=0.5)
    for one in (plain, pulled):
        one.discriminator = Linear()
        one.standing.real, one.standing.fake = 2.0, -1.0
        one.learn(pairs(), 4, 1)
    weight = plain.discriminator.weight.detach().clone().requires_grad_()
    seen = pairs()
    real, fake = (x.detach().flatten(1) @ weight for x in seen[:2])
    (0.5 * ((real + 1) ** 2 + (fake - 2) ** 2).mean()).backward()
    extra = pulled.discriminator.weight.grad - plain.discriminator.weight.grad
    torch.testing.assert_close(extra, weight.grad)


def test_a_bad_picture_weighs_nothing():
    whole, part = adversary(), adversary()
    seen = pairs(4)
    whole.learn(Pairs(*(t[:3] if t is not None else None for t in seen)), 3, 1)
    weights = torch.tensor([1.0, 1, 1, 0], dtype=torch.float64)
    part.learn(seen._replace(weights=weights), 3, 1)
    torch.testing.assert_close(whole.sums, part.sums)
    for a, b in zip(whole.discriminator.parameters(), part.discriminator.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_winning_is_counted_in_steps_in_a_row_once_it_is_let_in():
    one = adversary(start=0.1)
    one.discriminator = Linear()
    one.discriminator.weight.data = torch.sign(images(1)[0]).flatten()  # large where images(1) is
    x, won = images(1), []
    for step in range(14):
        one.begin()
        made = -x if step != 12 else 2 * x  # told at will, then taken for real
        one.learn(Pairs(x, made, None, torch.ones(1, dtype=torch.float64)), 1, step)
        one.step(0.0)
        won.append(one.standing.won)
    assert won == [0] * 10 + [1, 2, 0, 0]
    assert not one.has_won()


def test_diff_augment_of_neutral_draws_changes_nothing_but_the_hole():
    neutral = torch.full((2, DRAWS), 0.5, dtype=torch.float64)
    changed, x = diff_augment(images(2), neutral), images(2)
    hole = changed == 0
    assert hole.double().mean() == pytest.approx(0.25)
    torch.testing.assert_close(changed[~hole], x[~hole])


def test_diff_augment_shifts_by_its_draws_and_passes_gradients():
    drawn = torch.full((1, DRAWS), 0.5, dtype=torch.float64)
    drawn[:, 3], drawn[:, 5:] = 1.0, 0.0  # down by an eighth; the hole lies outside
    x = images(1).requires_grad_()
    changed = diff_augment(x, drawn)
    torch.testing.assert_close(changed[:, :, :28], x[:, :, 4:].detach())
    assert not changed[:, :, 28:].any()
    changed.sum().backward()
    assert x.grad[:, :, 4:].all()
    assert not x.grad[:, :, :4].any()


def test_the_draws_belong_to_the_sample():
    ids, like = np.arange(6), torch.zeros(1, dtype=torch.float64)
    whole = draws(ids, 3, 1, like)
    assert torch.equal(torch.cat([draws(ids[:2], 3, 1, like), draws(ids[2:], 3, 1, like)]), whole)
    assert not torch.equal(draws(ids, 3, 2, like), whole)
    assert ((whole >= 0) & (whole < 1)).all()
