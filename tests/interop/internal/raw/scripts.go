package raw

import (
	"bytes"
	"errors"
	"maps"
	"slices"
)

// script is one misbehaviour. An error of a write means that the other end had enough before the script was done.
type script func(p *Peer) error

var scripts = map[string]script{
	// yamux
	"wrong-version": func(p *Peer) error {
		ping := head(typePing, flagSYN, 0, 1)
		ping[0] = 1
		return p.send(ping)
	},
	"wrong-type":         func(p *Peer) error { return p.send(head(9, 0, 0, 0)) },
	"unknown-id":         func(p *Peer) error { return p.send(frame(typeData, 0, p.theirs()+1000, []byte("hello"))) },
	"own-unknown-id":     func(p *Peer) error { return p.send(frame(typeData, 0, p.own()+1000, []byte("hello"))) },
	"foreign-syn":        func(p *Peer) error { return p.send(head(typeWindow, flagSYN, p.theirs()+1000, 0)) },
	"syn-flood":          synFlood,
	"syn-too-much-data":  synTooMuchData,
	"beyond-window":      onStream(func(id uint32) []byte { return frame(typeData, 0, id, make([]byte, 20<<20)) }),
	"length-max":         onStream(func(id uint32) []byte { return head(typeData, 0, id, 1<<32-1) }),
	"window-overflow":    onStream(windowOverflow),
	"syn-twice":          onStream(func(id uint32) []byte { return head(typeWindow, flagSYN, id, 0) }),
	"closed-stream-data": closedStreamData,
	"reset-stream-data":  onStream(resetStreamData),
	"ping-flood":         pingFlood,
	"goaway-protocol":    func(p *Peer) error { return p.send(head(typeGoAway, 0, 0, 1)) },
	"goaway-unknown":     func(p *Peer) error { return p.send(head(typeGoAway, 0, 0, 77)) },
	// WebSocket
	"ws-huge-length":        func(p *Peer) error { return p.write(wsHead(true, opBinary, p.client, 1<<63)) },
	"ws-wrong-mask":         func(p *Peer) error { return p.write(append(wsHead(true, opBinary, !p.client, 2), 1, 2)) },
	"ws-fragmented-control": func(p *Peer) error { return p.write(wsHead(false, opPing, p.client, 0)) },
	"ws-long-control":       longControl,
	"ws-reserved-bits":      reservedBits,
	"ws-unknown-opcode":     func(p *Peer) error { return p.write(wsHead(true, 5, p.client, 0)) },
	"ws-text":               func(p *Peer) error { return p.write(append(wsHead(true, opText, p.client, 2), "hi"...)) },
	"ws-lonely-continue":    func(p *Peer) error { return p.write(append(wsHead(true, opContinue, p.client, 2), 1, 2)) },
	"ws-tiny-fragments":     tinyFragments,
	"ws-empty-fragments":    emptyFragments,
	"ws-empty-messages":     func(p *Peer) error { return p.flood(wsHead(true, opBinary, p.client, 0), 1_000_000) },
	"ws-ping-flood":         socketPings,
	"ws-half-frame":         halfFrame,
}

// Names are the scripts there are.
func Names() []string { return slices.Sorted(maps.Keys(scripts)) }

// ErrUnknown is a script that does not exist.
var ErrUnknown = errors.New("no such script")

// NeedsStream tells whether a downstream must come for the script to begin.
func NeedsStream(name string) bool {
	switch name {
	case "beyond-window", "length-max", "window-overflow", "syn-twice", "reset-stream-data":
		return true
	}
	return DownstreamLeaves(name)
}

// DownstreamLeaves tells whether that downstream must leave for the script to end.
func DownstreamLeaves(name string) bool { return name == "closed-stream-data" }

// Play does what the script says.
func (p *Peer) Play(name string) error {
	play, ok := scripts[name]
	if !ok {
		return ErrUnknown
	}
	return play(p)
}

// stream returns a stream that both ends know: one that the other end opened, or one that it accepted.
func (p *Peer) stream() (uint32, error) {
	if !p.client {
		err := p.send(head(typeWindow, flagSYN, p.own(), 0))
		if err == nil && !p.until(func(seen Seen) bool { return seen.Acks > 0 }) {
			err = errors.New("the stream was not accepted")
		}
		return p.own(), err
	}
	var id uint32
	if !p.until(func(seen Seen) bool { id = seen.Opened; return id != 0 }) {
		return 0, errors.New("no stream was opened")
	}
	return id, p.send(head(typeWindow, flagACK, id, 0))
}

func onStream(frames func(id uint32) []byte) script {
	return func(p *Peer) error {
		id, err := p.stream()
		if err != nil {
			return err
		}
		return p.send(frames(id))
	}
}

func windowOverflow(id uint32) []byte {
	return bytes.Repeat(head(typeWindow, 0, id, 1<<32-1), 2)
}

// closedStreamData goes on after the downstream has left, as an agent does that has not heard of it yet.
func closedStreamData(p *Peer) error {
	id, err := p.stream()
	if err != nil {
		return err
	}
	if !p.until(func(seen Seen) bool { return seen.Closed > 0 }) {
		return errors.New("the stream was not closed")
	}
	return p.send(bytes.Repeat(frame(typeData, 0, id, make([]byte, 1000)), 100))
}

func resetStreamData(id uint32) []byte {
	return slices.Concat(head(typeWindow, flagRST, id, 0),
		bytes.Repeat(frame(typeData, 0, id, make([]byte, 1000)), 100))
}

// flood writes the same bytes again and again, many at a time.
func (p *Peer) flood(unit []byte, times int) error {
	const batch = 1000
	block := bytes.Repeat(unit, batch)
	for range times / batch {
		if err := p.write(block); err != nil {
			return err
		}
	}
	return nil
}

// synFlood opens 100,000 streams and takes none of them further.
func synFlood(p *Peer) error {
	p.read()
	id := p.own()
	for range 100 {
		var frames []byte
		for range 1000 {
			frames = append(frames, head(typeWindow, flagSYN, id, 0)...)
			id += 2
		}
		if err := p.send(frames); err != nil {
			return err
		}
	}
	return nil
}

func synTooMuchData(p *Peer) error {
	return p.send(frame(typeData, flagSYN, p.own(), make([]byte, 2*initialWindow)))
}

// pingFlood reads none of the answers while it asks.
func pingFlood(p *Peer) error {
	return p.flood(p.message(head(typePing, flagSYN, 0, 1)), 500_000)
}

func socketPings(p *Peer) error {
	return p.flood(append(wsHead(true, opPing, p.client, 4), "ping"...), 500_000)
}

// longControl is one byte longer than a ping may be.
func longControl(p *Peer) error {
	return p.write(append(wsHead(true, opPing, p.client, 126), make([]byte, 126)...))
}

func reservedBits(p *Peer) error {
	b := wsHead(true, opBinary, p.client, 0)
	b[0] |= 0x40
	return p.write(b)
}

// tinyFragments is one message of a million legal bytes, a fragment for each.
func tinyFragments(p *Peer) error {
	ping := head(typePing, flagSYN, 0, 1)
	var round []byte
	for _, b := range ping {
		round = append(append(round, wsHead(false, opContinue, p.client, 1)...), b)
	}
	if err := p.write(wsHead(false, opBinary, p.client, 0)); err != nil {
		return err
	}
	p.read()
	if err := p.flood(round, 84_000); err != nil {
		return err
	}
	return p.write(wsHead(true, opContinue, p.client, 0))
}

// emptyFragments is one message of a million fragments without a byte.
func emptyFragments(p *Peer) error {
	if err := p.write(wsHead(false, opBinary, p.client, 0)); err != nil {
		return err
	}
	if err := p.flood(wsHead(false, opContinue, p.client, 0), 1_000_000); err != nil {
		return err
	}
	return p.write(wsHead(true, opContinue, p.client, 0))
}

// halfFrame leaves in the middle of a frame.
func halfFrame(p *Peer) error {
	if err := p.write(append(wsHead(true, opBinary, p.client, 100), 1, 2, 3)); err != nil {
		return err
	}
	return p.Close()
}
