package session

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

const (
	keyService      = "AMT_PublicKeyManagementService"
	certificates    = "AMT_PublicKeyCertificate"
	keyPairs        = "AMT_PublicPrivateKeyPair"
	tlsContext      = "AMT_TLSCredentialContext"
	tlsSettingClass = "AMT_TLSSettingData"
)

// TLSMaterial reads what an earlier attempt, or the factory, left in the
// device's certificate store, and its TLS settings. A handle is an InstanceID.
func (s *Session) TLSMaterial(ctx context.Context) (TLSMaterial, error) {
	var m TLSMaterial
	certs, err := s.client.Enumerate(ctx, certificates)
	if err != nil {
		return m, err
	}
	for _, n := range certs {
		c := CertInstance{Handle: n.Child("InstanceID").Text()}
		c.DER, _ = decodeBase64(n.Child("X509Certificate").Text())
		// Intel's own spelling first.
		trusted := n.Child("TrustedRootCertficate").Bool()
		if trusted == nil {
			trusted = n.Child("TrustedRootCertificate").Bool()
		}
		c.Trusted = trusted != nil && *trusted
		m.Certificates = append(m.Certificates, c)
	}
	keys, err := s.client.Enumerate(ctx, keyPairs)
	if err != nil && !absent(err) {
		return m, err
	}
	for _, n := range keys {
		k := KeyInstance{Handle: n.Child("InstanceID").Text()}
		if der, err := decodeBase64(n.Child("DERKey").Text()); err == nil {
			k.Public = readPublicKey(der)
		}
		m.Keys = append(m.Keys, k)
	}
	settings, err := s.client.Enumerate(ctx, tlsSettingClass)
	if err != nil {
		return m, err
	}
	for _, n := range settings {
		m.Settings = append(m.Settings, readTLSSetting(n))
	}
	contexts, err := s.client.Enumerate(ctx, tlsContext)
	if err != nil && !absent(err) {
		return m, err
	}
	for _, n := range contexts {
		if h := n.Child("ElementInContext").Selector("InstanceID"); h != "" {
			m.Context = h
			break
		}
	}
	return m, nil
}

// readPublicKey reads PKCS#1 RSAPublicKey, which firmware has, or a
// SubjectPublicKeyInfo; nil for anything else.
func readPublicKey(der []byte) *rsa.PublicKey {
	if k, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return k
	}
	if k, err := x509.ParsePKIXPublicKey(der); err == nil {
		if r, ok := k.(*rsa.PublicKey); ok {
			return r
		}
	}
	return nil
}

// GenerateKey makes an RSA key pair inside the device (AMT 6.2 and later) and
// returns its handle, "" if the device does not say it. It fails with
// keypair_generation_failed while the device is busy; the amt.Status inside
// says whether waiting helps.
func (s *Session) GenerateKey(ctx context.Context, bits int) (string, error) {
	out, err := s.client.Invoke(ctx, keyService, "GenerateKeyPair",
		wsman.Arg{Name: "KeyAlgorithm", Value: "0"},
		wsman.Arg{Name: "KeyLength", Value: strconv.Itoa(bits)})
	if err != nil {
		return "", recode(reason.KeypairGenerationFailed, err)
	}
	return handleOf(out, "KeyPair"), nil
}

// AddKey stores a key made here, for devices that cannot make one.
func (s *Session) AddKey(ctx context.Context, key *rsa.PrivateKey) (string, error) {
	return s.add(ctx, "AddKey", "KeyBlob", "CreatedKey", x509.MarshalPKCS1PrivateKey(key))
}

// AddCertificate stores a certificate, the device's own or an intermediate.
// amt.StatusDuplicate means that it is there already. A handle of "" means that
// the device stored it and did not say its name, which TLSMaterial reads.
func (s *Session) AddCertificate(ctx context.Context, der []byte) (string, error) {
	return s.add(ctx, "AddCertificate", "CertificateBlob", "CreatedCertificate", der)
}

// AddTrustedRoot stores a root for clients' certificates.
func (s *Session) AddTrustedRoot(ctx context.Context, der []byte) (string, error) {
	return s.add(ctx, "AddTrustedRootCertificate", "CertificateBlob", "CreatedCertificate", der)
}

func (s *Session) add(ctx context.Context, method, input, output string, der []byte) (string, error) {
	out, err := s.client.Invoke(ctx, keyService, method, wsman.Arg{Name: input, Value: base64.StdEncoding.EncodeToString(der),
		Secret: method == "AddKey"})
	if err != nil {
		return "", recode(reason.DeviceCertInstallFailed, err)
	}
	return handleOf(out, output), nil
}

// handleOf reads the InstanceID out of a returned reference; "" if the device
// does not say it.
func handleOf(out wsman.Node, name string) string {
	ref := out.Child(name)
	if !ref.OK() {
		ref = out // whatever this release calls it, the output holds one reference
	}
	return ref.Selector("InstanceID")
}

// Delete removes a certificate or key by its handle. The device refuses to
// remove one in use.
func (s *Session) Delete(ctx context.Context, handle string) error {
	class := certificates
	if strings.Contains(handle, "Key") {
		class = keyPairs
	}
	return s.client.Delete(ctx, class, wsman.Selector{Name: "InstanceID", Value: handle})
}

const endpoints = "AMT_TLSProtocolEndpointCollection"

// endpointNames are the two known spellings of the collection's ElementName
// (amt/protocol.md 6.8): a device's own, and the one that clients write.
var endpointNames = []string{"TLSProtocolEndpoint Instances Collection", "TLSProtocolEndpointInstances Collection"}

// UseCertificate makes the device's TLS server show a stored certificate, whose
// key is stored too. From AMT 16.1 a context exists from the start and
// UseCertificate changes it; before, it creates one.
func (s *Session) UseCertificate(ctx context.Context, handle string) error {
	contexts, err := s.client.Enumerate(ctx, tlsContext)
	if err != nil && !absent(err) {
		return recode(reason.TLSEnableFailed, err)
	}
	in := wsman.EPR{Class: certificates, Selector: wsman.Selector{Name: "InstanceID", Value: handle}}
	if len(contexts) > 0 {
		if contexts[0].Child("ElementInContext").Selector("InstanceID") == handle {
			return nil
		}
		instance := wsman.InstanceOf(tlsContext, contexts[0])
		instance.SetEPR("ElementInContext", in)
		return recode(reason.TLSEnableFailed, s.client.Put(ctx, instance))
	}
	names, err := s.endpointNames(ctx)
	if err != nil {
		return recode(reason.TLSEnableFailed, err)
	}
	for _, name := range names {
		instance := wsman.NewInstance(tlsContext)
		instance.SetEPR("ElementInContext", in)
		instance.SetEPR("ElementProvidingContext", wsman.EPR{Class: endpoints, Selector: wsman.Selector{Name: "ElementName", Value: name}})
		if _, err = s.client.Create(ctx, instance); err == nil || !refused(err) {
			return err
		}
	}
	return recode(reason.TLSEnableFailed, err)
}

// endpointNames reads the collection's name from the device. If the device does
// not say it, it returns the known spellings, in turn.
func (s *Session) endpointNames(ctx context.Context) ([]string, error) {
	items, err := s.client.Enumerate(ctx, endpoints)
	if err != nil && !refused(err) {
		return nil, err
	}
	for _, n := range items {
		if name := n.Child("ElementName").Text(); name != "" {
			return []string{name}, nil
		}
	}
	return endpointNames, nil
}
