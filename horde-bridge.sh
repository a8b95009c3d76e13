#!/usr/bin/env bash
# The one door: sets itself up, then runs `trt-worker COMMAND`. `./horde-bridge.sh --help` lists the commands,
# `./horde-bridge.sh test` checks and tests the code. Works from any directory.
set -euo pipefail

home=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
venv=$home/.venv
log=$home/logs/install.log
export ORT_DISABLE_TELEMETRY=1 # ONNX Runtime's; the packages set it as well, for those who come by another door

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

# Whether what is installed is what pyproject.toml and constraints.txt ask for, in this folder.
is_installed() {
    local stamp
    for stamp in "$venv/installed$1" "$venv/installed[dev]"; do # the development set holds everything
        [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]] && return
    done
    return 1
}

# Why the installation failed, from its log, in one line.
reason() {
    if grep -q 'ensurepip is not available' "$log"; then
        printf "Python's venv module is missing; install it (Debian, Ubuntu: apt install python3-venv)"
    else
        { grep -i '^error' "$log" || grep -v -e '^\[notice\]' -e '^[[:space:]]*$' "$log" || true; } | tail -n 1
    fi
}

# Installs when what is asked for has changed since the last time, and not otherwise. The stamps of earlier
# installations go first: one that is interrupted leaves none, and the next run starts over.
set_up() {
    local extras=$1 wanted python renew=()
    wanted=$({ cat -- "$home/pyproject.toml" "$home/constraints.txt"; printf '%s' "$home"; } | sha256sum)
    is_installed "$extras" && return
    python=$(find_python) || exit 1
    mkdir -p -- "$home/logs"
    exec 9>"$home/logs/install.lock"
    if ! flock -n 9; then
        printf 'horde-bridge: waiting for another installation in %s\n' "$venv" >&2
        flock 9
        if is_installed "$extras"; then
            exec 9>&-
            return
        fi
    fi
    printf 'horde-bridge: setting up in %s (a few minutes the first time; details in %s)\n' "$venv" "$log" >&2
    compgen -G "$venv/installed*" >/dev/null || renew=(--clear)
    rm -f -- "$venv/installed" "$venv/installed[dev]"
    exec 8>&2 # where the trap still finds the terminal while all output goes to the log
    trap 'fail "the installation was interrupted; the next run starts it over" 2>&8' INT TERM
    {
        "$python" -m venv ${renew[@]+"${renew[@]}"} "$venv" &&
            "$venv/bin/python" -m pip install --disable-pip-version-check -c "$home/constraints.txt" -e "$home$extras"
    } >"$log" 2>&1 9>&- || fail "the installation failed: $(reason) (all of it: $log)"
    trap - INT TERM
    printf '%s' "$wanted" >"$venv/installed$extras"
    exec 8>&- 9>&-
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
exec "$venv/bin/python" -P -m trt_worker "$@" # -P: nothing is imported from the directory this is called from
