package naming

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
)

// dnsPort is the port of nameservers.
const dnsPort = 53

// What an Observer remembers: queries without an answer, and connections by TCP.
const (
	maxQueries = 4096
	maxStreams = 256
)

// Config of an Observer.
type Config struct {
	// Table gets the names. Required.
	Table *names.Table
	// Forwarder reports whether a process asks on behalf of others, so that what it hears is for everybody. It must not go by the path
	// alone, which anybody can have; dnsguard.SystemResolver does not. Optional; the default is that each asks for itself.
	Forwarder func(p *conn.Process) bool
}

// ErrConfig is wrapped by errors about a Config.
var ErrConfig = errors.New("naming: bad configuration")

// Observer reads the answers to DNS queries in packets. It is a firewall.PacketObserver. The packet backend has to copy enough of a
// packet: the records that are not copied are not read. Create it with NewObserver.
type Observer struct {
	cfg     Config
	answers atomic.Uint64

	mu      sync.Mutex // guards what follows
	queries bounded[query, struct{}]
	streams bounded[packet.Tuple, *stream]
}

var _ firewall.PacketObserver = (*Observer)(nil)

// query is one that was seen, and whose answer may be believed.
type query struct {
	conn packet.Tuple
	id   uint16
	name string
}

// NewObserver returns an Observer. The error wraps ErrConfig.
func NewObserver(cfg Config) (*Observer, error) {
	if cfg.Table == nil {
		return nil, fmt.Errorf("%w: Table is required", ErrConfig)
	}
	if cfg.Forwarder == nil {
		cfg.Forwarder = func(*conn.Process) bool { return false }
	}
	o := &Observer{cfg: cfg}
	o.queries.init(maxQueries)
	o.streams.init(maxStreams)
	return o, nil
}

// Answers is how many answers were read.
func (o *Observer) Answers() uint64 { return o.answers.Load() }

// Observes implements firewall.PacketObserver. A query over loopback is two connections, one out and one in, and the kernel has one
// memory for both.
func (o *Observer) Observes(s *conn.Snapshot) bool {
	if s.Tuple.Protocol != packet.UDP && s.Tuple.Protocol != packet.TCP {
		return false
	}
	if s.Direction == packet.Outbound {
		return s.Tuple.Remote.Port() == dnsPort
	}
	return s.Tuple.Local.Port() == dnsPort && (s.Scope == netscope.Host || s.Tuple.Local.Addr() == s.Tuple.Remote.Addr())
}

// Observe implements firewall.PacketObserver.
func (o *Observer) Observe(s *conn.Snapshot, p packet.Packet) {
	i := p.Info()
	if s.Direction != packet.Outbound || i.Fragment {
		return
	}
	b, err := p.Payload()
	if err != nil || i.HeaderLength <= 0 || i.HeaderLength > len(b) {
		return
	}
	switch {
	case s.Tuple.Protocol == packet.TCP && i.Direction == packet.Inbound:
		o.segment(s, i, b)
	case s.Tuple.Protocol == packet.TCP:
	case i.Direction == packet.Inbound:
		o.answered(s, b[i.HeaderLength:])
	default:
		o.asked(s, b[i.HeaderLength:])
	}
}

// asked notes a query.
func (o *Observer) asked(s *conn.Snapshot, b []byte) {
	m, ok := parseMessage(b)
	if !ok || m.response {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queries.put(query{s.Tuple, m.id, m.name}, struct{}{})
}

// answered reads a datagram.
func (o *Observer) answered(s *conn.Snapshot, b []byte) {
	m, ok := parseMessage(b)
	if !ok || !m.response {
		return
	}
	o.mu.Lock()
	ok = o.queries.drop(query{s.Tuple, m.id, m.name})
	o.mu.Unlock()
	if ok {
		o.learn(s, m, b)
	}
}

// learn adds what an answer says. Of a name that does not exist (RFC 1035 section 4.1.1), there is nothing to learn.
func (o *Observer) learn(s *conn.Snapshot, m message, b []byte) {
	o.answers.Add(1)
	if m.rcode != 0 {
		return
	}
	who := AskerOf(s.Process)
	if s.Process != nil && o.cfg.Forwarder(s.Process) {
		who = names.Asker{}
	}
	o.cfg.Table.Add(names.Packet, who, names.Resolve(&dnsmon.Answer{Asked: []string{m.name}, Records: m.records(b)})...)
}

// segment reads what comes in over TCP. Nobody can guess his way into such a connection, so that the queries need not be seen.
func (o *Observer) segment(s *conn.Snapshot, i *packet.Info, b []byte) {
	seq, ok := sequence(b)
	if !ok {
		return
	}
	var messages [][]byte
	o.mu.Lock()
	st, ok := o.streams.get(s.Tuple)
	switch {
	case i.TCPFlags&packet.TCPSyn != 0:
		o.streams.put(s.Tuple, &stream{next: seq + 1})
	case !ok:
	case !st.add(seq, b[i.HeaderLength:], max(0, i.Length-i.HeaderLength), func(m []byte) { messages = append(messages, m) }),
		i.TCPFlags&(packet.TCPFin|packet.TCPRst) != 0:
		o.streams.drop(s.Tuple)
	}
	o.mu.Unlock()
	for _, b := range messages {
		if m, ok := parseMessage(b); ok && m.response {
			o.learn(s, m, b)
		}
	}
}

// sequence returns the sequence number of a TCP packet (RFC 9293 section 3.1). One with extension headers of IPv6 is left out.
func sequence(b []byte) (uint32, bool) {
	const tcp, fixed6 = byte(packet.TCP), 40
	at := 0
	switch {
	case len(b) > fixed6 && b[0]>>4 == 6 && b[6] == tcp:
		at = fixed6
	case len(b) > 0 && b[0]>>4 == 4:
		at = int(b[0]&0xf) * 4
	default:
		return 0, false
	}
	if len(b) < at+8 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[at+4:]), true
}
