// Command quic-agent is the agent of quic-reverse-http-tunnel: a CONNECT server, or with --upstream a way to one
// address.
//
// It prints events: connected, stream, request, dial failed, disconnected, exit. It comes back after every end of its
// session, and exits with 0 after SIGTERM.
package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tidegate/interop/internal/event"
	"tidegate/interop/internal/quictunnel"
)

// pause is between the end of a session and the next attempt.
const pause = 500 * time.Millisecond

func main() {
	var agent quictunnel.Agent
	flag.StringVar(&agent.Server, "server", "", "HOST:PORT of the server")
	flag.StringVar(&agent.Files.CA, "ca-file", "", "authority of the server's certificate")
	flag.StringVar(&agent.Files.Cert, "cert-file", "", "certificate")
	flag.StringVar(&agent.Files.Key, "cert-key", "", "its key")
	flag.StringVar(&agent.Upstream, "upstream", "", "HOST:PORT that every stream leads to, instead of CONNECT")
	flag.Int64Var(&agent.Streams, "streams", 0, "streams that may be open at once; below 0 none")
	flag.BoolVar(&agent.Stuck, "stuck", false, "take streams and read nothing from them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	for ctx.Err() == nil {
		event.Emit("disconnected", event.Fields{"reason": agent.Serve(ctx)})
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	event.Emit("exit", event.Fields{"reason": "stopped"})
}
