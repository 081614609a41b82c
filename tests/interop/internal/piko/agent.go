package piko

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// crossing is how long a stream may be on its way when the GoAway is sent.
const crossing = 200 * time.Millisecond

// Agent serves the streams of a Listener from a local address.
type Agent struct {
	listener *Listener
	server   *http.Server
	address  string
	streams  sync.WaitGroup
}

// NewHTTPAgent answers every stream as an HTTP/1.1 server that passes requests to the URL.
func NewHTTPAgent(listener *Listener, local *url.URL) *Agent {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(local)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		ErrorHandler: proxyError,
	}
	return &Agent{listener: listener, server: &http.Server{Handler: fullDuplex(proxy)}}
}

// fullDuplex keeps net/http from closing the request's body when the answer begins. Without it about one upload in a
// thousand is cut: the transport looks once more at a body that the server has just closed, takes that for an error,
// and drops the connection from which it reads the answer.
func fullDuplex(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		next.ServeHTTP(w, r)
	})
}

// NewTCPAgent joins every stream with a connection to the address.
func NewTCPAgent(listener *Listener, address string) *Agent {
	return &Agent{listener: listener, address: address}
}

// Serve returns when the listener has ended for good.
func (a *Agent) Serve() error {
	if a.server != nil {
		return a.server.Serve(a.listener)
	}
	for {
		stream, err := a.listener.Accept()
		if err != nil {
			return err
		}
		a.streams.Go(func() { a.join(stream) })
	}
}

func (a *Agent) join(stream net.Conn) {
	local, err := net.DialTimeout("tcp", a.address, 10*time.Second)
	if err != nil {
		stream.Close()
		return
	}
	join(local, stream)
}

// Stop takes no new streams, finishes those that run as long as the context allows, then closes.
func (a *Agent) Stop(ctx context.Context) error {
	away := a.listener.GoAway()
	// Streams that crossed the GoAway are still accepted, or they would be acknowledged and then dropped.
	time.Sleep(crossing)
	var err error
	if a.server != nil {
		err = a.server.Shutdown(ctx)
	} else {
		a.listener.Close()
		err = wait(ctx, &a.streams)
	}
	return errors.Join(away, err, a.listener.End())
}

func wait(ctx context.Context, streams *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		streams.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join copies both ways between a TCP connection and a stream; an end is passed on as a half-close.
func join(tcp net.Conn, stream net.Conn) {
	defer tcp.Close()
	defer stream.Close()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(tcp, stream)
		if half, ok := tcp.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	})
	both.Go(func() {
		_, _ = io.Copy(stream, tcp)
		// The Close of a yamux stream is a FIN: what comes back is still read.
		stream.Close()
	})
	both.Wait()
}
