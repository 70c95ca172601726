"""The report says what its tests recorded, and the lists of tests name tests that there are."""

import re

import pytest

from tests.conftest import ROOT
from tests.faults.report import REPORT, ROWS, Case, ours, run

CATALOGUE = ROOT.parent / "shared" / "faults.md"


def claims(text: str) -> list[str]:
    """The first column of the table whose first heading is `claim`."""
    table = re.search(r"^\| claim \|.*\n\|[- |]+\n((?:\|.*\n)+)", text, re.M)[1]
    return [line.split("|")[1].strip() for line in table.splitlines()]


def test_the_report_has_the_rows_of_its_command():
    assert claims(REPORT.read_text()) == [row.claim for row in ROWS]
    assert "**FAILED" not in REPORT.read_text()


@pytest.mark.skipif(not CATALOGUE.is_file(), reason="the catalogue of ../shared isn't here")
def test_the_rows_are_the_catalogue_s():
    assert [row.claim for row in ROWS] == claims(CATALOGUE.read_text())


@pytest.mark.parametrize("test", sorted({test for row in ROWS for test in row.tests if test}))
def test_what_a_row_names_exists(test):
    file, _, name = test.partition("[")[0].partition("::")
    text = (ROOT / "tests" / file).read_text()
    assert not name or f"def {name}(" in text


def test_the_tests_that_the_list_of_faults_names_exist():
    text = (ROOT / "tests" / "faults" / "README.md").read_text()
    named = re.findall(r"`((?:\.\./)?(?:test_)?\w+\.py)", text)
    assert len(named) > 50
    folder = ROOT / "tests" / "faults"
    missing = [name for name in named if not (folder / name).is_file()]
    assert missing in ([], ["failpoint.py"])


def test_what_tests_record_is_added_up_and_failures_are_told(tmp_path):
    file = tmp_path / "test_x.py"
    file.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', [3, 4])\n"
        "def test_a(n, record_property):\n    record_property('kills', n)\n"
        "def test_b(record_property):\n    record_property('kills', 9)\n    assert False\n"
        "@pytest.mark.skip\ndef test_c():\n    pass\n"
    )
    cases = run([str(file)], {})
    row = ROWS[0]._replace(tests=("",))
    told = ours(row, cases)
    assert told.startswith("7 kills; 2 of 4 tests passed; **FAILED: ")
    assert told.endswith("::test_b**; 1 skipped")
    assert ours(row._replace(tests=("other.py",)), cases) == "not measured: its tests were not run"
    assert ours(row._replace(tests=()), [Case("a", "passed", 0, {})]) == "not measured: no test"
