#!/bin/sh
# Prints an apt source for the backports of this Debian release, at the place where this machine gets the release itself from.
set -eu

. /etc/os-release
release=$VERSION_CODENAME

for file in /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] || continue
    # One stanza a paragraph; the first that has the release.
    stanza=$(awk -v RS= -v release="$release" '$0 ~ "\nSuites:[^\n]*[ ]" release "([ \n]|$)" { print; exit }' "$file")
    if [ -n "$stanza" ]; then
        echo "$stanza" | sed -e '/^#/d' -e "s/^Suites:.*/Suites: $release-backports/"
        exit
    fi
done

# The older format, in which apt reads the one line as well.
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -f "$file" ] || continue
    line=$(awk -v release="$release" '$1 == "deb" && $0 ~ " " release " " { print; exit }' "$file")
    if [ -n "$line" ]; then
        uri=$(echo "$line" | sed 's/\[[^]]*\] *//' | awk '{ print $2 }')
        printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\n' "$uri" "$release"
        printf 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n'
        exit
    fi
done

echo "none of apt's sources has the Debian release $release: add it to /etc/apt/sources.list.d" >&2
exit 1
