// Command attack is a peer that misbehaves by a script, and tells what became of it.
//
// attack --agents HOST:PORT --proxy HOST:PORT SCRIPT: as an agent of a gateway (the proxy port is where it fetches
// itself a stream where the script needs one). attack --listen HOST:PORT SCRIPT: as the server of an agent; agents that
// come later find a server that behaves, with a proxy port. attack --proxy HOST:PORT --count N leave-MOMENT: as
// downstreams. attack --list names the scripts.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"tidegate/interop/internal/event"
	"tidegate/interop/internal/piko"
	"tidegate/interop/internal/raw"
)

func main() {
	agents := flag.String("agents", "", "tunnel port of the gateway to attack")
	proxy := flag.String("proxy", "", "proxy port of the same gateway")
	listen := flag.String("listen", "", "address to wait for an agent on")
	endpoint := flag.String("endpoint", "web", "endpoint to offer, or to come to")
	token := flag.String("token", "", "bearer token")
	count := flag.Int("count", 50, "how many downstreams leave")
	list := flag.Bool("list", false, "print the names of the scripts")
	flag.Parse()
	if *list {
		fmt.Println(strings.Join(append(raw.Names(), raw.Leavers...), "\n"))
		return
	}
	name := flag.Arg(0)
	var err error
	switch {
	case strings.HasPrefix(name, "leave-"):
		event.Emit("done", event.Fields{"left": raw.Leave(*proxy, *endpoint, name, *count), "count": *count})
	case *listen != "":
		err = asServer(*listen, name)
	case *agents != "":
		err = asAgent(*agents, *proxy, *endpoint, *token, name)
	default:
		err = errors.New("one of --agents, --listen, or a leave-... script with --proxy")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func asAgent(agents, proxy, endpoint, token, name string) error {
	authorization := ""
	if token != "" {
		authorization = "Bearer " + token
	}
	peer, err := raw.Dial(agents, "/piko/v1/upstream/"+endpoint, authorization)
	if err != nil {
		return err
	}
	defer peer.Close()
	event.Emit("connected", event.Fields{"endpoint": endpoint})
	if raw.NeedsStream(name) {
		go fetch(proxy, endpoint, raw.DownstreamLeaves(name))
	}
	return play(peer, name)
}

// fetch comes as a downstream, so that the gateway opens a stream. What is answered does not matter: nobody serves it.
func fetch(proxy, endpoint string, leave bool) {
	client := &http.Client{}
	if leave {
		client.Timeout = 500 * time.Millisecond
	}
	request, err := http.NewRequest(http.MethodGet, "http://"+proxy+"/", nil)
	if err != nil {
		return
	}
	request.Header.Set("x-piko-endpoint", endpoint)
	if response, err := client.Do(request); err == nil {
		response.Body.Close()
	}
}

func play(peer *raw.Peer, name string) error {
	start := time.Now()
	err := peer.Play(name)
	if errors.Is(err, raw.ErrUnknown) {
		return fmt.Errorf("%w: %q", err, name)
	}
	fields := event.Fields{"script": name}
	if err != nil {
		fields["stopped"] = err.Error()
	}
	seen := peer.Outcome()
	fields["alive"], fields["end"] = seen.Alive, seen.End
	fields["close_code"], fields["goaway"] = seen.CloseCode, seen.GoAway
	fields["acks"], fields["resets"], fields["pongs"] = seen.Acks, seen.Resets, seen.Pongs
	fields["seconds"] = time.Since(start).Seconds()
	event.Emit("outcome", fields)
	return nil
}

func asServer(address, name string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	event.Emit("listening", event.Fields{"upstream": listener.Addr().String(), "proxy": proxy.Addr().String()})
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	server := &piko.Server{Timeout: 30 * time.Second}
	go func() { _ = http.Serve(listener, server.Upstream()) }()
	go func() { _ = http.Serve(proxy, server.Proxy()) }()
	peer, err := raw.Accept(conn)
	if err != nil {
		return err
	}
	event.Emit("connected", nil)
	if err := play(peer, name); err != nil {
		return err
	}
	peer.Close()
	// The agent's next connections are served until somebody ends this process.
	select {}
}
