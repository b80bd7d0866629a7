#!/bin/sh
# The data folder holds the passwords of all devices: no removal touches it, not
# even a purge. Nor the user, to whom it belongs.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
if [ "$1" = purge ] && [ -d /var/lib/provisiond ]; then
	echo "provisiond: /var/lib/provisiond is kept, it holds the passwords of your devices" >&2
fi
