#!/bin/bash
# Builds the .deb and .rpm, installs, upgrades and removes both in a fresh Debian
# made by debootstrap, boots the units there, builds the Dockerfile with buildah
# and runs what the image holds, and lints and renders the Helm chart. Takes some
# ten minutes, so it is `make packages` and no part of `make test`.
#
#   deploy/test/packages.sh        from the top folder, as root, after `make build`
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { echo "packages: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "$1 is missing: install the Debian package $2 (apt-get install $2)"; }

need dpkg-deb dpkg
need debootstrap debootstrap
need systemd-nspawn systemd-container
need rpm rpm
need promtool prometheus
need buildah buildah
[ "$(id -u)" = 0 ] || fail "installing in a chroot needs root"
for binary in provisiond provctl; do
	[ -x "bin/$binary" ] || fail "bin/$binary is missing: run make build first"
done

version=${VERSION:-0.1.0}
# A commit without a tag is below every release; its name alone is no version for
# dpkg, when it begins with a letter.
[[ $version =~ ^[0-9]+\.[0-9]+ ]] || version=0.0.0+g${version//-/.}
arch=${ARCH:-$(dpkg --print-architecture)}
tools=bin/tools
mkdir -p dist "$tools"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Building these takes longer than all the rest, so they are kept in bin/tools.
tool() {
	if [ ! -x "$tools/$1" ] || [ deploy/tools/go.mod -nt "$tools/$1" ]; then
		echo "== build $1"
		CGO_ENABLED=0 nice go build -C deploy/tools -o "$PWD/$tools/$1" "$2"
	fi
}
tool nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm
tool helm helm.sh/helm/v3/cmd/helm

echo "== packages"
for kind in deb rpm; do
	VERSION=$version ARCH=$arch "$tools/nfpm" package -f deploy/package/nfpm.yaml -p "$kind" -t dist/
done
deb=$(ls -t dist/provisiond_*.deb | head -1)
rpm=$(ls -t dist/provisiond-*.rpm | head -1)

dpkg-deb -c "$deb" >"$work/list"
for file in ./usr/bin/provisiond ./usr/bin/provctl ./etc/provisiond/provisiond.yaml ./lib/systemd/system/provisiond.service \
	./lib/systemd/system/provisiond.socket ./usr/lib/sysusers.d/provisiond.conf ./usr/lib/tmpfiles.d/provisiond.conf; do
	grep -q " $file\$" "$work/list" || fail "$deb lacks $file"
done
dpkg-deb -e "$deb" "$work/control"
grep -qx /etc/provisiond/provisiond.yaml "$work/control/conffiles" || fail "provisiond.yaml is no conffile of the .deb"
rpm -qpl "$rpm" >"$work/rpm-files" # a file: grep -q ends early, and rpm would fail on the pipe
rpm -qpc "$rpm" >"$work/rpm-configs"
grep -qx /usr/bin/provisiond "$work/rpm-files" || fail "$rpm lacks /usr/bin/provisiond"
grep -qx /etc/provisiond/provisiond.yaml "$work/rpm-configs" || fail "provisiond.yaml is no configuration file of the .rpm"

echo "== install in a fresh Debian"
root=$work/debian
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus "${SUITE:-bookworm}" "$root" >"$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log" >&2; fail "debootstrap could not make a Debian"; }
cp "$deb" "$root/tmp/provisiond.deb"
in_root() { chroot "$root" "$@"; }
in_root dpkg -i /tmp/provisiond.deb
in_root getent passwd provisiond >/dev/null || fail "the system user was not made"
expect() {
	local have
	have=$(in_root stat -c '%a %U %G' "$1")
	[ "$have" = "$2" ] || fail "$1 is $have, want $2"
}
expect /var/lib/provisiond "700 provisiond provisiond"
expect /etc/provisiond "750 root provisiond"
expect /etc/provisiond/credentials "700 root root"
expect /etc/provisiond/provisiond.yaml "640 root provisiond"
in_root provisiond version >/dev/null || fail "the installed binary does not run"

echo "== the units under a real systemd"
# The fresh Debian boots in a container of systemd's own making, without a
# network. What is asked there is written down, and it switches itself off.
cp "$root/etc/provisiond/provisiond.yaml" "$work/shipped.yaml"
printf 'data_dir: /var/lib/provisiond\napi: {listen: "127.0.0.1:8080"}\nhello: {listen: "127.0.0.1:9971"}\n' >"$root/etc/provisiond/provisiond.yaml"
cat >"$root/usr/local/bin/proof" <<'PROOF'
#!/bin/bash
# Each line is a claim that held.
up() { for try in $(seq 60); do systemctl is-active --quiet provisiond.service && provisiond health >/dev/null 2>&1 && return; sleep 1; done; return 1; }
pid() { systemctl show --value -p MainPID provisiond.service; }
up && echo "ready and healthy"
[ "$(stat -c %U /proc/$(pid))" = provisiond ] && echo "runs as provisiond"
[ "$(systemctl show --value -p WatchdogUSec provisiond.service)" = 30s ] && echo "watched"
grep -q '^CapEff:.*0000000000000000' /proc/$(pid)/status && grep -q '^NoNewPrivs:.*1' /proc/$(pid)/status && echo "without privileges"
first=$(pid)
kill -9 "$first"
(exec 3<>/dev/tcp/127.0.0.1/9971) && echo "the hello port answers while nobody runs"
for try in $(seq 60); do [ "$(pid)" != "$first" ] && [ "$(pid)" != 0 ] && break; sleep 1; done
up && [ "$(pid)" != "$first" ] && echo "back after kill -9"
systemctl stop provisiond.socket provisiond-api.socket provisiond.service
[ "$(systemctl show --value -p Result provisiond.service)" = success ] && echo "stops well"
systemctl poweroff
PROOF
chmod 755 "$root/usr/local/bin/proof"
printf '[Unit]\nAfter=provisiond.service\n[Service]\nType=oneshot\nExecStart=/usr/local/bin/proof\nStandardOutput=file:/proof.txt\nTimeoutStartSec=200\n' >"$root/etc/systemd/system/proof.service"
in_root systemctl enable provisiond.socket provisiond-api.socket provisiond.service 2>/dev/null
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s /etc/systemd/system/proof.service "$root/etc/systemd/system/multi-user.target.wants/"
timeout 300 systemd-nspawn --quiet --keep-unit --register=no --private-network -D "$root" --boot >"$work/boot.log" 2>&1 || true
cat "$root/proof.txt" 2>/dev/null || { tail -30 "$work/boot.log" >&2; fail "systemd did not boot"; }
for claim in "ready and healthy" "runs as provisiond" "watched" "without privileges" "the hello port answers while nobody runs" "back after kill -9" "stops well"; do
	grep -qx "$claim" "$root/proof.txt" || fail "under systemd it is not so: $claim"
done
rm "$root/etc/systemd/system/proof.service" "$root/etc/systemd/system/multi-user.target.wants/proof.service"
cp "$work/shipped.yaml" "$root/etc/provisiond/provisiond.yaml"

echo "== a changed configuration survives an upgrade"
echo '# edited by an operator' >>"$root/etc/provisiond/provisiond.yaml"
in_root dpkg -i --force-confold /tmp/provisiond.deb
grep -q 'edited by an operator' "$root/etc/provisiond/provisiond.yaml" || fail "the upgrade overwrote the configuration"

echo "== removal keeps the data"
touch "$root/var/lib/provisiond/kept"
in_root dpkg --purge provisiond
[ -e "$root/var/lib/provisiond/kept" ] || fail "purge removed the data folder"
[ ! -e "$root/usr/bin/provisiond" ] || fail "removal left the binary"

echo "== the .rpm, by rpm, in the same Debian"
# rpm keeps a database of its own there. Dependencies are not asked for, since
# Debian's packages are not in it; the scripts run as they would elsewhere.
in_root userdel provisiond
in_root groupdel provisiond 2>/dev/null || true
rm -rf "$root/var/lib/provisiond" "$root/etc/provisiond"
by_rpm() { rpm --root "$root" --force-debian --nodeps "$@"; }
by_rpm -i "$rpm" >"$work/rpm-said"
grep -q 'installed and not started' "$work/rpm-said" || fail "the .rpm does not say what comes next"
in_root getent passwd provisiond >/dev/null || fail "the .rpm made no system user"
expect /var/lib/provisiond "700 provisiond provisiond"
expect /etc/provisiond "750 root provisiond"
expect /etc/provisiond/provisiond.yaml "640 root provisiond"
in_root provisiond version >/dev/null || fail "the binary of the .rpm does not run"
[ -z "$(by_rpm -V provisiond)" ] || fail "the .rpm is not installed as it says: $(by_rpm -V provisiond)"
# The next version brings another configuration; the operator's stays.
echo '# edited by an operator' >>"$root/etc/provisiond/provisiond.yaml"
{ cat deploy/systemd/provisiond.yaml; echo '# of the next version'; } >"$work/next.yaml"
sed "s#src: deploy/systemd/provisiond.yaml#src: $work/next.yaml#" deploy/package/nfpm.yaml >"$work/nfpm.yaml"
VERSION=99.0.0 ARCH=$arch "$tools/nfpm" package -f "$work/nfpm.yaml" -p rpm -t "$work/next.rpm" >/dev/null
touch "$root/var/lib/provisiond/kept"
by_rpm -U "$work/next.rpm" 2>&1 | grep -v 'warning: .*rpmnew' || true
[[ $(rpm --root "$root" -q provisiond) == provisiond-99.0.0* ]] || fail "the .rpm was not upgraded"
grep -q 'edited by an operator' "$root/etc/provisiond/provisiond.yaml" || fail "the upgrade of the .rpm overwrote the configuration"
grep -q 'of the next version' "$root/etc/provisiond/provisiond.yaml.rpmnew" || fail "the upgrade of the .rpm did not leave the new configuration beside"
by_rpm -e provisiond 2>&1 | grep -v 'warning: .*rpmsave' || true
[ ! -e "$root/usr/bin/provisiond" ] || fail "rpm -e left the binary"
[ -e "$root/var/lib/provisiond/kept" ] || fail "rpm -e removed the data folder"

echo "== image: the Dockerfile, built without a registry"
# Its base image is made here under the name that the Dockerfile says: the fresh
# Debian with this machine's Go, which takes modules from this machine's cache.
# All of buildah's own files are below $work.
export TMPDIR=$work
b() { buildah --root "$work/images" --runroot "$work/images-run" --storage-driver vfs "$@"; }
base=$(sed -n 's/^FROM --platform=$BUILDPLATFORM \([^ ]*\) AS build$/\1/p' Dockerfile)
[ -n "$base" ] || fail "the Dockerfile names no base image for its build stage"
made=$(b from scratch)
tree=$(b mount "$made")
cp -a "$root/." "$tree/"
mkdir -p "$tree/usr/local" "$tree/etc/ssl/certs"
cp -a "$(go env GOROOT)" "$tree/usr/local/go"
cp /etc/ssl/certs/ca-certificates.crt "$tree/etc/ssl/certs/"
b umount "$made" >/dev/null
b config --env PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	--env GOPATH=/go --env GOTOOLCHAIN=local --env GOPROXY=file:///modules --env GOSUMDB=off "$made"
b commit --quiet "$made" "docker.io/library/$base" >/dev/null
b rm "$made" >/dev/null
nice buildah --root "$work/images" --runroot "$work/images-run" --storage-driver vfs bud --isolation=chroot --pull-never --format docker \
	--volume "$(go env GOMODCACHE)/cache/download:/modules:ro" --build-arg VERSION="$version" --build-arg REVISION=packages \
	-t provisiond:test . >"$work/bud.log" 2>&1 || { tail -20 "$work/bud.log" >&2; fail "the Dockerfile does not build"; }
b inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}} {{.Docker.Config.Healthcheck.Test}} {{.Docker.Config.StopSignal}} {{.Docker.Config.Volumes}} {{.Docker.Config.ExposedPorts}}' provisiond:test >"$work/image.txt"
for want in '65532:65532 ' '[/usr/bin/provisiond]' '[serve --config /etc/provisiond/provisiond.yaml]' '[CMD /usr/bin/provisiond health]' SIGTERM /var/lib/provisiond 9971/tcp 8080/tcp; do
	grep -qF -- "$want" "$work/image.txt" || fail "the image lacks $want: $(cat "$work/image.txt")"
done

echo "== image: run as it says"
# A container runtime needs more of its machine than a build does. So the image's
# own tree runs the way the image asks for: no network but loopback, a root that
# cannot be written, user 65532.
made=$(b from --pull-never provisiond:test)
image=$(b mount "$made")
(cd "$image" && find . -type f | sort) >"$work/files"
for file in ./usr/bin/provisiond ./usr/bin/provctl ./etc/passwd ./etc/group ./etc/ssl/certs/ca-certificates.crt; do
	grep -qxF "$file" "$work/files" || fail "the image lacks $file"
done
[ "$(wc -l <"$work/files")" = 5 ] || fail "the image holds more than it should: $(cat "$work/files")"
[[ $(chroot "$image" /usr/bin/provisiond version) == "provisiond $version (packages)"* ]] || fail "the image's binary does not know its version"
mkdir -p "$image/proc" "$image/etc/provisiond"
printf 'data_dir: /var/lib/provisiond\napi: {listen: "127.0.0.1:8080"}\nhello: {listen: "127.0.0.1:9971"}\n' >"$image/etc/provisiond/provisiond.yaml"
chmod 644 "$image/etc/provisiond/provisiond.yaml"
export image work
unshare --mount --net --pid --fork --kill-child bash -euc '
	ip link set lo up
	mount --bind "$image" "$image"
	mount -o remount,bind,ro "$image"
	mount -t tmpfs -o uid=65532,gid=65532,mode=700 data "$image/var/lib/provisiond"
	mount -t tmpfs tmp "$image/tmp"
	mount -t proc proc "$image/proc"
	as() { chroot --userspec=65532:65532 "$image" "$@"; }
	chroot --userspec=65532:65532 "$image" /usr/bin/provisiond serve --config /etc/provisiond/provisiond.yaml >"$work/image.log" 2>&1 &
	for try in $(seq 60); do
		if as /usr/bin/provisiond health >"$work/health.log" 2>&1; then healthy=$try; break; fi
		sleep 1
	done
	[ -n "${healthy:-}" ] || { tail -5 "$work/image.log" "$work/health.log" >&2; exit 1; }
	grep -q "^Uid:	65532" "$image/proc/$!/status" || { echo "it does not run as 65532" >&2; exit 1; }
	if touch "$image/usr/written" 2>/dev/null; then echo "its root can be written" >&2; exit 1; fi
	as /usr/bin/provisiond version
	kill -TERM $!
	wait $! || { echo "it did not stop well" >&2; tail -5 "$work/image.log" >&2; exit 1; }
' || fail "what the image holds does not run"

echo "== chart"
chart=deploy/helm/provisiond
render() { "$tools/helm" template tour "$chart" --namespace amt --kube-version 1.31.0 "$@"; }
"$tools/helm" lint "$chart" --kube-version 1.31.0
render >"$work/plain.yaml"
render --set 'provisioning.networks={10.0.0.0/8,2001:db8::/32}' \
	--set 'certificates[0].existingSecret=amt,certificates[0].pfxKey=amt.pfx,certificates[0].passwordKey=amt.password' \
	--set serviceMonitor.enabled=true,prometheusRule.enabled=true >"$work/full.yaml"
for want in 'externalTrafficPolicy: Local' 'helm.sh/hook: pre-install,pre-upgrade' 'readOnlyRootFilesystem: true' 'kind: PodDisruptionBudget' \
	'kind: NetworkPolicy' 'path: /readyz' 'runAsUser: 65532' 'kind: PrometheusRule' 'kind: ServiceMonitor'; do
	grep -qF -- "$want" "$work/full.yaml" || fail "the rendered chart lacks $want"
done
if render --set hello.service.externalTrafficPolicy=Cluster >/dev/null 2>&1; then
	fail "the schema lets a service hide the devices' addresses"
fi
if render --set database.existingSecret= >/dev/null 2>&1; then
	fail "the schema lets the chart install without a database"
fi

# What the chart writes as configuration must be what the daemon reads. The
# files it names are in secrets that are not here; any other complaint counts.
awk '/^  provisiond.yaml: \|/{on=1; next} on && /^---/{exit} on{sub(/^    /, ""); print}' "$work/full.yaml" >"$work/provisiond.yaml"
[ -s "$work/provisiond.yaml" ] || fail "no configuration in the rendered chart"
for config in "$work/provisiond.yaml" deploy/compose/provisiond.yaml deploy/systemd/provisiond.yaml; do
	bin/provisiond config check --config "$config" >"$work/check" 2>&1 || true
	if grep -v -e 'there is no file' -e 'the configuration is good' -e 'the configuration has problems' "$work/check" >&2; then
		fail "the daemon does not take $config"
	fi
done

awk '/^kind: PrometheusRule/{on=1} on && /^spec:/{spec=1; next} spec && /^---/{exit} spec{sub(/^  /, ""); print}' "$work/full.yaml" >"$work/rules.yml"
promtool check rules "$work/rules.yml"
echo "packages: $deb, $rpm and the chart are good"
