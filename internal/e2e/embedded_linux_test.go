package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// embedded is a firewall of testdata/prog/embedded that runs on the client.
type embedded struct {
	*testnet.Process
	client http.Client
}

// embed starts the program and waits until it intercepts.
func (r *rig) embed(t *testing.T, flags ...string) *embedded {
	t.Helper()
	socket := filepath.Join(r.dir, "embedded.sock")
	e := &embedded{client: http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
	program := r.lab.Program(t, "github.com/weirfw/weir/internal/e2e/testdata/prog/embedded")
	state := filepath.Join(r.dir, "embedded.json")
	flags = append([]string{"-socket", socket, "-state", state, "-variant", string(r.variant)}, flags...)
	e.Process = r.client.Start(t, program, flags...)
	e.WaitOutput(t, "filtering", startLimit)
	t.Cleanup(func() {
		e.client.CloseIdleConnections()
		if err := e.Stop(); err != nil {
			t.Errorf("stop the program: %v", err)
		}
	})
	return e
}

// ask tells the program to do something.
func (e *embedded) ask(t *testing.T, route string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://embedded"+route, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := e.client.Do(req)
	if err != nil {
		t.Fatalf("%s: %v\n%s", route, err, e.Output())
	}
	defer res.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", route, err)
	}
	return string(body)
}

// number is ask for something that counts.
func (e *embedded) number(t *testing.T, route string) int {
	t.Helper()
	answer := e.ask(t, route)
	n, err := strconv.Atoi(answer)
	if err != nil {
		t.Fatalf("%s: got %q; want a number", route, answer)
	}
	return n
}

// wantFetch wants the program's own connections, TCP and UDP, to get their answers.
func (e *embedded) wantFetch(t *testing.T, server netip.Addr) {
	t.Helper()
	for _, route := range []string{"/fetch/" + hostPort(server, webPort), "/echo/" + hostPort(server, echoPort)} {
		if got := e.ask(t, route+"?timeout=10s"); got != "hello" {
			t.Errorf("own connection %s: %s; want an answer", route, got)
		}
	}
}

// A handler decides about new connections and, when asked again, about those that run, whether it was there from the start or
// came later.
func TestIntegrationExternalHandler(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		const block, allow = "/port/8080", "/port/0"
		v4, v6 := netip.MustParseAddr(testnet.ServerV4), netip.MustParseAddr(testnet.ServerV6)
		t.Run("before the start", func(t *testing.T) {
			e := r.embed(t, "-handler", "-port", "8080")
			r.wantCurl(t, "curl", v4, refused)
			r.wantCurl(t, "curl", v6, refused)
			e.ask(t, allow)
			r.wantCurl(t, "curl", v4, answered)
			testHandler(t, r, e, block)
		})
		t.Run("after the start", func(t *testing.T) {
			e := r.embed(t, "-port", "8080")
			r.wantCurl(t, "curl", v4, answered)
			testHandler(t, r, e, "/handler")
			r.wantCurl(t, "curl", v6, refused)
			if got := e.ask(t, "/handler"); !strings.Contains(got, "set already") {
				t.Errorf("second handler: got %q; want an error", got)
			}
		})
	})
}

// testHandler wants running downloads to go on when the handler begins to block them, and to be cut when it is asked again.
func testHandler(t *testing.T, r *rig, e *embedded, block string) {
	t.Helper()
	running := []*download{r.download(t, r.client, "curl", testnet.ServerV4), r.download(t, r.client, "curl", testnet.ServerV6)}
	waitGrow(t, r, running)
	if got := e.ask(t, block); got != "set" {
		t.Errorf("%s: got %q", block, got)
	}
	waitGrow(t, r, running)
	if got := e.number(t, "/reevaluate"); got < len(running) {
		t.Errorf("re-evaluation changed %d connections; want %d or more", got, len(running))
	}
	waitCut(t, r, running)
}

// Connections of the firewall itself, and those that it announced, pass a handler that blocks them, which is not even asked.
func TestIntegrationOwnConnections(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	serveBoth(t, r)
	flags := []string{"-handler", "-port", strconv.Itoa(webPort)}
	t.Run("own process", func(t *testing.T) {
		e := r.embed(t, flags...)
		eachFamily(t, func(t *testing.T, server netip.Addr) {
			before := e.number(t, "/calls")
			e.wantFetch(t, server)
			if got := e.number(t, "/calls"); got != before {
				t.Errorf("the handler was asked %d times about own connections; want 0", got-before)
			}
			r.wantCurl(t, "curl", server, refused)
			if got := e.number(t, "/calls"); got <= before {
				t.Error("the handler was not asked about a connection of curl")
			}
		})
	})
	t.Run("announced", func(t *testing.T) {
		e := r.embed(t, append(flags, "-foreign")...)
		eachFamily(t, func(t *testing.T, server netip.Addr) {
			before := e.number(t, "/calls")
			route := fmt.Sprintf("/fetch/%s?timeout=10s", hostPort(server, webPort))
			port := 20004 // another for each family: the one is busy for a while
			if server.Is6() {
				port = 20006
			}
			if got := e.ask(t, fmt.Sprintf("%s&announce=%d", route, port)); got != "hello" {
				t.Errorf("announced connection: %s; want an answer", got)
			}
			if got := e.number(t, "/calls"); got != before {
				t.Errorf("the handler was asked %d times about an announced connection; want 0", got-before)
			}
			if got := e.ask(t, route); got == "hello" {
				t.Error("a connection that was not announced was answered; want it blocked")
			}
		})
	})
}
