#!/usr/bin/env bash
# libfuse, for the tests of stale folders (Debian): bash tests/faults/install.sh
set -euo pipefail
ldconfig -p | grep -q libfuse3 ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends libfuse3-3; } > /dev/null
ldconfig -p | grep libfuse3
