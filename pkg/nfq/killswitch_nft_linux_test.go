package nfq

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernelRule is a rule that nft wrote and the kernel listed.
type kernelRule struct {
	proto uint8
	text  string
	bytes []byte
}

func kernelRules(tb testing.TB) []kernelRule {
	tb.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		tb.Skip("the bytes are those of a little-endian machine")
	}
	b, err := os.ReadFile("testdata/killswitch_rules.tsv")
	if err != nil {
		tb.Fatal(err)
	}
	var list []kernelRule
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		if strings.HasPrefix(line, "#") || len(f) != 3 {
			continue
		}
		r := kernelRule{proto: map[string]uint8{"ip": nfproto4, "ip6": nfproto6}[f[0]], text: f[1]}
		if r.bytes, err = hex.DecodeString(f[2]); err != nil {
			tb.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

func TestParseNFTRule(t *testing.T) {
	addr4, addr6 := netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("fd88::1")
	want := []nftPreRule{
		{handle: 2, preRule: preRule{addr: addr4, iface: "lo", foreignSource: true, verdict: preAccept, comment: "WEIR-redirect-replies"}},
		{handle: 3, preRule: preRule{addr: addr4, iface: "wg0", notIface: true, foreignSource: true, verdict: preDrop}},
		{handle: 4, preRule: preRule{addr: addr4, iface: "wg+", notIface: true, foreignSource: true, verdict: preDrop}},
		{handle: 5, preRule: preRule{addr: addr4, iface: "wg0", notIface: true, foreignSource: true, verdict: preDrop, other: true}},
		{handle: 6, preRule: preRule{addr: addr4, iface: "wg0", notIface: true, foreignSource: true, verdict: preDrop, other: true}},
		{handle: 2, preRule: preRule{addr: addr6, iface: "wg0", notIface: true, foreignSource: true, verdict: preDrop}},
	}
	list := kernelRules(t)
	if len(list) != len(want) {
		t.Fatalf("got %d rules; want %d", len(list), len(want))
	}
	for i, k := range list {
		got, table, chain := parseNFTRule(k.bytes, k.proto)
		if got != want[i] || table != "wg-quick-wg0" || chain != wgChain {
			t.Errorf("%s: got %+v in %s %s; want %+v", k.text, got, table, chain, want[i])
		}
		// Half of it must not mean more than the whole.
		for n := range k.bytes {
			if cut, _, _ := parseNFTRule(k.bytes[:n], k.proto); want[i].other && (cut.isKillSwitch() || cut.isException()) {
				t.Errorf("%s: the first %d bytes are read as %+v", k.text, n, cut)
			}
		}
	}
}

// What cannot be a rule of ours or of wg-quick must not be taken for one.
func TestParseNFTRuleOther(t *testing.T) {
	addr := netip.MustParseAddr("10.88.0.1")
	exprs := func(change func(list nftRule) nftRule) []byte {
		return nftNest(unix.NFTA_RULE_EXPRESSIONS, change(exceptionExprs(addr))...)
	}
	set := func(i int, expr []byte) []byte {
		return exprs(func(l nftRule) nftRule { l[i] = expr; return l })
	}
	if r, _, _ := parseNFTRule(exprs(func(l nftRule) nftRule { return l }), nfproto4); !r.isException() {
		t.Fatalf("got %+v; want an exception", r)
	}
	for name, b := range map[string][]byte{
		"another register":      set(0, nftExpr("meta", nftUint32(1, 2), nftUint32(2, nftMetaIIFName))),
		"sets a mark":           set(0, nftExpr("meta", nftUint32(1, nftReg), nftUint32(2, nftMetaIIFName), nftUint32(3, nftReg))),
		"source address":        set(2, nftPayload(nftNetwork, 12, 4)),
		"network":               set(3, nftCompare(nftEqual, []byte{10, 88, 0})),
		"another address":       set(3, nftCompare(nftNotEqual, addr.AsSlice())),
		"masked":                exprs(func(l nftRule) nftRule { return slices.Insert(l, 3, nftMask([]byte{255, 255, 0, 0})) }),
		"local source":          set(5, nftCompare(nftEqual, native(unix.RTN_LOCAL))),
		"greater":               set(5, nftCompare(5, native(unix.RTN_LOCAL))),
		"compares nothing":      set(2, nftVerdict(nftAccept, "")),
		"two verdicts":          exprs(func(l nftRule) nftRule { return append(l, nftVerdict(nftAccept, "")) }),
		"two addresses":         exprs(func(l nftRule) nftRule { return slices.Insert(l, 4, l[2], l[3]) }),
		"jump":                  set(6, nftVerdict(nftJump, "x")),
		"data in a register":    set(6, nftExpr("immediate", nftUint32(1, nftReg), nftNest(2, nftNest(2, nftUint32(1, nftAccept))))),
		"unknown":               exprs(func(l nftRule) nftRule { return append(nftRule{nftExpr("limit")}, l...) }),
		"attribute twice":       set(0, nftExpr("meta", nftUint32(1, nftReg), nftUint32(1, nftReg), nftUint32(2, nftMetaIIFName))),
		"expression with extra": set(0, nftNest(1, nftString(1, "meta"), nftNest(2, nftUint32(1, nftReg), nftUint32(2, nftMetaIIFName)), nftUint32(9, 9))),
		"no list element":       exprs(func(l nftRule) nftRule { return append(l, nftNest(2, nftString(1, "counter"))) }),
		"nothing":               nil,
	} {
		if r, _, _ := parseNFTRule(b, nfproto4); r.isException() || r.isKillSwitch() {
			t.Errorf("%s: got %+v; want no exception", name, r)
		}
	}
}

func TestNFTComment(t *testing.T) {
	for name, test := range map[string]struct {
		b    []byte
		want string
	}{
		"comment":        {[]byte("\x00\x06hello\x00"), "hello"},
		"behind another": {[]byte("\x01\x02xy\x00\x03hi\x00"), "hi"},
		"too long":       {[]byte("\x00\x07hello\x00"), ""},
		"one byte":       {[]byte{0}, ""},
		"none":           {nil, ""},
	} {
		if got := nftComment(test.b); got != test.want {
			t.Errorf("%s: got %q; want %q", name, got, test.want)
		}
	}
}

func TestConcernsKillSwitch(t *testing.T) {
	message := func(typ uint16, attrs ...[]byte) netlink.Message { return nftMessage(typ, 0, nfproto4, attrs...) }
	for name, test := range map[string]struct {
		m    netlink.Message
		want bool
	}{
		"rule of wg-quick": {message(nftMsgNewRule, nftString(1, "wg-quick-wg0"), nftString(2, "preraw")), true},
		"end of wg-quick":  {message(nftMsgDelTable, nftString(1, "wg-quick-wg0")), true},
		"raw":              {message(nftMsgDelRule, nftString(1, "raw")), true},
		"filter":           {message(nftMsgNewRule, nftString(1, "filter")), false},
		"generation":       {message(unix.NFT_MSG_NEWGEN, nftUint32(1, 7)), false},
		"unknown":          {message(nftMsgNewRule, nftUint32(2, 7)), true},
		"empty":            {netlink.Message{}, false},
	} {
		if got := concernsKillSwitch(test.m); got != test.want {
			t.Errorf("%s: got %v; want %v", name, got, test.want)
		}
	}
}

// FuzzNFTRule feeds the parser of rules: it must not panic, and what is read as an exception is written and read the same.
func FuzzNFTRule(f *testing.F) {
	for _, k := range kernelRules(f) {
		f.Add(k.bytes, k.proto == nfproto6)
	}
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		proto := uint8(nfproto4)
		if v6 {
			proto = nfproto6
		}
		r, _, _ := parseNFTRule(b, proto)
		if r.isException() && r.isKillSwitch() {
			t.Fatalf("got %+v; want it to be one of both at most", r)
		}
		if !r.isException() || r.addr.Is6() != v6 {
			return
		}
		again, _, _ := parseNFTRule(nftNest(unix.NFTA_RULE_EXPRESSIONS, exceptionExprs(r.addr)...), proto)
		if again.comment = r.comment; again.preRule != r.preRule {
			t.Fatalf("got %+v after another round; want %+v", again.preRule, r.preRule)
		}
	})
}
