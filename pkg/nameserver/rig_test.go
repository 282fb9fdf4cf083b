package nameserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
)

// limit is how long things may take that take no time on a quiet machine.
const limit = 20 * time.Second

// rr parses a record of a zone file.
func rr(t testing.TB, s string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(s)
	if err != nil {
		t.Fatalf("record %q: %v", s, err)
	}
	return r
}

// zone answers like a resolver that knows these names, and NXDOMAIN for all others.
type zone struct {
	t testing.TB

	mu      sync.Mutex // guards what follows
	records map[string][]dns.RR
}

func newZone(t testing.TB, records ...string) *zone {
	z := &zone{t: t, records: map[string][]dns.RR{}}
	z.add(records...)
	return z
}

func (z *zone) add(records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, s := range records {
		r := rr(z.t, s)
		name := strings.ToLower(r.Header().Name)
		z.records[name] = append(z.records[name], r)
	}
}

// soa is negative for 30 s.
const soa = ". 60 IN SOA ns.test. nobody.test. 1 1 1 1 30"

func (z *zone) reply(q *dns.Msg) *dns.Msg {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	m.Compress = true
	qtype := q.Question[0].Qtype
	name := strings.ToLower(q.Question[0].Name)
	if _, known := z.records[name]; !known {
		m.Rcode = dns.RcodeNameError
	}
	for range 60 {
		next := ""
		for _, r := range z.records[name] {
			r = dns.Copy(r)
			if strings.EqualFold(r.Header().Name, q.Question[0].Name) {
				r.Header().Name = q.Question[0].Name // as servers do that compress
			}
			c, isCNAME := r.(*dns.CNAME)
			if r.Header().Rrtype == qtype || isCNAME {
				m.Answer = append(m.Answer, r)
			}
			if isCNAME && qtype != dns.TypeCNAME {
				next = strings.ToLower(c.Target)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	found := false
	for _, r := range m.Answer {
		found = found || r.Header().Rrtype == qtype
	}
	if !found {
		m.Ns = []dns.RR{rr(z.t, soa)}
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	return m
}

// yes answers every question of type A with the address 192.0.2.1.
func yes(t testing.TB, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 300 IN A 192.0.2.1")}
	return m
}

func zoneReply(z *zone) respond { return func(q *dns.Msg, _ bool) *dns.Msg { return z.reply(q) } }

// respond is what a fake server does with a query; nil is silence.
type respond func(q *dns.Msg, tcp bool) *dns.Msg

// fake is an upstream server in this process.
type fake struct {
	addr    netip.AddrPort
	queries atomic.Int64
	dials   atomic.Int64
	last    atomic.Pointer[dns.Msg]
	answer  atomic.Pointer[respond]
}

func (f *fake) set(r respond) { f.answer.Store(&r) }

// handle returns the packed answer; nil for none.
func (f *fake) handle(q *dns.Msg, tcp bool) []byte {
	f.queries.Add(1)
	f.last.Store(q.Copy())
	m := (*f.answer.Load())(q, tcp)
	if m == nil {
		return nil
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// ServeDNS implements dns.Handler.
func (f *fake) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	b := f.handle(q, tcp)
	if b == nil {
		return
	}
	if !tcp && len(b) > 512 && (q.IsEdns0() == nil || len(b) > int(q.IsEdns0().UDPSize())) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Truncated = true
		b, _ = m.Pack()
	}
	_, _ = w.Write(b)
}

func (f *fake) upstream(t testing.TB, format string) nameserver.Upstream {
	t.Helper()
	u, err := nameserver.ParseUpstream(strings.ReplaceAll(format, "ADDR", f.addr.String()))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// plain starts a server by UDP and TCP.
func plain(t testing.TB, r respond) *fake {
	t.Helper()
	f := &fake{}
	f.set(r)
	var pc net.PacketConn
	var l net.Listener
	for { // until a port is free for both
		var err error
		if pc, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp4", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	f.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	start(t, &dns.Server{PacketConn: pc, Handler: f})
	start(t, &dns.Server{Listener: counting{l, &f.dials}, Handler: f})
	return f
}

// counting counts the connections of a listener.
type counting struct {
	net.Listener
	n *atomic.Int64
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

func start(t testing.TB, s *dns.Server) {
	t.Helper()
	started, done := make(chan struct{}), make(chan error, 1)
	s.NotifyStartedFunc = func() { close(started) }
	s.MaxTCPQueries = -1
	go func() { done <- s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		_ = s.Shutdown()
		<-done
	})
}

// certificate returns one for 127.0.0.1 and example.com, and who signed it.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return s.TLS.Certificates[0], pool
}

// dot starts a server of DNS over TLS.
func dot(t testing.TB, cert tls.Certificate, r respond) *fake {
	t.Helper()
	f := &fake{}
	f.set(r)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = netip.MustParseAddrPort(l.Addr().String())
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"dot"}}
	start(t, &dns.Server{Listener: tls.NewListener(counting{l, &f.dials}, conf), Handler: f, Net: "tcp-tls"})
	return f
}

// doh starts a server of DNS over HTTPS. status 0 is 200.
func doh(t testing.TB, cert tls.Certificate, status int, r respond) *fake {
	t.Helper()
	f := &fake{}
	f.set(r)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		q := new(dns.Msg)
		if err := q.Unpack(body); err != nil || req.ProtoMajor != 2 || req.URL.Path != "/dns-query" || req.Method != http.MethodPost ||
			req.Header.Get("Content-Type") != "application/dns-message" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if status != 0 {
			f.queries.Add(1)
			w.WriteHeader(status)
			return
		}
		b := f.handle(q, true)
		if b == nil {
			<-req.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/dns-message")
		_, _ = w.Write(b)
	}))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // clients that do not trust it are what is tested
	s.StartTLS()
	t.Cleanup(s.Close)
	f.addr = netip.MustParseAddrPort(s.Listener.Addr().String())
	return f
}

// rig is a nameserver under test.
type rig struct {
	*nameserver.Server
	t      testing.TB
	addr   string
	states *module.States
	stop   func()
}

// run starts a nameserver on a free port of 127.0.0.1.
func run(t testing.TB, cfg nameserver.Config) *rig {
	t.Helper()
	if cfg.Listen == nil {
		cfg.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	}
	states := module.NewStates("nameserver")
	cfg.States = states
	s, err := nameserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	r := &rig{Server: s, t: t, states: states}
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(limit):
			t.Error("run does not end")
		}
	})
	t.Cleanup(r.stop)
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("run: %v", err)
	case <-time.After(limit):
		t.Fatal("not ready")
	}
	if addrs := s.Addrs(); len(addrs) > 0 {
		r.addr = addrs[0].String()
	}
	return r
}

// with starts a nameserver with these upstreams.
func with(t testing.TB, upstreams ...nameserver.Upstream) *rig {
	t.Helper()
	return run(t, nameserver.Config{Settings: nameserver.Settings{Upstreams: upstreams}})
}

// query makes a question, with EDNS.
func query(name string, qtype uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(1232, false)
	return q
}

func (r *rig) exchange(network string, q *dns.Msg) *dns.Msg {
	r.t.Helper()
	c := &dns.Client{Net: network, Timeout: limit, UDPSize: 65535}
	m, _, err := c.Exchange(q, r.addr)
	if err != nil {
		r.t.Errorf("ask %v by %s: %v", q.Question[0], network, err)
		return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	return m
}

// ask asks by UDP.
func (r *rig) ask(name string, qtype uint16) *dns.Msg {
	r.t.Helper()
	return r.exchange("udp", query(name, qtype))
}

// first returns the data of the first record of the answer, or the rcode.
func first(m *dns.Msg) string {
	if len(m.Answer) == 0 {
		return dns.RcodeToString[m.Rcode]
	}
	for _, r := range m.Answer {
		if r.Header().Rrtype == m.Question[0].Qtype {
			return strings.TrimPrefix(r.String(), r.Header().String())
		}
	}
	return "no " + dns.TypeToString[m.Question[0].Qtype]
}

func (r *rig) want(name string, qtype uint16, want string) {
	r.t.Helper()
	if got := first(r.ask(name, qtype)); got != want {
		r.t.Errorf("%s %s: got %q; want %q", name, dns.TypeToString[qtype], got, want)
	}
}

// wantAll asks for names at the same time, and wants what yes answers.
func (r *rig) wantAll(names []string) (wait func()) {
	done := make(chan string)
	for _, name := range names {
		go func() { done <- first(r.ask(name, dns.TypeA)) }()
	}
	return func() {
		r.t.Helper()
		for range names {
			if got := <-done; got != "192.0.2.1" {
				r.t.Errorf("got %q; want 192.0.2.1", got)
			}
		}
	}
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// state returns the message of the state with this id; "" if there is none.
func (r *rig) state(id string) string {
	for _, s := range r.states.All() {
		if s.ID == id {
			return s.Message
		}
	}
	return ""
}

func noLeaks(t *testing.T) { testutil.NoLeaks(t) }

// otherCertificate returns one for 127.0.0.1 that nobody signed.
func otherCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
