#!/bin/sh
# The user must exist before the files are unpacked: some belong to its group.
set -e
if ! getent group provisiond >/dev/null; then
	groupadd --system provisiond
fi
if ! getent passwd provisiond >/dev/null; then
	useradd --system --gid provisiond --home-dir /var/lib/provisiond --no-create-home \
		--shell /usr/sbin/nologin --comment "Intel AMT provisioning server" provisiond
fi
