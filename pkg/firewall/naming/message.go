package naming

import (
	"encoding/binary"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/dnsmon"
)

// message is what matters of a DNS message (RFC 1035 section 4.1) with one question.
type message struct {
	id       uint16
	response bool
	rcode    int
	// name is the one asked for, canonical.
	name string
	// answers is how many records the answer section has, which begins at rest.
	answers int
	rest    int
}

const (
	headerLen = 12
	flagQR    = 1 << 15
	opcodes   = 0xf << 11
	rcodes    = 0xf
	// maxRecords bounds the work for one message.
	maxRecords = 512
)

// parseMessage reads header and question. ok is false for what is not a query of class IN for one name, or the answer to one.
func parseMessage(b []byte) (m message, ok bool) {
	if len(b) < headerLen {
		return message{}, false
	}
	flags := binary.BigEndian.Uint16(b[2:])
	if flags&opcodes != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return message{}, false
	}
	name, off, err := dns.UnpackDomainName(b, headerLen)
	if err != nil || len(b) < off+4 || binary.BigEndian.Uint16(b[off+2:]) != dns.ClassINET {
		return message{}, false
	}
	m = message{
		id: binary.BigEndian.Uint16(b), response: flags&flagQR != 0, rcode: int(flags & rcodes),
		name: dnsmon.CanonicalName(name), answers: int(binary.BigEndian.Uint16(b[6:])), rest: off + 4,
	}
	return m, m.name != ""
}

// records returns what the answer section says, up to where b is cut off or no longer understood.
func (m *message) records(b []byte) (list []dnsmon.Record) {
	off := m.rest
	for range min(m.answers, maxRecords) {
		if off >= len(b) {
			break
		}
		rr, next, err := dns.UnpackRR(b, off)
		if err != nil || next <= off {
			break
		}
		list, off = append(list, dnsmon.Records(rr)...), next
	}
	return list
}
