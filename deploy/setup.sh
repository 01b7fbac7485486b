# shellcheck shell=bash
# What a bare Debian or Ubuntu lacks, the virtual environment, the pinned packages and the firmware core for this
# machine. Sourced by deploy/demo and deploy/test, which then call `setup` or `setup --with-tests`.
#
# Every step looks first and does nothing when it finds its work done. System packages are installed with apt by root
# or through sudo; without either the exact command to run is printed. Nothing else outside the project is touched.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
PYTHON_LEAST=3.11
PYTHON="" # the interpreter found by find_python

say() { printf '%s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# step TITLE COMMAND...: run COMMAND, then print one line with what it put into DONE and how long it took.
step() {
    local title=$1 started=$EPOCHREALTIME ended
    shift
    DONE=ok
    "$@"
    ended=$EPOCHREALTIME
    printf '  %-18s %s (%s s)\n' "$title" "$DONE" "$(seconds "$started" "$ended")"
}

seconds() { awk -v a="${1/,/.}" -v b="${2/,/.}" 'BEGIN { printf "%.1f", b - a }'; }

is_python_usable() {
    "$1" -c "import sys; sys.exit(sys.version_info[:2] < (${PYTHON_LEAST/./, }))" >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in ${FLEET_PYTHON:+"$FLEET_PYTHON"} python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 && is_python_usable "$candidate"; then
            PYTHON=$(command -v "$candidate")
            return 0
        fi
    done
    return 1
}

has_program() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
# Only the compiler knows where it looks for headers.
has_header() { printf '#include <%s>\n' "$1" | gcc -E -x c - >/dev/null 2>&1; }
has_python_venv() { "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; }
has_python_headers() {
    "$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
        >/dev/null 2>&1
}
has_chromium() { has_program chromium || has_program chromium-browser || has_program google-chrome; }
has_dejavu() { [ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ]; }
has_fuzzer() {
    printf 'int LLVMFuzzerTestOneInput(const char *p, long n) { return p == 0 && n == 0; }\n' |
        clang -x c - -fsanitize=fuzzer,address -o /dev/null >/dev/null 2>&1
}
has_picolibc() { # the compiler answers with the bare name when it does not find the file
    [ "$(riscv64-unknown-elf-gcc --print-file-name=picolibc.specs 2>/dev/null)" != picolibc.specs ]
}

# Debian names a second Python's parts after its version; the distribution's own answers to the plain name too.
python_package() {
    local own
    own=$("$PYTHON" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    if [ -x /usr/bin/python3 ] && is_python_usable /usr/bin/python3; then echo "python3-$1"; else echo "$own-$1"; fi
}

# Fill MISSING with the Debian packages this machine lacks.
list_missing() {
    MISSING=()
    if find_python; then
        has_python_venv || MISSING+=("$(python_package venv)")
        has_python_headers || MISSING+=("$(python_package dev)")
    else
        MISSING+=("$(distribution_python)" "$(distribution_python)-venv" "$(distribution_python)-dev")
    fi
    has_program gcc || MISSING+=(gcc)
    if ! has_program gcc || ! has_header stdio.h; then MISSING+=(libc6-dev); fi
    if ! has_program gcc || ! has_header sodium.h; then MISSING+=(libsodium-dev); fi
    has_program mosquitto || MISSING+=(mosquitto)
    has_program redis-server || MISSING+=(redis-server)
    has_program unshare || MISSING+=(util-linux)
    if [ "$1" = with-tests ]; then
        has_chromium || MISSING+=(chromium)
        has_program clang-format || MISSING+=(clang-format)
        has_program curl || MISSING+=(curl)
        has_dejavu || MISSING+=(fonts-dejavu-core)
        # the firmware's proofs: fuzzers, the engine's C++, and the core on the ESP32-C3's instruction set
        has_program g++ || MISSING+=(g++)
        [ -d /usr/include/gemmlowp ] || MISSING+=(libgemmlowp-dev)
        [ -n "$(find /usr/include/newlib/c++ -name vector -print -quit 2>/dev/null)" ] || MISSING+=(libstdc++-arm-none-eabi-dev)
        has_program clang || MISSING+=(clang)
        if ! has_program clang || ! has_fuzzer; then MISSING+=(libclang-rt-dev); fi
        has_program riscv64-unknown-elf-gcc || MISSING+=(gcc-riscv64-unknown-elf)
        if ! has_program riscv64-unknown-elf-gcc || ! has_picolibc; then MISSING+=(picolibc-riscv64-unknown-elf); fi
        has_program qemu-system-riscv32 || MISSING+=(qemu-system-misc)
    fi
}

# The package of a Python that is new enough, where /usr/bin/python3 is missing or too old.
distribution_python() {
    if [ -x /usr/bin/python3 ]; then echo python3.11; else echo python3; fi
}

install_system_packages() {
    local as_root=()
    list_missing "$1"
    if [ ${#MISSING[@]} -eq 0 ]; then
        DONE="nothing missing"
        return
    fi
    local command="apt-get install --no-install-recommends ${MISSING[*]}"
    has_program apt-get || die "these (Debian names) are missing, install them with your package manager: ${MISSING[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        has_program sudo || die "run this as root, then start again:  $command"
        sudo -n true 2>/dev/null || [ -t 0 ] || die "run this, then start again:  sudo $command"
        as_root=(sudo)
    fi
    say "  installing ${MISSING[*]}"
    apt_install "${as_root[@]}" || {
        "${as_root[@]}" apt-get update -qq || die "apt-get update failed; run it by hand to see why"
        apt_install "${as_root[@]}" || die "apt-get failed (above); run by hand:  $command"
    }
    local wanted=("${MISSING[@]}")
    list_missing "$1"
    [ ${#MISSING[@]} -eq 0 ] || die "still missing after apt-get installed ${wanted[*]}: ${MISSING[*]}"
    DONE="installed ${wanted[*]}"
}

# The first try uses the package lists that are there: on a fresh image there are none and it fails at once.
# A service that a package starts must not inherit the lock, hence 9<&-.
apt_install() {
    "$@" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "${MISSING[@]}" >"$LOG" 2>&1 9<&- || { show_log_unless_lists_are_old; return 1; }
}

show_log_unless_lists_are_old() {
    grep -qE 'Unable to locate|no installation candidate|Unable to fetch|Failed to fetch' "$LOG" || tail -n 15 "$LOG" >&2
}

make_venv() {
    if [ -x "$VENV/bin/python" ] && is_python_usable "$VENV/bin/python" &&
        "$VENV/bin/python" -c 'import pip' >/dev/null 2>&1; then
        DONE=$("$VENV/bin/python" -V)
        return
    fi
    "$PYTHON" -m venv --clear "$VENV" >"$LOG" 2>&1 || { cat "$LOG" >&2; die "$PYTHON cannot make $VENV"; }
    DONE="made with $("$VENV/bin/python" -V)"
}

# install_pins FILE...: install the last FILE; a stamp of all of them says next time that nothing changed.
install_pins() {
    local stamp="$VENV/.pins" wanted last
    last="$ROOT/deploy/${!#}"
    wanted=$(cd "$ROOT/deploy" && sha256sum "$@")
    # The development pins contain the others: their stamp serves both.
    if [ -e "$stamp" ] && ! grep -vxFf "$stamp" <<<"$wanted" >/dev/null; then
        DONE="as pinned"
        return
    fi
    say "  installing the packages of deploy/${!#}"
    rm -f "$stamp"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes \
        -r "$last" >"$LOG" 2>&1 || { tail -n 20 "$LOG" >&2; die "pip failed (above)"; }
    printf '%s\n' "$wanted" >"$stamp"
    DONE=installed
}

build_firmware() {
    (cd "$ROOT" && "$VENV/bin/python" -m device_firmware.host.build) >"$LOG" 2>&1 || {
        tail -n 30 "$LOG" >&2
        die "the firmware core did not build (above)"
    }
}

note_platform() {
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || say "  note: tflite-micro has wheels for x86-64 Linux only;" \
        "inspecting models and virtual devices do not work here, everything else does"
}

# setup [--with-tests]
setup() {
    local kind=demo pins=(requirements.txt)
    if [ "${1:-}" = --with-tests ]; then
        kind=with-tests
        pins=(requirements.txt requirements-dev.txt)
    fi
    umask 022
    exec 9<"$ROOT" # two set-ups in one checkout take turns
    flock 9
    LOG=$(mktemp)
    # shellcheck disable=SC2064 # the name of now
    trap "rm -f '$LOG'" EXIT
    say "Setting up in $ROOT"
    step "system packages" install_system_packages "$kind"
    find_python || die "no Python $PYTHON_LEAST or newer"
    step "virtual env" make_venv
    step "Python packages" install_pins "${pins[@]}"
    step "firmware core" build_firmware
    note_platform
    rm -f "$LOG"
    trap - EXIT
    exec 9<&-
}
