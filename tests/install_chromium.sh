#!/bin/sh
# Installs Chromium, which the tests of pages drive; does nothing where there is one.
set -eu

fail() {
    echo "$1; install Chromium yourself, name one with CHROMIUM=PATH, or run: .venv/bin/playwright install chromium" >&2
    exit 1
}

there() {
    command -v chromium || command -v chromium-browser
} >/dev/null

if [ -n "${CHROMIUM:-}" ]; then
    command -v "$CHROMIUM" >/dev/null || fail "CHROMIUM is $CHROMIUM, which is no program"
    exit 0
fi
if there; then exit 0; fi
command -v apt-get >/dev/null || fail "no Chromium is here, and no apt-get that could install it"
if [ "$(id -u)" -eq 0 ]; then
    root=""
elif command -v sudo >/dev/null; then
    root="sudo"
else
    fail "no Chromium is here, and only root may install it"
fi
# Without a network it is known after seconds, not minutes.
brief="-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"
# shellcheck disable=SC2086 # several words, or none
$root apt-get update -q $brief || fail "the list of packages could not be read"
# shellcheck disable=SC2086
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $brief chromium fonts-nanum ||
    fail "the package chromium could not be installed"
there || fail "the package chromium brought no command of that name"
