package raw

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"tidegate/interop/internal/piko"
	"tidegate/interop/internal/service"
)

// gate is a server with one agent that behaves, for the endpoint `good`.
func gate(t *testing.T) (agents, proxy string) {
	t.Helper()
	server := &piko.Server{}
	local := httptest.NewServer((&service.Service{}).HTTP())
	upstream, downstream := httptest.NewServer(server.Upstream()), httptest.NewServer(server.Proxy())
	t.Cleanup(local.Close)
	t.Cleanup(upstream.Close)
	t.Cleanup(downstream.Close)
	target, err := url.Parse(local.URL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := piko.Listen(piko.Connect{URL: upstream.URL, Timeout: 5 * time.Second}, "good")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); listener.End() })
	go piko.NewHTTPAgent(listener, target).Serve()
	return strings.TrimPrefix(upstream.URL, "http://"), strings.TrimPrefix(downstream.URL, "http://")
}

// fetch returns 0 where there is no response.
func fetch(proxy, endpoint string, timeout time.Duration) int {
	request, err := http.NewRequest(http.MethodGet, "http://"+proxy+"/", nil)
	if err != nil {
		return 0
	}
	request.Header.Set("x-piko-endpoint", endpoint)
	response, err := (&http.Client{Timeout: timeout}).Do(request)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// harmless are the scripts that a session may survive here: gorilla/websocket bounds neither fragments nor control
// frames, and yamux forgives what it can discard.
var harmless = map[string]bool{
	"closed-stream-data": true, "reset-stream-data": true, "own-unknown-id": true, "unknown-id": true,
	"foreign-syn": true, "window-overflow": true, "syn-flood": true, "ping-flood": true, "ws-ping-flood": true,
	"ws-tiny-fragments": true, "ws-empty-fragments": true, "ws-empty-messages": true,
}

func TestEveryScriptIsPlayedAndTheNeighbourLivesOn(t *testing.T) {
	agents, proxy := gate(t)
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			peer, err := Dial(agents, "/piko/v1/upstream/bad", "")
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			if NeedsStream(name) {
				timeout := patience
				if DownstreamLeaves(name) {
					timeout = 300 * time.Millisecond
				}
				go fetch(proxy, "bad", timeout)
			}
			if err := peer.Play(name); err != nil && !strings.Contains(err.Error(), "write tcp") {
				t.Fatal(err)
			}
			seen := peer.Outcome()
			if seen.End == "" && !seen.Alive {
				t.Fatal("neither alive nor ended", seen)
			}
			if seen.Alive && !harmless[name] {
				t.Fatal("still alive", seen)
			}
			if status := fetch(proxy, "good", patience); status != 200 {
				t.Fatal("the neighbour answers", status)
			}
		})
	}
}

func TestDownstreamsLeaveWhereTheyAreToldTo(t *testing.T) {
	_, proxy := gate(t)
	for _, moment := range Leavers[:4] {
		if left := Leave(proxy, "good", moment, 20); left != 20 {
			t.Fatal(moment, left)
		}
	}
	if status := fetch(proxy, "good", patience); status != 200 {
		t.Fatal(status)
	}
}

func TestAnAgentComesBackFromAServerThatMisbehaves(t *testing.T) {
	ports, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ports.Close()
	again := make(chan struct{})
	go func() {
		conn, err := ports.Accept()
		if err != nil {
			return
		}
		peer, err := Accept(conn)
		if err == nil {
			err = peer.Play("wrong-version")
		}
		if err != nil || peer.Outcome().Alive {
			t.Error("the session lives on", err)
		}
		peer.Close()
		if conn, err := ports.Accept(); err == nil {
			conn.Close()
			close(again)
		}
	}()
	listener, err := piko.Listen(piko.Connect{URL: "http://" + ports.Addr().String(), Timeout: 5 * time.Second}, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go listener.Accept()
	select {
	case <-again:
	case <-time.After(patience):
		t.Fatal("the agent did not come back")
	}
}
