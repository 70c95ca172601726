"""The shipped launch files: Accelerate's own loader reads them; shell scripts parse."""

import subprocess

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from .conftest import ROOT

YAMLS = sorted((ROOT / "launch").glob("*.yaml"))
SCRIPTS = [*(ROOT / "launch").glob("*.sh"), ROOT / "tests" / "run.sh", ROOT / ".ci" / "run"]


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: p.name)
def test_accelerate_reads_the_file_and_it_names_no_hyperparameter(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    for word in ("batch", "learning_rate", "accumulation", "steps"):
        assert word not in path.read_text()


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: p.name)
def test_the_readme_s_table_names_the_file(path):
    assert f"`{path.name}`" in (ROOT / "launch" / "README.md").read_text()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
