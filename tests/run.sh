#!/usr/bin/env bash
# Installs with the test extras, then lint, types and the tests: bash tests/run.sh [pytest options]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/install.sh
install_project test
export PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
