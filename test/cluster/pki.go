// The keys and certificates of a test cluster: one authority, one serving
// certificate, one key that signs service-account tokens. Called by Start. The
// authority's key is never written anywhere, and nothing here is for use
// outside tests.

package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Validity reaches well into the past, because a virtual machine's clock may
// be behind the host's.
const (
	validBefore = 24 * time.Hour
	validAfter  = 365 * 24 * time.Hour
)

// pki is what kube-apiserver needs, each in PEM form.
type pki struct {
	ca             []byte
	servingCert    []byte
	servingKey     []byte
	serviceAccount []byte
}

// newPKI makes fresh keys and a serving certificate for the given names and
// IP addresses.
func newPKI(sans []string) (*pki, error) {
	caKey, _, err := newKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test-ca"},
		NotBefore:             now.Add(-validBefore),
		NotAfter:              now.Add(validAfter),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	caPEM, err := sign(ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}

	servingKey, servingKeyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	serving := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "kube-apiserver"},
		NotBefore:    now.Add(-validBefore),
		NotAfter:     now.Add(validAfter),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, san := range sans {
		if ip := net.ParseIP(san); ip != nil {
			serving.IPAddresses = append(serving.IPAddresses, ip)
		} else {
			serving.DNSNames = append(serving.DNSNames, san)
		}
	}
	servingPEM, err := sign(serving, ca, servingKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}

	_, serviceAccountPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	return &pki{
		ca:             caPEM,
		servingCert:    servingPEM,
		servingKey:     servingKeyPEM,
		serviceAccount: serviceAccountPEM,
	}, nil
}

// newKey makes a P-256 key and its PEM form: SEC 1, because kube-apiserver finds
// no public key in a PKCS 8 one.
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// sign makes a certificate of the template and returns it in PEM form.
func sign(template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
