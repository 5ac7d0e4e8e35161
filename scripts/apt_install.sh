#!/usr/bin/env bash
# Installs the first of the named Debian/Ubuntu packages that exists: apt_install.sh PACKAGE...
set -euo pipefail

if ! command -v apt-get >/dev/null; then
    echo "error: one of these system packages is needed, and there is no apt-get here: $*." >&2
    echo "Install it with this system's package manager, then run make again." >&2
    exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "error: one of these system packages is needed, and there is no sudo to install it: $*." >&2
        echo "Have an administrator install it, then run make again." >&2
        exit 1
    fi
    as_root=(sudo)
fi

# An out-of-date list can still name a package that installs, so a failed update is not the end.
"${as_root[@]}" apt-get update -qq >&2 || echo "warning: apt-get update failed; going on with the old lists" >&2
for package in "$@"; do
    if apt-cache show --no-all-versions "$package" >/dev/null 2>&1; then
        echo "Installing $package ..." >&2
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$package" >&2
        exit 0
    fi
done
echo "error: apt-get knows none of these packages: $*." >&2
exit 1
