// Command embedded is a firewall with an external handler, as others would embed the SDK, that tests tell by HTTP on a unix
// socket what to do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/nfq"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/verdict"
)

type options struct {
	socket, state, variant string
	handler                bool
	port                   uint
	foreign                bool
}

func main() {
	var o options
	flag.StringVar(&o.socket, "socket", "", "unix socket to listen on")
	flag.StringVar(&o.state, "state", "", "state file")
	flag.StringVar(&o.variant, "variant", "nft", "nft or legacy")
	flag.BoolVar(&o.handler, "handler", false, "set the handler before the start")
	flag.UintVar(&o.port, "port", 0, "remote port that the handler blocks")
	flag.BoolVar(&o.foreign, "foreign", false, "treat this process as any other")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "embedded:", err)
		os.Exit(1)
	}
}

// program is the firewall and what tests may do with it.
type program struct {
	fw    *firewall.Firewall
	slot  extverdict.Slot
	port  atomic.Uint32 // that the handler blocks; 0 is none
	calls atomic.Uint64 // of the handler
}

func run(ctx context.Context, o options) (err error) {
	finder, err := procinfo.New(procinfo.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, finder.Close()) }()
	host := nfq.HostConfig{OnExit: nfq.ExitOpen, StateFile: o.state, Variant: nfq.VariantNFT}
	if o.variant == "legacy" {
		host.Variant = nfq.VariantLegacy
	}
	source, err := nfq.New(nfq.Config{Host: host, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	var p program
	p.port.Store(uint32(o.port))
	if o.handler {
		if err := p.slot.Set("test", p.judge); err != nil {
			return err
		}
	}
	cfg := firewall.Config{
		Store: connstore.NewLive(connstore.Config{}), Processes: finder, External: &p.slot, Source: source,
		DefaultInbound: verdict.Accept,
	}
	if o.foreign {
		cfg.OwnPID = -1
	}
	if p.fw, err = firewall.New(cfg); err != nil {
		return err
	}
	return p.work(ctx, source, o.socket)
}

// judge blocks a port. It is an extverdict.Handler.
func (p *program) judge(_ context.Context, s *conn.Snapshot) extverdict.Result {
	p.calls.Add(1)
	if port := p.port.Load(); port != 0 && uint32(s.Tuple.Remote.Port()) == port && s.Direction == packet.Outbound {
		return extverdict.Result{Verdict: verdict.Block, Reason: "the port that tests block"}
	}
	return extverdict.Result{}
}

// work intercepts and serves until ctx is done.
func (p *program) work(ctx context.Context, source *nfq.Source, socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: p.routes(), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	judging, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ready, judged := make(chan struct{}), make(chan error, 1)
	go func() { judged <- p.fw.Run(judging, func() { close(ready) }) }()
	<-ready
	err = source.Run(ctx, p.fw, func() { fmt.Println("filtering") })
	stop()
	err = errors.Join(err, <-judged, server.Close())
	<-served
	return err
}

func (p *program) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := do(r)
			if err != nil {
				answer = "error: " + err.Error()
			}
			fmt.Fprint(w, answer)
		})
	}
	handle("/calls", func(*http.Request) (any, error) { return p.calls.Load(), nil })
	handle("/reevaluate", func(r *http.Request) (any, error) { return p.fw.Reevaluate(r.Context(), firewall.Everything) })
	handle("/handler", func(*http.Request) (any, error) { return "set", p.slot.Set("test", p.judge) })
	handle("/port/{port}", func(r *http.Request) (any, error) {
		port, err := strconv.ParseUint(r.PathValue("port"), 10, 16)
		p.port.Store(uint32(port))
		return "set", err
	})
	handle("/fetch/{address}", func(r *http.Request) (any, error) { return p.fetch(r, "tcp", "GET / HTTP/1.0\r\n\r\n") })
	handle("/echo/{address}", func(r *http.Request) (any, error) { return p.fetch(r, "udp", "hello") })
	return mux
}

// fetch communicates from this process, if asked to from a local port that it announces to the firewall.
func (p *program) fetch(r *http.Request, network, question string) (string, error) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	if text := r.FormValue("announce"); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return "", err
		}
		dialer.LocalAddr = &net.TCPAddr{Port: int(port)}
		if err := p.fw.PreAuthenticate(packet.TCP, uint16(port), 10*time.Second); err != nil {
			return "", err
		}
	}
	timeout, err := time.ParseDuration(r.FormValue("timeout"))
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	c, err := dialer.DialContext(ctx, network, r.PathValue("address"))
	if err != nil {
		return "", err
	}
	defer c.Close() //nolint:errcheck // nothing to lose
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, question); err != nil {
		return "", err
	}
	answer := make([]byte, 4096)
	for n := 0; ; {
		got, err := c.Read(answer[n:])
		n += got
		if strings.HasSuffix(string(answer[:n]), "hello") {
			return "hello", nil
		}
		if err != nil {
			return "", err
		}
	}
}
