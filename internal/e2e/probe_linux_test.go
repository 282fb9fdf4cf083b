package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
)

// outcome is what a program sees of its attempt to communicate.
type outcome string

const (
	answered outcome = "answered"
	refused  outcome = "refused" // an error told so
	silent   outcome = "silent"  // nothing came
)

const (
	webPort  = 8080
	echoPort = 7777
)

// serve starts a web server on all addresses of a host and a UDP echo on some: one on all would answer from another address
// than was asked.
func serve(t *testing.T, h *testnet.Host, addrs ...netip.Addr) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", page)
	mux.HandleFunc("/stream", stream)
	h.HTTP(t, fmt.Sprintf("[::]:%d", webPort), mux)
	for _, a := range addrs {
		h.UDPEcho(t, hostPort(a, echoPort))
	}
}

// serveBoth starts servers on the addresses that client and server have of testnet.
func serveBoth(t *testing.T, r *rig) {
	t.Helper()
	serve(t, r.client, netip.MustParseAddr(testnet.ClientV4), netip.MustParseAddr(testnet.ClientV6))
	serve(t, r.server, netip.MustParseAddr(testnet.ServerV4), netip.MustParseAddr(testnet.ServerV6))
}

// probe is one attempt of a real program: curl, socat or ping.
type probe struct {
	host     *testnet.Host
	protocol string // tcp, udp, echo
	from, to netip.Addr
	patience time.Duration
}

// sight is what a probe saw.
type sight struct {
	outcome outcome
	after   time.Duration
	output  string
}

func (p probe) run() sight {
	start := time.Now()
	var s sight
	switch p.protocol {
	case "tcp":
		s = p.curl()
	case "udp":
		s = p.socat()
	case "echo":
		s = p.ping()
	}
	s.after = time.Since(start)
	return s
}

// try runs a program on the probe's host, and returns its exit status.
func (p probe) try(name string, args ...string) (out string, exit int) {
	ctx, cancel := context.WithTimeout(context.Background(), p.patience+20*time.Second)
	defer cancel()
	b, err := p.host.Command(ctx, name, args...).CombinedOutput()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return string(b), failed.ExitCode()
	}
	if err != nil {
		return err.Error(), -1
	}
	return string(b), 0
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

func (p probe) curl() sight { return p.web("curl", "--interface", p.from.String()) }

// web fetches a page with curl, or a copy of it.
func (p probe) web(curl string, flags ...string) sight {
	const couldNotConnect, timedOut = 7, 28
	url := fmt.Sprintf("http://%s/", netip.AddrPortFrom(p.to, webPort))
	out, exit := p.try(curl, append(flags, "-g", "-sS", "--noproxy", "*", "-m", seconds(p.patience), url)...)
	s := sight{output: out}
	switch {
	case exit == 0 && out == "hello":
		s.outcome = answered
	case exit == couldNotConnect:
		s.outcome = refused
	case exit == timedOut:
		s.outcome = silent
	default:
		s.outcome = outcome(fmt.Sprintf("exit status %d", exit))
	}
	return s
}

// wantCurl fetches a page from the client, with curl or a copy of it.
func (r *rig) wantCurl(t *testing.T, curl string, to netip.Addr, want outcome) {
	t.Helper()
	s := probe{host: r.client, to: to, patience: want.patience()}.web(curl)
	if s.outcome != want {
		t.Errorf("%s of %s: %s after %v; want %s\n%s", curl, to, s.outcome, s.after, want, s.output)
	}
}

func (p probe) socat() sight {
	ip := "UDP4"
	if p.to.Is6() {
		ip = "UDP6"
	}
	bind := p.from.String()
	if p.from.Is6() {
		bind = "[" + bind + "]"
	}
	// It ends when it has read the answer, or -t after it has sent the question.
	address := fmt.Sprintf("%s:%s,bind=%s,readbytes=%d", ip, netip.AddrPortFrom(p.to, echoPort), bind, len("hello\n"))
	out, exit := p.try("sh", "-c", `echo hello | socat -t"$1" - "$2" 2>&1`, "sh", seconds(p.patience), address)
	s := sight{output: out}
	switch {
	case strings.Contains(out, "hello"):
		s.outcome = answered
	case strings.Contains(out, "No route to host"), strings.Contains(out, "Permission denied"):
		s.outcome = refused
	case exit == 0 && out == "":
		s.outcome = silent
	default:
		s.outcome = outcome(fmt.Sprintf("exit status %d", exit))
	}
	return s
}

func (p probe) ping() sight {
	out, exit := p.try("ping", "-n", "-c1", "-W", seconds(p.patience), "-I", p.from.String(), p.to.String())
	s := sight{output: out}
	switch {
	case exit == 0:
		s.outcome = answered
	case strings.Contains(out, "rohibited"), strings.Contains(out, "filtered"), strings.Contains(out, "Permission denied"):
		s.outcome = refused
	case strings.Contains(out, "1 packets transmitted, 0 received"):
		s.outcome = silent
	default:
		s.outcome = outcome(fmt.Sprintf("exit status %d", exit))
	}
	return s
}

// hostPort joins an address and a port for Dial.
func hostPort(a netip.Addr, port uint16) string {
	return net.JoinHostPort(a.String(), fmt.Sprint(port))
}
