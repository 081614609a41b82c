package quictunnel

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"tidegate/interop/internal/event"
)

// Agent serves every stream of its session.
type Agent struct {
	// Server is HOST:PORT of the server.
	Server string
	// Files are its certificate and whom it trusts.
	Files Files
	// Upstream is where every stream leads; where it is empty the agent is a CONNECT server.
	Upstream string
	// Streams is how many the server may have open at once; 0 is the usual number, below 0 none.
	Streams int64
	// Stuck takes streams and reads nothing from them.
	Stuck bool
}

// Serve connects, serves until the session has ended or the context is over, and says why.
func (a Agent) Serve(ctx context.Context) string { return reason(a.serve(ctx)) }

func (a Agent) serve(ctx context.Context) error {
	config, err := a.Files.client()
	if err != nil {
		return err
	}
	session, err := quic.DialAddr(ctx, a.Server, config, transport(a.streams()))
	if err != nil {
		return err
	}
	event.Emit("connected", event.Fields{"server": session.RemoteAddr().String()})
	// The context bounds the dial alone.
	defer context.AfterFunc(ctx, func() { session.CloseWithError(0, "") })()
	streams := &listener{ctx: ctx, session: session}
	switch {
	case a.Stuck:
		_, err = session.AcceptStream(ctx)
		<-session.Context().Done()
	case a.Upstream == "":
		err = (&http.Server{Handler: http.HandlerFunc(proxy)}).Serve(streams)
	default:
		err = a.copy(streams)
	}
	if ended := context.Cause(session.Context()); ended != nil {
		err = ended
	}
	return err
}

func (a Agent) streams() int64 {
	if a.Streams == 0 {
		return streams
	}
	return a.Streams
}

func (a Agent) copy(streams *listener) error {
	for {
		stream, err := streams.Accept()
		if err != nil {
			return err
		}
		go func() {
			local, err := net.DialTimeout("tcp", a.Upstream, 10*time.Second)
			if err != nil {
				event.Emit("dial failed", event.Fields{"reason": err.Error()})
				stream.Close()
				return
			}
			join(local.(*net.TCPConn), stream.(conn), func() {})
		}()
	}
}

// proxy answers CONNECT, and refuses everything else.
func proxy(w http.ResponseWriter, r *http.Request) {
	event.Emit("request", event.Fields{"method": r.Method, "target": r.Host})
	if r.Method != http.MethodConnect {
		http.Error(w, "only CONNECT is served", http.StatusMethodNotAllowed)
		return
	}
	target, err := net.DialTimeout("tcp", r.Host, 10*time.Second)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// As many a Go proxy does it: the answer has a Transfer-Encoding, which counts for nothing after a CONNECT.
	w.WriteHeader(http.StatusOK)
	stream, read, err := w.(http.Hijacker).Hijack()
	if err != nil {
		target.Close()
		return
	}
	join(target.(*net.TCPConn), hijacked{stream.(conn), read.Reader}, func() {})
}

// hijacked is a stream of which the HTTP server has read ahead.
type hijacked struct {
	conn
	read *bufio.Reader
}

func (h hijacked) Read(b []byte) (int, error) { return h.read.Read(b) }

// listener hands out the streams of a session.
type listener struct {
	ctx     context.Context
	session *quic.Conn
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	stream, err := l.session.AcceptStream(l.ctx)
	if err != nil {
		return nil, err
	}
	event.Emit("stream", event.Fields{"id": int64(stream.StreamID())})
	return conn{stream, l.session.LocalAddr(), l.session.RemoteAddr()}, nil
}

func (l *listener) Close() error {
	l.once.Do(func() { l.session.CloseWithError(0, "") })
	return nil
}

func (l *listener) Addr() net.Addr { return l.session.LocalAddr() }
