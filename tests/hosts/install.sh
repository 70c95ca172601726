#!/usr/bin/env bash
# iproute2, for the tests of several machines (Debian): bash tests/hosts/install.sh
set -euo pipefail
command -v ip tc > /dev/null ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends iproute2; } > /dev/null
ip -Version
