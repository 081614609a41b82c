// Command service is a local service for tests: HTTP, a TCP echo, and a TCP service that speaks first.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"tidegate/interop/internal/event"
	"tidegate/interop/internal/service"
)

func main() {
	var listeners []net.Listener
	for range 3 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		listeners = append(listeners, listener)
	}
	event.Emit("listening", event.Fields{
		"http":  listeners[0].Addr().String(),
		"echo":  listeners[1].Addr().String(),
		"greet": listeners[2].Addr().String(),
	})
	go service.Echo(listeners[1])
	go service.Greet(listeners[2])
	fmt.Fprintln(os.Stderr, http.Serve(listeners[0], (&service.Service{}).HTTP()))
	os.Exit(1)
}
