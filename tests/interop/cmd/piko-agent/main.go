// Command piko-agent offers one endpoint as Piko's agent does: piko-agent [flags] http|tcp ENDPOINT ADDR.
//
// It prints events: connected, connect failed, goaway, disconnected, draining, exit. It exits with 0 after SIGTERM and
// with 1 when it was refused or when its session was ended in a way after which Piko's agents do not come back.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"tidegate/interop/internal/event"
	"tidegate/interop/internal/piko"
)

func main() {
	var connect piko.Connect
	flag.StringVar(&connect.URL, "connect", "http://localhost:8001", "the server's upstream port")
	flag.StringVar(&connect.Token, "token", "", "bearer token")
	flag.StringVar(&connect.Tenant, "tenant", "", "tenant id")
	flag.DurationVar(&connect.Timeout, "timeout", 30*time.Second, "bound of one attempt to connect")
	grace := flag.Duration("grace", time.Minute, "how long requests may take to finish after SIGTERM")
	flag.Parse()
	if flag.NArg() != 3 {
		fmt.Fprintln(os.Stderr, "usage: piko-agent [flags] http|tcp ENDPOINT ADDR")
		os.Exit(2)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	if err := run(connect, flag.Arg(0), flag.Arg(1), flag.Arg(2), *grace, stop); err != nil {
		event.Emit("exit", event.Fields{"reason": err.Error()})
		os.Exit(1)
	}
	event.Emit("exit", event.Fields{"reason": "stopped"})
}

func run(connect piko.Connect, kind, endpoint, address string, grace time.Duration, stop <-chan os.Signal) error {
	if kind != "http" && kind != "tcp" {
		return fmt.Errorf("%q is neither http nor tcp", kind)
	}
	if !strings.Contains(address, ":") {
		address = "localhost:" + address
	}
	listener, err := connectOrStop(connect, endpoint, stop)
	if err != nil || listener == nil {
		return err
	}
	agent := piko.NewTCPAgent(listener, address)
	if kind == "http" {
		if !strings.Contains(address, "://") {
			address = "http://" + address
		}
		local, err := url.Parse(address)
		if err != nil {
			return err
		}
		agent = piko.NewHTTPAgent(listener, local)
	}
	ended := make(chan error, 1)
	go func() { ended <- agent.Serve() }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-stop:
	}
	event.Emit("draining", nil)
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := agent.Stop(ctx); errors.Is(err, context.DeadlineExceeded) {
		return errors.New("stopped before all requests had finished")
	}
	return nil
}

// connectOrStop returns no listener where the signal came first.
func connectOrStop(connect piko.Connect, endpoint string, stop <-chan os.Signal) (*piko.Listener, error) {
	type result struct {
		listener *piko.Listener
		err      error
	}
	connected := make(chan result, 1)
	go func() {
		listener, err := piko.Listen(connect, endpoint)
		connected <- result{listener, err}
	}()
	select {
	case r := <-connected:
		return r.listener, r.err
	case <-stop:
		return nil, nil
	}
}
