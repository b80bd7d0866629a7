#!/bin/sh
# Makes the data folder and restarts a daemon that was running. A fresh one is
# not started: it has no certificate and no networks yet.
set -e
install -d -m 0700 -o provisiond -g provisiond /var/lib/provisiond
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart provisiond.service
fi
# Debian gives the old version as $2, rpm a count above 1 as $1, on an upgrade.
if [ "$1" = configure ] && [ -z "$2" ] || [ "$1" = 1 ]; then
	cat <<-TEXT
	provisiond is installed and not started. Next:
	  1. edit /etc/provisiond/provisiond.yaml (networks, certificate)
	  2. provisiond config check --config /etc/provisiond/provisiond.yaml
	  3. systemctl enable --now provisiond.socket provisiond-api.socket provisiond.service
	TEXT
fi
