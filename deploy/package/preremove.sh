#!/bin/sh
# Stops the daemon when the package goes away, not when it is upgraded.
set -e
if [ "$1" = remove ] || [ "$1" = 0 ]; then
	if [ -d /run/systemd/system ]; then
		systemctl disable --now provisiond.service provisiond.socket provisiond-api.socket
	fi
fi
