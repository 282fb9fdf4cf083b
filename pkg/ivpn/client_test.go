package ivpn_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/packet"
)

func TestGreeting(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f, Secret: 0xfedcba9876543210, ServiceBinary: "/opt/ivpn/bin/service"})
	d.Starting("192.0.2.1", 2049, 17)
	d.Connected(map[string]any{
		"VpnType": ivpntest.WireGuard, "ClientIP": "10.1.2.3", "ClientIPv6": "fd00::3", "ServerIP": "192.0.2.1", "ServerPort": 2049,
		"Mtu": 1420, "IsPaused": true, "PausedTill": "2026-11-30T12:00:00Z", "TimeSecFrom1970": 1700000000,
	})
	c, e, stop := client(t, ivpn.ClientConfig{Folder: f, Role: ivpn.Firewall, Name: "test", Version: "1.2"})
	if !c.Connected() {
		t.Errorf("got no connection when ready; want one: %+v", e.all())
	}
	eventually(t, "all is heard", func() bool { return count[ivpn.VPNConnected](e) == 1 })
	stop()
	want := []ivpn.Event{
		ivpn.Found{Port: d.Port()},
		ivpn.Connected{Version: "3.16.0", ServiceBinary: "/opt/ivpn/bin/service", ProcessorArch: "amd64"},
		ivpn.ConnectionStarting{Endpoint: ivpn.Endpoint{Address: netip.MustParseAddrPort("192.0.2.1:2049"), Protocol: packet.UDP}},
		ivpn.VPNConnected{
			Type: ivpn.WireGuard, ClientIP: netip.MustParseAddr("10.1.2.3"), ClientIPv6: netip.MustParseAddr("fd00::3"),
			ServerIP: netip.MustParseAddr("192.0.2.1"), ServerPort: 2049, MTU: 1420, Paused: true,
			PausedUntil: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), Since: time.Unix(1700000000, 0),
		},
		ivpn.Disconnected{},
	}
	if got := e.all(); !slices.EqualFunc(got, want, func(a, b ivpn.Event) bool { return fmt.Sprintf("%#v", a) == fmt.Sprintf("%#v", b) }) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	r := d.Requests()[0]
	if r.Command != "Hello" || r.Idx == 0 || r.Secret != 0xfedcba9876543210 || r.ClientType != 2 || r.Version != "1.2:test" ||
		r.ProtocolSecret != "" || !r.GetStatus || !r.GetServiceBinaryPath || !r.GetActiveRemoteEndpoint {
		t.Errorf("got %+v; want a greeting with all of this", r)
	}
	if c.Connected() {
		t.Error("connected after the end")
	}
}

// A secret that is wrong is refused, and the right one is used as soon as it is there.
func TestSecrets(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f, Secret: 5})
	if err := d.WritePortFile(fmt.Sprintf("%d:6", d.Port())); err != nil {
		t.Fatal(err)
	}
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
	err := last[ivpn.Disconnected](e).Err
	if refusal := (*ivpn.DaemonError)(nil); c.Connected() || !errors.As(err, &refusal) || !strings.Contains(err.Error(), "wrong secret") {
		t.Errorf("with a wrong secret: got %v; want the daemon's refusal", err)
	}
	if err := d.WritePortFile(fmt.Sprintf("%d:5", d.Port())); err != nil {
		t.Fatal(err)
	}
	eventually(t, "connected with the right secret", c.Connected)
}

// After a crash, port.txt stays and names a port at which nobody listens; then the daemon comes back.
func TestStaleFile(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	if err := d.Crash(); err != nil {
		t.Fatal(err)
	}
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
	if c.Connected() || count[ivpn.Disconnected](e) != 1 || last[ivpn.Disconnected](e).Err == nil {
		t.Errorf("got %v; want one attempt that failed", e.all())
	}
	d2 := daemon(t, ivpntest.Config{Folder: f})
	eventually(t, "connected to the new daemon", func() bool { return d2.Clients() == 1 && c.Connected() })
}

func TestLaterDaemon(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
	if c.Connected() || len(e.all()) != 0 {
		t.Errorf("got %v without a daemon; want nothing", kinds(e.all()))
	}
	d := daemon(t, ivpntest.Config{Folder: f})
	eventually(t, "connected, and all is said", func() bool { return count[ivpn.VPNDisconnected](e) == 1 })
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "told that it has gone", func() bool { return count[ivpn.Absent](e) == 1 })
	got := kinds(e.all())
	want := []string{"ivpn.Found", "ivpn.Connected", "ivpn.VPNDisconnected", "ivpn.ServiceExiting", "ivpn.Disconnected", "ivpn.Absent"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	d2 := daemon(t, ivpntest.Config{Folder: f})
	eventually(t, "connected again", func() bool { return d2.Clients() == 1 && c.Connected() })
}

// With the default poll, a port.txt that appears is followed by a connection within a second. The quickest of some tries counts: a poll
// that is too slow makes all of them late, and a busy machine some.
func TestConnectedWithinASecond(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	c, err := ivpn.NewClient(ivpn.ClientConfig{Folder: f, AnswerTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, c.Run)
	const tries = 10
	var took [tries]time.Duration
	for i := range took {
		began := time.Now()
		d := daemon(t, ivpntest.Config{Folder: f})
		eventually(t, "connected", c.Connected)
		if took[i] = time.Since(began); took[i] <= time.Second {
			return
		}
		if err := d.Stop(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "disconnected", func() bool { return !c.Connected() })
	}
	t.Errorf("connected after %v; want one of them within a second", took)
}

func TestPing(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	cfg := ivpn.ClientConfig{Folder: f, Poll: time.Hour}
	e := &ears{}
	cfg.On = e.on
	c, err := ivpn.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	runs(t, c.Run)
	d := daemon(t, ivpntest.Config{Folder: f})
	c.Ping()
	eventually(t, "connected after a ping", c.Connected)
	c.Ping() // nothing happens
	d.HangUp()
	eventually(t, "disconnected", func() bool { return !c.Connected() })
	c.Ping()
	eventually(t, "connected after another ping", c.Connected)
	if n := count[ivpn.Connected](e); n != 2 {
		t.Errorf("got %d connections; want 2", n)
	}
}

// A daemon that was started again is connected to, though the old connection does not end.
func TestPortChange(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	old := daemon(t, ivpntest.Config{Folder: f})
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
	d := daemon(t, ivpntest.Config{Folder: f})
	eventually(t, "connected to the new daemon", func() bool { return d.Clients() == 1 && old.Clients() == 0 && c.Connected() })
	if n := count[ivpn.Disconnected](e); n != 1 {
		t.Errorf("got %d ends; want 1", n)
	}
	// the same content once more is the same daemon
	if err := d.WritePortFile(fmt.Sprintf("%d:%x", d.Port(), d.Requests()[0].Secret)); err != nil {
		t.Fatal(err)
	}
	d.Notify(map[string]any{"Command": "ConnectionStopped"})
	eventually(t, "the connection goes on", func() bool { return count[ivpn.ConnectionStopped](e) == 1 })
}

// Who ends a connection is tried again, also with nothing else to give hope.
func TestTriesAgain(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
	d.HangUp()
	eventually(t, "connected again", func() bool { return count[ivpn.Connected](e) == 2 && c.Connected() })
}

// A daemon that takes connections and says nothing holds up nobody for longer than the limit.
func TestHalfOpen(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	d.SetDeaf(true)
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f, AnswerTimeout: 50 * time.Millisecond})
	if err := last[ivpn.Disconnected](e).Err; c.Connected() || !errors.Is(err, ivpn.ErrTimeout) {
		t.Errorf("got %v; want ErrTimeout", err)
	}
	d.SetDeaf(false)
	eventually(t, "connected when it answers", c.Connected)
	d.SetDeaf(true)
	if err := c.SetDNS(t.Context(), "test"); !errors.Is(err, ivpn.ErrTimeout) {
		t.Errorf("request to a daemon that does not answer: got %v; want ErrTimeout", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.SetDNS(ctx, "test"); !errors.Is(err, context.Canceled) {
		t.Errorf("request that is given up: got %v; want context.Canceled", err)
	}
	d.SetDeaf(false)
	if err := c.SetDNS(t.Context(), "test"); err != nil {
		t.Errorf("request after those: got %v; want nil", err)
	}
}

// A greeting that waits ends with Run.
func TestStopWhileGreeting(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	d.SetDeaf(true)
	e := &ears{}
	c, err := ivpn.NewClient(ivpn.ClientConfig{Folder: f, AnswerTimeout: time.Hour, On: e.on})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func() {}) }()
	eventually(t, "greeted", func() bool { return len(d.Requests()) == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v; want nil", err)
	}
	if last[ivpn.Disconnected](e).Err != nil {
		t.Errorf("got %v; want an end without an error", e.all())
	}
}

// Lines up to 4 MiB are read, those beyond end the connection, and garbage between good lines is nothing.
func TestLines(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
	line := func(length int) []byte {
		head, tail := `{"Command":"ConnectionStopped","Servers":"`, "\"}\n"
		return []byte(head + strings.Repeat("x", length-len(head)-len(tail)+1) + tail)
	}
	for _, garbage := range []string{
		"\n", "{", "null\n", "[]\n", "garbage \x00\xff\n", `{"Command":7}` + "\n", `{"Command":"ServerListResp","Idx":0,"Big":[1,2]}` + "\n",
		`{"Command":"ConnectionStarting","Address":"nowhere","Port":1,"Protocol":6}` + "\n",
		`{"Command":"ConnectionStarting","Address":"192.0.2.1","Port":70000,"Protocol":6}` + "\n",
		`{"Command":"ConnectionStarting","Address":"192.0.2.1","Port":7,"Protocol":1}` + "\n",
		`{"Command":"EmptyResp","Idx":4294967295}` + "\n", `{"Command":"HelloResp","Idx":-1}` + "\n",
	} {
		d.Raw([]byte(garbage))
	}
	d.Raw(line(ivpn.MaxLine))
	eventually(t, "the longest line is heard", func() bool { return count[ivpn.ConnectionStopped](e) == 1 })
	if n := count[ivpn.ConnectionStarting](e) + count[ivpn.Disconnected](e); n != 0 || !c.Connected() {
		t.Errorf("got %v; want nothing of the garbage", e.all())
	}
	d.Raw(line(ivpn.MaxLine + 1))
	eventually(t, "the connection ends", func() bool { return count[ivpn.Disconnected](e) == 1 })
	if err := last[ivpn.Disconnected](e).Err; !errors.Is(err, ivpn.ErrLineTooLong) {
		t.Errorf("got %v; want ErrLineTooLong", err)
	}
	eventually(t, "connected again", c.Connected)
}

// Many notifications are all heard, in their order, while requests are answered.
func TestManyNotifications(t *testing.T) {
	testutil.NoLeaks(t)
	const many = 10_000
	f := folder(t)
	d := daemon(t, ivpntest.Config{Folder: f})
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
	var b strings.Builder
	for i := range many {
		fmt.Fprintf(&b, `{"Command":"VpnStateResp","Idx":0,"State":%d,"StateVal":"s"}`+"\n", i)
	}
	sent := make(chan struct{})
	go func() {
		d.Raw([]byte(b.String()))
		close(sent)
	}()
	for range 20 {
		if err := c.SetDNS(t.Context(), "test", ivpn.DNSServer{Address: netip.MustParseAddr("127.0.0.1")}); err != nil {
			t.Error(err)
		}
	}
	<-sent
	eventually(t, "all are heard", func() bool { return count[ivpn.VPNState](e) == many })
	next := 0
	for _, ev := range e.all() {
		if s, ok := ev.(ivpn.VPNState); ok {
			if s.State != fmt.Sprint(next) || s.Value != "s" {
				t.Fatalf("got %+v; want number %d", s, next)
			}
			next++
		}
	}
}

func TestAppSecret(t *testing.T) {
	testutil.NoLeaks(t)
	for _, test := range []struct {
		name  string
		eaa   string // what is written instead
		right bool
	}{{"right", "", true}, {"wrong", "other", false}} {
		t.Run(test.name, func(t *testing.T) {
			f := folder(t)
			d := daemon(t, ivpntest.Config{Folder: f, AppSecret: "the app secret"})
			if test.eaa != "" {
				write(t, filepath.Join(f, "eaa"), test.eaa)
			}
			c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
			if c.Connected() != test.right {
				t.Fatalf("connected: got %v; want %v: %v", c.Connected(), test.right, e.all())
			}
			if n := len(d.Requests()); n != 2 {
				t.Errorf("got %d greetings; want 2", n)
			}
			if test.right {
				if err := c.SetDNS(t.Context(), "test"); err != nil {
					t.Error(err)
				}
				if n := len(d.Requests()); n != 3 {
					t.Errorf("got %d requests; want 3: the secret is known by now", n)
				}
				return
			}
			if refusal := (*ivpn.DaemonError)(nil); !errors.As(last[ivpn.Disconnected](e).Err, &refusal) || refusal.Type != 1 {
				t.Errorf("got %v; want the daemon's refusal", last[ivpn.Disconnected](e).Err)
			}
		})
	}
}

func TestSetDNS(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	c, _, _ := client(t, ivpn.ClientConfig{Folder: f})
	if err := c.SetDNS(t.Context(), "test"); !errors.Is(err, ivpn.ErrNotConnected) {
		t.Errorf("without a daemon: got %v; want ErrNotConnected", err)
	}
	d := daemon(t, ivpntest.Config{Folder: f})
	eventually(t, "connected", c.Connected)
	server := ivpn.DNSServer{Address: netip.MustParseAddr("192.0.2.53"), Encryption: ivpn.DoH, Template: "https://dns.example/q"}
	if err := c.SetDNS(t.Context(), "because", server); err != nil {
		t.Fatal(err)
	}
	want := []ivpntest.Server{{Address: "192.0.2.53", Encryption: 2, Template: "https://dns.example/q"}}
	if got, _ := d.DNS(); !slices.Equal(got, want) {
		t.Errorf("got %+v; want %+v", got, want)
	}
	if r := d.Requests()[1]; r.Description != "because" {
		t.Errorf("got description %q; want %q", r.Description, "because")
	}
	d.RefuseDNS(1)
	if refusal := (*ivpn.DaemonError)(nil); !errors.As(c.SetDNS(t.Context(), "test"), &refusal) {
		t.Errorf("got %v; want a refusal", refusal)
	}
	if err := c.SetDNS(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	if got, _ := d.DNS(); len(got) != 0 {
		t.Errorf("got %+v; want none", got)
	}
}

func TestConfig(t *testing.T) {
	for _, cfg := range []ivpn.ClientConfig{{Poll: -1}, {AnswerTimeout: -1}, {ConnectTimeout: -1}, {Role: 9}} {
		if _, err := ivpn.NewClient(cfg); !errors.Is(err, ivpn.ErrConfig) {
			t.Errorf("%+v: got %v; want ErrConfig", cfg, err)
		}
	}
}

// A port at which the daemon does not listen, but somebody who closes at once.
func TestClosedAtOnce(t *testing.T) {
	testutil.NoLeaks(t)
	f := folder(t)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ivpntest.Known(ln); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	write(t, filepath.Join(f, "port.txt"), fmt.Sprintf("%d:1", ln.Addr().(*net.TCPAddr).Port))
	c, e, _ := client(t, ivpn.ClientConfig{Folder: f})
	if err := last[ivpn.Disconnected](e).Err; c.Connected() || !errors.Is(err, ivpn.ErrNotConnected) {
		t.Errorf("got %v; want ErrNotConnected", err)
	}
}
