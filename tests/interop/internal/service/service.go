// Package service is the local service behind an agent in tests: it says back what it was told, and can wait.
package service

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// patience is how long a request waits for others before it gives up on them.
const patience = 30 * time.Second

// Service answers HTTP and counts.
type Service struct {
	mu      sync.Mutex
	waiting int
	met     chan struct{}
	active  int
	peak    int
	total   int
}

// HTTP is the handler of the HTTP port.
func (s *Service) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("POST /together", s.together)
	mux.HandleFunc("GET /bytes/{n}", bytesOf)
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /drip", drip)
	mux.HandleFunc("GET /counts", s.counts)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello from "+r.Host+"\n")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/counts" {
			s.count(1)
			defer s.count(-1)
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Service) count(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active += by
	if by > 0 {
		s.total++
	}
	s.peak = max(s.peak, s.active)
}

// counts says how many requests run, ran at once, and came in all.
func (s *Service) counts(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"active": `+strconv.Itoa(s.active)+`, "peak": `+strconv.Itoa(s.peak)+
		`, "total": `+strconv.Itoa(s.total)+"}\n")
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, _ = w.Write(body)
}

// together answers nobody before `n` requests are here, so that they are known to have been open at once.
func (s *Service) together(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	n, bad := strconv.Atoi(r.FormValue("n"))
	if err != nil || bad != nil {
		http.Error(w, "body or n is missing", http.StatusBadRequest)
		return
	}
	select {
	case <-s.arrive(n):
		_, _ = w.Write(body)
	case <-r.Context().Done():
	case <-time.After(patience):
		http.Error(w, "the others did not come", http.StatusServiceUnavailable)
	}
}

func (s *Service) arrive(n int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.met == nil {
		s.met = make(chan struct{})
	}
	met := s.met
	s.waiting++
	if s.waiting >= n {
		close(met)
		s.waiting, s.met = 0, nil
	}
	return met
}

// Byte is what stands at an offset of a body of /bytes/N.
func Byte(offset int) byte { return byte(offset % 251) }

func bytesOf(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 0 {
		http.Error(w, "not a number of bytes", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	block := make([]byte, 251*128)
	for i := range block {
		block[i] = Byte(i)
	}
	for n > 0 {
		written, err := w.Write(block[:min(n, len(block))])
		if err != nil {
			return
		}
		n -= written
	}
}

// slow answers after `ms` milliseconds.
func slow(w http.ResponseWriter, r *http.Request) {
	ms, _ := strconv.Atoi(r.FormValue("ms"))
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		_, _ = io.WriteString(w, "slow\n")
	case <-r.Context().Done():
	}
}

// drip sends the head and a line at once, then a line every `ms` milliseconds, `n` in all.
func drip(w http.ResponseWriter, r *http.Request) {
	ms, _ := strconv.Atoi(r.FormValue("ms"))
	n, _ := strconv.Atoi(r.FormValue("n"))
	for i := range n {
		if _, err := io.WriteString(w, "line "+strconv.Itoa(i)+"\n"); err != nil {
			return
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
}

// Echo answers every connection with its own bytes, and its end with the end.
func Echo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// Greet speaks first: one line, then it echoes.
func Greet(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if _, err := io.WriteString(conn, "220 ready\r\n"); err == nil {
				_, _ = io.Copy(conn, conn)
			}
		}()
	}
}
