package naming

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
)

// seen is a packet that nobody waits for.
type seen struct {
	packet.Once
	info    packet.Info
	payload []byte
}

func (p *seen) Info() *packet.Info        { return &p.info }
func (p *seen) FastTrackedByDriver() bool { return false }
func (p *seen) ExpectsInfo() bool         { return false }
func (p *seen) Payload() ([]byte, error) {
	if p.payload == nil {
		return nil, packet.ErrNoPayload
	}
	return p.payload, nil
}

// lab is an Observer with its table and one connection of a program to a nameserver.
type lab struct {
	t     *testing.T
	table *names.Table
	*Observer
	conn *conn.Snapshot
	seq  uint32
}

func newLab(t *testing.T, p packet.Protocol, cfg Config) *lab {
	t.Helper()
	table, err := names.New(names.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Table = table
	o, err := NewObserver(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &conn.Snapshot{Process: &conn.Process{PID: 7, StartTicks: 70, Path: "/usr/bin/curl"}}
	s.Tuple = packet.Tuple{Protocol: p, Local: netip.MustParseAddrPort("10.0.0.1:4000"), Remote: netip.MustParseAddrPort("10.0.0.53:53")}
	return &lab{t: t, table: table, Observer: o, conn: s, seq: 1000}
}

// pack makes a message of a question and records.
func pack(t testing.TB, id uint16, name string, response bool, records ...string) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	m.Id, m.Response, m.Compress = id, response, true
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const udpHeaders, tcpHeaders = 28, 40

// datagram shows the Observer a datagram with these bytes, of which some may not be copied.
func (l *lab) datagram(d packet.Direction, b []byte) {
	l.Observe(l.conn, &seen{
		info:    packet.Info{Tuple: l.conn.Tuple, Direction: d, Version: 4, HeaderLength: udpHeaders, Length: udpHeaders + len(b)},
		payload: append(make([]byte, udpHeaders), b...),
	})
}

// segment shows a TCP segment of which the first ones of its bytes are copied.
func (l *lab) segment(seq uint32, flags uint8, b []byte, copied int) {
	headers := make([]byte, tcpHeaders)
	headers[0] = 0x45
	binary.BigEndian.PutUint32(headers[24:], seq)
	l.Observe(l.conn, &seen{
		info:    packet.Info{Tuple: l.conn.Tuple, Direction: packet.Inbound, Version: 4, TCPFlags: flags, HeaderLength: tcpHeaders, Length: tcpHeaders + len(b)},
		payload: append(headers, b[:copied]...),
	})
}

// stream shows bytes in order, cut into segments of this size.
func (l *lab) stream(b []byte, size int) {
	for len(b) > 0 {
		n := min(size, len(b))
		l.segment(l.seq, packet.TCPAck, b[:n], n)
		l.seq += uint32(n)
		b = b[n:]
	}
}

func (l *lab) wantName(addr string, who names.Asker, want string) {
	l.t.Helper()
	e, _ := l.table.Find(netip.MustParseAddr(addr), who)
	if got := strings.TrimSpace(fmt.Sprint(e.Domain, " ", strings.Join(e.CNAMEs, " "))); got != want {
		l.t.Errorf("%s: got %q; want %q", addr, got, want)
	}
}

var curl = names.Asker{PID: 7, Start: 70}

const (
	alias   = "www.example.test. 60 IN CNAME n1.cdn.test."
	address = "n1.cdn.test. 60 IN A 198.51.100.7"
)

func TestDatagrams(t *testing.T) {
	l := newLab(t, packet.UDP, Config{})
	l.datagram(packet.Outbound, pack(t, 1, "WWW.example.test", false))
	l.datagram(packet.Inbound, pack(t, 1, "www.Example.test", true, alias, address))
	l.wantName("198.51.100.7", curl, "www.example.test n1.cdn.test")
	l.wantName("198.51.100.7", names.Asker{PID: 8}, "") // who did not ask
	if l.Answers() != 1 {
		t.Errorf("got %d answers; want 1", l.Answers())
	}
}

// What was not asked for is not believed.
func TestUnasked(t *testing.T) {
	answer := pack(t, 1, "www.example.test", true, alias, address)
	for name, before := range map[string][]byte{
		"nothing asked": nil,
		"another id":    pack(t, 2, "www.example.test", false),
		"another name":  pack(t, 1, "www.example.tes", false),
		"not a query":   answer,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, packet.UDP, Config{})
			l.datagram(packet.Outbound, before)
			l.datagram(packet.Inbound, answer)
			l.wantName("198.51.100.7", curl, "")
		})
	}
	l := newLab(t, packet.UDP, Config{})
	l.datagram(packet.Outbound, pack(t, 1, "www.example.test", false))
	l.conn.Tuple.Local = netip.MustParseAddrPort("10.0.0.1:4001")
	l.datagram(packet.Inbound, answer)
	l.wantName("198.51.100.7", curl, "") // on another connection
	l.conn.Tuple.Local = netip.MustParseAddrPort("10.0.0.1:4000")
	l.datagram(packet.Inbound, pack(t, 1, "www.example.test", true, "www.example.test. 60 IN A 192.0.2.1", "bank.test. 60 IN A 192.0.2.2"))
	l.datagram(packet.Inbound, pack(t, 1, "www.example.test", true, "www.example.test. 60 IN A 192.0.2.3"))
	l.wantName("192.0.2.1", curl, "www.example.test")
	l.wantName("192.0.2.2", curl, "") // a record that does not follow from the question
	l.wantName("192.0.2.3", curl, "") // a second answer
}

// A resolver of the system asks for everybody.
func TestForwarders(t *testing.T) {
	const resolver = "/usr/lib/systemd/systemd-resolved"
	known := func(p *conn.Process) bool { return p.Path == resolver }
	for _, tt := range []struct {
		path      string
		forwarder func(*conn.Process) bool
		want      bool
	}{
		{resolver, known, true},
		{"/usr/bin/curl", known, false},
		{resolver, nil, false}, // a path is anybody's
	} {
		path, want := tt.path, tt.want
		l := newLab(t, packet.UDP, Config{Forwarder: tt.forwarder})
		l.conn.Process.Path = path
		l.datagram(packet.Outbound, pack(t, 1, "www.example.test", false))
		l.datagram(packet.Inbound, pack(t, 1, "www.example.test", true, alias, address))
		if _, got := l.table.Find(netip.MustParseAddr("198.51.100.7"), names.Asker{PID: 8}); got != want {
			t.Errorf("%q: a name for everybody: %v; want %v", path, got, want)
		}
	}
	l := newLab(t, packet.UDP, Config{})
	l.conn.Process = nil
	l.datagram(packet.Outbound, pack(t, 1, "www.example.test", false))
	l.datagram(packet.Inbound, pack(t, 1, "www.example.test", true, alias, address))
	l.wantName("198.51.100.7", curl, "www.example.test n1.cdn.test") // nobody knows who asked
}

// What cannot be read does no harm, and what is cut off is read as far as it goes.
func TestBadDatagrams(t *testing.T) {
	l := newLab(t, packet.UDP, Config{})
	answer := pack(t, 1, "www.example.test", true, "www.example.test. 60 IN A 192.0.2.1", "www.example.test. 60 IN A 192.0.2.2")
	l.datagram(packet.Outbound, pack(t, 1, "www.example.test", false))
	l.Observe(l.conn, &seen{info: packet.Info{Direction: packet.Inbound, HeaderLength: udpHeaders}})
	l.Observe(l.conn, &seen{info: packet.Info{Direction: packet.Inbound, HeaderLength: 99}, payload: answer})
	l.Observe(l.conn, &seen{info: packet.Info{Direction: packet.Inbound, Fragment: true, HeaderLength: 20}, payload: answer})
	for n := range 20 {
		l.datagram(packet.Inbound, answer[:n])
	}
	l.datagram(packet.Inbound, answer[:len(answer)-1])
	l.wantName("192.0.2.1", curl, "www.example.test")
	l.wantName("192.0.2.2", curl, "")

	l.datagram(packet.Outbound, pack(t, 2, "none.test", false))
	none := pack(t, 2, "none.test", true, "none.test. 60 IN A 192.0.2.9")
	none[3] |= dns.RcodeNameError
	l.datagram(packet.Inbound, none)
	l.wantName("192.0.2.9", curl, "")
}

func TestQueriesAreBounded(t *testing.T) {
	l := newLab(t, packet.UDP, Config{})
	for i := range maxQueries + 1 {
		l.datagram(packet.Outbound, pack(t, uint16(i), "www.example.test", false))
	}
	if n := len(l.queries.m); n != maxQueries {
		t.Errorf("got %d queries; want %d", n, maxQueries)
	}
	l.datagram(packet.Inbound, pack(t, 0, "www.example.test", true, alias, address))
	l.wantName("198.51.100.7", curl, "") // the oldest is forgotten
	l.datagram(packet.Inbound, pack(t, 1, "www.example.test", true, alias, address))
	l.wantName("198.51.100.7", curl, "www.example.test n1.cdn.test")
}

// framed puts the length in front of each message.
func framed(messages ...[]byte) (b []byte) {
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(m))), m...)
	}
	return b
}

func TestStreams(t *testing.T) {
	one := pack(t, 1, "www.example.test", true, alias, address)
	two := pack(t, 2, "two.test", true, "two.test. 60 IN A 192.0.2.2")
	both := func(l *lab, want1, want2 string) {
		t.Helper()
		l.wantName("198.51.100.7", curl, want1)
		l.wantName("192.0.2.2", curl, want2)
	}
	const name1, name2 = "www.example.test n1.cdn.test", "two.test"
	for _, size := range []int{1, 2, 3, 7, 50, 5000} {
		l := newLab(t, packet.TCP, Config{})
		l.segment(l.seq-1, packet.TCPSyn|packet.TCPAck, nil, 0)
		l.stream(framed(nil, one, two), size)
		both(l, name1, name2)
	}
	t.Run("again and overlapping", func(t *testing.T) {
		l := newLab(t, packet.TCP, Config{})
		l.segment(l.seq-1, packet.TCPSyn|packet.TCPAck, nil, 0)
		b := framed(one, two)
		l.segment(l.seq, packet.TCPAck, b[:50], 50)
		l.segment(l.seq, packet.TCPAck, b[:50], 50)
		l.segment(l.seq+20, packet.TCPAck, b[20:], len(b)-20)
		both(l, name1, name2)
	})
	t.Run("not all copied", func(t *testing.T) {
		l := newLab(t, packet.TCP, Config{})
		l.segment(l.seq-1, packet.TCPSyn|packet.TCPAck, nil, 0)
		b := framed(one)
		l.segment(l.seq, packet.TCPAck, b, 60) // and the place is kept
		l.seq += uint32(len(b))
		l.stream(framed(two), 9)
		both(l, "", name2)
	})
	t.Run("not even the length", func(t *testing.T) {
		l := newLab(t, packet.TCP, Config{})
		l.segment(l.seq-1, packet.TCPSyn|packet.TCPAck, nil, 0)
		b := framed(one, two)
		l.segment(l.seq, packet.TCPAck, b, 60)
		l.seq += uint32(len(b))
		l.stream(framed(two), 9)
		both(l, "", "") // nobody knows where a message begins
	})
	t.Run("a gap", func(t *testing.T) {
		l := newLab(t, packet.TCP, Config{})
		l.segment(l.seq-1, packet.TCPSyn|packet.TCPAck, nil, 0)
		l.segment(l.seq+5, packet.TCPAck, one, len(one))
		l.stream(framed(one, two), 500)
		both(l, "", "")
	})
	t.Run("begun before", func(t *testing.T) {
		l := newLab(t, packet.TCP, Config{})
		l.stream(framed(one), 500)
		both(l, "", "")
	})
	t.Run("over", func(t *testing.T) {
		l := newLab(t, packet.TCP, Config{})
		l.segment(l.seq-1, packet.TCPSyn|packet.TCPAck, nil, 0)
		b := framed(one)
		l.segment(l.seq, packet.TCPAck|packet.TCPFin, b, len(b))
		both(l, name1, "")
		if n := len(l.streams.m); n != 0 {
			t.Errorf("got %d streams; want none", n)
		}
	})
	t.Run("bounded", func(t *testing.T) {
		l := newLab(t, packet.TCP, Config{})
		for i := range maxStreams + 10 {
			l.conn.Tuple.Local = netip.AddrPortFrom(l.conn.Tuple.Local.Addr(), uint16(i+1))
			l.segment(0, packet.TCPSyn|packet.TCPAck, nil, 0)
		}
		l.seq = 1
		l.stream(append([]byte{0xff, 0xff}, make([]byte, 0xffff)...), 1000)
		if n := len(l.streams.m); n != maxStreams {
			t.Errorf("got %d streams; want %d", n, maxStreams)
		}
	})
}

func TestSequence(t *testing.T) {
	six := make([]byte, 60)
	six[0], six[6] = 0x60, byte(packet.TCP)
	binary.BigEndian.PutUint32(six[44:], 77)
	if n, ok := sequence(six); !ok || n != 77 {
		t.Errorf("got %d, %v; want 77", n, ok)
	}
	six[6] = 0 // an extension header
	for _, b := range [][]byte{nil, {0x45}, make([]byte, 60), six, six[:47]} {
		if _, ok := sequence(b); ok {
			t.Errorf("%x: got a number", b)
		}
	}
}

func TestObserves(t *testing.T) {
	for _, tt := range []struct {
		d             packet.Direction
		p             packet.Protocol
		local, remote string
		scope         netscope.Scope
		want          bool
	}{
		{packet.Outbound, packet.UDP, "10.0.0.1:4000", "10.0.0.53:53", netscope.Site, true},
		{packet.Outbound, packet.TCP, "10.0.0.1:4000", "10.0.0.53:53", netscope.Site, true},
		{packet.Outbound, packet.SCTP, "10.0.0.1:4000", "10.0.0.53:53", netscope.Site, false},
		{packet.Outbound, packet.UDP, "10.0.0.1:53", "10.0.0.53:4000", netscope.Site, false},
		{packet.Inbound, packet.UDP, "127.0.0.53:53", "127.0.0.1:4000", netscope.Host, true},
		{packet.Inbound, packet.UDP, "10.0.0.1:53", "10.0.0.1:4000", netscope.Site, true},
		{packet.Inbound, packet.UDP, "10.0.0.1:53", "10.0.0.9:4000", netscope.Site, false}, // we are somebody's nameserver
		{packet.Inbound, packet.UDP, "10.0.0.1:4000", "10.0.0.9:53", netscope.Site, false},
	} {
		s := &conn.Snapshot{Direction: tt.d, Scope: tt.scope}
		s.Tuple = packet.Tuple{Protocol: tt.p, Local: netip.MustParseAddrPort(tt.local), Remote: netip.MustParseAddrPort(tt.remote)}
		if got := newLab(t, packet.UDP, Config{}).Observes(s); got != tt.want {
			t.Errorf("%v %v: got %v; want %v", tt.d, s.Tuple, got, tt.want)
		}
	}
}

func TestFinder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, packet.TCP, Config{})
		f := &Finder{Table: l.table}
		l.table.Add(names.Packet, curl, names.Lookup{Domain: "www.example.test", CNAMEs: []string{"n1.cdn.test"}, Addr: l.conn.Tuple.Remote.Addr()})
		n, ok := f.FindName(t.Context(), l.conn, 0)
		if !ok || n.Domain != "www.example.test" || len(n.CNAMEs) != 1 {
			t.Errorf("got %+v, %v", n, ok)
		}
		l.conn.Direction = packet.Inbound
		if n, ok := f.FindName(t.Context(), l.conn, time.Second); ok {
			t.Errorf("inbound: got %+v; want none", n)
		}
		l.conn.Direction, l.conn.Process = packet.Outbound, nil
		go func() {
			time.Sleep(10 * time.Millisecond)
			l.table.Add(names.Systemd, names.Asker{}, names.Lookup{Domain: "late.test", Addr: l.conn.Tuple.Remote.Addr()})
		}()
		if n, ok := f.FindName(t.Context(), l.conn, time.Second); !ok || n.Domain != "late.test" {
			t.Errorf("got %+v, %v; want the name that came", n, ok)
		}
	})
}

func TestConfig(t *testing.T) {
	if _, err := NewObserver(Config{}); !errors.Is(err, ErrConfig) {
		t.Errorf("got %v; want ErrConfig", err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(pack(f, 1, "www.example.test", true, alias, address))
	f.Add(pack(f, 1, "www.example.test", false))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parseMessage(b)
		if !ok {
			return
		}
		if m.name != dnsmon.CanonicalName(m.name) || m.rest > len(b) {
			t.Fatalf("got %+v of %d bytes", m, len(b))
		}
		list := m.records(b)
		names.Resolve(&dnsmon.Answer{Asked: []string{m.name}, Records: list})
		for _, r := range list {
			if r.Addr.IsValid() == (r.Target != "") {
				t.Fatalf("got %+v", r)
			}
		}
	})
}

// However a stream is cut into segments, the same messages come out.
func FuzzStream(f *testing.F) {
	f.Add(framed([]byte("one"), nil, []byte("three")), uint16(3), uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, size, again uint16) {
		whole, _ := cut(t, b, len(b), 0)
		parts, s := cut(t, b, int(size)+1, int(again))
		if fmt.Sprint(whole) != fmt.Sprint(parts) {
			t.Fatalf("whole %v, in parts %v", whole, parts)
		}
		if len(s.buf) > maxMessage {
			t.Fatalf("kept %d bytes", len(s.buf))
		}
	})
}

// cut feeds a stream in parts of this size, each with some bytes of the one before, and returns the messages.
func cut(t *testing.T, b []byte, size, again int) (messages [][]byte, s *stream) {
	t.Helper()
	s = &stream{next: 1<<32 - 5} // it wraps around
	for at := 0; at < len(b); at += size {
		from := max(0, at-again)
		part := b[from:min(len(b), at+size)]
		if !s.add(uint32(from)-5, part, len(part), func(m []byte) { messages = append(messages, m) }) {
			t.Fatal("lost its place")
		}
	}
	return messages, s
}

func BenchmarkObserve(b *testing.B) {
	table, err := names.New(names.Config{})
	if err != nil {
		b.Fatal(err)
	}
	o, err := NewObserver(Config{Table: table})
	if err != nil {
		b.Fatal(err)
	}
	l := &lab{Observer: o, table: table, conn: &conn.Snapshot{Process: &conn.Process{PID: 7}}}
	l.conn.Tuple.Protocol = packet.UDP
	query, answer := pack(b, 1, "www.example.test", false), pack(b, 1, "www.example.test", true, alias, address)
	b.ReportAllocs()
	for b.Loop() {
		l.datagram(packet.Outbound, query)
		l.datagram(packet.Inbound, answer)
	}
}
