package raw

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Leavers are the moments at which a downstream can leave.
var Leavers = []string{"leave-head", "leave-request", "leave-upload", "leave-response", "leave-tunnel"}

// Leave lets many downstreams come to a proxy port at once and leave in the middle, half of them with a reset. It
// returns how many got as far as the moment they were to leave at.
func Leave(address, endpoint, moment string, count int) int {
	var all sync.WaitGroup
	var mu sync.Mutex
	left := 0
	for i := range count {
		all.Go(func() {
			if err := leave(address, endpoint, moment, i%2 == 0); err == nil {
				mu.Lock()
				left++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return left
}

func leave(address, endpoint, moment string, reset bool) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if reset {
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
	common := " HTTP/1.1\r\nHost: " + address + "\r\nx-piko-endpoint: " + endpoint + "\r\n"
	switch moment {
	case "leave-head":
		_, err = io.WriteString(conn, "GET /"+common)
	case "leave-request":
		_, err = io.WriteString(conn, "GET /slow?ms=2000"+common+"\r\n")
	case "leave-upload":
		_, err = io.WriteString(conn, "POST /echo"+common+"Content-Length: 10000000\r\n\r\n")
		if err == nil {
			_, err = conn.Write(make([]byte, 300<<10))
		}
	case "leave-response":
		_, err = io.WriteString(conn, "GET /bytes/10000000"+common+"\r\n")
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1000))
		}
	case "leave-tunnel":
		conn.Close()
		return leaveTunnel(address, endpoint)
	default:
		err = fmt.Errorf("%w: %q", ErrUnknown, moment)
	}
	return err
}

// leaveTunnel sends into a TCP stream and goes without reading and without a close frame.
func leaveTunnel(address, endpoint string) error {
	conn, _, err := dial(address, "/_piko/v1/tcp/"+endpoint, "")
	if err != nil {
		return err
	}
	defer conn.Close()
	body := make([]byte, 300<<10)
	_, err = conn.Write(append(wsHead(true, opBinary, true, uint64(len(body))), body...))
	return err
}
