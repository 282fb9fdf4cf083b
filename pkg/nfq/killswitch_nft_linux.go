package nfq

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	nftMsgGetRule = 7

	// What wg-quick calls its tables, with an interface behind it, and the chain of its kill switch.
	wgTablePrefix = "wg-quick-"
	wgChain       = "preraw"

	nftFibAddrType = 3 // NFT_FIB_RESULT_ADDRTYPE
	nftFibSource   = 1 // NFTA_FIB_F_SADDR

	ifNameSize = 16 // IFNAMSIZ
)

// nftPreRule is a rule with the number by which nf_tables knows it.
type nftPreRule struct {
	preRule
	handle uint64
}

// destination returns where in the IP header the destination is.
func destination(proto uint8) (offset, length uint32) {
	if proto == nfproto6 {
		return 24, 16
	}
	return 16, 4
}

// preRules lists the rules of one chain. They are none if there is no such chain.
func (n *nftConn) preRules(proto uint8, table, chain string) ([]nftPreRule, error) {
	if err := n.c.SetReadDeadline(time.Now().Add(nftTimeout)); err != nil {
		return nil, fmt.Errorf("nf_tables deadline: %w", err)
	}
	msgs, err := n.c.Execute(nftMessage(nftMsgGetRule, netlink.Dump, proto,
		nftString(unix.NFTA_RULE_TABLE, table), nftString(unix.NFTA_RULE_CHAIN, chain)))
	if err != nil {
		return nil, fmt.Errorf("list rules of %s: %w", table, err)
	}
	var list []nftPreRule
	for _, m := range msgs {
		if len(m.Data) < nfgenmsg {
			continue
		}
		// An old kernel lists more than it was asked for.
		if r, of, in := parseNFTRule(m.Data[nfgenmsg:], proto); of == table && in == chain {
			list = append(list, r)
		}
	}
	return list, nil
}

// parseNFTRule reads the attributes of a rule in a table of IPv4 or IPv6. What it does not understand becomes preRule.other.
func parseNFTRule(b []byte, proto uint8) (r nftPreRule, table, chain string) {
	for typ, v, rest, ok := nextAttr(b); ok; typ, v, rest, ok = nextAttr(rest) {
		switch typ {
		case unix.NFTA_RULE_TABLE:
			table = nftText(v)
		case unix.NFTA_RULE_CHAIN:
			chain = nftText(v)
		case unix.NFTA_RULE_HANDLE:
			if len(v) == 8 {
				r.handle = binary.BigEndian.Uint64(v)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			r.parseExpressions(v, proto)
		case unix.NFTA_RULE_USERDATA:
			r.comment = nftComment(v)
		}
	}
	return r, table, chain
}

func nftText(v []byte) string { return string(bytes.TrimRight(v, "\x00")) }

// nftComment finds the comment that `nft` shows among the user data of a rule.
func nftComment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		kind, v := b[0], b[2:2+int(b[1])]
		if kind == 0 { // NFTNL_UDATA_RULE_COMMENT
			return nftText(v)
		}
		b = b[2+len(v):]
	}
	return ""
}

// nftFields are the attributes of one expression that rules of ours and kill switches have, by number.
type nftFields [6][]byte

// number returns a 32-bit value, or the highest if there is none.
func (f *nftFields) number(i int) uint32 {
	if len(f[i]) != 4 {
		return ^uint32(0)
	}
	return binary.BigEndian.Uint32(f[i])
}

// only reports whether there are fields 1 to n and no other.
func (f *nftFields) only(n int) bool {
	for i, v := range f {
		if (v != nil) != (i >= 1 && i <= n) {
			return false
		}
	}
	return true
}

// readFields reports false if there are others than nftFields holds, or one twice.
func readFields(b []byte) (f nftFields, ok bool) {
	for typ, v, rest, more := nextAttr(b); more; typ, v, rest, more = nextAttr(rest) {
		if int(typ) >= len(f) || f[typ] != nil {
			return f, false
		}
		f[typ] = v
	}
	return f, true
}

// loaded is what a register holds.
type loaded uint8

const (
	loadedNothing loaded = iota
	loadedIface
	loadedDestination
	loadedSourceType
)

func (r *preRule) parseExpressions(b []byte, proto uint8) {
	reg := loadedNothing
	for typ, v, rest, ok := nextAttr(b); ok; typ, v, rest, ok = nextAttr(rest) {
		expr, plain := readFields(v)
		name := nftText(expr[1])
		data, known := readFields(expr[2])
		switch {
		case typ != 1 || !plain:
			r.other = true
		case name == "counter":
		case !known || !r.parseExpression(name, &data, &reg, proto):
			r.other = true
		}
	}
}

// parseExpression reports whether it understood an expression. reg is what the one register holds that such rules use.
func (r *preRule) parseExpression(name string, f *nftFields, reg *loaded, proto uint8) bool {
	if name == "immediate" {
		return r.parseVerdict(f)
	}
	if f.number(1) != nftReg {
		return false
	}
	was := *reg
	*reg = loadedNothing
	switch name {
	case "meta":
		*reg = loadedIface
		return f.only(2) && f.number(2) == nftMetaIIFName
	case "payload":
		*reg = loadedDestination
		offset, length := destination(proto)
		return f.only(4) && f.number(2) == nftNetwork && f.number(3) == offset && f.number(4) == length
	case "fib":
		*reg = loadedSourceType
		return f.only(3) && f.number(2) == nftFibAddrType && f.number(3) == nftFibSource
	case "cmp":
		value, plain := readFields(f[3])
		op := f.number(2)
		return f.only(3) && plain && value.only(1) && (op == nftEqual || op == nftNotEqual) && r.compare(was, op == nftNotEqual, value[1])
	}
	return false
}

func (r *preRule) compare(reg loaded, not bool, value []byte) bool {
	switch reg {
	case loadedIface:
		first := r.iface == ""
		r.iface, r.notIface = nftText(value), not
		if bytes.IndexByte(value, 0) < 0 && len(value) < ifNameSize {
			r.iface += "+"
		}
		return first
	case loadedDestination:
		first := !r.addr.IsValid()
		r.addr, _ = netip.AddrFromSlice(value)
		return first && !not && r.addr.IsValid()
	case loadedSourceType:
		r.foreignSource = not && bytes.Equal(value, native(unix.RTN_LOCAL))
		return r.foreignSource
	case loadedNothing:
	}
	return false
}

// parseVerdict reads an immediate expression.
func (r *preRule) parseVerdict(f *nftFields) bool {
	data, ok := readFields(f[2])
	code, ok2 := readFields(data[2])
	if !ok || !ok2 || f.number(1) != nftVerdictReg || r.verdict != preNone {
		return false
	}
	switch code.number(1) {
	case nftAccept:
		r.verdict = preAccept
	case nftDrop:
		r.verdict = preDrop
	}
	return r.verdict != preNone
}

// exceptionExprs is the exception for an address as nf_tables takes it.
func exceptionExprs(addr netip.Addr) nftRule {
	proto := uint8(nfproto4)
	if addr.Is6() {
		proto = nfproto6
	}
	offset, length := destination(proto)
	iface := make([]byte, ifNameSize)
	copy(iface, loopback)
	return ruleOf(
		nftMeta(nftMetaIIFName), nftCompare(nftEqual, iface),
		nftPayload(nftNetwork, offset, length), nftCompare(nftEqual, addr.AsSlice()),
		nftExpr("fib", nftUint32(1, nftReg), nftUint32(2, nftFibAddrType), nftUint32(3, nftFibSource)),
		nftCompare(nftNotEqual, native(unix.RTN_LOCAL)),
		nftVerdict(nftAccept, ""))
}

// exceptionMessages puts the exceptions into the kill switch's chain of one table, or takes them out.
func exceptionMessages(proto uint8, table string, rules []nftPreRule, comment string, wanted bool) []netlink.Message {
	of := append(nftString(unix.NFTA_RULE_TABLE, table), nftString(unix.NFTA_RULE_CHAIN, wgChain)...)
	handle := func(typ uint16, i int) []byte {
		return nftAttr(typ, binary.BigEndian.AppendUint64(nil, rules[i].handle))
	}
	plain := make([]preRule, len(rules))
	for i, r := range rules {
		plain[i] = r.preRule
	}
	p := planExceptions(plain, comment, wanted)
	var msgs []netlink.Message
	for _, i := range p.remove {
		msgs = append(msgs, nftMessage(nftMsgDelRule, 0, proto, of, handle(unix.NFTA_RULE_HANDLE, i)))
	}
	for _, x := range p.insert {
		text := append([]byte(comment), 0)
		msgs = append(msgs, nftMessage(nftMsgNewRule, netlink.Create, proto, of,
			nftNest(unix.NFTA_RULE_EXPRESSIONS, exceptionExprs(x.addr)...),
			handle(unix.NFTA_RULE_POSITION, x.before), // without the flag to append: in front of it
			nftAttr(unix.NFTA_RULE_USERDATA, []byte{0, byte(len(text))}, text)))
	}
	return msgs
}

// concernsKillSwitch reports whether an event is about a table in which there may be kill switches.
func concernsKillSwitch(m netlink.Message) bool {
	name, ok := eventTable(m)
	return ok && (name == "" || name == "raw" || strings.HasPrefix(name, wgTablePrefix))
}
