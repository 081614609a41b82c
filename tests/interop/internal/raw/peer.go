package raw

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// The types and flags of yamux.
const (
	typeData   = 0
	typeWindow = 1
	typePing   = 2
	typeGoAway = 3

	flagSYN = 1
	flagACK = 2
	flagFIN = 4
	flagRST = 8
)

const (
	// initialWindow is what a stream may send before it is told more.
	initialWindow = 256 << 10
	// patience bounds everything that a peer waits for.
	patience = 20 * time.Second
	// probe is the value of the ping that asks whether the session is still alive.
	probe = 0xfeedface
)

// Peer is one end of a tunnel, with a script instead of a session.
type Peer struct {
	conn   net.Conn
	reader *bufio.Reader
	client bool
	start  sync.Once

	mu      sync.Mutex
	buffer  []byte
	changed chan struct{}
	seen    Seen
}

// Seen is what the other end has sent so far.
type Seen struct {
	// Opened is the last stream that the other end opened, 0 for none.
	Opened uint32
	// Acks, Resets and Pongs count what was answered.
	Acks, Resets, Pongs int
	// Closed counts the streams that the other end has finished or reset.
	Closed int
	// GoAway is the last code, -1 for none.
	GoAway int
	// Alive is true when the probe was answered.
	Alive bool
	// CloseCode is that of a close frame, 0 for none.
	CloseCode int
	// End is how the connection ended, empty while it has not.
	End string
}

// Dial is an agent's peer: it connects to a tunnel listener.
func Dial(address, path, authorization string) (*Peer, error) {
	conn, reader, err := dial(address, path, authorization)
	if err != nil {
		return nil, err
	}
	return newPeer(conn, reader, true), nil
}

// Accept is a server's peer: an agent has connected to it.
func Accept(conn net.Conn) (*Peer, error) {
	reader, err := accept(conn)
	if err != nil {
		return nil, err
	}
	return newPeer(conn, reader, false), nil
}

func newPeer(conn net.Conn, reader *bufio.Reader, client bool) *Peer {
	return &Peer{conn: conn, reader: reader, client: client, changed: make(chan struct{}), seen: Seen{GoAway: -1}}
}

// own is the first stream id that this end may use, theirs the first of the other end.
func (p *Peer) own() uint32 {
	if p.client {
		return 1
	}
	return 2
}

func (p *Peer) theirs() uint32 { return 3 - p.own() }

// read begins to read what the other end sends; until then its writes pile up.
func (p *Peer) read() {
	p.start.Do(func() { go p.readAll() })
}

func (p *Peer) readAll() {
	for {
		opcode, payload, err := readFrame(p.reader)
		p.mu.Lock()
		switch {
		case err != nil:
			p.seen.End = howEnded(err)
		case opcode == opClose:
			p.seen.CloseCode = 1005
			if len(payload) >= 2 {
				p.seen.CloseCode = int(binary.BigEndian.Uint16(payload))
			}
		case opcode == opBinary || opcode == opContinue:
			p.buffer = append(p.buffer, payload...)
			p.parse()
		}
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func howEnded(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "fin"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	}
	return err.Error()
}

// parse takes the whole frames out of the buffer.
func (p *Peer) parse() {
	for len(p.buffer) >= 12 {
		kind, flags := p.buffer[1], binary.BigEndian.Uint16(p.buffer[2:])
		id, length := binary.BigEndian.Uint32(p.buffer[4:]), binary.BigEndian.Uint32(p.buffer[8:])
		size := 12
		if kind == typeData {
			size += int(length)
		}
		if len(p.buffer) < size {
			return
		}
		p.buffer = p.buffer[size:]
		p.note(kind, flags, id, length)
	}
}

func (p *Peer) note(kind byte, flags uint16, id, length uint32) {
	if kind != typePing && flags&(flagFIN|flagRST) != 0 {
		p.seen.Closed++
	}
	switch {
	case kind == typeGoAway:
		p.seen.GoAway = int(length)
	case kind == typePing && flags&flagACK != 0 && length == probe:
		p.seen.Alive = true
	case kind == typePing && flags&flagACK != 0:
		p.seen.Pongs++
	case flags&flagRST != 0:
		p.seen.Resets++
	case flags&flagSYN != 0:
		p.seen.Opened = id
	case flags&flagACK != 0:
		p.seen.Acks++
	}
}

// until waits for a condition, the end of the connection, or the end of patience.
func (p *Peer) until(condition func(Seen) bool) bool {
	p.read()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		seen, changed := p.seen, p.changed
		p.mu.Unlock()
		if condition(seen) {
			return true
		}
		if seen.End != "" {
			return false
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

// write sends bytes as they are.
func (p *Peer) write(b []byte) error {
	_ = p.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := p.conn.Write(b)
	return err
}

// message is a whole WebSocket message with the bytes.
func (p *Peer) message(b []byte) []byte {
	return append(wsHead(true, opBinary, p.client, uint64(len(b))), b...)
}

// send sends yamux frames as one message.
func (p *Peer) send(frames ...[]byte) error {
	var all []byte
	for _, frame := range frames {
		all = append(all, frame...)
	}
	return p.write(p.message(all))
}

// frame is a yamux frame that says it is as long as it is.
func frame(kind byte, flags uint16, id uint32, body []byte) []byte {
	return append(head(kind, flags, id, uint32(len(body))), body...)
}

// head is the head of a yamux frame.
func head(kind byte, flags uint16, id, length uint32) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, id)
	return binary.BigEndian.AppendUint32(b, length)
}

// Outcome asks whether the session is alive, and waits for the answer, its end, or neither.
func (p *Peer) Outcome() Seen {
	// The other end may be gone; then the reader says so.
	_ = p.send(head(typePing, flagSYN, 0, probe))
	p.until(func(seen Seen) bool { return seen.Alive })
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Close ends the connection.
func (p *Peer) Close() error { return p.conn.Close() }
