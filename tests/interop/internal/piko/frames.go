package piko

import (
	"encoding/binary"
	"sync"
)

const (
	headerSize = 12
	typeData   = 0
	typeGoAway = 3
)

// Frame is the head of a yamux frame.
type Frame struct {
	Type   byte
	Flags  uint16
	Stream uint32
	Length uint32
}

// scanner follows the frames in a stream of bytes, however it is cut.
type scanner struct {
	head [headerSize]byte
	have int
	skip uint32
	seen func(Frame)
}

// between tells whether the bytes so far end where a frame ends.
func (s *scanner) between() bool { return s.have == 0 && s.skip == 0 }

func (s *scanner) scan(b []byte) {
	for len(b) > 0 {
		if s.skip > 0 {
			n := min(uint32(len(b)), s.skip)
			s.skip -= n
			b = b[n:]
			continue
		}
		n := copy(s.head[s.have:], b)
		s.have += n
		b = b[n:]
		if s.have < headerSize {
			return
		}
		s.have = 0
		frame := Frame{
			Type:   s.head[1],
			Flags:  binary.BigEndian.Uint16(s.head[2:]),
			Stream: binary.BigEndian.Uint32(s.head[4:]),
			Length: binary.BigEndian.Uint32(s.head[8:]),
		}
		if frame.Type == typeData {
			s.skip = frame.Length
		}
		if s.seen != nil {
			s.seen(frame)
		}
	}
}

// carrier is a Conn under a yamux session. The library neither tells of a GoAway nor sends one with a code of our
// choice, so the frames are watched on their way in, and one can be put between them on their way out.
type carrier struct {
	*Conn
	in      scanner
	writing sync.Mutex
	out     scanner
	waiting []byte
}

func newCarrier(conn *Conn, goAway func(code uint32)) *carrier {
	c := &carrier{Conn: conn}
	c.in.seen = func(frame Frame) {
		if frame.Type == typeGoAway && goAway != nil {
			goAway(frame.Length)
		}
	}
	return c
}

// Read reads and watches.
func (c *carrier) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.scan(b[:n])
	return n, err
}

// Write writes, then what waited for the end of a frame.
func (c *carrier) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.Conn.Write(b)
	c.out.scan(b[:n])
	if err == nil && c.waiting != nil && c.out.between() {
		_, err = c.Conn.Write(c.waiting)
		c.waiting = nil
	}
	return n, err
}

// goAway sends a GoAway with any code as soon as no frame is half sent.
func (c *carrier) goAway(code uint32) error {
	frame := make([]byte, headerSize)
	frame[1] = typeGoAway
	binary.BigEndian.PutUint32(frame[8:], code)
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.out.between() {
		c.waiting = frame
		return nil
	}
	_, err := c.Conn.Write(frame)
	return err
}
