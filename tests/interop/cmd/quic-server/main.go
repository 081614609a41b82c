// Command quic-server is the server of quic-reverse-http-tunnel: every TCP connection is a stream to the next agent.
//
// Its admin port is for tests: POST /end?how=close|error|stall ends the sessions of all agents or lets them stand
// still, GET /streams counts the streams of every session.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"

	"tidegate/interop/internal/event"
	"tidegate/interop/internal/quictunnel"
)

func main() {
	var files quictunnel.Files
	agents := flag.String("listen-quic", "127.0.0.1:0", "where agents connect")
	downstreams := flag.String("listen-tcp", "127.0.0.1:0", "where downstreams connect")
	control := flag.String("admin", "127.0.0.1:0", "where tests say what should happen")
	flag.StringVar(&files.Cert, "cert-file", "", "certificate")
	flag.StringVar(&files.Key, "cert-key", "", "its key")
	flag.StringVar(&files.CA, "client-ca-file", "", "authority of the agents' certificates")
	flag.Parse()
	if err := run(files, *agents, *downstreams, *control); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(files quictunnel.Files, agents, downstreams, control string) error {
	server := &quictunnel.Server{}
	udp, err := server.Listen(agents, files)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", downstreams)
	if err != nil {
		return err
	}
	tests, err := net.Listen("tcp", control)
	if err != nil {
		return err
	}
	failed := make(chan error, 3)
	go func() { failed <- server.Agents(udp) }()
	go func() { failed <- server.Downstreams(tcp) }()
	go func() { failed <- http.Serve(tests, admin(server)) }()
	event.Emit("listening", event.Fields{
		"quic":  udp.Addr().String(),
		"tcp":   tcp.Addr().String(),
		"admin": tests.Addr().String(),
	})
	return <-failed
}

func admin(server *quictunnel.Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /end", func(w http.ResponseWriter, r *http.Request) {
		ended, err := server.End(r.FormValue("how"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, map[string]int{"ended": ended})
	})
	mux.HandleFunc("GET /streams", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, server.Open())
	})
	return mux
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}
