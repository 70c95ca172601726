#!/usr/bin/env bash
# One machine's part of a run on machines that come and go; start it on each of them:
#
#     bash launch/elastic.sh LEAST MOST ADDRESS PROCESSES RECIPE [key=value …]
#
# LEAST, MOST: how many machines the run may have; it begins with LEAST, and waits a little for more
# ADDRESS: of the machine that keeps the rendezvous, HOST or HOST:PORT (port 29400 unless given); it must stay
# PROCESSES: of each machine, one for each of its GPUs
# RESTARTS=9: so often the processes are started again when one is lost (3 unless given).
#
# Whoever is left goes on from the last checkpoint. The global batch stays, so every number of processes that
# there may be must divide it; how much of it a process holds at a time is the recipe's affair. This is PyTorch's
# launcher, as Accelerate's has no range of machines: DDP only. Machines need names that the others resolve.
set -euo pipefail
if [ $# -lt 5 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
least=$1 most=$2 address=$3 processes=$4
shift 4
case $address in
    *:*) ;;
    *) address=$address:29400 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Without this PyTorch 2.13 lets a new group read the addresses of the processes before it.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun --nnodes "$least:$most" --nproc_per_node "$processes" --max_restarts "${RESTARTS:-3}" \
    --rdzv_backend c10d --rdzv_endpoint "$address" --rdzv_id dvae --rdzv_conf join_timeout=600 \
    -m dvae.train "$@"
