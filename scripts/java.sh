#!/usr/bin/env bash
# Sees to it that the Java which Spark will start is 17 or newer.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)

java_version() {  # the major version of JAVA_HOME's java, else of the one on PATH; 0 if there is none
    local java=${JAVA_HOME:+$JAVA_HOME/bin/}java version
    version=$("$java" -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p' | head -n 1) || true
    echo "${version:-0}"
}

[ "$(java_version)" -lt 17 ] || exit 0
"$here/apt_install.sh" openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless
if [ "$(java_version)" -lt 17 ]; then
    echo "error: Spark needs Java 17 or newer, and JAVA_HOME or PATH still leads to an older one." >&2
    echo "Unset JAVA_HOME, or let it name the new Java (see /usr/lib/jvm), then run make again." >&2
    exit 1
fi
