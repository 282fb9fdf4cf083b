package nfq

import (
	"encoding/binary"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel's nf_tables.h. Attributes are in network order; what rules compare with is as in memory.
const (
	nftMsgNewTable = 0
	nftMsgGetTable = 1
	nftMsgDelTable = 2
	nftMsgNewChain = 3
	nftMsgGetChain = 4
	nftMsgDelChain = 5
	nftMsgNewRule  = 6
	nftMsgDelRule  = 8

	// nftOwner gives a table to the socket that made it: nobody else can change or flush it.
	nftOwner = 2
	// nftPersist keeps the table, then free for all, when the socket is closed.
	nftPersist = 4

	nftVerdictReg = 0
	nftReg        = 1

	nftMetaMark    = 3
	nftMetaIIFName = 6
	nftMetaOIFName = 7
	nftMetaSKUID   = 10
	nftMetaNFProto = 15
	nftMetaL4Proto = 16
	nftCTMark      = 3
	nftCTLabels    = 13
	nftNetwork     = 1
	nftTransport   = 2

	nftEqual    = 0
	nftNotEqual = 1

	nftDrop   = 0
	nftAccept = 1
	nftJump   = -3
	nftReturn = -5

	nfprotoInet = 1
	nfproto4    = 2
	nfproto6    = 10

	attrNested = 1 << 15
)

// nftAttr returns an attribute whose value is the parts in a row.
func nftAttr(typ uint16, parts ...[]byte) []byte {
	value := slices.Concat(parts...)
	b := binary.NativeEndian.AppendUint16(nil, uint16(attrHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, align4(len(b))-len(b))...)
}

func nftNest(typ uint16, parts ...[]byte) []byte { return nftAttr(typ|attrNested, parts...) }

func nftUint32(typ uint16, v uint32) []byte {
	return nftAttr(typ, binary.BigEndian.AppendUint32(nil, v))
}

func nftString(typ uint16, s string) []byte { return nftAttr(typ, append([]byte(s), 0)) }

func nftExpr(name string, attrs ...[]byte) []byte {
	return nftNest(1, nftString(1, name), nftNest(2, attrs...)) // NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA
}

// native returns v as it lies in memory.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// Loads into the one register in use.

func nftMeta(key uint32) []byte { return nftExpr("meta", nftUint32(1, nftReg), nftUint32(2, key)) }

func nftCT(key uint32) []byte { return nftExpr("ct", nftUint32(1, nftReg), nftUint32(2, key)) }

func nftPayload(base, offset, length uint32) []byte {
	return nftExpr("payload", nftUint32(1, nftReg), nftUint32(2, base), nftUint32(3, offset), nftUint32(4, length))
}

func nftMask(mask []byte) []byte {
	return nftExpr("bitwise", nftUint32(1, nftReg), nftUint32(2, nftReg), nftUint32(3, uint32(len(mask))),
		nftNest(4, nftAttr(1, mask)), nftNest(5, nftAttr(1, make([]byte, len(mask)))))
}

func nftCompare(op uint32, value []byte) []byte {
	return nftExpr("cmp", nftUint32(1, nftReg), nftUint32(2, op), nftNest(3, nftAttr(1, value)))
}

func nftVerdict(code int32, to string) []byte {
	verdict := nftUint32(1, uint32(code))
	if to != "" {
		verdict = append(verdict, nftString(2, to)...)
	}
	return nftExpr("immediate", nftUint32(1, nftVerdictReg), nftNest(2, nftNest(2, verdict)))
}

// nftRule is a rule as a list of expressions.
type nftRule [][]byte

func ruleOf(exprs ...[]byte) nftRule { return exprs }

// nftMarkIs matches a mark, of the packet or of the connection, that load has loaded.
func nftMarkIs(load []byte, set maskedMark) nftRule {
	if set.mask == ^uint32(0) {
		return ruleOf(load, nftCompare(nftEqual, native(set.value)))
	}
	return ruleOf(load, nftMask(native(set.mask)), nftCompare(nftEqual, native(set.value)))
}

// labelBytes returns a set of conntrack labels with one in it: the kernel keeps them as an array of long.
func labelBytes(label int) []byte {
	const size, long = 16, strconv.IntSize / 8
	b := make([]byte, size)
	at := label / strconv.IntSize * long
	if bit := label % strconv.IntSize; long == 8 {
		binary.NativeEndian.PutUint64(b[at:], 1<<bit)
	} else {
		binary.NativeEndian.PutUint32(b[at:], 1<<bit)
	}
	return b
}

// backstopKernel is the chain in the backstop for what the kernel itself says.
const backstopKernel = "kernel"

// backstopPriority is behind filter, 0, and in front of nothing that decides.
const backstopPriority = 10

// backstopChains returns the content of the backstop: what our iptables rules would have let pass goes on, what has no verdict or
// a refusing one ends here. Other software's marks pass, as they do there.
func backstopChains(cfg HostConfig, list []family) []nftChain {
	var judged []nftRule
	if !slices.Contains(list, family6) {
		judged = append(judged, ruleOf(nftMeta(nftMetaNFProto), nftCompare(nftEqual, []byte{nfproto6}), nftVerdict(nftAccept, "")))
	}
	passing := append(cfg.Marks.passing(cfg.Redirects, family4), maskedMark{cfg.Marks.AcceptFinal, ^uint32(0)})
	for _, set := range cfg.Marks.passing(cfg.Redirects, family6) {
		if !slices.Contains(passing, set) {
			passing = append(passing, set)
		}
	}
	for _, set := range passing {
		judged = append(judged, append(nftMarkIs(nftCT(nftCTMark), set), nftVerdict(nftAccept, "")))
	}
	label := labelBytes(judgedLabel)
	judged = append(judged, ruleOf(nftCT(nftCTLabels), nftMask(label), nftCompare(nftNotEqual, make([]byte, len(label))), nftVerdict(nftAccept, "")))

	m := cfg.Marks
	var refused []nftRule
	for _, mark := range []uint32{0, m.Block, m.Drop, m.BlockAlways, m.DropAlways} {
		refused = append(refused, append(nftMarkIs(nftMeta(nftMetaMark), maskedMark{mark, ^uint32(0)}), nftVerdict(nftDrop, "")))
	}
	// Loading the owner fails, and with it the match, if there is none.
	kernel := []nftRule{
		ruleOf(nftMeta(nftMetaSKUID), nftCompare(nftNotEqual, native(^uint32(0))), nftVerdict(nftReturn, "")),
		ruleOf(nftVerdict(nftAccept, "")),
	}
	return []nftChain{
		{name: backstopKernel, hook: -1, rules: kernel},
		{name: "output", hook: unix.NF_INET_LOCAL_OUT, priority: backstopPriority, rules: slices.Concat(judged, exemptOut(), refused)},
		{name: "input", hook: unix.NF_INET_LOCAL_IN, priority: backstopPriority, rules: slices.Concat(judged, exemptIn(), refused)},
	}
}

// icmpIs matches ICMP of a type, or of a type and a code.
func icmpIs(f family, typeAndCode ...byte) nftRule {
	proto, l4 := byte(nfproto4), byte(1)
	if f == family6 {
		proto, l4 = nfproto6, 58
	}
	return ruleOf(nftMeta(nftMetaNFProto), nftCompare(nftEqual, []byte{proto}),
		nftMeta(nftMetaL4Proto), nftCompare(nftEqual, []byte{l4}),
		nftPayload(nftTransport, 0, uint32(len(typeAndCode))), nftCompare(nftEqual, typeAndCode))
}

func exemptOut() []nftRule {
	toKernel := nftVerdict(nftJump, backstopKernel)
	rules := []nftRule{append(icmpIs(family4, 3, 13), toKernel), append(icmpIs(family6, 1, 1), toKernel)}
	for _, kind := range []byte{133, 134, 135, 136, 143} {
		rules = append(rules, append(icmpIs(family6, kind), toKernel))
	}
	return rules
}

// interfaceName returns a name as rules compare with it.
func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func exemptIn() []nftRule {
	accept := nftVerdict(nftAccept, "")
	onLo := ruleOf(nftMeta(nftMetaIIFName), nftCompare(nftEqual, interfaceName("lo")))
	rules := []nftRule{
		slices.Concat(onLo, icmpIs(family4, 3, 13), ruleOf(accept)),
		slices.Concat(onLo, icmpIs(family6, 1, 1), ruleOf(accept)),
	}
	for _, kind := range []byte{133, 134, 135, 136} {
		hopLimit := ruleOf(nftPayload(nftNetwork, 7, 1), nftCompare(nftEqual, []byte{255}), accept)
		rules = append(rules, slices.Concat(icmpIs(family6, kind), hopLimit))
	}
	return rules
}
