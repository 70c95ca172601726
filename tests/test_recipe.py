"""Recipes: every mistake is told, at once and in words; every shipped one loads."""

import tomllib

import pytest

from dvae.errors import UserError
from dvae.model_config import DogVAEConfig
from dvae.networks import build
from dvae.recipe import differences, load_config, parse_config, to_toml

from .conftest import ROOT

RECIPES = sorted((ROOT / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_loads_builds_and_says_what_it_is(path):
    config = load_config(path)
    assert build(config.model).image_size == config.image_size
    assert config.run.name == path.stem
    header = path.read_text().split("\n\n")[0]
    assert header.startswith("#")
    assert "accelerate launch" in path.read_text()


def test_recipes_are_there():
    names = {path.stem for path in RECIPES}
    assert {"dogvae-127", "autoencoder-127", "resvae-64", "resvae-128", "quickstart"} <= names


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learing_rate=1", "did you mean 'optim.learning_rate'"),
        ("optimm.learning_rate=1", "did you mean 'optim'"),
        ("model.latent=3", "did you mean 'model.latent_dim'"),
        ("train.steps=-1", "train.steps=-1: it should be greater than or equal to 1"),
        ("train.steps=1.5", "train.steps=1.5: it should be a valid integer"),
        ('train.steps="7"', "it should be a valid integer"),
        ("train.seed=true", "it should be a valid integer"),
        ("loss.beta=nan", "it should be a finite number"),
        ("loss.beta=inf", "it should be a finite number"),
        ("loss.beta=1e400", "it should be a finite number"),
        ("loss.scale=best", "loss.scale"),
        ("loss.scale=-2", "loss.scale"),
        ("data.flip=no", "it should be a valid boolean"),
        ("model.name=gan", "model"),
        ("model=3", "model=3"),
        ("model.image_size=61", "must be a multiple of 4"),
        ("model.channels=[12]", "multiple of 8"),
        ("optim.betas=[0.9]", "optim.betas"),
        ("run.name=../x", "must be a plain folder name"),
        ("run.name=.x", "must be a plain folder name"),
        ("train", "is not an override"),
        ("=3", "is not an override"),
        ("train.steps.more=3", "is a value, not a part"),
        ("loss.beta=2020-01-01", "it should be a valid number"),
        ("train.precision=int8", "train.precision"),
    ],
)
def test_a_wrong_override_is_told_with_the_key_and_the_rule(recipe, override, message):
    with pytest.raises(UserError) as caught:
        load_config(recipe, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once(recipe):
    overrides = ["train.steps=0", "optim.ema=2", "data.trian=x", "foo=1"]
    with pytest.raises(UserError) as caught:
        load_config(recipe, overrides)
    for part in ("train.steps=0", "optim.ema=2", "data.trian", "foo"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "'model'|model: is missing"),
        (b"[model\n", "is not TOML"),
        (b"a = 1\na = 2\n", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"x = " + b"[" * 5000, "is not TOML"),
        (b"#" * (2**20 + 1), "larger than a recipe"),
    ],
    ids=["empty", "broken", "twice", "utf-16", "deep", "large"],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, message):
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.toml cannot be read: No such file"):
        load_config(tmp_path / "nowhere.toml")


def test_a_byte_order_mark_does_no_harm(recipe):
    recipe.write_bytes(b"\xef\xbb\xbf" + recipe.read_bytes())
    assert load_config(recipe).train.steps == 6


def test_overrides_are_typed_as_toml_and_strings_need_no_quotes(recipe):
    config = load_config(
        recipe, ["train.steps=7", "optim.learning_rate=1e-4", "data.val=a/b c", "loss.scale=3"]
    )
    assert (config.train.steps, config.optim.learning_rate) == (7, 1e-4)
    assert (config.data.val, config.loss.scale) == ("a/b c", 3.0)


def test_a_recipe_written_out_is_read_back_equal(recipe):
    config = load_config(recipe, ["model.name=dogvae"][:0])
    assert parse_config(tomllib.loads(to_toml(config)), "again") == config


def test_differences_name_keys_that_change_the_result_and_no_others(recipe):
    old = load_config(recipe)
    free = ["data.threads=7", "train.log_every=3", "run.dir=elsewhere", "data.train=moved"]
    free += ["data.max_bad=0.5", "data.bad_shards=skip"]
    assert differences(old, load_config(recipe, free)) == []
    other = load_config(recipe, ["train.seed=1", "loss.beta=2"])
    assert differences(old, other) == [
        "loss.beta: 1.0 in the run, 2.0 asked for",
        "train.seed: 0 in the run, 1 asked for",
    ]


def test_sources_may_lie_elsewhere_but_not_weigh_another_share(recipe):
    def mixed(*sources):
        given = ", ".join(f'{{path="{path}", weight={weight}}}' for path, weight in sources)
        return load_config(recipe, ["data.train=", f"data.sources=[{given}]"])

    old = mixed(("a", 1), ("b", 2))
    assert differences(old, mixed(("c", 1), ("http://d/e", 2))) == []
    assert differences(old, mixed(("a", 1), ("b", 3))) == [
        "data.sources.1.weight: 2.0 in the run, 3.0 asked for"
    ]
    assert differences(old, mixed(("a", 1)))[0].startswith("data.sources: (SourceConfig(path='a'")
    assert differences(old, load_config(recipe))[0].startswith("data.sources: (SourceConfig(")


def test_a_constant_schedule_may_be_trained_longer(recipe):
    constant = [recipe, ["optim.schedule=constant", "train.steps=9"]]
    assert (
        differences(load_config(recipe, ["optim.schedule=constant"]), load_config(*constant)) == []
    )
    cosine = differences(load_config(recipe), load_config(recipe, ["train.steps=9"]))
    assert cosine == ["train.steps: 6 in the run, 9 asked for"]


def test_another_network_is_one_difference(recipe):
    other = load_config(recipe).model_copy(update={"model": DogVAEConfig(name="dogvae")})
    assert [line.split(":")[0] for line in differences(load_config(recipe), other)] == ["model"]
