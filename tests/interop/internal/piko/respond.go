package piko

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
)

var errNoUpstream = errors.New("no available upstreams")

// jsonError answers as Piko answers for itself.
func jsonError(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}

// proxyError says why there is no response from the upstream.
func proxyError(w http.ResponseWriter, _ *http.Request, err error) {
	switch {
	case errors.Is(err, errNoUpstream):
		jsonError(w, http.StatusBadGateway, "no available upstreams")
	case errors.Is(err, context.DeadlineExceeded):
		jsonError(w, http.StatusGatewayTimeout, "upstream timeout")
	default:
		jsonError(w, http.StatusBadGateway, "upstream unreachable")
	}
}
