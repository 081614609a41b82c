package piko

import (
	"fmt"
	"time"
)

// Ends are the ways in which a session can end, or be asked to.
var Ends = []string{"close", "tcp-fin", "tcp-rst", "goaway0", "goaway2"}

// endWait is how long a session that was told to end may take.
const endWait = 5 * time.Second

// End ends all sessions of an endpoint in one of the ways of Ends, and returns how many there were.
func (s *Server) End(endpoint, how string) (int, error) {
	s.mu.Lock()
	sessions := append([]*session(nil), s.sessions[endpoint]...)
	s.mu.Unlock()
	for _, agent := range sessions {
		if err := agent.end(how); err != nil {
			return 0, err
		}
	}
	return len(sessions), nil
}

func (a *session) end(how string) error {
	switch how {
	case "close":
		return a.mux.Close()
	case "tcp-fin":
		go a.closeAfter(endWait)
		return a.carrier.CloseWrite()
	case "tcp-rst":
		return a.carrier.Reset()
	case "goaway0":
		return a.mux.GoAway()
	case "goaway2":
		go a.closeAfter(endWait)
		return a.carrier.goAway(2)
	}
	return fmt.Errorf("unknown end %q: one of %v", how, Ends)
}

// closeAfter is for an agent that does not react.
func (a *session) closeAfter(patience time.Duration) {
	select {
	case <-a.mux.CloseChan():
	case <-time.After(patience):
		a.mux.Close()
	}
}
