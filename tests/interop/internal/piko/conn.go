// Package piko speaks Piko's wire protocol on both sides: agent, server and forward.
//
// It is written from the description of the protocol, on the two libraries that Piko itself is built from, so that
// tidegate can be tried against something that is not tidegate.
package piko

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Conn is a WebSocket as one stream of bytes: binary messages whose bounds mean nothing.
type Conn struct {
	ws      *websocket.Conn
	message io.Reader
	writing sync.Mutex
}

// NewConn wraps a WebSocket that nothing has been read from.
func NewConn(ws *websocket.Conn) *Conn { return &Conn{ws: ws} }

// Read returns io.EOF for every end that is no error of the socket: a close frame, or a TCP end without one.
func (c *Conn) Read(b []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.ws.NextReader()
			if err != nil {
				return 0, ended(err)
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("a websocket message that is not binary")
			}
			c.message = message
		}
		n, err := c.message.Read(b)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, ended(err)
		}
	}
}

// ended hides the difference between the two clean ends, as Piko does; it is why its agents stop at both.
func ended(err error) error {
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		return io.EOF
	}
	return err
}

// Write sends one message.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.ws.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close says goodbye with a close frame and ends the connection.
func (c *Conn) Close() error {
	goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	_ = c.ws.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(time.Second))
	return c.ws.Close()
}

// CloseWrite ends the TCP connection without a close frame.
func (c *Conn) CloseWrite() error {
	if tcp, ok := c.ws.NetConn().(*net.TCPConn); ok {
		return tcp.CloseWrite()
	}
	return c.ws.Close()
}

// Reset ends the TCP connection with a reset.
func (c *Conn) Reset() error {
	if tcp, ok := c.ws.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return c.ws.NetConn().Close()
}

// LocalAddr is the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.ws.LocalAddr() }

// RemoteAddr is the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.ws.RemoteAddr() }

// SetDeadline bounds reads and writes.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.ws.SetReadDeadline(t) }

// SetWriteDeadline bounds writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.ws.SetWriteDeadline(t) }
