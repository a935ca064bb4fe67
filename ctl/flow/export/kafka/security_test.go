package kafka

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"gardu/ctl/model"
)

// certificate is one for 127.0.0.1 that signed itself, and the file that it is in, with its key.
func certificate(t *testing.T, dir string) (tls.Certificate, string, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, what string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: what, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", secret)
}

// Brokers that ask for TLS, a certificate and a login get them; a wrong password or an authority that isn't trusted is told, and nothing
// is sent.
func TestTLSAndLogin(t *testing.T) {
	dir := t.TempDir()
	own, cert, key := certificate(t, dir)
	password := filepath.Join(dir, "password")
	write := func(text string) {
		if err := os.WriteFile(password, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trusted := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	if err != nil || !trusted.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	for mechanism, theirs := range map[model.Mechanism]string{model.Plain: "PLAIN", model.ScramSHA256: "SCRAM-SHA-256", model.ScramSHA512: "SCRAM-SHA-512"} {
		c := cluster(t, kfake.SeedTopics(1, "flows"), kfake.EnableSASL(), kfake.Superuser(theirs, "gardu", "a secret"),
			kfake.TLS(&tls.Config{Certificates: []tls.Certificate{own}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert}))
		options := Options{Brokers: c.ListenAddrs(), Topic: "flows", TLS: model.TLS{On: true, CA: cert, Cert: cert, Key: key},
			Login: model.Login{Mechanism: mechanism, User: "gardu", PasswordFile: password}}
		write("wrong\n")
		p, err := New(options)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.Consume(batch(1, 5), names{})
		}()
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			if _, err := p.State(); err != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: a wrong password, and nothing is wrong", mechanism)
			}
		}
		p.Abort()
		<-done
		p.Close()

		write("a secret\n")
		if p, err = New(options); err != nil {
			t.Fatal(err)
		}
		p.Consume(batch(1, 5), names{})
		wantState(t, p, 0, false)
		p.Close()
	}
	if _, err := New(Options{TLS: model.TLS{On: true, CA: password}}); err == nil {
		t.Error("a file without certificates is taken for authorities")
	}
}
