package piko

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"sync"

	"github.com/hashicorp/yamux"

	"tidegate/interop/internal/event"
)

// ErrClosed is how a session ends for good: by a close frame, or by a TCP end without one.
var ErrClosed = errors.New("closed")

// Listener offers an endpoint on a server; it accepts the streams that the server opens.
type Listener struct {
	connect  Connect
	endpoint string
	ctx      context.Context
	cancel   context.CancelFunc

	mu      sync.Mutex
	session *yamux.Session
}

// Listen connects, again and again where the server says that it may help.
func Listen(connect Connect, endpoint string) (*Listener, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Listener{connect: connect, endpoint: endpoint, ctx: ctx, cancel: cancel}
	if err := l.dial(); err != nil {
		cancel()
		return nil, err
	}
	return l, nil
}

func (l *Listener) dial() error {
	var wait backoff
	for attempt := 1; ; attempt++ {
		conn, err := l.connect.Dial(l.ctx, "piko/v1/upstream/"+url.PathEscape(l.endpoint))
		if err == nil {
			return l.start(conn, attempt)
		}
		var refused *Refused
		final := errors.As(err, &refused) && !refused.Retry()
		fields := event.Fields{"endpoint": l.endpoint, "error": err.Error(), "retry": !final}
		if refused != nil {
			fields["status"] = refused.Status
		}
		event.Emit("connect failed", fields)
		if final {
			return err
		}
		if err := wait.wait(l.ctx); err != nil {
			return err
		}
	}
}

func (l *Listener) start(conn *Conn, attempt int) error {
	under := newCarrier(conn, func(code uint32) {
		event.Emit("goaway", event.Fields{"endpoint": l.endpoint, "code": code})
	})
	session, err := yamux.Client(under, yamuxConfig())
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.session = session
	l.mu.Unlock()
	event.Emit("connected", event.Fields{"endpoint": l.endpoint, "attempt": attempt})
	return nil
}

// Accept returns the next stream. A session that failed is replaced; one that was ended cleanly is the end.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		session := l.current()
		stream, err := session.AcceptStreamWithContext(l.ctx)
		if err == nil {
			return stream, nil
		}
		if l.ctx.Err() != nil {
			return nil, net.ErrClosed
		}
		session.Close()
		if errors.Is(err, io.EOF) {
			return nil, ErrClosed
		}
		event.Emit("disconnected", event.Fields{"endpoint": l.endpoint, "reason": err.Error()})
		if err := l.dial(); err != nil {
			return nil, err
		}
	}
}

// GoAway asks the server for no more streams; those that run go on.
func (l *Listener) GoAway() error { return l.current().GoAway() }

// Close stops accepting; streams that were accepted go on until End.
func (l *Listener) Close() error {
	l.cancel()
	return nil
}

// End closes the session and with it all streams.
func (l *Listener) End() error { return l.current().Close() }

// Addr is the address of this end.
func (l *Listener) Addr() net.Addr { return l.current().Addr() }

func (l *Listener) current() *yamux.Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

func yamuxConfig() *yamux.Config {
	config := yamux.DefaultConfig()
	config.LogOutput = os.Stderr
	return config
}
