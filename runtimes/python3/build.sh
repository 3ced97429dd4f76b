#!/bin/sh
# Builds the image `python3`: Debian 12 with Python 3.11, FastAPI and compiled bytecode, as squashfs.
#
#   build.sh OUTPUT.squashfs PIP
#
# PIP is the command that installs Python packages. Debian's packages come from the sources of the machine it runs on, which
# must be Debian 12. The same packages give the same bytes: every time is fixed, and squashfs files are written in order.
set -eu

output=$(realpath "$1")
shift
here=$(dirname "$(realpath "$0")")
export SOURCE_DATE_EPOCH=1700000000
export PYTHONHASHSEED=0

. /etc/os-release
if [ "${VERSION_CODENAME:-}" != bookworm ]; then
    echo "build.sh: the image is made of Debian 12 (bookworm) packages, this machine is '${PRETTY_NAME:-unknown}'" >&2
    exit 1
fi
for sources in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    [ -s "$sources" ] && break
done

work=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

mmdebstrap --quiet --mode=root --variant=minbase \
    --include=python3-minimal,python3,libpython3-stdlib,ca-certificates,tzdata \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$root" "$sources"

# Installed like Debian's own packages, so that a program's packages in /opt/packages come first.
"$@" install --quiet --no-compile --no-deps --require-hashes --only-binary :all: \
    --implementation cp --python-version 3.11 --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --target "$root/usr/lib/python3/dist-packages" --upgrade -r "$here/requirements.txt"

install -D -m 644 "$here/preload.py" "$root/usr/lib/aleph/preload.py"

# Bytecode whose freshness is not checked: half the start time of a program (see runtimes/README.md).
chroot "$root" python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.11 ||
    true # A few test files of the standard library are not valid Python on purpose.

# What differs from build to build or machine to machine, and what the sandbox brings itself.
rm -rf "$root"/var/cache/* "$root"/var/log/* "$root"/var/lib/apt/lists/* "$root"/tmp/* "$root"/run/* "$root"/boot
rm -f "$root"/etc/machine-id "$root"/etc/resolv.conf "$root"/etc/hostname "$root"/var/lib/dbus/machine-id
rm -f "$root"/usr/lib/python3/dist-packages/bin/* 2>/dev/null || true
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$root/etc/hosts"
mkdir -p "$root/opt/code" "$root/opt/packages" "$root/opt/aleph"

epoch=$SOURCE_DATE_EPOCH
unset SOURCE_DATE_EPOCH # mksquashfs wants either the variable or the options.
mksquashfs "$root" "$work/image" -quiet -no-progress -noappend -no-xattrs -comp zstd -Xcompression-level 3 -b 128K \
    -mkfs-time "$epoch" -all-time "$epoch"
mv "$work/image" "$output"
