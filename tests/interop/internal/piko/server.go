package piko

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"

	"tidegate/interop/internal/event"
)

// Server is one node: agents on the upstream port, downstreams on the proxy port.
type Server struct {
	// Token is what agents must present, where it is not empty.
	Token string
	// Timeout bounds a whole request.
	Timeout time.Duration

	mu       sync.Mutex
	sessions map[string][]*session
	turn     int
	refuse   int
	refusals int
}

// session is one agent's tunnel.
type session struct {
	endpoint string
	mux      *yamux.Session
	carrier  *carrier
}

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

// Refuse answers the next agents with a status instead of an upgrade.
func (s *Server) Refuse(status, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse, s.refusals = status, times
}

// Endpoints counts the listeners of every endpoint.
func (s *Server) Endpoints() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := map[string]int{}
	for endpoint, sessions := range s.sessions {
		count[endpoint] = len(sessions)
	}
	return count
}

// Upstream is the handler of the upstream port.
func (s *Server) Upstream() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /piko/v1/upstream/{endpoint}", s.accept)
	return mux
}

func (s *Server) accept(w http.ResponseWriter, r *http.Request) {
	if status, message := s.refusal(r); status != 0 {
		jsonError(w, status, message)
		return
	}
	endpoint := r.PathValue("endpoint")
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	under := newCarrier(NewConn(ws), func(code uint32) {
		event.Emit("goaway", event.Fields{"endpoint": endpoint, "code": code})
	})
	mux, err := yamux.Server(under, yamuxConfig())
	if err != nil {
		under.Close()
		return
	}
	agent := &session{endpoint: endpoint, mux: mux, carrier: under}
	s.add(agent)
	event.Emit("agent connected", event.Fields{"endpoint": endpoint, "headers": offered(r.Header)})
	// An agent opens no streams; Accept returns when the session has ended.
	_, err = mux.Accept()
	s.remove(agent)
	mux.Close()
	event.Emit("agent disconnected", event.Fields{"endpoint": endpoint, "reason": fmt.Sprint(err)})
}

func offered(header http.Header) map[string]string {
	out := map[string]string{}
	for name := range header {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-") {
			out[lower] = header.Get(name)
		}
	}
	return out
}

func (s *Server) refusal(r *http.Request) (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusals > 0 {
		s.refusals--
		return s.refuse, http.StatusText(s.refuse)
	}
	if s.Token == "" {
		return 0, ""
	}
	credential := r.Header.Get("x-piko-authorization")
	if credential == "" {
		credential = r.Header.Get("Authorization")
	}
	kind, token, found := strings.Cut(credential, " ")
	switch {
	case credential == "":
		return http.StatusUnauthorized, "missing authorization"
	case !found:
		return http.StatusUnauthorized, "invalid authorization"
	case kind != "Bearer":
		return http.StatusUnauthorized, "unsupported auth type"
	case token != s.Token:
		return http.StatusUnauthorized, "invalid token"
	}
	return 0, ""
}

// Proxy is the handler of the proxy port.
func (s *Server) Proxy() http.Handler {
	// A stream for each request, as Piko opens them: nothing is kept inside the tunnel.
	transport := &http.Transport{DialContext: s.dial, DisableKeepAlives: true, DisableCompression: true}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			endpoint, _ := endpointOf(r.In)
			r.SetURL(&url.URL{Scheme: "http", Host: endpoint})
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		ErrorHandler: proxyError,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_piko/v1/tcp/{endpoint}", s.tcp)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := endpointOf(r); !ok {
			jsonError(w, http.StatusBadRequest, "missing endpoint id")
			return
		}
		ctx := r.Context()
		if r.Header.Get("Upgrade") == "" && s.Timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, s.Timeout)
			defer cancel()
		}
		proxy.ServeHTTP(w, r.WithContext(ctx))
	})
	return mux
}

func endpointOf(r *http.Request) (string, bool) {
	if endpoint := r.Header.Get("x-piko-endpoint"); endpoint != "" {
		return endpoint, true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	label, _, dotted := strings.Cut(host, ".")
	if !dotted || net.ParseIP(host) != nil || label == "" {
		return "", false
	}
	return label, true
}

func (s *Server) tcp(w http.ResponseWriter, r *http.Request) {
	stream, err := s.open(r.PathValue("endpoint"))
	if err != nil {
		proxyError(w, r, err)
		return
	}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		stream.Close()
		return
	}
	splice(NewConn(ws), stream)
}

func (s *Server) dial(_ context.Context, _, address string) (net.Conn, error) {
	endpoint, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return s.open(endpoint)
}

func (s *Server) open(endpoint string) (net.Conn, error) {
	s.mu.Lock()
	sessions := s.sessions[endpoint]
	if len(sessions) == 0 {
		s.mu.Unlock()
		return nil, errNoUpstream
	}
	s.turn++
	agent := sessions[s.turn%len(sessions)]
	s.mu.Unlock()
	return agent.mux.Open()
}

func (s *Server) add(agent *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions == nil {
		s.sessions = map[string][]*session{}
	}
	s.sessions[agent.endpoint] = append(s.sessions[agent.endpoint], agent)
}

func (s *Server) remove(agent *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []*session
	for _, other := range s.sessions[agent.endpoint] {
		if other != agent {
			rest = append(rest, other)
		}
	}
	if rest == nil {
		delete(s.sessions, agent.endpoint)
	} else {
		s.sessions[agent.endpoint] = rest
	}
}
