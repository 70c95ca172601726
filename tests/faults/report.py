"""Runs what measures the catalogue's section on numbers, and writes down what came of it.

    python tests/faults/report.py            # the short tier
    python tests/faults/report.py --long     # an hour or two: 200 kills, 10,000 shards …

Every figure in REPORT.md is one that a test recorded (`record_property`) in this very run, or a count of
tests that passed in it. A row whose tests failed, were skipped or don't exist says so.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
REPORT = Path(__file__).with_name("REPORT.md")
LONG = {
    "DVAE_TEST_KILLS": "200",
    "DVAE_TEST_COPIES": "10000",
    "DVAE_TEST_BUDGETS": "50",
    "DVAE_TEST_STOPS": "100",
    "DVAE_TEST_STRAGGLERS": "30",
    "DVAE_TEST_PACKING_KILLS": "100",
    "DVAE_TEST_FILES": "1000000",
}

CHAOS = "faults/test_chaos.py::test_a_run_that_is_killed_again_and_again_loses_nothing"
ELASTIC = "test_elastic.py::test_changing_processes_threads_and_micro_batches_changes_nothing"
HTTP = "test_http.py::test_twenty_seeds_of_every_fault"
LOSSES = (
    "faults/test_hostile_runs.py::"
    "test_every_loss_of_a_run_is_named_and_read_and_bad_make_up_the_plan"
)
STOPS = "faults/test_stops.py::test_runs_that_are_stopped_in_all_ways_lose_no_step"
SIGNALS = "test_train.py::test_a_signal_saves_the_finished_step_and_the_run_goes_on_from_it"


class Row(NamedTuple):
    """A row of the catalogue's table: what others test, what is aimed at, and what shows it here."""

    claim: str
    theirs: str
    goal: str
    tests: tuple[str, ...]  # files, tests or cases, from tests/ on; none: there is no test


ROWS = (
    Row(
        "SIGKILL resume",
        "no real kill in 11 suites",
        "200 kills of 2 processes (20 in CI): nothing lost or repeated, SHA-256 equal",
        (f"{CHAOS}[two]",),
    ),
    Row(
        "save killed",
        "18 unit tests; stock accelerate loses all 12 of 12",
        "200 kills inside saves, K = 1 too: 200 loadable",
        (CHAOS,),
    ),
    Row(
        "restore points in data",
        "every step of small sets; one cut",
        "every step of 400 samples or more, 4 counts of threads, 4 of processes",
        (
            "test_elastic.py::test_a_run_restored_at_every_step_goes_on_with_the_same_batch",
            "test_elastic.py::test_a_run_restored_at_some_steps_goes_on_with_the_same_batch",
        ),
    ),
    Row(
        "elastic",
        "5 layouts of one product",
        "20 pairs of layouts, the same global order",
        (ELASTIC,),
    ),
    Row(
        "bit-exact",
        "6 points in 2 worlds",
        "all 200 kill points, CPU and GPU, tolerance 0",
        (
            CHAOS,
            "test_gpu.py",
        ),
    ),
    Row(
        "fuzzed shards",
        "one truncation",
        "10,000 (2,000 in CI): no crash, hang or partial sample, all damage found",
        ("faults/test_fuzz.py", "faults/test_shards.py"),
    ),
    Row(
        "fuzzed checkpoints",
        "4 malicious files",
        "500 flips and 200 cuts found, 10 pickles not run",
        (
            "faults/test_fuzz_checkpoints.py",
            "faults/test_strange_runs.py::test_a_run_of_a_stranger_s_runs_nothing",
        ),
    ),
    Row(
        "fuzzed configs",
        "tests of the configuration",
        "500: exit code 2, one line, no traceback",
        ("faults/test_fuzz_recipes.py",),
    ),
    Row(
        "HTTP faults",
        "no server that fails",
        "13 faults x 20 seeds: exact totals",
        (HTTP,),
    ),
    Row(
        "quarantine accounting",
        "more than 0",
        "equality, per process and in sum",
        (
            "faults/test_shards.py",
            "faults/test_lost_shards.py",
            LOSSES,
        ),
    ),
    Row(
        "disk full",
        "none",
        "50 budgets each for packer, checkpoint, TensorBoard: the last good one whole",
        ("faults/test_full_disks.py", "faults/test_packing_space.py"),
    ),
    Row(
        "straggler",
        "a timeout without a name",
        "process, host, phase and shard named within the timeout, 30 trials",
        ("faults/test_stragglers.py", "test_heartbeat.py", "test_verdict.py"),
    ),
    Row(
        "preemption",
        "30 s of grace, no save",
        "100 SIGTERMs: saved at the last finished step, none lost",
        (STOPS, SIGNALS),
    ),
    Row(
        "packing",
        "none",
        "100 SIGKILLs: the same bytes, no half shard seen",
        ("faults/test_packing.py",),
    ),
    Row(
        "security",
        "4, 4 and 17 tests",
        "40 probes: none executed or escaped",
        (
            "faults/test_strangers.py",
            "faults/test_strange_runs.py",
            "faults/test_secrets.py",
            "faults/test_hostile_tars.py",
        ),
    ),
    Row("wall time", "-", "all of the above in 5 minutes on 2 cores", ("",)),
)


class Case(NamedTuple):
    """A test that was run."""

    name: str  # from tests/ on, with ::
    end: str  # passed, failed or skipped
    seconds: float
    figures: dict[str, int]
    attempt: int = 1


def main() -> int:
    """The command line; 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--long", action="store_true", help="the figures that are aimed at; an hour or two"
    )
    given = parser.parse_args()
    tests = sorted({test.partition("[")[0] for row in ROWS for test in row.tests if test})
    place = f"at {_commit()}, on {machine()}, with a load of {os.getloadavg()[0]:.0f} when it began"
    began, before = time.monotonic(), _processor_seconds()
    environment = LONG if given.long else {}
    cases = tried_again(run([f"tests/{test}" for test in tests], environment), environment)
    took = (
        f"{time.monotonic() - began:.0f} s, {_processor_seconds() - before:.0f} s of processor time"
    )
    tier = "long" if given.long else "short"
    REPORT.write_text(page(cases, f"the {tier} tier", place, took))
    return int(any(case.end == "failed" for case in cases))


def run(tests: list[str], environment: dict[str, str]) -> list[Case]:
    """Run tests and read what they recorded."""
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={junit}", *tests]
        command += ["-o", "junit_family=xunit1"]  # which has room for figures
        subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
        return [_case(found) for found in ElementTree.parse(junit).iter("testcase")]


def tried_again(cases: list[Case], environment: dict[str, str]) -> list[Case]:
    """The same, where tests that failed had a second attempt: limits of time run out on a busy machine."""
    failed = [f"tests/{case.name}" for case in cases if case.end == "failed"]
    again = {
        case.name: case._replace(attempt=2) for case in (run(failed, environment) if failed else ())
    }
    return [again.get(case.name, case) for case in cases]


def _case(found: ElementTree.Element) -> Case:
    file = found.get("classname", "").removeprefix("tests.").replace(".", "/")
    ends = {child.tag for child in found}
    end = "failed" if ends & {"failure", "error"} else "skipped" if "skipped" in ends else "passed"
    figures = {p.get("name", ""): int(p.get("value", "0")) for p in found.iter("property")}
    name = f"{file}.py::{found.get('name')}"
    return Case(name, end, float(found.get("time", "0")), figures)


def ours(row: Row, cases: list[Case]) -> str:
    """What a row's tests recorded."""
    if not row.tests:
        return "not measured: no test"
    mine = [case for case in cases if case.name.startswith(row.tests)]
    if not mine:
        return "not measured: its tests were not run"
    figures: dict[str, int] = {}
    for case in mine:
        for name, value in case.figures.items() if case.end == "passed" else ():
            figures[name] = figures.get(name, 0) + value
    ends = [case.end for case in mine]
    told = [f"{value:,} {name}" for name, value in figures.items()]
    told.append(f"{ends.count('passed'):,} of {len(ends):,} tests passed")
    told += [f"**FAILED: {case.name}**" for case in mine if case.end == "failed"]
    if late := sum(case.attempt > 1 for case in mine if case.end == "passed"):
        told.append(f"{late} of them at the second attempt")
    if skipped := ends.count("skipped"):
        told.append(f"{skipped} skipped")
    return "; ".join(told)


def page(cases: list[Case], tier: str, place: str, took: str) -> str:
    """REPORT.md."""
    lines = [
        f"| {row.claim} | {row.theirs} | {row.goal} | "
        f"{ours(row, cases) if row.tests != ('',) else took} |"
        for row in ROWS
    ]
    return "\n".join(
        [
            "# What was measured",
            "",
            f"By `python tests/faults/report.py`, {tier}, {datetime.now(UTC):%d %B %Y}, {place}. "
            "The figures of our column were recorded by the tests of this run; what they count was "
            "found, refused or survived, or the row says FAILED.",
            "",
            "| claim | others' own tests | goal | ours |",
            "| --- | --- | --- | --- |",
            *lines,
            "",
        ]
    )


def machine() -> str:
    """Cores and the processor's name."""
    cores = len(os.sched_getaffinity(0))
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{cores} cores of {found[1] if found else 'an unnamed processor'}"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = [line for line in git("status", "--short").splitlines() if "REPORT.md" not in line]
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
