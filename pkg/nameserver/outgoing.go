package nameserver

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// ednsSize is the largest answer by UDP that passes every network in one piece (DNS flag day 2020).
const ednsSize = 1232

// padTo is the block size of encrypted queries (RFC 8467 section 4.1).
const padTo = 128

var (
	errForeign   = errors.New("an answer to something else")
	errMalformed = errors.New("an answer that cannot be read")
	errNoEDNS    = errors.New("an answer of a server that does not know EDNS")
)

// outgoing is a question for upstream servers.
type outgoing struct {
	name   string // as package dns writes it, in lower case, with the final dot
	qtype  uint16
	do, cd bool
}

// packed is a question ready to be sent.
type packed struct {
	wire     []byte
	question []byte // where in wire it is
	exact    bool   // the answer must have the name in our case
}

func (p *packed) id() uint16 { return binary.BigEndian.Uint16(p.wire) }

func (p *packed) setID(id uint16) { binary.BigEndian.PutUint16(p.wire, id) }

// form says how a question is written.
type form struct {
	mixed bool // the name in random case, against forgers (draft-vixie-dnsext-dns0x20)
	edns  bool
	pad   bool
}

// pack writes the question with a random id.
func (o *outgoing) pack(f form) (*packed, error) {
	var random [2 + maxName/8 + 1]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("random numbers: %w", err)
	}
	name := o.name
	if f.mixed {
		name = mixCase(name, random[2:])
	}
	m := &dns.Msg{
		MsgHdr: dns.MsgHdr{
			Id:               binary.BigEndian.Uint16(random[:]),
			RecursionDesired: true, AuthenticatedData: true, CheckingDisabled: o.cd,
		},
		Question: []dns.Question{{Name: name, Qtype: o.qtype, Qclass: dns.ClassINET}},
	}
	if f.edns {
		m.SetEdns0(ednsSize, o.do)
	}
	if f.edns && f.pad {
		pad(m)
	}
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("encode the question: %w", err)
	}
	end, ok := plainName(wire, headerLen)
	if !ok {
		return nil, errMalformed
	}
	return &packed{wire: wire, question: wire[headerLen : end+4], exact: f.mixed}, nil
}

// pad fills a message up to a multiple of padTo, so that its length does not tell the name.
func pad(m *dns.Msg) {
	const optionLen = 4
	n := padTo - (m.Len()+optionLen)%padTo
	if n == padTo {
		n = 0
	}
	opt := m.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_PADDING{Padding: make([]byte, n)})
}

// mixCase writes letters in upper case where bits says so. Escaped bytes have no letters.
func mixCase(name string, bits []byte) string {
	var b strings.Builder
	b.Grow(len(name))
	for i := range len(name) {
		c := name[i]
		if 'a' <= c && c <= 'z' && bits[i/8%len(bits)]>>(i%8)&1 == 1 {
			c -= 'a' - 'A'
		}
		b.WriteByte(c)
	}
	return b.String()
}

// match says how a packet answers a question.
type match uint8

const (
	matchNone match = iota
	// matchCase is the right answer but for the case of the name: forged, or from a server that does not keep it.
	matchCase
	// matchBare has the right id and no question: servers that could not read ours do that.
	matchBare
	matchExact
)

// match compares a packet with the question that it should answer.
func (p *packed) match(b []byte) match {
	if len(b) < headerLen || !bytes.Equal(b[:2], p.wire[:2]) {
		return matchNone
	}
	if flags := binary.BigEndian.Uint16(b[2:]); flags&bitQR == 0 || flags&opcodeMask != 0 {
		return matchNone
	}
	switch binary.BigEndian.Uint16(b[4:]) {
	case 0:
		if b[3]&rcodeMask == dns.RcodeFormatError || b[3]&rcodeMask == dns.RcodeNotImplemented {
			return matchBare
		}
		return matchNone
	case 1:
	default:
		return matchNone
	}
	end := headerLen + len(p.question)
	if len(b) < end {
		return matchNone
	}
	name, got := len(p.question)-4, b[headerLen:end]
	switch {
	case bytes.Equal(got, p.question):
		return matchExact
	case !bytes.Equal(got[name:], p.question[name:]) || !equalFold(got[:name], p.question[:name]):
		return matchNone
	case p.exact:
		return matchCase
	}
	return matchExact
}

// decode reads a packet that matches.
func decode(b []byte) (*dns.Msg, error) {
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		// A truncated message may end anywhere; that it is one is all we want to know of it.
		if len(b) >= headerLen && binary.BigEndian.Uint16(b[2:])&bitTC != 0 {
			return &dns.Msg{MsgHdr: dns.MsgHdr{Truncated: true}}, nil
		}
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if opt := m.IsEdns0(); opt != nil && opt.Version() != 0 {
		return nil, fmt.Errorf("%w: EDNS version %d", errMalformed, opt.Version())
	}
	return m, nil
}

// decodeWhole reads a packet that matches and came by a way on which nothing has to be cut off.
func decodeWhole(b []byte) (*dns.Msg, error) {
	m, err := decode(b)
	if err == nil && m.Truncated {
		return nil, fmt.Errorf("%w: cut off although there was room", errMalformed)
	}
	return m, err
}

// withoutEDNS reports whether a server has refused a question because of its OPT record (RFC 6891 section 7).
func withoutEDNS(m *dns.Msg) bool {
	return (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) && m.IsEdns0() == nil
}
