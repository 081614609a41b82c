// Command parallel opens many requests or connections at once and checks every byte that comes back.
//
// parallel --http http://HOST:PORT --endpoint E: --count bodies are posted to the service's /together, which answers
// none before all are there; with --path /echo each is answered as it comes. parallel --tcp HOST:PORT: every
// connection gets half of its bytes back before any sends the second half. It exits with 1 unless everything came back.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"tidegate/interop/internal/event"
)

// load is what is asked for.
type load struct {
	http, tcp, endpoint, path string
	count, size, rounds       int
	timeout                   time.Duration
}

func main() {
	var l load
	flag.StringVar(&l.http, "http", "", "URL of a proxy port")
	flag.StringVar(&l.tcp, "tcp", "", "address that leads to a TCP echo")
	flag.StringVar(&l.endpoint, "endpoint", "web", "endpoint that HTTP requests name")
	flag.StringVar(&l.path, "path", "", "path to post to (default /together?n=COUNT)")
	flag.IntVar(&l.count, "count", 500, "how many at once")
	flag.IntVar(&l.size, "bytes", 64<<10, "largest body")
	flag.IntVar(&l.rounds, "rounds", 1, "how often each is repeated")
	flag.DurationVar(&l.timeout, "timeout", time.Minute, "bound of the whole")
	flag.Parse()
	if (l.http == "") == (l.tcp == "") {
		fmt.Fprintln(os.Stderr, "either --http or --tcp")
		os.Exit(2)
	}
	if l.path == "" {
		l.path = fmt.Sprintf("/together?n=%d", l.count)
	}
	start := time.Now()
	errs := l.run()
	event.Emit("done", event.Fields{
		"ok": l.count*l.rounds - sum(errs), "errors": errs, "seconds": time.Since(start).Seconds(),
	})
	if len(errs) > 0 {
		os.Exit(1)
	}
}

func sum(errs map[string]int) int {
	n := 0
	for _, count := range errs {
		n += count
	}
	return n
}

// run returns what went wrong, and how often.
func (l load) run() map[string]int {
	one := l.overHTTP()
	if l.tcp != "" {
		one = l.overTCP()
	}
	errs := map[string]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range l.count {
		all.Go(func() {
			for range l.rounds {
				if err := one(body(l.size)); err != nil {
					mu.Lock()
					errs[kind(err)]++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return errs
}

// kind leaves out the addresses, so that the same failure is counted together.
func kind(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

func body(largest int) []byte {
	b := make([]byte, 2+rand.IntN(largest))
	seed := rand.NewChaCha8([32]byte{byte(rand.Int()), byte(rand.Int()), byte(rand.Int()), byte(rand.Int())})
	_, _ = seed.Read(b)
	return b
}

func (l load) overHTTP() func([]byte) error {
	client := &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: l.count, DisableCompression: true},
		Timeout:   l.timeout,
	}
	return func(sent []byte) error {
		request, err := http.NewRequest(http.MethodPost, l.http+l.path, bytes.NewReader(sent))
		if err != nil {
			return err
		}
		// No silent second try: what the proxy loses must be seen.
		request.GetBody = nil
		request.Header.Set("x-piko-endpoint", l.endpoint)
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		got, err := io.ReadAll(response.Body)
		if err != nil {
			return fmt.Errorf("body: %w", err)
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d: %.200s", response.StatusCode, got)
		}
		return same(sent, got)
	}
}

func (l load) overTCP() func([]byte) error {
	deadline := time.Now().Add(l.timeout)
	var half sync.WaitGroup
	half.Add(l.count * l.rounds)
	return func(sent []byte) error {
		arrived := sync.OnceFunc(half.Done)
		defer arrived()
		conn, err := net.Dial("tcp", l.tcp)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(deadline)
		got := make([]byte, len(sent))
		middle := len(sent) / 2
		if err := roundTrip(conn, sent[:middle], got[:middle]); err != nil {
			return err
		}
		arrived()
		if l.rounds == 1 {
			half.Wait()
		}
		if err := roundTrip(conn, sent[middle:], got[middle:]); err != nil {
			return err
		}
		return same(sent, got)
	}
}

// roundTrip reads while it writes: an echo of more than the buffers hold would wait for us otherwise.
func roundTrip(conn net.Conn, send, receive []byte) error {
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(send)
		written <- err
	}()
	_, err := io.ReadFull(conn, receive)
	return errors.Join(err, <-written)
}

func same(sent, got []byte) error {
	if sha256.Sum256(sent) != sha256.Sum256(got) {
		return fmt.Errorf("another body came back: %d bytes instead of %d", len(got), len(sent))
	}
	return nil
}
