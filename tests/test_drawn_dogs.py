import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from shards.drawn_dogs import draw_dog, main


@pytest.fixture(scope="module")
def dogs():
    """A hundred small dogs of seed 0: (picture, label)."""
    return [draw_dog(0, number, 16) for number in range(100)]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def draw(out: Path, count: int, *more: str) -> int:
    return main([str(out), "--count", str(count), "--size", "16", "--workers", "1", *more])


@pytest.mark.parametrize("size", [16, 33, 96])
def test_a_picture_is_an_rgb_square_of_the_size_asked_for(size):
    image, _ = draw_dog(3, 5, size)
    assert (image.mode, image.size) == ("RGB", (size, size))


def test_the_same_seed_number_and_size_give_the_same_picture(dogs):
    for number in (0, 17, 99):
        image, label = draw_dog(0, number, 16)
        assert (image.tobytes(), label) == (dogs[number][0].tobytes(), dogs[number][1])


def test_no_two_of_a_hundred_numbers_give_the_same_picture(dogs):
    assert len({image.tobytes() for image, _ in dogs}) == 100


def test_another_seed_gives_other_pictures(dogs):
    others = {draw_dog(1, number, 16)[0].tobytes() for number in range(10)}
    assert not others & {image.tobytes() for image, _ in dogs}


def test_size_changes_neither_the_coat_nor_what_is_seen(dogs):
    for number in range(8):
        large, label = draw_dog(0, number, 64)
        small = large.resize((16, 16), Image.Resampling.BOX)
        differences = [
            abs(a - b) for a, b in zip(small.tobytes(), dogs[number][0].tobytes(), strict=True)
        ]
        assert label == dogs[number][1]
        assert sum(differences) / len(differences) < 12


def test_a_picture_has_contrast_and_is_not_blown_out(dogs):
    for image, _ in dogs:
        grey = sorted(image.convert("L").tobytes())
        assert grey[-10] - grey[10] > 60
        assert 40 < sum(grey) / len(grey) < 235


def test_labels_are_many_and_plain_folder_names(dogs):
    labels = {label for _, label in dogs}
    assert len(labels) >= 10
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", label) for label in labels)


def test_each_picture_lies_in_the_folder_of_its_label(tmp_path, dogs):
    assert draw(tmp_path / "out", 12) == 0
    expected = {f"{dogs[number][1]}/dog-{number:06d}.png" for number in range(12)}
    assert set(contents(tmp_path / "out")) == expected
    for number in range(12):
        with Image.open(tmp_path / "out" / dogs[number][1] / f"dog-{number:06d}.png") as image:
            assert image.tobytes() == dogs[number][0].tobytes()


def test_count_and_workers_change_no_file(tmp_path):
    assert draw(tmp_path / "alone", 9) == 0
    assert main([str(tmp_path / "two"), "--count", "20", "--size", "16", "--workers", "2"]) == 0
    alone, two = contents(tmp_path / "alone"), contents(tmp_path / "two")
    assert len(alone) == 9
    assert len(two) == 20
    assert alone.items() <= two.items()


def test_a_second_run_draws_only_what_is_missing(tmp_path, capsys):
    assert draw(tmp_path, 8) == 0
    first = contents(tmp_path)
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in first}
    lost = next(iter(times))
    (tmp_path / lost).unlink()
    assert draw(tmp_path, 10) == 0
    assert "10 dogs, 3 of them new" in capsys.readouterr().out
    assert first.items() <= contents(tmp_path).items()
    kept = {name: (tmp_path / name).stat().st_mtime_ns for name in first}
    assert {name for name in first if kept[name] != times[name]} == {lost}


@pytest.mark.parametrize("option", [("--seed", "1"), ("--size", "17")])
def test_two_series_never_mix_in_one_folder(tmp_path, capsys, option):
    assert draw(tmp_path, 2) == 0
    before = contents(tmp_path)
    assert draw(tmp_path, 4, *option) == 2
    assert "name another folder" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--count", "0"), "--count 0: give a whole number from 1 to"),
        (("--size", "15"), "--size 15: give a whole number from 16 to"),
        (("--seed", "-1"), "--seed -1: give a whole number from 0 to"),
        (("--workers", "0"), "--workers 0: give a whole number from 1 to"),
    ],
)
def test_a_number_out_of_range_ends_with_one_line_and_code_2(tmp_path, capsys, option, message):
    assert draw(tmp_path / "out", 1, *option) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_file_in_the_place_of_the_folder_ends_with_one_line_and_code_2(tmp_path, capsys, below):
    (tmp_path / "file").write_text("mine")
    assert draw(tmp_path / "file" / below, 1) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "file") in error
    assert "folder" in error
    assert error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_picture_from_elsewhere_is_named(tmp_path, capsys):
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "dog-1.png").write_bytes(b"no picture")
    assert draw(tmp_path, 1) == 2
    assert "dog-1.png" in capsys.readouterr().err


def test_drawing_needs_no_torch():
    code = "import sys, shards.drawn_dogs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
