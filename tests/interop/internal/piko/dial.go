package piko

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 15 * time.Second
)

// Connect is how a server is reached: by an agent on its upstream port, by a forward on its proxy port.
type Connect struct {
	// URL is http(s)://host:port with an optional path, which is kept as a prefix.
	URL string
	// Token is sent as a bearer token where it is not empty.
	Token string
	// Tenant is sent where it is not empty.
	Tenant string
	// Timeout bounds one attempt.
	Timeout time.Duration
}

// Refused is an answer to the upgrade that is not 101.
type Refused struct {
	// Status is the HTTP status.
	Status int
	// Message is the `error` of the JSON body.
	Message string
}

func (r *Refused) Error() string { return fmt.Sprintf("refused: %d: %s", r.Status, r.Message) }

// Retry tells whether the same request may be accepted later.
func (r *Refused) Retry() bool {
	switch r.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// Dial upgrades one connection at the path below the URL's prefix.
func (c Connect) Dial(ctx context.Context, path string) (*Conn, error) {
	target, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	target.Scheme = strings.Replace(target.Scheme, "http", "ws", 1)
	target = target.JoinPath(path)
	header := http.Header{}
	if c.Token != "" {
		header.Set("Authorization", "Bearer "+c.Token)
	}
	if c.Tenant != "" {
		header.Set("x-piko-tenant-id", c.Tenant)
	}
	dialer := websocket.Dialer{HandshakeTimeout: c.Timeout, Proxy: http.ProxyFromEnvironment}
	ws, response, err := dialer.DialContext(ctx, target.String(), header)
	if errors.Is(err, websocket.ErrBadHandshake) && response != nil {
		return nil, refusal(response)
	}
	if err != nil {
		return nil, err
	}
	return NewConn(ws), nil
}

func refusal(response *http.Response) *Refused {
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	var message struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &message) != nil {
		message.Error = string(body)
	}
	return &Refused{Status: response.StatusCode, Message: message.Error}
}

// backoff doubles from 100 ms to 15 s, with jitter.
type backoff struct{ last time.Duration }

func (b *backoff) wait(ctx context.Context) error {
	b.last = min(max(b.last*2, minBackoff), maxBackoff)
	select {
	case <-time.After(b.last/2 + rand.N(b.last/2)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
