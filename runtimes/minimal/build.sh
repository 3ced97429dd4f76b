#!/bin/sh
# Builds the image `minimal`: nothing but the directories and files that a static binary may look for, as squashfs.
#
#   build.sh OUTPUT.squashfs
set -eu

output=$(realpath "$1")
work=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root

mkdir -p "$root/dev" "$root/proc" "$root/sys" "$root/run" "$root/root" "$root/var/tmp" "$root/etc/ssl/certs" \
    "$root/opt/code" "$root/opt/aleph" "$root/tmp"
chmod 1777 "$root/tmp" "$root/var/tmp"
chmod 700 "$root/root"
printf 'root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$root/etc/hosts"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
# The certificate authorities that Debian trusts, for programs with `--internet`.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
chmod 644 "$root"/etc/passwd "$root"/etc/group "$root"/etc/hosts "$root"/etc/nsswitch.conf "$root"/etc/ssl/certs/*

mksquashfs "$root" "$work/image" -quiet -no-progress -noappend -no-xattrs -all-root -comp zstd -Xcompression-level 3 \
    -mkfs-time 1700000000 -all-time 1700000000
mv "$work/image" "$output"
