// Package quictunnel speaks the wire protocol of quic-reverse-http-tunnel on both sides: server and agent.
//
// It is written from the description of the protocol, on the library that the original is built from, so that tidegate
// can be tried against something that is not tidegate. There is no framing: a stream is what the server's downstream
// and the agent say to each other.
package quictunnel

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// protocol is the name in the ALPN.
	protocol = "quic-echo-example"
	// serverName is what the server's certificate must be for, whatever address is dialled.
	serverName = "quic-tunnel-server"
	// streams is how many the original takes at once.
	streams = 10000
)

// Files are the PEM files of one side.
type Files struct {
	// CA signs the other side's certificate.
	CA string
	// Cert is the own certificate.
	Cert string
	// Key is its key.
	Key string
}

func (f Files) read() (*x509.CertPool, []tls.Certificate, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, nil, fmt.Errorf("%s: no certificate in it", f.CA)
	}
	own, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	return pool, []tls.Certificate{own}, err
}

func (f Files) server() (*tls.Config, error) {
	pool, own, err := f.read()
	return &tls.Config{
		Certificates: own,
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		NextProtos:   []string{protocol},
	}, err
}

func (f Files) client() (*tls.Config, error) {
	pool, own, err := f.read()
	return &tls.Config{
		Certificates: own,
		RootCAs:      pool,
		ServerName:   serverName,
		NextProtos:   []string{protocol},
	}, err
}

func transport(streams int64) *quic.Config {
	return &quic.Config{KeepAlivePeriod: 2 * time.Second, MaxIdleTimeout: 5 * time.Second, MaxIncomingStreams: streams}
}

// reason is what an end of a connection is called in events.
func reason(err error) string {
	var closed *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	switch {
	case errors.As(err, &closed) && closed.Remote:
		return fmt.Sprintf("closed by peer: %#x", uint64(closed.ErrorCode))
	case errors.As(err, &closed):
		return "closed"
	case errors.As(err, &idle):
		return "idle"
	}
	return err.Error()
}
