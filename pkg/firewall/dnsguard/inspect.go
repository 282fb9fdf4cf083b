package dnsguard

import (
	"encoding/binary"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// Inspects implements firewall.Inspector: plain DNS by UDP to other hosts, in the disabled state.
func (g *Guard) Inspects(s *conn.Snapshot) bool {
	return s.Tuple.Remote.Port() == portDNS && s.Tuple.Protocol == packet.UDP && s.Direction == packet.Outbound &&
		!isLocal(s) && g.cfg.Disabled() && !g.isSystemDNS(s)
}

// Inspect implements firewall.Inspector. Each packet has to be DNS. It is done with the first that a program of this host sends which is
// not; what comes in may be anybody's, and ends nothing.
func (g *Guard) Inspect(_ *conn.Snapshot, p packet.Packet) (d verdict.Decision, done bool) {
	switch {
	case isDNS(p):
		return decide(verdict.Accept, CodeInspected, "a DNS message"), false
	case p.Info().Direction == packet.Inbound:
		return decide(verdict.Drop, CodeNotDNS, "what comes from port 53 is not DNS"), false
	}
	return decide(verdict.Block, CodeNotDNS, "what goes to port 53 is not DNS"), true
}

// isDNS reports whether a datagram is a DNS message, as far as the packet backend has copied it.
func isDNS(p packet.Packet) bool {
	i := p.Info()
	b, err := p.Payload()
	if err != nil || i.HeaderLength <= 0 || i.HeaderLength > len(b) || i.Fragment {
		return false
	}
	size := max(len(b), i.Length) - i.HeaderLength
	return (&walker{b: b[i.HeaderLength:], size: size}).message(i.Direction)
}

// DNS messages (RFC 1035 section 4.1).
const (
	headerLen = 12
	flagQR    = 1 << 15
	// maxExtra is how many records a query may have behind its question: an OPT record (RFC 6891) and a signature (RFC 8945, RFC
	// 2931); the beginning of a zone that a secondary has (RFC 1995).
	maxExtra = 3
	opUpdate = 5
)

// walker goes through a message without decoding what it does not need. It allocates nothing.
type walker struct {
	// b is what is there of the message, whose length is size.
	b    []byte
	size int
	off  int
}

// message reports whether all of it is a DNS message that goes this way: a query out, an answer in.
func (w *walker) message(d packet.Direction) bool {
	if len(w.b) < headerLen || w.size > 65535 {
		return false
	}
	count := func(at int) int { return int(binary.BigEndian.Uint16(w.b[at:])) }
	flags := count(2)
	if (flags&flagQR != 0) != (d == packet.Inbound) {
		return false
	}
	questions, records := count(4), count(6)+count(8)+count(10)
	switch opcode := flags >> 11 & 0xf; {
	case opcode == 3 || opcode > opUpdate, questions > 1:
		return false
	case d == packet.Outbound && (questions == 0 || opcode != opUpdate && records > maxExtra):
		return false
	}
	w.off = headerLen
	for range questions {
		if !w.name() || !w.skip(4) {
			return w.cutOff()
		}
	}
	for range records {
		if !w.record() {
			return w.cutOff()
		}
	}
	return w.off == w.size // nothing hides behind it
}

// cutOff reports whether what could not be read is just not there. What is there was fine, and more than the header.
func (w *walker) cutOff() bool { return w.off > len(w.b) && w.off <= w.size && len(w.b) < w.size }

// skip goes on by n bytes, and reports whether they are all there.
func (w *walker) skip(n int) bool {
	w.off += n
	return w.off <= len(w.b)
}

// name goes past a domain name (RFC 1035 sections 3.1 and 4.1.4).
func (w *walker) name() bool {
	start := w.off
	for w.off < len(w.b) {
		switch c := int(w.b[w.off]); {
		case c == 0:
			return w.skip(1)
		case c >= 0xc0: // a pointer ends it, and leads back
			if w.off+1 < len(w.b) && (c&0x3f)<<8|int(w.b[w.off+1]) >= start {
				return false
			}
			return w.skip(2)
		case c > 63 || w.off+c-start > 254:
			return false
		default:
			w.off += 1 + c
		}
	}
	w.off = max(w.off, len(w.b)+1) // it goes on behind what is there
	return false
}

// record goes past a resource record.
func (w *walker) record() bool {
	if !w.name() || !w.skip(10) {
		return false
	}
	return w.skip(int(binary.BigEndian.Uint16(w.b[w.off-2:])))
}
