package piko

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// pair is a server and what stands at its ports.
type pair struct {
	server          *Server
	upstream, proxy *httptest.Server
}

func newPair(t *testing.T) *pair {
	t.Helper()
	server := &Server{}
	p := &pair{server, httptest.NewServer(server.Upstream()), httptest.NewServer(server.Proxy())}
	// A hijacked connection does not hold Close up.
	t.Cleanup(p.upstream.Close)
	t.Cleanup(p.proxy.Close)
	return p
}

func (p *pair) connect() Connect { return Connect{URL: p.upstream.URL, Timeout: 5 * time.Second} }

// agent offers an endpoint; the channel says how it ended.
func (p *pair) agent(t *testing.T, endpoint string, local http.Handler) (*Agent, <-chan error) {
	t.Helper()
	service := httptest.NewServer(local)
	t.Cleanup(service.Close)
	target, err := url.Parse(service.URL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := Listen(p.connect(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); listener.End() })
	agent := NewHTTPAgent(listener, target)
	ended := make(chan error, 1)
	go func() { ended <- agent.Serve() }()
	until(t, func() bool { return p.server.Endpoints()[endpoint] > 0 })
	return agent, ended
}

func (p *pair) get(t *testing.T, endpoint, path string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, p.proxy.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("x-piko-endpoint", endpoint)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(body))
}

func until(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the condition was not met in 10 s")
		}
	}
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func TestARequestReachesTheServiceBehindTheAgent(t *testing.T) {
	p := newPair(t)
	p.agent(t, "web", http.HandlerFunc(hello))
	if status, body := p.get(t, "web", "/"); status != 200 || body != "hello" {
		t.Fatal(status, body)
	}
}

func TestAnEndpointWithoutAListenerIsRefusedAsJSON(t *testing.T) {
	status, body := newPair(t).get(t, "nobody", "/")
	if status != http.StatusBadGateway || body != `{"error":"no available upstreams"}` {
		t.Fatal(status, body)
	}
}

func TestATokenThatIsMissingIsFinal(t *testing.T) {
	p := newPair(t)
	p.server.Token = "secret"
	_, err := Listen(p.connect(), "web")
	var refused *Refused
	if !errors.As(err, &refused) || refused.Status != 401 || refused.Message != "missing authorization" {
		t.Fatal(err)
	}
	connect := p.connect()
	connect.Token = "secret"
	listener, err := Listen(connect, "web")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	listener.End()
}

func TestARefusalThatMayPassIsTriedAgain(t *testing.T) {
	for _, status := range []int{408, 429, 500, 502, 503, 504} {
		p := newPair(t)
		p.server.Refuse(status, 2)
		p.agent(t, "web", http.HandlerFunc(hello))
	}
}

func TestAnyOtherRefusalIsFinal(t *testing.T) {
	for _, status := range []int{400, 403, 404, 501} {
		p := newPair(t)
		p.server.Refuse(status, 1)
		if _, err := Listen(p.connect(), "web"); err == nil {
			t.Fatal(status, "was tried again")
		}
	}
}

func TestAnAgentEndsForGoodAfterACleanEnd(t *testing.T) {
	for _, how := range []string{"close", "tcp-fin"} {
		p := newPair(t)
		_, ended := p.agent(t, "web", http.HandlerFunc(hello))
		if _, err := p.server.End("web", how); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, ErrClosed) {
				t.Fatal(how, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal(how, "the agent lives on")
		}
	}
}

func TestAnAgentComesBackAfterAnError(t *testing.T) {
	for _, how := range []string{"goaway2", "tcp-rst"} {
		p := newPair(t)
		agent, ended := p.agent(t, "web", http.HandlerFunc(hello))
		first := agent.listener.current()
		if _, err := p.server.End("web", how); err != nil {
			t.Fatal(err)
		}
		until(t, func() bool { return agent.listener.current() != first && p.server.Endpoints()["web"] == 1 })
		if status, _ := p.get(t, "web", "/"); status != 200 {
			t.Fatal(how, status)
		}
		select {
		case err := <-ended:
			t.Fatal(how, err)
		default:
		}
	}
}

func TestAnAgentOnlyNotesAFriendlyGoAway(t *testing.T) {
	p := newPair(t)
	agent, _ := p.agent(t, "web", http.HandlerFunc(hello))
	session := agent.listener.current()
	if _, err := p.server.End("web", "goaway0"); err != nil {
		t.Fatal(err)
	}
	if status, _ := p.get(t, "web", "/"); status != 200 || agent.listener.current() != session {
		t.Fatal(status, "or another session")
	}
}

func TestAnAgentThatStopsFinishesWhatRuns(t *testing.T) {
	p := newPair(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	agent, _ := p.agent(t, "web", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-finish
		hello(w, r)
	}))
	answered := make(chan string, 1)
	go func() {
		_, body := p.get(t, "web", "/")
		answered <- body
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- agent.Stop(context.Background()) }()
	until(t, func() bool {
		_, err := p.server.open("web")
		return err != nil
	})
	close(finish)
	if body := <-answered; body != "hello" {
		t.Fatal(body)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return len(p.server.Endpoints()) == 0 })
}

func TestTCPGoesThroughForwardServerAndAgent(t *testing.T) {
	p := newPair(t)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	listener, err := Listen(p.connect(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); listener.End() })
	go NewTCPAgent(listener, echo.Addr().String()).Serve()
	until(t, func() bool { return p.server.Endpoints()["echo"] == 1 })
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { local.Close() })
	go Forward{Connect: Connect{URL: p.proxy.URL, Timeout: 5 * time.Second}, Endpoint: "echo"}.Serve(local)

	conn, err := net.Dial("tcp", local.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := bytes.Repeat([]byte("tidegate"), 1<<17)
	go conn.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(sent, got) {
		t.Fatal(err)
	}
}

func TestFramesAreFoundHoweverTheBytesAreCut(t *testing.T) {
	stream := append([]byte{0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 'a', 'b', 'c'}, make([]byte, headerSize)...)
	stream[len(stream)-11] = typeGoAway
	for cut := range stream {
		var frames []Frame
		s := scanner{seen: func(f Frame) { frames = append(frames, f) }}
		s.scan(stream[:cut])
		if s.between() != (cut == 0 || cut == 15) {
			t.Fatal("a boundary at", cut)
		}
		s.scan(stream[cut:])
		if !s.between() || len(frames) != 2 || frames[0].Length != 3 || frames[1].Type != typeGoAway {
			t.Fatal(cut, frames)
		}
	}
}
