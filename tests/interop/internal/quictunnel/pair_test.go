package quictunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// authority signs the certificates of a test.
type authority struct {
	folder string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{folder: t.TempDir()}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = a.sign(t, "ca", template)
	return a
}

// issue makes the files of one side.
func (a *authority) issue(t *testing.T, name string) Files {
	a.sign(t, name, &x509.Certificate{
		DNSNames:    []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return Files{CA: a.file("ca.pem"), Cert: a.file(name + ".pem"), Key: a.file(name + ".key")}
}

func (a *authority) sign(t *testing.T, name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signer, signing := a.cert, a.key
	if signer == nil {
		signer, signing = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, signer, &key.PublicKey, signing)
	check(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	check(t, write(a.file(name+".pem"), "CERTIFICATE", raw))
	check(t, write(a.file(name+".key"), "PRIVATE KEY", secret))
	cert, err := x509.ParseCertificate(raw)
	check(t, err)
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.folder, name) }

func write(file, kind string, content []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair is a server with the addresses of its ports.
type pair struct {
	*Server
	authority *authority
	quic, tcp string
}

func newPair(t *testing.T, host string) *pair {
	t.Helper()
	p := &pair{Server: &Server{}, authority: newAuthority(t)}
	udp, err := p.Listen(net.JoinHostPort(host, "0"), p.authority.issue(t, serverName))
	check(t, err)
	t.Cleanup(func() { udp.Close() })
	tcp := listen(t, host)
	go p.Agents(udp)
	go p.Downstreams(tcp)
	p.quic, p.tcp = udp.Addr().String(), tcp.Addr().String()
	return p
}

func listen(t *testing.T, host string) net.Listener {
	t.Helper()
	tcp, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	check(t, err)
	t.Cleanup(func() { tcp.Close() })
	return tcp
}

// start adds an agent; the channel says why each of its sessions has ended.
func (p *pair) start(t *testing.T, agent Agent) <-chan string {
	t.Helper()
	agent.Server, agent.Files = p.quic, p.authority.issue(t, "agent")
	before := len(p.Open())
	ended := run(t, agent)
	until(t, func() bool { return len(p.Open()) > before })
	return ended
}

func run(t *testing.T, agent Agent) <-chan string {
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	ended := make(chan string, 1)
	go func() { ended <- agent.Serve(ctx) }()
	return ended
}

func until(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the condition was not met in 10 s")
		}
	}
}

// echo answers each connection with its name and, once the other side has ended, with what it was told.
func echo(t *testing.T, name string) string {
	t.Helper()
	listener := listen(t, "localhost")
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				told, _ := io.ReadAll(connection)
				_, _ = connection.Write(append([]byte(name), told...))
			}()
		}
	}()
	return listener.Addr().String()
}

func (p *pair) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	tcp, err := net.Dial("tcp", p.tcp)
	check(t, err)
	t.Cleanup(func() { tcp.Close() })
	check(t, tcp.SetDeadline(time.Now().Add(20*time.Second)))
	return tcp.(*net.TCPConn)
}

// say sends, ends its direction and returns what comes back.
func (p *pair) say(t *testing.T, text []byte) string {
	t.Helper()
	tcp := p.dial(t)
	_, err := tcp.Write(text)
	check(t, err)
	check(t, tcp.CloseWrite())
	back, err := io.ReadAll(tcp)
	check(t, err)
	return string(back)
}

func TestBytesReachTheUpstreamAndAnEndIsPassedOn(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		p := newPair(t, host)
		p.start(t, Agent{Upstream: echo(t, "a")})
		many := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		if back := p.say(t, many); back != "a"+string(many) {
			t.Fatal(host, len(back))
		}
	}
}

func TestAgentsTakeTurns(t *testing.T) {
	p := newPair(t, "127.0.0.1")
	p.start(t, Agent{Upstream: echo(t, "a")})
	p.start(t, Agent{Upstream: echo(t, "b")})
	var seen []string
	for range 4 {
		seen = append(seen, p.say(t, []byte("!")))
	}
	slices.Sort(seen)
	if strings.Join(seen, "") != "a!a!b!b!" {
		t.Fatal(seen)
	}
}

func TestAnAgentServesConnect(t *testing.T) {
	p := newPair(t, "127.0.0.1")
	p.start(t, Agent{})
	target := echo(t, "a")
	tcp := p.dial(t)
	// What comes early waits for the answer.
	_, err := fmt.Fprintf(tcp, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\nearly", target, target)
	check(t, err)
	check(t, tcp.CloseWrite())
	read := bufio.NewReader(tcp)
	line, err := read.ReadString('\n')
	check(t, err)
	rest, err := io.ReadAll(read)
	check(t, err)
	if line != "HTTP/1.1 200 OK\r\n" || !strings.HasSuffix(string(rest), "\r\n\r\naearly") {
		t.Fatal(line, string(rest))
	}
}

func TestAnAgentRefusesOtherMethodsAndTargetsThatCannotBeReached(t *testing.T) {
	p := newPair(t, "127.0.0.1")
	p.start(t, Agent{})
	closed := listen(t, "127.0.0.1")
	closed.Close()
	for head, status := range map[string]int{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n":                                     http.StatusMethodNotAllowed,
		fmt.Sprintf("CONNECT %s HTTP/1.1\r\nHost: a\r\n\r\n", closed.Addr()):    http.StatusBadRequest,
		"CONNECT no-such-host.invalid:1 HTTP/1.1\r\nHost: no-such-host\r\n\r\n": http.StatusBadRequest,
	} {
		tcp := p.dial(t)
		_, err := io.WriteString(tcp, head)
		check(t, err)
		response, err := http.ReadResponse(bufio.NewReader(tcp), nil)
		check(t, err)
		if response.StatusCode != status {
			t.Fatal(head, response.Status)
		}
	}
}

func TestADownstreamIsClosedWhereNoStreamCanBeOpened(t *testing.T) {
	p := newPair(t, "127.0.0.1")
	for _, agent := range []*Agent{nil, {Streams: -1}} {
		if agent != nil {
			p.start(t, *agent)
		}
		if n, err := p.dial(t).Read(make([]byte, 1)); err == nil {
			t.Fatal(n)
		}
	}
}

func TestASessionEndsAndStandsStillWhenItIsTold(t *testing.T) {
	for how, reason := range map[string]string{"close": "closed by peer: 0x0", "error": "closed by peer: 0x7"} {
		p := newPair(t, "127.0.0.1")
		ended := p.start(t, Agent{Upstream: echo(t, "a")})
		if _, err := p.End(how); err != nil {
			t.Fatal(err)
		}
		if got := <-ended; got != reason {
			t.Fatal(how, got)
		}
	}
	p := newPair(t, "127.0.0.1")
	p.start(t, Agent{Upstream: echo(t, "a")})
	if _, err := p.End("stall"); err != nil {
		t.Fatal(err)
	}
	tcp := p.dial(t)
	check(t, tcp.CloseWrite())
	check(t, tcp.SetDeadline(time.Now().Add(200*time.Millisecond)))
	if n, err := tcp.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Fatal(n, err)
	}
}

func TestAStuckAgentReadsNothing(t *testing.T) {
	p := newPair(t, "127.0.0.1")
	p.start(t, Agent{Stuck: true})
	tcp := p.dial(t)
	check(t, tcp.SetDeadline(time.Now().Add(time.Second)))
	if _, err := tcp.Write(make([]byte, 64<<20)); !os.IsTimeout(err) {
		t.Fatal(err)
	}
}

func TestAStrangerIsRefused(t *testing.T) {
	p := newPair(t, "127.0.0.1")
	stranger := newAuthority(t).issue(t, "agent")
	stranger.CA = p.authority.file("ca.pem")
	other := newPair(t, "127.0.0.1")
	misnamed, err := p.Listen("localhost:0", p.authority.issue(t, "localhost"))
	check(t, err)
	t.Cleanup(func() { misnamed.Close() })
	known := p.authority.issue(t, "agent")
	for server, files := range map[string]Files{
		p.quic:                   stranger,
		other.quic:               known,
		misnamed.Addr().String(): known,
	} {
		ended := <-run(t, Agent{Server: server, Files: files})
		if !strings.Contains(ended, "certificate") && !strings.Contains(ended, "CRYPTO_ERROR") {
			t.Fatal(ended)
		}
	}
}
