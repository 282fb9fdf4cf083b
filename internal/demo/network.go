package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weirfw/weir/internal/testnet"
)

// Where things are. The server answers on all its addresses.
const (
	webV4, webV6         = "10.77.0.2", "fd77::2"
	adsV4, adsV6         = "10.77.0.3", "fd77::3"
	trackerV4, trackerV6 = "10.77.0.4", "fd77::4"

	webPort    = 80
	otherPort  = 8080
	askPort    = 2222
	dbPort     = 5432
	iperfPort  = 5201
	startLimit = 20 * time.Second
)

const picture = `
   client                                             server
  ┌───────────────────────────┐                      ┌──────────────────────────────────────┐
  │ refd, mode enforce        │                      │ web.demo      %-9s  %-7s     │
  │ curl, nc, dig, ping,      │ eth0            eth0 │ ads.demo      %-9s  %-7s     │
  │ iperf3                    ├──────────────────────┤ tracker.demo  %-9s  %-7s     │
  │ a web server, a database  │                      │ HTTP, DNS (dnsmasq), iperf3          │
  │ %-9s  %-7s        │                      │ and strangers, who knock at client   │
  └───────────────────────────┘                      └──────────────────────────────────────┘
`

const smallPicture = `
   client                             server
  ┌─────────────────────┐            ┌───────────────────────────────────┐
  │ refd, mode enforce  │            │ web.demo      %-9s  %-7s  │
  │ curl, nc, dig,      │ eth0  eth0 │ ads.demo      %-9s  %-7s  │
  │ ping, iperf3        ├────────────┤ tracker.demo  %-9s  %-7s  │
  │ %-9s  %-7s  │            │ HTTP, DNS, iperf3, and strangers  │
  └─────────────────────┘            └───────────────────────────────────┘
`

// draw shows the network.
func draw(out *screen) {
	const wide = 98
	server := []any{webV4, webV6, adsV4, adsV6, trackerV4, trackerV6}
	text := smallPicture
	if out.width >= wide {
		text = picture
	}
	text = fmt.Sprintf(text, append(server, testnet.ClientV4, testnet.ClientV6)...)
	out.verbatim(strings.TrimPrefix(text, "\n"))
}

// network is two hosts with everything that runs on them but refd.
type network struct {
	lab            *testnet.Lab
	client, server *testnet.Host
}

// build makes the hosts and starts the servers. All of it ends with the stage.
func build(s *stage) *network {
	n := &network{lab: testnet.New(s)}
	n.client, n.server = n.lab.Pair()
	for _, a := range []string{adsV4 + "/24", trackerV4 + "/24"} {
		n.server.Run(s, "ip", "address", "add", a, "dev", "eth0")
	}
	for _, a := range []string{adsV6 + "/64", trackerV6 + "/64"} {
		n.server.Run(s, "ip", "address", "add", a, "dev", "eth0", "nodad")
	}
	for _, port := range []int{webPort, otherPort, askPort} {
		serveWeb(s, n.server, port)
	}
	for _, port := range []int{webPort, otherPort, dbPort} {
		serveWeb(s, n.client, port)
	}
	n.server.Start(s, "iperf3", "--server", "--forceflush", "--port", strconv.Itoa(iperfPort)).
		WaitOutput(s, "listening", startLimit)
	n.server.Start(s, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root",
		"--log-facility=-", "--no-resolv", "--no-hosts", "--bind-interfaces",
		"--listen-address="+webV4, "--listen-address="+adsV4, "--address=/web.demo/"+webV4).
		WaitOutput(s, "started", startLimit)
	n.names(s, [][3]string{
		{"web.demo", webV4, webV6},
		{"ads.demo", adsV4, adsV6},
		{"tracker.demo", trackerV4, trackerV6},
		{"client", testnet.ClientV4, testnet.ClientV6},
	})
	return n
}

// names gives both hosts an /etc/hosts with these names and their addresses: programs that use the C library look there first, and ask nobody on this machine.
func (n *network) names(s *stage, names [][3]string) {
	var hosts strings.Builder
	for _, name := range append(names, [3]string{"localhost", "127.0.0.1", "::1"}) {
		fmt.Fprintf(&hosts, "%s %s\n%s %s\n", name[1], name[0], name[2], name[0])
	}
	n.client.Etc(s, "hosts", hosts.String())
	n.server.Etc(s, "hosts", hosts.String())
}

// serveWeb serves a page, and under /film a download that does not end.
func serveWeb(s *stage, h *testnet.Host, port int) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "hello")
	})
	mux.HandleFunc("/film", film)
	h.HTTP(s, fmt.Sprintf("[::]:%d", port), mux)
}

// film sends about 6 MB/s: a download that is as long as one likes, and leaves the machine time for others.
func film(w http.ResponseWriter, r *http.Request) {
	frame := make([]byte, 64<<10)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
		if _, err := w.Write(frame); err != nil {
			return
		}
	}
}
