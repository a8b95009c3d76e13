#!/usr/bin/env bash
# The one door: sets itself up, then runs `trt-worker COMMAND`. `./horde-bridge.sh --help` lists the commands,
# `./horde-bridge.sh test` checks and tests the code. Works from any directory.
set -euo pipefail

# Python reads the path of this folder in the encoding of the locale: in C and POSIX an umlaut would be none.
[[ $(locale charmap 2>/dev/null) == UTF-8 ]] || export LC_ALL=C.UTF-8

home=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
venv=$home/.venv
log=$home/logs/install.log

fail() { printf 'horde-bridge: %s\n' "$1" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -P -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
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

# Why the installation failed, in one line: what the log shows to be the cause, else the last error in it.
reason() {
    local free
    free=$(df -Pm -- "$home" 2>/dev/null | awk 'NR == 2 { print $4 }')
    if grep -q 'No space left on device' "$log" 2>/dev/null || { [[ ${free:-} =~ ^[0-9]+$ ]] && ((free < 200)); }; then
        printf 'the disk is full: %s MB are free in %s, and the installation takes about 6,000' "${free:-?}" "$home"
    elif grep -q 'ensurepip is not available' "$log"; then
        printf "Python's venv module is missing; install it (Debian, Ubuntu: apt install python3-venv)"
    elif grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeoutError|Failed to establish a new connection|Temporary failure in name resolution|Network is unreachable|ProxyError|ReadTimeoutError' "$log"; then
        printf 'the package index cannot be reached; check the network, or set HTTPS_PROXY where a proxy is needed'
    else
        { grep -E '^[[:space:]]*([A-Za-z_.]*Error|ERROR|error): ' "$log" |
            grep -vE 'subprocess-exited-with-error|metadata-generation-failed|failed-wheel-build' ||
            grep -v -e '^\[notice\]' -e '^[[:space:]]*$' "$log" ||
            printf 'nothing was written down'; } | sed 's/^[[:space:]]*//' | tail -n 1
    fi
}

# Installs when what is asked for has changed since the last time, and not otherwise. The stamps of earlier
# installations go first: one that is interrupted leaves none, and the next run starts over.
set_up() {
    local extras=$1 wanted python renew=()
    if [[ $home == *:* ]]; then
        fail "the folder $home has a colon in its name, which Python's environments cannot have. Move it to one without."
    fi
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
        # -P: nothing is imported from the directory that this is called from; pip would read brackets in the path of
        # this folder as extras, so that it is called in it
        "$python" -P -m venv ${renew[@]+"${renew[@]}"} "$venv" &&
            (cd -- "$home" &&
                "$venv/bin/python" -P -m pip install --disable-pip-version-check -c constraints.txt -e ".$extras")
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
