// Package raw is a peer that does on purpose what no library would: it writes WebSocket and yamux frames byte by byte.
package raw

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
)

// The opcodes of RFC 6455.
const (
	opContinue = 0
	opText     = 1
	opBinary   = 2
	opClose    = 8
	opPing     = 9
)

const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// dial upgrades a TCP connection to an address.
func dial(address, path, authorization string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, nil, err
	}
	head := "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	if authorization != "" {
		head += "Authorization: " + authorization + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return nil, nil, err
	}
	reader := bufio.NewReaderSize(conn, 64<<10)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, nil, fmt.Errorf("refused: %s", response.Status)
	}
	return conn, reader, nil
}

// accept answers the upgrade of a connection.
func accept(conn net.Conn) (*bufio.Reader, error) {
	reader := bufio.NewReaderSize(conn, 64<<10)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + acceptGUID))
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
	return reader, err
}

// wsHead is the head of a frame; a masked one has the mask 0, which leaves the payload as it is.
func wsHead(final bool, opcode byte, masked bool, length uint64) []byte {
	head := []byte{opcode, 0}
	if final {
		head[0] |= 0x80
	}
	switch {
	case length < 126:
		head[1] = byte(length)
	case length < 1<<16:
		head[1] = 126
		head = binary.BigEndian.AppendUint16(head, uint16(length))
	default:
		head[1] = 127
		head = binary.BigEndian.AppendUint64(head, length)
	}
	if masked {
		head[1] |= 0x80
		head = append(head, 0, 0, 0, 0)
	}
	return head
}

// readFrame returns the opcode and the unmasked payload of the next frame.
func readFrame(r *bufio.Reader) (byte, []byte, error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	length := uint64(head[1] & 0x7f)
	more := make([]byte, 8)
	var err error
	switch length {
	case 126:
		_, err = io.ReadFull(r, more[:2])
		length = uint64(binary.BigEndian.Uint16(more))
	case 127:
		_, err = io.ReadFull(r, more)
		length = binary.BigEndian.Uint64(more)
	}
	var mask [4]byte
	if err == nil && head[1]&0x80 != 0 {
		_, err = io.ReadFull(r, mask[:])
	}
	if err != nil {
		return 0, nil, err
	}
	if length > 64<<20 {
		return 0, nil, fmt.Errorf("a frame of %d bytes", length)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, nil
}
