#!/bin/sh
# Makes sure that there is a browser for the tests of the pages: installs Debian's where that can be done.
# Never fails: without a browser those tests are skipped, and say why.
set -u
for name in ${CHROMIUM:-} chromium chromium-browser google-chrome google-chrome-stable; do
	command -v "$name" >/dev/null 2>&1 && exit 0
done

apt() {
	DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -qq -y "$@" </dev/null >/dev/null 2>&1
}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "Installing Debian's chromium for the tests of the pages, once"
	packages="chromium fonts-dejavu-core"
	# Downloaded first: what is cut off while it downloads leaves no package half installed.
	apt update && apt install --no-install-recommends --download-only $packages &&
		apt install --no-install-recommends $packages
	command -v chromium >/dev/null 2>&1 && exit 0
fi
echo "notice: no chromium, so the tests of the pages in a browser are skipped." \
	"Install it (Debian: apt-get install chromium), or name one: CHROMIUM=/path/to/it" >&2
