#!/usr/bin/env bash
# Installs what the tests need on Debian or Ubuntu when run as root, before any
# of it is started: an upgrade under a running Postgres breaks it. Without root
# it names what is missing in one line and fails.
set -euo pipefail

need=() # package, and the file that proves it is there
want() { compgen -G "$2" >/dev/null || need+=("$1"); }

want postgresql        '/usr/lib/postgresql/*/bin/initdb'
want prometheus        /usr/bin/promtool
want openssl           /usr/bin/openssl
want gnutls-bin        /usr/bin/certtool
want libnss3-tools     /usr/bin/pk12util
want default-jre-headless /usr/bin/keytool
want chromium          /usr/bin/chromium
want iproute2          '/*bin/ip'
want dnsmasq-base      '/usr/sbin/dnsmasq'
want kea-dhcp4-server  '/usr/sbin/kea-dhcp4'
want bind9-utils       /usr/bin/named-checkzone
want systemd           /usr/bin/systemd-analyze
want ca-certificates   /etc/ssl/certs/ca-certificates.crt
want gcc               '/usr/bin/gcc'
want libc6-dev         '/usr/include/stdlib.h'

[ "$(id -u)" = 0 ] || missing_root=1
if [ ${#need[@]} -gt 0 ]; then
  if [ -n "${missing_root:-}" ]; then
    echo "the tests need these Debian packages: ${need[*]} (as root: apt-get install ${need[*]})" >&2
    exit 1
  fi
  command -v apt-get >/dev/null || { echo "the tests need ${need[*]}, and this system has no apt-get to install them" >&2; exit 1; }
  echo "installing what the tests need: ${need[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # Packages must not start their daemons here; the tests start their own.
  policy=/usr/sbin/policy-rc.d
  made=
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; fi
  trap '[ -z "$made" ] || rm -f $policy' EXIT
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
if [ -n "${missing_root:-}" ]; then
  echo "the tests make network namespaces and run Postgres as its own user: run make test as root" >&2
  exit 1
fi
