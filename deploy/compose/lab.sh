#!/bin/sh
# Makes a lab root and a provisioning certificate under it in folder $1, unless
# they are there. The extended usage is what firmware looks for (OID
# 2.16.840.1.113741.1.2.3), the name lies in the domain of the simulated devices.
set -eu
cd "$1"
if [ -s provisioning.pfx ]; then
	exit 0
fi
openssl req -x509 -newkey rsa:2048 -nodes -sha256 -days 3650 -keyout root.key -out root.pem \
	-subj "/O=provisiond tour/CN=provisiond tour root" \
	-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
openssl req -newkey rsa:2048 -nodes -sha256 -keyout leaf.key -out leaf.csr \
	-subj "/O=provisiond tour/OU=Intel(R) Client Setup Certificate/CN=provisionserver.$2"
cat >leaf.ext <<EXT
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth,2.16.840.1.113741.1.2.3
subjectAltName=DNS:provisionserver.$2
EXT
openssl x509 -req -sha256 -days 825 -in leaf.csr -CA root.pem -CAkey root.key -CAcreateserial -extfile leaf.ext -out leaf.pem
printf tour >provisioning.password
openssl pkcs12 -export -inkey leaf.key -in leaf.pem -certfile root.pem -passout file:provisioning.password -out new.pfx
rm -f root.key leaf.key leaf.csr leaf.ext
chmod 0644 new.pfx root.pem provisioning.password
mv new.pfx provisioning.pfx
