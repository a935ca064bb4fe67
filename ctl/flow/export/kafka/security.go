package kafka

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"gardu/ctl/model"
)

// security is how brokers are connected to. Secrets are in files, which are read again for each connection.
func security(options Options) ([]kgo.Opt, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	dial := kgo.Dialer(dialer.DialContext)
	if options.TLS.On {
		config, err := tlsConfig(options.TLS)
		if err != nil {
			return nil, err
		}
		secure := &secureDialer{dialer, config}
		dial = kgo.Dialer(secure.dial)
	}
	opts := []kgo.Opt{dial}
	if options.Login.Mechanism != "" {
		opts = append(opts, kgo.SASL(mechanism(options.Login)))
	}
	return opts, nil
}

// secureDialer connects by TLS to the host that is asked for, unless another name is configured.
type secureDialer struct {
	dialer net.Dialer
	config *tls.Config
}

func (d *secureDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	config := d.config.Clone()
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		config.ServerName = host
	}
	return (&tls.Dialer{NetDialer: &d.dialer, Config: config}).DialContext(ctx, network, address)
}

func tlsConfig(t model.TLS) (*tls.Config, error) {
	config := &tls.Config{ServerName: t.Name, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read the authorities that are trusted: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("there is no certificate in %s", t.CA)
		}
	}
	if t.Cert != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			own, err := tls.LoadX509KeyPair(t.Cert, t.Key)
			if err != nil {
				return nil, fmt.Errorf("read the certificate to show: %w", err)
			}
			return &own, nil
		}
	}
	return config, nil
}

func mechanism(login model.Login) sasl.Mechanism {
	proof := func(context.Context) (scram.Auth, error) {
		password, err := password(login.PasswordFile)
		return scram.Auth{User: login.User, Pass: password}, err
	}
	switch login.Mechanism {
	case model.ScramSHA256:
		return scram.Sha256(proof)
	case model.ScramSHA512:
		return scram.Sha512(proof)
	default:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			password, err := password(login.PasswordFile)
			return plain.Auth{User: login.User, Pass: password}, err
		})
	}
}

// password is the first line of a file.
func password(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line, _, _ := bytes.Cut(content, []byte("\n"))
	return string(bytes.TrimSuffix(line, []byte("\r"))), nil
}
