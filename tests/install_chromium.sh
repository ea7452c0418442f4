#!/bin/sh
# Install Chromium for the page tests, unless it is installed already.
set -eu

fail() {
    echo "$1; install Chromium manually, set CHROMIUM=PATH, or run: .venv/bin/playwright install chromium" >&2
    exit 1
}

has_chromium() {
    command -v chromium || command -v chromium-browser
} >/dev/null

if [ -n "${CHROMIUM:-}" ]; then
    command -v "$CHROMIUM" >/dev/null || fail "CHROMIUM is $CHROMIUM, which is not a program"
    exit 0
fi
if has_chromium; then exit 0; fi
command -v apt-get >/dev/null || fail "Chromium is not installed, and there is no apt-get to install it with"
if [ "$(id -u)" -eq 0 ]; then
    root=""
elif command -v sudo >/dev/null; then
    root="sudo"
else
    fail "Chromium is not installed, and installing it requires root"
fi
# Fail after seconds, not minutes, without a network.
timeouts="-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"
# shellcheck disable=SC2086 # zero or more words
$root apt-get update -q $timeouts || fail "the package list could not be downloaded"
# shellcheck disable=SC2086
$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $timeouts chromium fonts-nanum ||
    fail "the package chromium could not be installed"
has_chromium || fail "the package chromium contains no command of that name"
