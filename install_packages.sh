#!/usr/bin/env bash
# Installs a program from the distribution's packages (Debian, Ubuntu): its name, and one or more lists of packages, of which the
# first that the distribution has is taken.
set -euo pipefail
program=$1
shift
command -v apt-get >/dev/null || { echo "error: $program was not found, and there is no apt-get to install it; install it by hand" >&2; exit 1; }
if [ "$(id -u)" = 0 ]; then root=
elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then root=sudo
else echo "error: $program was not found; it can be installed by root or through sudo only" >&2; exit 1; fi
echo "installing $program"
$root apt-get update -qq
for packages; do
  if apt-cache show "${packages%% *}" >/dev/null 2>&1; then
    $root env DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq --no-install-recommends $packages >/dev/null
    exit
  fi
done
echo "error: this distribution has none of: $*; install $program by hand" >&2
exit 1
