#!/usr/bin/env bash
# Makes a virtual environment with a Python that eigenmill supports: venv.sh DIRECTORY
# PYTHON=/path/to/python in the environment chooses one. A usable environment is left as it is.
set -euo pipefail

venv=$1
here=$(cd "$(dirname "$0")" && pwd)
candidates=(python3.13 python3.12 python3.11 python3)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")

# Runs it, because a name on PATH may be a shim for a version that is not there.
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {  # prefers one that can make environments already
    local candidate
    for candidate in "${candidates[@]}"; do
        if supported "$candidate" && has_venv "$candidate"; then echo "$candidate"; return; fi
    done
    for candidate in "${candidates[@]}"; do
        if supported "$candidate"; then echo "$candidate"; return; fi
    done
}

if ! { supported "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    python=$(find_python)
    if [ -z "$python" ] && [ -z "${PYTHON:-}" ]; then
        "$here/apt_install.sh" python3.13 python3.12 python3.11
        python=$(find_python)
    fi
    if [ -z "$python" ]; then
        echo "error: eigenmill needs Python 3.11, 3.12 or 3.13; tried: ${candidates[*]}." >&2
        echo "Install one, or name it: make PYTHON=/path/to/python ..." >&2
        exit 1
    fi
    if ! has_venv "$python"; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        "$here/apt_install.sh" "python$version-venv" python3-venv
    fi
    echo "Making $venv with $("$python" --version) ..."
    "$python" -m venv --clear "$venv"
fi

# --group came with pip 25.1.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
