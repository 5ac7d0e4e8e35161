#!/usr/bin/env bash
# Sees to it that models exported as C can be compiled: compilers.sh here, for this machine; compilers.sh cortex, for
# Cortex-M chips, with an emulator to run it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)

need() {  # need COMMAND PACKAGE...
    local command=$1
    shift
    command -v "$command" >/dev/null || for package in "$@"; do "$here/apt_install.sh" "$package"; done
}

case ${1:-here} in
    here) need cc gcc libc6-dev ;;
    cortex)
        need arm-none-eabi-gcc gcc-arm-none-eabi libnewlib-arm-none-eabi
        need qemu-system-arm qemu-system-arm
        ;;
    *)
        echo "error: expected here or cortex, found $1." >&2
        exit 1
        ;;
esac
