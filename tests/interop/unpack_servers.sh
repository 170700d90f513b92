#!/usr/bin/env bash
# Unpack the mail servers of Debian 12 that tests/interop/peers.py runs into a directory.  Nothing is installed, because
# most of them exclude each other, and nothing is started.  The directory is MAILAUTH_SERVERS, by default
# mailauth-servers in the cache of the user.  Run it as root: only root can run the servers.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

target=${MAILAUTH_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/mailauth-servers}
packages=(
    postfix
    exim4-base exim4-daemon-heavy
    sendmail-base sendmail-bin sendmail-cf m4
    opensmtpd
    courier-base courier-mta courier-pop courier-authdaemon courier-authlib courier-authlib-userdb
    cyrus-common cyrus-imapd cyrus-pop3d
    dovecot-core dovecot-pop3d
    mailutils-pop3d popa3d solid-pop3d
    libsasl2-modules libsasl2-modules-db sasl2-bin
)

if [[ -e $target/.unpacked && $(<"$target/.unpacked") == "${packages[*]}" ]]; then
    exit 0
fi
rm -rf "$target"
mkdir -p "$target/archives/partial" "$target"/usr/{bin,sbin,lib}
ln -s usr/bin usr/sbin usr/lib "$target" # some packages still have /lib and /sbin

cd "$target/archives"
apt-get update -qq
apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}"
# The libraries that they need and the system does not have; the first of alternatives.  One program that no test runs
# needs libclamav, which is large.
mapfile -t libraries < <(for archive in *.deb; do
    dpkg-deb -f "$archive" Depends
done | tr , '\n' | sed -n '/libclamav/d; s/^ *\(lib[^ |:]*\).*/\1/p' | sort -u)
apt-get install -qq -y --download-only --no-install-recommends --no-upgrade --no-remove \
    -o Dir::Cache::Archives="$target/archives" -o APT::Sandbox::User=root "${libraries[@]}" </dev/null >/dev/null
for archive in *.deb; do
    dpkg-deb --fsys-tarfile "$archive" | tar -x -C "$target" --keep-directory-symlink \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*'
done
rm -rf "$target/archives"
echo "${packages[*]}" >"$target/.unpacked"
