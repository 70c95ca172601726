"""python -m shards.pack --dedupe near: changed copies are left out by name, and different dogs stay."""

import builtins
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from shards.drawn_dogs import draw_dog
from shards.likeness import alike_pairs, looks_of
from shards.pack import main
from tests.test_dedupe import left_out
from tests.test_pack import DOGS, make_source, manifest, needs_dogs, samples

KINDS = ("quality", "half", "mirror", "crop", "bright", "all")


def varied(image, kind, draw):
    """A copy of a picture that a collector of pictures would meet."""
    if kind == "half":
        return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    if kind == "mirror":
        return ImageOps.mirror(image)
    if kind == "bright":
        return image.point(lambda level: min(255, int(level * 1.15)))
    if kind == "crop":
        width, height = round(image.width * 0.9), round(image.height * 0.9)
        left = int(draw.integers(0, image.width - width + 1))
        top = int(draw.integers(0, image.height - height + 1))
        return image.crop((left, top, left + width, top + height))
    if kind == "all":
        return ImageOps.mirror(varied(varied(image, "crop", draw), "half", draw))
    return image


def with_copies(paths, folder):
    """The pictures and a copy of each kind of each, under names that tell the group."""
    draw = np.random.default_rng(0)
    for number, path in enumerate(paths):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for kind in ("original", *KINDS):
            target = folder / kind / f"{number:04d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            quality = 40 if kind in ("quality", "all") else 90
            varied(image, kind, draw).save(target, quality=quality)
    return folder


def check_groups(out, count):
    """One picture of each group is packed; each other one names one of its own group."""
    packed = [Path(about["source"]).name for _, _, about in samples(out)]
    assert sorted(packed) == [f"{number:04d}.jpg" for number in range(count)]
    for line in left_out(out):
        assert line["reason"].startswith("near duplicate: looks like ")
        assert Path(line["reason"]).name == Path(line["source"]).name
    counts = manifest(out)["about"]["counts"]
    copies = count * len(KINDS)
    assert counts == {
        "found": count + copies,
        "packed": count,
        "rejected": 0,
        "duplicates": copies,
    }


@pytest.mark.slow
@needs_dogs
def test_crops_mirrored_and_re_encoded_photographs_are_found_and_different_dogs_stay(tmp_path):
    paths = sorted((DOGS / "pets" / "images").glob("*.jpg"))
    paths = paths or sorted((DOGS / "faces" / "train").rglob("*.jpg"))
    paths = paths[:: max(1, len(paths) // 24)][:24]
    source = with_copies(paths, tmp_path / "photos")
    out = tmp_path / "out"
    assert main([str(source), str(out), "--dedupe", "near", "--val", "0.4"]) == 0
    check_groups(out, len(paths))


def test_copies_of_drawn_dogs_are_found_and_different_dogs_stay(tmp_path):
    (tmp_path / "drawn").mkdir()
    for number in range(12):
        draw_dog(5, number, 160)[0].save(tmp_path / "drawn" / f"{number:02d}.png")
    source = with_copies(sorted((tmp_path / "drawn").iterdir()), tmp_path / "photos")
    out = tmp_path / "out"
    assert main([str(source), str(out), "--dedupe", "near", "--val", "0.4"]) == 0
    check_groups(out, 12)


def test_copies_across_a_sources_own_splits_are_found(tmp_path):
    lines = ["file,split"]
    for number in range(6):
        image = draw_dog(5, number, 160)[0]
        image.save(tmp_path / f"{number}.png")
        copy = varied(image, "all", np.random.default_rng(number))
        copy.save(tmp_path / f"copy-{number}.jpg", quality=60)
        own, other = ("train", "val") if number % 2 else ("val", "train")
        lines += [f"{number}.png,{own}", f"copy-{number}.jpg,{other}"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    assert main([str(tmp_path / "list.csv"), str(out), "--dedupe", "near"]) == 0
    packed = {about["source"]: split for split, _, about in samples(out)}
    assert packed == {f"{n}.png": ("val", "train")[n % 2] for n in range(6)}


def test_the_largest_of_a_group_is_kept(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    image = draw_dog(0, 1, 256)[0]
    for side in (100, 256, 180):
        image.resize((side, side), Image.Resampling.LANCZOS).save(source / f"{side}.png")
    assert main([str(source), str(tmp_path / "out"), "--dedupe", "near"]) == 0
    assert [about["source"] for _, _, about in samples(tmp_path / "out")] == ["256.png"]


def test_flat_pictures_of_different_colours_stay(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for level in range(0, 250, 50):
        Image.new("RGB", (64, 64), (level, 0, 99)).save(source / f"{level}.png")
    assert main([str(source), str(tmp_path / "out"), "--dedupe", "near"]) == 0
    assert manifest(tmp_path / "out")["about"]["counts"]["packed"] == 5


def test_a_thousand_equal_hashes_are_not_a_million_candidates():
    buffer = io.BytesIO()
    draw_dog(0, 0, 128)[0].save(buffer, "PNG")
    with Image.open(buffer) as image:
        looks = looks_of(image.convert("RGB"))
    pairs = list(alike_pairs(*(np.stack([part] * 1000) for part in looks)))
    assert len(pairs) == 1000
    assert {b for _, b in pairs} == set(range(1000))


def test_without_the_library_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    source = make_source(tmp_path / "photos", 3)
    real = builtins.__import__

    def without(name, *arguments):
        if name == "imagehash":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main([str(source), str(tmp_path / "out"), "--dedupe", "near"]) == 2
    assert "pip install 'dvae[dedupe]'" in capsys.readouterr().err
