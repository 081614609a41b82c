// Command piko-forward carries TCP connections to an endpoint as Piko's forward does.
//
// piko-forward [flags] ADDR ENDPOINT
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"tidegate/interop/internal/event"
	"tidegate/interop/internal/piko"
)

func main() {
	var connect piko.Connect
	flag.StringVar(&connect.URL, "connect", "http://localhost:8000", "the server's proxy port")
	flag.StringVar(&connect.Token, "token", "", "bearer token")
	flag.DurationVar(&connect.Timeout, "timeout", 30*time.Second, "bound of one attempt to connect")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: piko-forward [flags] ADDR ENDPOINT")
		os.Exit(2)
	}
	listener, err := net.Listen("tcp", flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	event.Emit("listening", event.Fields{"address": listener.Addr().String()})
	err = piko.Forward{Connect: connect, Endpoint: flag.Arg(1)}.Serve(listener)
	event.Emit("exit", event.Fields{"reason": err.Error()})
	os.Exit(1)
}
