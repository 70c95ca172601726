"""The shipped launch files: the loaders that will read them do, and no hyperparameter is in any."""

import importlib.util
import os
import subprocess
import sys

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from dvae.engine_checks import check_recipe
from dvae.errors import UserError
from dvae.recipe import load_config

from .conftest import ROOT
from .hosts.machines import why_not
from .processes import free_port

LAUNCH = ROOT / "launch"
YAMLS = sorted(path for path in LAUNCH.glob("*.yaml") if path.name != "kubernetes.yaml")
JOBS = [
    LAUNCH / name for name in ("slurm.sbatch", "multi_node.sh", "elastic.sh", "kubernetes.yaml")
]
SCRIPTS = [
    *LAUNCH.glob("*.sh"),
    LAUNCH / "slurm.sbatch",
    ROOT / "tests" / "run.sh",
    ROOT / "tests" / "hosts" / "install.sh",
    ROOT / ".ci" / "run",
]
ENGINES = {"fsdp2": "FSDP", "multi": "MULTI_GPU", "cpu": "MULTI_GPU", "single": "NO"}


def named(path):
    return path.name


@pytest.mark.parametrize("path", YAMLS, ids=named)
def test_accelerate_reads_the_file_and_it_names_its_engine(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert config.mixed_precision == "no"  # the recipe says
    kind = ENGINES.get(path.stem.split("_")[0], "DEEPSPEED")
    assert config.distributed_type.value == kind
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(path.stem.split("zero")[1][0])
        offloads = config.deepspeed_config["offload_optimizer_device"] == "cpu"
        assert offloads == path.stem.endswith("offload")
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("path", [*YAMLS, *JOBS], ids=named)
def test_a_launch_file_names_no_hyperparameter_and_is_in_the_readme_s_table(path):
    for word in ("batch_size", "micro", "learning_rate", "accumulation", "steps", "clipping"):
        assert word not in path.read_text()
    assert f"`{path.name}`" in (LAUNCH / "README.md").read_text()


@pytest.mark.parametrize("path", SCRIPTS, ids=named)
def test_scripts_parse(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_kubernetes_objects_are_of_the_published_schema():
    if not importlib.util.find_spec("kubernetes_validate"):
        pytest.skip("kubernetes-validate, which holds the published schemas, is not installed")
    import kubernetes_validate

    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    for thing in (service, job):
        kubernetes_validate.validate(thing, "1.31", strict=True)
    broken = {**job, "spec": {**job["spec"], "completion_mode": "Indexed"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(values["MACHINES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(values["PROCESSES"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert pod["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "2", "here"], "RANK MACHINES ADDRESS PROCESSES RECIPE"),
        (["one", "2", "here", "8", "r.toml"], "'one' is not a number"),
        (["2", "2", "here", "8", "r.toml"], "RANK=2 must be below MACHINES=2"),
    ],
)
def test_a_wrong_place_among_the_machines_is_refused(arguments, message):
    command = ["bash", str(LAUNCH / "multi_node.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not why_not() and "DVAE_TEST_HOSTS" not in os.environ,
    reason="tests/hosts has machines of their own here: DVAE_TEST_HOSTS=1 runs this, too",
)
def test_two_machines_train_one_network(recipe):
    """Two launchers with a process each, as on two machines; both on the loopback of this one."""
    port = free_port()
    folder = os.path.dirname(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = ["bash", str(LAUNCH / "multi_node.sh")]
    launchers = [
        subprocess.Popen(
            [*command, str(rank), "2", f"127.0.0.1:{port}", "1", str(recipe)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    told = [launcher.communicate(timeout=240)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], told
    assert "done: 6 steps" in told[0]
    assert "done: 6 steps" not in told[1]
    assert load_file(recipe.parent / "runs" / "tiny" / "weights" / "model.safetensors")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.precision=fp16", "FSDP scales the loss by itself"),
        ("train.micro_batch_size=auto", "processes under FSDP exchange weights"),
    ],
)
def test_what_fsdp_can_not_do_is_refused_by_name(recipe, override, message):
    config = load_config(recipe, [override])
    with pytest.raises(UserError, match=message):
        check_recipe(DistributedType.FSDP, config)
    check_recipe(None, config)  # one process and DDP do all
