package quictunnel

import (
	"io"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// conn is a stream as a connection, for net/http.
type conn struct {
	*quic.Stream
	local, remote net.Addr
}

// Close ends both directions: that of a stream ends only what is written.
func (c conn) Close() error {
	c.CancelRead(0)
	return c.Stream.Close()
}

// CloseWrite passes on that nothing more comes.
func (c conn) CloseWrite() error { return c.Stream.Close() }

// LocalAddr is the address of this end of the connection.
func (c conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the address of the other end.
func (c conn) RemoteAddr() net.Addr { return c.remote }

// half is a connection whose directions end one by one.
type half interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// join copies both ways until both directions have ended; `wait` is called before each read.
func join(a, b half, wait func()) {
	defer a.Close()
	defer b.Close()
	var both sync.WaitGroup
	both.Go(func() { pass(a, b, wait) })
	both.Go(func() { pass(b, a, wait) })
	both.Wait()
}

// pass copies one way. What breaks one direction ends the other, or it would wait for somebody who has gone.
func pass(to, from half, wait func()) {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, waiting{from, wait}, make([]byte, 64<<10))
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		to.Close()
		from.Close()
	}
}

type waiting struct {
	io.Reader
	wait func()
}

func (w waiting) Read(b []byte) (int, error) {
	w.wait()
	return w.Reader.Read(b)
}
