# syntax=docker/dockerfile:1
# A static binary and nothing else: no shell, no libc, no package manager. It
# runs as 65532 with a read-only root; /var/lib/provisiond is the one folder it
# writes to.
#
#   docker build --build-arg VERSION=1.0.0 --build-arg REVISION=$(git rev-parse HEAD) -t provisiond .
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=dev
ARG REVISION=unknown
ARG TARGETOS
ARG TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags="-s -w -X main.version=$VERSION -X main.commit=$REVISION" \
    -o /out/ ./cmd/provisiond ./cmd/provctl ./cmd/amtsim
RUN mkdir -p /root-fs/etc/provisiond /root-fs/var/lib/provisiond /root-fs/tmp \
    && printf 'provisiond:x:65532:65532::/var/lib/provisiond:/sbin/nologin\n' > /root-fs/etc/passwd \
    && printf 'provisiond:x:65532:\n' > /root-fs/etc/group

FROM scratch AS tools
COPY --from=build /root-fs/etc/passwd /root-fs/etc/group /etc/
COPY --from=build --chown=65532:65532 /root-fs/tmp /tmp
COPY --from=build /out/amtsim /out/provctl /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/amtsim"]

FROM scratch
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="provisiond" \
      org.opencontainers.image.description="Provisioning server for Intel AMT" \
      org.opencontainers.image.source="https://github.com/provisiond/provisiond" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /root-fs/etc/passwd /root-fs/etc/group /etc/
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /root-fs/var/lib/provisiond /var/lib/provisiond
COPY --from=build --chown=65532:65532 /root-fs/tmp /tmp
COPY --from=build /out/provisiond /out/provctl /usr/bin/
USER 65532:65532
VOLUME /var/lib/provisiond
EXPOSE 9971 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["/usr/bin/provisiond", "health"]
ENTRYPOINT ["/usr/bin/provisiond"]
CMD ["serve", "--config", "/etc/provisiond/provisiond.yaml"]
