// Command piko-server is a Piko-shaped server: agents connect to its upstream port, downstreams to its proxy port.
//
// Its admin port is for tests: POST /end?endpoint=E&how=close|tcp-fin|tcp-rst|goaway0|goaway2 ends the sessions of an
// endpoint, POST /refuse?status=503&times=2 refuses the next agents, GET /endpoints counts listeners.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"tidegate/interop/internal/event"
	"tidegate/interop/internal/piko"
)

func main() {
	server := &piko.Server{}
	upstream := flag.String("upstream", "127.0.0.1:0", "where agents connect")
	proxy := flag.String("proxy", "127.0.0.1:0", "where downstreams connect")
	control := flag.String("admin", "127.0.0.1:0", "where tests say what should happen")
	flag.StringVar(&server.Token, "token", "", "the bearer token that agents must present")
	flag.DurationVar(&server.Timeout, "request-timeout", 30*time.Second, "bound of a whole request")
	flag.Parse()
	if err := run(server, *upstream, *proxy, *control); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(server *piko.Server, upstream, proxy, control string) error {
	listening := event.Fields{}
	failed := make(chan error, 3)
	for _, port := range []struct {
		name, address string
		handler       http.Handler
	}{
		{"upstream", upstream, server.Upstream()},
		{"proxy", proxy, server.Proxy()},
		{"admin", control, admin(server)},
	} {
		listener, err := net.Listen("tcp", port.address)
		if err != nil {
			return err
		}
		listening[port.name] = listener.Addr().String()
		go func() { failed <- http.Serve(listener, port.handler) }()
	}
	event.Emit("listening", listening)
	return <-failed
}

func admin(server *piko.Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /end", func(w http.ResponseWriter, r *http.Request) {
		ended, err := server.End(r.FormValue("endpoint"), r.FormValue("how"))
		answer(w, map[string]int{"ended": ended}, err)
	})
	mux.HandleFunc("POST /refuse", func(w http.ResponseWriter, r *http.Request) {
		status, err1 := strconv.Atoi(r.FormValue("status"))
		times, err2 := strconv.Atoi(r.FormValue("times"))
		err := errors.Join(err1, err2)
		if err == nil {
			server.Refuse(status, times)
		}
		answer(w, map[string]int{"status": status, "times": times}, err)
	})
	mux.HandleFunc("GET /endpoints", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, server.Endpoints(), nil)
	})
	return mux
}

func answer(w http.ResponseWriter, body any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}
