// A proxy in the shape of NanoProxy, as compat.md §3 describes it: net/http, httputil.ReverseProxy, the first rule whose
// host and path prefix match. For comparison only: no file, no reload.
//
//	nanoproxy -host web.example.com -to 127.0.0.1:8080
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
)

type rule struct {
	host, path string
	proxy      *httputil.ReverseProxy
}

func main() {
	host := flag.String("host", "", "host that the rule is for")
	to := flag.String("to", "", "address of the upstream")
	flag.Parse()

	upstream := &url.URL{Scheme: "http", Host: *to}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 128
	rules := []rule{{*host, "/", &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
			r.SetXForwarded()
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Set("X-Proxy", "nanoproxy-shaped")
			return nil
		},
	}}}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	event := map[string]string{"event": "listening", "address": listener.Addr().String()}
	if err := json.NewEncoder(os.Stdout).Encode(event); err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(r.Host, ":")
		for _, rule := range rules {
			if (rule.host == "" || rule.host == name) && strings.HasPrefix(r.URL.Path, rule.path) {
				rule.proxy.ServeHTTP(w, r)
				return
			}
		}
		http.Error(w, "No matching rule for host & path", http.StatusNotFound)
	})))
}
