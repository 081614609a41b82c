package piko

import (
	"context"
	"io"
	"net"
	"net/url"

	"tidegate/interop/internal/event"
)

// Forward carries each connection of a local listener to an endpoint, as one WebSocket to the proxy port.
type Forward struct {
	// Connect is the proxy port.
	Connect Connect
	// Endpoint is where the connections go.
	Endpoint string
}

// Serve accepts until the listener is closed.
func (f Forward) Serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go f.carry(conn)
	}
}

func (f Forward) carry(conn net.Conn) {
	defer conn.Close()
	up, err := f.Connect.Dial(context.Background(), "_piko/v1/tcp/"+url.PathEscape(f.Endpoint))
	if err != nil {
		event.Emit("connect failed", event.Fields{"endpoint": f.Endpoint, "error": err.Error()})
		return
	}
	splice(conn, up)
}

// splice copies both ways until one way ends. A WebSocket has no half-close, so that is the end of both.
func splice(a, b io.ReadWriteCloser) {
	done := make(chan struct{}, 2)
	one := func(to, from io.ReadWriteCloser) {
		_, _ = io.Copy(to, from)
		done <- struct{}{}
	}
	go one(a, b)
	go one(b, a)
	<-done
	a.Close()
	b.Close()
	<-done
}
