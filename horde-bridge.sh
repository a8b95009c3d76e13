#!/usr/bin/env bash
# The one door: sets itself up, then runs `trt-worker COMMAND`. `./horde-bridge.sh --help` lists the commands,
# `./horde-bridge.sh test` checks and tests the code. Works from any directory.
set -euo pipefail

home=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
venv=$home/.venv
log=$home/logs/install.log

fail() { printf 'horde-bridge: %s\n' "$1" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail 'Python 3.11 or newer is needed and was not found. Install it (Debian, Ubuntu: apt install python3 python3-venv), or set PYTHON to its path.'
}

# Installs when pyproject.toml or constraints.txt changed since the last time, and not otherwise.
set_up() {
    local extras=$1 stamp=$venv/installed$1 wanted python
    wanted=$(cat -- "$home/pyproject.toml" "$home/constraints.txt" | sha256sum)
    local done
    for done in "$stamp" "$venv/installed[dev]"; do # the development set holds everything
        [[ -f $done && $(<"$done") == "$wanted" ]] && return
    done
    python=$(find_python) || exit 1
    mkdir -p -- "$home/logs"
    printf 'horde-bridge: setting up in %s (a few minutes the first time; details in %s)\n' "$venv" "$log" >&2
    {
        "$python" -m venv "$venv" &&
            "$venv/bin/python" -m pip install --disable-pip-version-check -c "$home/constraints.txt" -e "$home$extras"
    } >"$log" 2>&1 || fail "the installation failed: $(grep -v '^\[notice\]' "$log" | tail -n 1) (all of it: $log)"
    printf '%s' "$wanted" >"$stamp"
}

if [[ ${1:-} == test ]]; then
    shift
    set_up '[dev]'
    cd -- "$home"
    if (($#)); then
        exec "$venv/bin/python" -m pytest "$@"
    fi
    "$venv/bin/poe" check
    exec "$venv/bin/poe" test
fi

set_up ''
export TRT_WORKER_HOME=$home # where bridgeData.yaml, models and logs are, whatever directory this is called from
exec "$venv/bin/trt-worker" "$@"
