package rules

import (
	"strconv"
	"strings"

	"github.com/weirfw/weir/pkg/packet"
)

// byteSet is a set of numbers from 0 to 255.
type byteSet [4]uint64

func (b *byteSet) add(n uint8)      { b[n>>6] |= 1 << (n & 63) }
func (b *byteSet) has(n uint8) bool { return b[n>>6]>>(n&63)&1 != 0 }

// icmpSet is the types that a rule is for.
type icmpSet struct{ v4, v6 byteSet }

func (s *icmpSet) has(p packet.Protocol, typ uint8) bool {
	return p == packet.ICMP && s.v4.has(typ) || p == packet.ICMPv6 && s.v6.has(typ)
}

// icmpName is a name with its type numbers (IANA "ICMP Parameters", "ICMPv6
// Parameters").
type icmpName struct {
	name   string
	v4, v6 []uint8
}

func icmpNames() []icmpName {
	return []icmpName{
		{"echo", []uint8{8, 0}, []uint8{128, 129}},
		{"echo-request", []uint8{8}, []uint8{128}},
		{"echo-reply", []uint8{0}, []uint8{129}},
		{"destination-unreachable", []uint8{3}, []uint8{1}},
		{"packet-too-big", nil, []uint8{2}},
		{"time-exceeded", []uint8{11}, []uint8{3}},
		{"parameter-problem", []uint8{12}, []uint8{4}},
		{"redirect", []uint8{5}, []uint8{137}},
		{"router-solicitation", []uint8{10}, []uint8{133}},
		{"router-advertisement", []uint8{9}, []uint8{134}},
		{"neighbor-solicitation", nil, []uint8{135}},
		{"neighbor-advertisement", nil, []uint8{136}},
		{"timestamp", []uint8{13, 14}, nil},
		{"multicast-listener", nil, []uint8{130, 131, 132, 143}},
	}
}

// add reads a type name, "icmp:N" or "icmpv6:N".
func (s *icmpSet) add(text string) *problem {
	if p := checkText(text); p != nil {
		return p
	}
	names := icmpNames()
	for _, n := range names {
		if n.name == text {
			for _, t := range n.v4 {
				s.v4.add(t)
			}
			for _, t := range n.v6 {
				s.v6.add(t)
			}
			return nil
		}
	}
	proto, num, ok := strings.Cut(text, ":")
	if n, err := strconv.ParseUint(num, 10, 8); ok && err == nil {
		switch proto {
		case "icmp":
			s.v4.add(uint8(n))
			return nil
		case "icmpv6":
			s.v6.add(uint8(n))
			return nil
		}
	}
	known := make([]string, 0, len(names))
	for _, n := range names {
		known = append(known, n.name)
	}
	return &problem{text, "no such ICMP type", "use " + strings.Join(known, ", ") + `, or a number from 0 to 255 as in "icmp:13" and "icmpv6:135"`}
}
