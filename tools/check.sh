#!/bin/sh
# Checks that this machine has what the build needs, and tells all that is missing at once.
#
# Plain sh, so that it can also speak where Python is missing or old. It installs nothing; only rustup, where it is
# there, may fetch the toolchain that rust-toolchain.toml names. Exit 0: ready, 2: something is missing.

cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
compiler=${CC:-cc}
pinned=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
missing=0

if command -v apt-get >/dev/null; then
    debian=yes
else
    debian=no
fi

# missing WHAT DEBIAN-COMMAND OTHER-COMMAND
missing() {
    [ "$missing" -eq 0 ] && echo "tidegate cannot be built yet; this is missing:" >&2
    missing=$((missing + 1))
    if [ "$debian" = yes ]; then how=$2; else how=$3; fi
    printf '\n  %s\n    %s\n' "$1" "$how" >&2
}

ask_python() {
    "$python" -c "$1" 2>/dev/null
}

if ! command -v "$python" >/dev/null || ! ask_python 'pass'; then
    missing "Python 3.11 or newer (\`$python\` is not here)" \
        "sudo apt-get install python3 python3-venv" \
        "install Python from https://www.python.org/downloads/, or name yours: make demo PYTHON=/path/to/python3"
elif ! ask_python 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    version=$(ask_python 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
    newer=
    for candidate in python3.11 python3.12 python3.13 python3.14; do
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then newer=$candidate; fi
    done
    if [ -n "$newer" ]; then
        missing "Python 3.11 or newer (\`$python\` is $version, but $newer is here)" \
            "make demo PYTHON=$newer" "make demo PYTHON=$newer"
    else
        missing "Python 3.11 or newer (\`$python\` is $version)" \
            "sudo apt-get install python3 python3-venv    (Debian 12 or newer, Ubuntu 24.04 or newer)" \
            "install Python from https://www.python.org/downloads/, then: make demo PYTHON=/path/to/python3"
    fi
elif ! ask_python 'import ensurepip, venv'; then
    version=$(ask_python 'import sys; print("%d.%d" % sys.version_info[:2])')
    missing "the module venv of Python $version" \
        "sudo apt-get install python$version-venv" \
        "install the package of your system that holds Python's modules venv and ensurepip"
fi

get_rustup="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal && . \"\$HOME/.cargo/env\""
[ "$debian" = yes ] && ! command -v curl >/dev/null && get_rustup="sudo apt-get install curl && $get_rustup"
if command -v rustup >/dev/null; then
    get_rust="unset RUSTUP_TOOLCHAIN; rustup toolchain install $pinned --profile minimal -c clippy -c rustfmt"
elif [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/rustup" ]; then
    get_rust="export PATH=\"${CARGO_HOME:-$HOME/.cargo}/bin:\$PATH\"    (rustup is installed, but not in PATH)"
else
    get_rust=$get_rustup
fi
wrong=
for tool in cargo rustc; do
    if ! command -v "$tool" >/dev/null; then
        wrong="$wrong, \`$tool\` is not in PATH"
    else
        # With rustup this line fetches the pinned toolchain where it is not there yet.
        version=$("$tool" --version | cut -d' ' -f2)
        [ "$version" = "$pinned" ] || wrong="$wrong, \`$(command -v "$tool")\` is ${version:-not working}"
    fi
done
[ -z "$wrong" ] || missing "Rust $pinned, as rust-toolchain.toml names it (${wrong#, })" "$get_rust" "$get_rust"

# Links as well: a compiler without the C library's headers is no use.
program=$(mktemp)
trap 'rm -f "$program"' EXIT
if ! printf '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' |
    "$compiler" -x c - -o "$program" 2>/dev/null; then
    missing "a C compiler that can build a program (\`$compiler\`)" \
        "sudo apt-get install build-essential" \
        "install gcc or clang with the headers of the C library, or name yours: make demo CC=/path/to/cc"
fi

if [ "$missing" -gt 0 ]; then
    printf '\nNothing has been built. Run the lines above, then the same command again.\n' >&2
    exit 2
fi
