#!/bin/sh
# Prints the folder with onnxruntime's C headers, which it unpacks from Debian's package where they are not yet.
#
# The package is of a newer release of Debian than the machine may have, so apt is given a source list of its own: the
# machine's, with that release's name. Nothing is installed, and no root rights are needed.
set -eu

SUITE=trixie
CACHE="${EETOOLKIT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/eetoolkit}/onnxruntime-headers"

if [ -n "${ONNXRUNTIME_HEADERS:-}" ]; then
    echo "$ONNXRUNTIME_HEADERS"
    exit 0
fi
if [ ! -f "$CACHE/onnxruntime_c_api.h" ]; then
    for tool in apt-get dpkg; do
        command -v "$tool" >/dev/null || {
            echo "headers.sh: there is no $tool; set ONNXRUNTIME_HEADERS to the folder with onnxruntime_c_api.h" >&2
            exit 1
        }
    done
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
    mkdir -p "$WORK/lists/partial" "$WORK/cache/archives/partial" "$WORK/sources"
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.*; do
        [ -f "$list" ] || continue
        sed "s/$(. /etc/os-release && echo "$VERSION_CODENAME")/$SUITE/g" "$list" >"$WORK/sources/$(basename "$list")"
    done
    cat >"$WORK/apt.conf" <<END
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$WORK/sources";
Dir::State::lists "$WORK/lists";
Dir::Cache "$WORK/cache";
APT::Sandbox::User "";
Debug::NoLocking "true";
END
    cd "$WORK"
    apt-get -qq -c "$WORK/apt.conf" update >&2
    apt-get -qq -c "$WORK/apt.conf" download libonnxruntime-dev >&2
    dpkg -x libonnxruntime-dev_*.deb unpacked
    mkdir -p "$CACHE"
    cp unpacked/usr/include/onnxruntime/onnxruntime_c_api.h "$CACHE/new.$$"
    mv "$CACHE/new.$$" "$CACHE/onnxruntime_c_api.h" # whole, whoever else looks
fi
echo "$CACHE"
