#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine: bash tests/slurm/up.sh FOLDER
#
# For a machine that is thrown away (a container, a CI runner): it installs Debian's slurm-wlm and munge,
# and writes /etc/munge and /etc/slurm. FOLDER keeps the state, the logs and the process ids, one a line in
# FOLDER/pids, of what was started.
set -euo pipefail
folder=$(realpath -m "${1:?FOLDER is missing}")
mkdir -p "$folder/state" "$folder/log" /etc/munge /run/munge /var/log/munge /var/lib/munge /etc/slurm
command -v slurmctld munged > /dev/null ||
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge; } > /dev/null
[ -s /etc/munge/munge.key ] || head -c 1024 /dev/urandom > /etc/munge/munge.key
chown -R munge:munge /run/munge /var/log/munge /var/lib/munge /etc/munge
chmod 400 /etc/munge/munge.key
chmod 755 /run/munge
munge -n > /dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged --force
host=$(hostname -s)
cat > /etc/slurm/slurm.conf <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=30
MinJobAge=300
SlurmctldPort=6817
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=6911 CPUs=2 RealMemory=2000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=6912 CPUs=2 RealMemory=2000
PartitionName=p Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
echo "CgroupAutomount=no" > /etc/slurm/cgroup.conf
slurmctld -c
slurmd -N n1
slurmd -N n2
for _ in $(seq 60); do
    [ "$(sinfo -h -N -t idle 2> /dev/null | wc -l)" = 2 ] && break
    sleep 0.5
done
cat "$folder"/*.pid > "$folder/pids"
sinfo -N
