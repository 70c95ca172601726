#!/usr/bin/env bash
# Installs with the test extras, then lint, types and the tests, two files at a time:
# bash tests/run.sh [pytest options]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/install.sh
install_project test
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
types=$(mktemp)
trap 'rm -f "$types"' EXIT
mypy > "$types" 2>&1 & # beside the tests, which leave a core free now and then
checking=$!
passed=0
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" || passed=$?
wait "$checking" || passed=1
cat "$types"
exit "$passed"
