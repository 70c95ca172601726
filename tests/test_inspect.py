"""python -m shards.inspect: the figures are those of the pictures, and a hostile label is a text."""

import io
import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from shards.index import main as index
from shards.inspect import main
from tests.pictures_on_disk import samples
from tests.test_verify import foreign


@pytest.fixture
def report(shards, tmp_path):
    assert main([str(shards), "--out", str(tmp_path / "report")]) == 0
    return tmp_path / "report"


def test_the_figures_are_those_of_the_pictures(pictures, report):
    found = json.loads((report / "figures.json").read_bytes())
    labels = Counter(path.parent.name for path in pictures.rglob("*.png"))
    assert found["labels"] == labels
    assert sum(split["samples"] for split in found["splits"].values()) == 64
    assert found["resolutions"] == {"36x36": 64}
    assert found["ranges"]["aspect"]["median"] == 1
    assert (found["unlabelled"], found["unreadable"]) == (0, 0)
    values = np.stack([np.asarray(Image.open(path)) for path in sorted(pictures.rglob("*.png"))])
    assert found["pixels"]["sampled"] == 64
    assert np.allclose(found["pixels"]["mean"], values.mean((0, 1, 2)) / 255, atol=0.01)
    assert np.allclose(found["pixels"]["std"], values.std((0, 1, 2)) / 255, atol=0.02)


def test_the_same_shards_give_the_same_report(shards, report, tmp_path):
    assert main([str(shards), "--out", str(tmp_path / "again")]) == 0
    for name in ("figures.json", "contact.png", "index.html"):
        assert (report / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = Counter(), []
        self.links = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_stands_alone_and_shows_each_histogram(report):
    page = Page((report / "index.html").read_text())
    assert page.tags["svg"] == 6
    assert page.tags["script"] == page.tags["link"] == 0
    assert [link[:22] for link in page.links] == ["data:image/png;base64,"]
    with Image.open(report / "contact.png") as sheet:
        assert sheet.size == (804, 804)


def test_the_contact_sheet_shows_the_pictures_in_their_order(shards, report):
    with Image.open(report / "contact.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(float)
    colours = []
    for number, (_, data, _) in enumerate(samples(shards)):
        with Image.open(io.BytesIO(data)) as image:
            colours.append(np.asarray(image).mean((0, 1)))
        x, y = number % 8 * 100 + 4, number // 8 * 100 + 4
        assert np.abs(sheet[y : y + 96, x : x + 96].mean((0, 1)) - colours[-1]).max() < 2
    assert len(colours) == 64
    assert np.std(colours, 0).min() > 5  # so that the pictures can be told from each other


_NUMBER = r"([\d.,]+(?:e[+-]?\d+)?)"


CAPTIONS = {
    "Width, pixels": "width",
    "Height, pixels": "height",
    "Width / height": "aspect",
    "Bytes of a picture": "picture_bytes",
    "Bytes of a shard": "shard_bytes",
    "Samples of a shard": "shard_samples",
}


def numbers(found):
    return [float(text.replace(",", "")) for text in found]


def test_the_page_and_stdout_have_the_numbers_of_the_json(shards, report, capsys):
    found = json.loads((report / "figures.json").read_bytes())
    capsys.readouterr()
    assert main([str(shards)]) == 0
    told = capsys.readouterr().out
    texts = Page((report / "index.html").read_text()).texts
    text = "\n".join(texts)
    keys = ("least", "5 %", "median", "95 %", "most")
    for caption, name in CAPTIONS.items():
        figure, values = text[text.index(caption) :], found["ranges"][name]
        on_page = re.search(", ".join(f"{key} {_NUMBER}" for key in keys), figure).groups()
        assert numbers(on_page) == pytest.approx([values[key] for key in keys], rel=1e-5)
        counts = values["histogram"]["counts"]
        bars = re.findall(rf"{_NUMBER} to {_NUMBER}: ([\d,]+)", figure)[: len(counts)]
        assert [int(count.replace(",", "")) for _, _, count in bars] == counts
        spread = re.search(rf"^{name} +{_NUMBER} … {_NUMBER} … {_NUMBER} \(", told, re.M).groups()
        wanted = [values[key] for key in ("least", "median", "most")]
        assert numbers(spread) == pytest.approx(wanted, rel=1e-5)
    for name, split in found["splits"].items():
        assert (
            f"{name}: {split['samples']} samples in {split['shards']} shards, {split['bytes']} b"
            in told
        )
        cells = [name, *(f"{split[key]:,}" for key in ("samples", "shards", "bytes"))]
        assert texts[(start := texts.index(name)) : start + 4] == cells
    for name, count in {**found["labels"], **found["resolutions"]}.items():
        assert texts[texts.index(name) + 1] == str(count)
    common = sorted(found["labels"].items(), key=lambda label: (-label[1], label[0]))[:5]
    first = ", ".join(f"{name!r} {count}" for name, count in common)
    assert f"labels         {len(found['labels'])}: {first} …" in told
    pixels = found["pixels"]
    assert f"mean {pixels['mean']}, std {pixels['std']} of R, G, B" in told
    shown = re.search(
        r"mean ([\d., ]+); standard deviation ([\d., ]+); of (\d+) pictures", text
    ).groups()
    for given, key in zip(shown, ("mean", "std"), strict=False):
        assert [float(value) for value in given.split(", ")] == pytest.approx(pixels[key], abs=6e-4)
    assert int(shown[2]) == pixels["sampled"]


def test_a_hostile_label_stays_a_text(tmp_path):
    label = "<script>alert(1)</script>\"' onload=x &amp; \u202e \x00"
    (tmp_path / "shards").mkdir()
    note = json.dumps({"label": label, "width": -5, "height": "9"}).encode()
    foreign(tmp_path / "shards" / "00000.tar", "a", "b", note=note)
    assert index([str(tmp_path / "shards")]) == 0
    assert main([str(tmp_path / "shards"), "--out", str(tmp_path / "report")]) == 0
    page = Page((tmp_path / "report" / "index.html").read_text())
    assert page.tags["script"] == 0
    assert any(text.startswith("<script>alert(1)</script>") for text in page.texts)
    found = json.loads((tmp_path / "report" / "figures.json").read_bytes())
    assert found["resolutions"] == {"9x9": 2}


def test_shards_without_json_are_measured_by_their_pictures(tmp_path, capsys):
    foreign(tmp_path / "00000.tar", "a", "b", note=b"no json")
    assert index([str(tmp_path)]) == 0
    assert main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "width          9 … 9 … 9" in told
    assert "unlabelled     2" in told


def test_a_folder_without_shards_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path)]) == 3
    assert "has no manifest.json" in capsys.readouterr().err
