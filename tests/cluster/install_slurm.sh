#!/bin/sh
# Slurm and munge from the distribution, for the tests; without the right to install it says what to install.
set -e
packages="slurm-wlm munge"
if ! command -v apt-get >/dev/null; then
    echo "Slurm is not installed: install slurmctld, slurmd, Slurm's client programs and munge" >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    as_root=env
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo env"
else
    echo "Slurm is not installed: run as root: apt-get install $packages" >&2
    exit 1
fi
$as_root apt-get update -qq
$as_root DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $packages
