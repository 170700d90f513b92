#!/usr/bin/env bash
# Install the peers of the benchmarks that pip cannot install: go-smtp, nodemailer's smtp-server, smtp-sink of Postfix,
# and Dovecot.  Needs Debian 12 and root for the packages; what is missing afterwards is left out of the tables.
# The programs are put into .bench at the top of the checkout, and a virtual environment for each other Python.
set -uo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
target=$PWD/.bench
mkdir -p "$target"

packages=(golang-go golang-github-emersion-go-smtp-dev golang-github-emersion-go-sasl-dev nodejs npm postfix dovecot-core dovecot-pop3d)
commands=(go node npm smtp-sink dovecot)
missing=0
for command in "${commands[@]}"; do
    PATH="$PATH:/usr/sbin" command -v "$command" >/dev/null || missing=1
done
[[ -d /usr/share/gocode/src/github.com/emersion/go-smtp ]] || missing=1
if ((missing)) && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    # Without this file, Debian would start Postfix and Dovecot with the system (invoke-rc.d(8)).
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
    apt-get update -qq
    for package in "${packages[@]}"; do # one by one: a Node.js from elsewhere excludes Debian's npm
        apt-get install -y -qq --no-install-recommends --no-remove "$package" </dev/null >/dev/null ||
            echo "not installed: $package"
    done
fi

# With the sources of Debian, the build needs no network.  Elsewhere, go gets the module that go.mod names.
sources=/usr/share/gocode
if [[ -d $sources/src/github.com/emersion/go-smtp ]]; then
    export GO111MODULE=off GOPATH=$sources
fi
(cd benchmarks/peers/go-smtp && go build -o "$target/go-smtp" main.go) || echo "not built: go-smtp"

cp benchmarks/peers/nodemailer/* "$target/"
npm install --prefix "$target" --silent --no-audit --no-fund >/dev/null || echo "not installed: smtp-server of nodemailer"

# The interpreters of pyenv work only if this variable lists them.
if command -v pyenv >/dev/null; then
    PYENV_VERSION=$(pyenv versions --bare | paste -sd:)
    export PYENV_VERSION
fi
for version in 3.12 3.13 3.14; do
    python=$(command -v "python$version") && "$python" -c '' 2>/dev/null || continue
    [[ -x $target/python$version/bin/python ]] || "$python" -m venv "$target/python$version"
    "$target/python$version/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[all]' ||
        rm -rf "$target/python$version"
done
ls "$target"
