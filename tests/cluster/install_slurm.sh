#!/bin/sh
# Slurm and munge from the distribution, for the tests, if they are absent; without the right to, says what to install.
# The tests start daemons of their own: of the packages' services only munge's starts, Slurm's have no configuration.
set -e
packages="slurm-wlm munge"
PATH="$PATH:/usr/sbin:/sbin"
absent=
for program in munged slurmctld slurmd sbatch srun; do
    command -v "$program" >/dev/null || absent="$absent $program"
done
[ -z "$absent" ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "not found:$absent: install Slurm (slurmctld, slurmd, its commands) and munge" >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    as_root=env
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo env"
else
    echo "not found:$absent: as root, run: apt-get install $packages" >&2
    exit 1
fi
echo "installing $packages"
$as_root apt-get update -qq
$as_root DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $packages >/dev/null
