package quictunnel

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"tidegate/interop/internal/event"
)

// Server opens a stream to the next agent, in turn, for every TCP connection.
type Server struct {
	mu     sync.Mutex
	agents []*agent
	turn   int
}

// agent is a session of one.
type agent struct {
	conn    *quic.Conn
	stalled atomic.Bool
	open    int
}

// wait holds a read up until the end of a session that was stalled.
func (a *agent) wait() {
	if a.stalled.Load() {
		<-a.conn.Context().Done()
	}
}

// Listen takes UDP for agents.
func (s *Server) Listen(address string, files Files) (*quic.Listener, error) {
	config, err := files.server()
	if err != nil {
		return nil, err
	}
	return quic.ListenAddr(address, config, transport(streams))
}

// Agents serves those that come until the listener has ended.
func (s *Server) Agents(listener *quic.Listener) error {
	for {
		conn, err := listener.Accept(context.Background())
		if err != nil {
			return err
		}
		go s.serve(&agent{conn: conn})
	}
}

func (s *Server) serve(a *agent) {
	s.mu.Lock()
	s.agents = append(s.agents, a)
	s.mu.Unlock()
	name := a.conn.ConnectionState().TLS.PeerCertificates[0].Subject.CommonName
	event.Emit("agent connected", event.Fields{"from": a.conn.RemoteAddr().String(), "name": name})
	// An agent opens no streams: this returns when the session has ended.
	_, err := a.conn.AcceptStream(context.Background())
	s.mu.Lock()
	s.agents = without(s.agents, a)
	s.mu.Unlock()
	a.conn.CloseWithError(0, "")
	event.Emit("agent disconnected", event.Fields{"name": name, "reason": reason(err)})
}

func without(agents []*agent, gone *agent) []*agent {
	var left []*agent
	for _, a := range agents {
		if a != gone {
			left = append(left, a)
		}
	}
	return left
}

// Downstreams serves TCP connections until the listener has ended.
func (s *Server) Downstreams(listener net.Listener) error {
	for {
		tcp, err := listener.Accept()
		if err != nil {
			return err
		}
		go s.pass(tcp.(*net.TCPConn))
	}
}

func (s *Server) pass(tcp *net.TCPConn) {
	a := s.next()
	if a == nil {
		tcp.Close()
		event.Emit("refused", event.Fields{"reason": "no agent"})
		return
	}
	stream, err := a.conn.OpenStream()
	if err != nil {
		tcp.Close()
		event.Emit("refused", event.Fields{"reason": err.Error()})
		return
	}
	s.count(a, 1)
	defer s.count(a, -1)
	join(tcp, conn{stream, a.conn.LocalAddr(), a.conn.RemoteAddr()}, a.wait)
}

func (s *Server) next() *agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.agents) == 0 {
		return nil
	}
	s.turn++
	return s.agents[s.turn%len(s.agents)]
}

func (s *Server) count(a *agent, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.open += by
}

// Open counts the streams of every session, the oldest session first.
func (s *Server) Open() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := []int{}
	for _, a := range s.agents {
		open = append(open, a.open)
	}
	return open
}

// Ends are the ways in which a session can end, or stand still.
var Ends = []string{"close", "error", "stall"}

// End does one of Ends with all sessions, and returns how many there were.
//
// "close" is a close with code 0, "error" one with another code; after "stall" a session lives on, and no stream of it
// is read any more.
func (s *Server) End(how string) (int, error) {
	s.mu.Lock()
	agents := s.agents
	s.mu.Unlock()
	for _, a := range agents {
		switch how {
		case "close":
			a.conn.CloseWithError(0, "")
		case "error":
			a.conn.CloseWithError(7, "told to")
		case "stall":
			a.stalled.Store(true)
		default:
			return 0, fmt.Errorf("%q is no end", how)
		}
	}
	return len(agents), nil
}
