#!/usr/bin/env bash
# One machine's part of a run on several; start it on each of them, by hand or by ssh:
#
#     bash launch/multi_node.sh RANK MACHINES ADDRESS PROCESSES RECIPE [key=value …]
#
# RANK: 0 on the first machine, then 1, 2 …      MACHINES: how many there are
# ADDRESS: of the first machine, HOST or HOST:PORT (port 29500 unless given)
# PROCESSES: of each machine, one for each of its GPUs; MACHINES times this is the world
# LAUNCH_FILE=launch/fsdp2.yaml takes another engine (launch/multi_node.yaml unless given).
# RESTARTS=3: so often the processes are started again when one is lost; the run goes on from its last
# checkpoint. Give it to all machines alike. Where machines come and go: launch/elastic.sh.
set -euo pipefail
if [ $# -lt 5 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
rank=$1 machines=$2 address=$3 processes=$4
shift 4
for number in "$rank" "$machines" "$processes"; do
    case $number in
        '' | *[!0-9]*) echo "error: '$number' is not a number: RANK, MACHINES and PROCESSES are" >&2; exit 2 ;;
    esac
done
if [ "$rank" -ge "$machines" ] || [ "$processes" -lt 1 ]; then
    echo "error: RANK=$rank must be below MACHINES=$machines, and PROCESSES=$processes at least 1" >&2
    exit 2
fi
case $address in
    *:*) host=${address%:*} port=${address##*:} ;;
    *) host=$address port=29500 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec accelerate launch --config_file "${LAUNCH_FILE:-launch/multi_node.yaml}" \
    --num_machines "$machines" --machine_rank "$rank" --num_processes "$((machines * processes))" \
    --main_process_ip "$host" --main_process_port "$port" --max_restarts "${RESTARTS:-0}" \
    -m dvae.train "$@"
