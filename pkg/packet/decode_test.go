package packet_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	gplayers "github.com/google/gopacket/layers"

	"github.com/weirfw/weir/pkg/packet"
)

// updateCorpus makes TestCorpus write testdata instead of comparing with it.
var updateCorpus = flag.Bool("update", false, "write the fuzz corpus")

// decode returns what Decode tells, in an Info that was used before.
func decode(b []byte, dir packet.Direction) (packet.Info, error) {
	i := used()
	err := packet.Decode(b, dir, &i)
	return i, err
}

// used returns an Info with something in all that belongs to Decode and to the
// backend.
func used() packet.Info {
	return packet.Info{
		Tuple:     packet.Tuple{Local: addrPort("::1", 1), Remote: addrPort("::2", 2), Protocol: 99},
		Direction: packet.Inbound, Version: 9, TCPFlags: 9, ICMPType: 9, ICMPCode: 9, Fragment: true, HopLimit: 9,
		HasUID: true, UID: 1000, PID: 42, Interface: 3, Mark: 1700, Length: 9, HeaderLength: 9, Seen: time.Unix(9, 0),
	}
}

// backend adds what used has for the backend and Decode must not touch.
func backend(i packet.Info) packet.Info {
	u := used()
	i.HasUID, i.UID, i.PID, i.Interface, i.Mark, i.Seen = u.HasUID, u.UID, u.PID, u.Interface, u.Mark, u.Seen
	return i
}

func TestDecode(t *testing.T) {
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			got, err := decode(s.b, packet.Outbound)
			if want := backend(s.want); err != nil || got != want {
				t.Errorf("outbound: got %+v, %v; want %+v", got, err, want)
			}
			got, err = decode(s.b, packet.Inbound)
			want := backend(s.want)
			want.Direction, want.Tuple = packet.Inbound, want.Reverse()
			if err != nil || got != want {
				t.Errorf("inbound: got %+v, %v; want %+v", got, err, want)
			}
			if src, dst := got.Source(), got.Destination(); src != s.want.Local || dst != s.want.Remote {
				t.Errorf("inbound from %v to %v; want %v, %v", src, dst, s.want.Local, s.want.Remote)
			}
		})
	}
}

// A ping has one key, whoever sends which half of it.
func TestDecodeEchoKey(t *testing.T) {
	byName := map[string][]byte{}
	for _, s := range samples(t) {
		byName[s.name] = s.b
	}
	for _, v := range []string{"4", "6"} {
		request, err := decode(byName["icmp"+v+"-echo-request"], packet.Outbound)
		if err != nil {
			t.Fatal(err)
		}
		// the same addresses, so the answer to the peer's ping
		reply, err := decode(byName["icmp"+v+"-echo-reply"], packet.Outbound)
		if err != nil {
			t.Fatal(err)
		}
		if request.Tuple == reply.Tuple {
			t.Errorf("IPv%s: ping out and ping in are both %v", v, request.Tuple)
		}
		if request.Local.Port() != 0x4242 || reply.Remote.Port() != 0x4242 {
			t.Errorf("IPv%s: identifiers at %v, %v; want at the side that asks", v, request.Tuple, reply.Tuple)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	find := func(name string) []byte {
		all := samples(t)
		return slices.Clone(all[slices.IndexFunc(all, func(s sample) bool { return s.name == name })].b)
	}
	set := func(name string, at int, v ...byte) []byte {
		b := find(name)
		copy(b[at:], v)
		return b
	}
	nine := append(set("none6", 4, 0, 72, 60)[:40], make([]byte, 72)...)
	for n := range 9 {
		nine[40+8*n] = 60
	}
	eight := slices.Clone(nine)
	eight[40+8*7] = 59
	for _, tt := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, packet.ErrTruncated},
		{"version 0", make([]byte, 60), packet.ErrVersion},
		{"version 5", set("tcp4-syn", 0, 0x55), packet.ErrVersion},
		{"one byte of 4", []byte{0x45}, packet.ErrTruncated},
		{"one byte of 6", []byte{0x60}, packet.ErrTruncated},
		{"IHL 4", set("tcp4-syn", 0, 0x44), packet.ErrMalformed},
		{"IHL 0", set("tcp4-syn", 0, 0x40), packet.ErrMalformed},
		{"IHL beyond total", set("udp4-empty", 0, 0x4f), packet.ErrMalformed},
		{"IHL beyond copy", set("tcp4-router-alert", 0, 0x4f, 0, 2, 0)[:24], packet.ErrTruncated},
		{"total 19", set("tcp4-syn", 2, 0, 19), packet.ErrMalformed},
		{"total 0, UDP", set("udp4", 2, 0, 0), packet.ErrMalformed},
		{"TCP header behind the total", set("tcp4-syn", 2, 0, 39), packet.ErrMalformed},
		{"TCP data offset 4", set("tcp4-syn", 32, 0x40), packet.ErrMalformed},
		{"TCP data offset beyond total", set("tcp4-syn", 32, 0xf0), packet.ErrMalformed},
		{"TCP copy of 19", find("tcp4-syn")[:39], packet.ErrTruncated},
		{"TCP copy without options", find("tcp4-syn")[:40], nil},
		{"tiny first fragment of TCP", set("tcp4-syn", 2, 0, 28, 0, 1, 0x20, 0), packet.ErrMalformed},
		{"UDP length 7", set("udp4", 24, 0, 7), packet.ErrMalformed},
		{"UDP length 0", set("udp4", 24, 0, 0), packet.ErrMalformed},
		{"UDP length beyond the packet", set("udp4", 24, 0, 21), packet.ErrMalformed},
		{"UDP copy of 7", find("udp4")[:27], packet.ErrTruncated},
		{"UDP-Lite coverage 7", set("udplite4", 24, 0, 7), packet.ErrMalformed},
		{"SCTP copy of 11", find("sctp4")[:31], packet.ErrTruncated},
		{"ICMP copy of 7", find("icmp4-echo-request")[:27], packet.ErrTruncated},
		{"ICMPv6 over IPv4", set("icmp4-echo-request", 9, 58), packet.ErrMalformed},
		{"ICMP over IPv6", set("icmp6-echo-request", 6, 1), packet.ErrMalformed},
		{"IPv6 header of 39", find("udp6")[:39], packet.ErrTruncated},
		{"UDP behind the payload length", set("udp6", 4, 0, 7), packet.ErrMalformed},
		{"payload length 0", set("udp6", 4, 0, 0), packet.ErrMalformed},
		{"extension beyond the payload", set("udp6-hop-by-hop", 41, 9), packet.ErrMalformed},
		{"extension beyond the copy", find("udp6-routing")[:50], packet.ErrTruncated},
		{"fragment header beyond the copy", find("udp6-first-fragment")[:47], packet.ErrTruncated},
		{"AH of 8 bytes", set("udp6-auth", 41, 0), packet.ErrMalformed},
		{"jumbo of 65535", set("tcp6-jumbo", 44, 0, 0, 0xff, 0xff), packet.ErrMalformed},
		{"jumbo of 4 GiB", set("tcp6-jumbo", 44, 0xff, 0xff, 0xff, 0xff), packet.ErrMalformed},
		{"length 0 without jumbo option", set("udp6-hop-by-hop", 4, 0, 0), packet.ErrMalformed},
		{"eight extensions", eight, nil},
		{"nine extensions", nine, packet.ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, dir := range []packet.Direction{packet.Outbound, packet.Inbound} {
				got, err := decode(tt.b, dir)
				if !errors.Is(err, tt.want) {
					t.Errorf("got %v; want %v", err, tt.want)
				}
				if want := backend(packet.Info{Direction: dir}); err != nil && got != want {
					t.Errorf("after an error: got %+v; want %+v", got, want)
				}
			}
		})
	}
}

// Any cut of a packet is an error or gives the packet's own key, never another.
func TestDecodePrefixes(t *testing.T) {
	for _, s := range samples(t) {
		for n := range len(s.b) + 1 {
			got, err := decode(slices.Clip(s.b[:n]), packet.Outbound)
			if err == nil && got.Tuple != s.want.Tuple {
				t.Errorf("%s cut to %d: got %v; want %v or an error", s.name, n, got.Tuple, s.want.Tuple)
			}
			if err != nil && !errors.Is(err, packet.ErrTruncated) {
				t.Errorf("%s cut to %d: got %v; want %v", s.name, n, err, packet.ErrTruncated)
			}
			if want, ok := reference(s.b[:n], packet.Outbound); ok != (err == nil) {
				t.Errorf("%s cut to %d: got %v; gopacket says %+v, %v", s.name, n, err, want, ok)
			}
		}
		if _, err := decode(append(slices.Clone(s.b), 0, 0, 0), packet.Outbound); err != nil {
			t.Errorf("%s with padding: %v", s.name, err)
		}
	}
}

func TestDecodeAllocs(t *testing.T) {
	all := samples(t)
	var i packet.Info
	for _, s := range all {
		allocs := testing.AllocsPerRun(100, func() {
			err := packet.Decode(s.b, packet.Outbound, &i)
			_ = packet.Decode(s.b[:len(s.b)/2], packet.Inbound, &i) // bad ones must not allocate either
			if err == nil {
				packet.DecodeEmbedded(s.b, packet.Outbound, &i)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations; want 0", s.name, allocs)
		}
	}
}

// The corpus is what a packet looks like to somebody else: a change of it is a
// change of this test's packets.
func TestCorpus(t *testing.T) {
	dir := filepath.Join("testdata", "fuzz", "FuzzDecode")
	for _, s := range samples(t) {
		want := "go test fuzz v1\n[]byte(" + strconv.Quote(string(s.b)) + ")\nbool(false)\n"
		file := filepath.Join(dir, s.name)
		if *updateCorpus {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != want {
			t.Errorf("%s: %v, or the packet is another; go test -run TestCorpus -update", file, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, inbound bool) {
		dir := packet.Outbound
		if inbound {
			dir = packet.Inbound
		}
		got, err := decode(slices.Clip(b), dir)
		want, ok := reference(b, dir)
		if !ok {
			want = packet.Info{Direction: dir}
		}
		if (err == nil) != ok || got != backend(want) {
			t.Fatalf("% x:\ngot      %+v, %v\ngopacket %+v, %v", b, got, err, backend(want), ok)
		}
		if err != nil {
			return
		}
		if tuple, ok := packet.DecodeEmbedded(b, dir, &got); ok && !got.IsEcho() {
			checkEmbedded(t, &got, tuple)
		}
		checkQuoted(t, b, got)
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, s := range samples(b) {
		if !slices.Contains([]string{"tcp4-syn", "tcp4-data", "udp4", "tcp6-syn", "udp6", "udp6-hop-by-hop", "icmp4-echo-request"}, s.name) {
			continue
		}
		b.Run(s.name+"/weir", func(b *testing.B) {
			b.ReportAllocs()
			i := new(packet.Info)
			for b.Loop() {
				if err := packet.Decode(s.b, packet.Outbound, i); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(s.name+"/gopacket", func(b *testing.B) {
			b.ReportAllocs()
			benchmarkParser(b, s.b)
		})
	}
	b.Run("truncated/weir", func(b *testing.B) {
		b.ReportAllocs()
		i := new(packet.Info)
		for b.Loop() {
			if err := packet.Decode([]byte{0x45, 0}, packet.Outbound, i); err == nil {
				b.Fatal("decoded")
			}
		}
	})
}

// benchmarkParser decodes with the fastest way gopacket has, and makes an
// address pair of it as every firewall needs one.
func benchmarkParser(b *testing.B, data []byte) {
	b.Helper()
	var (
		v4   gplayers.IPv4
		v6   gplayers.IPv6
		ext  gplayers.IPv6ExtensionSkipper
		tcp  gplayers.TCP
		dns  gplayers.UDP
		ping gplayers.ICMPv4
		pay  gopacket.Payload
		out  []gopacket.LayerType
	)
	first := gplayers.LayerTypeIPv4
	if data[0]>>4 == 6 {
		first = gplayers.LayerTypeIPv6
	}
	p := gopacket.NewDecodingLayerParser(first, &v4, &v6, &ext, &tcp, &dns, &ping, &pay)
	p.IgnoreUnsupported = true
	var local, remote netip.AddrPort
	for b.Loop() {
		if err := p.DecodeLayers(data, &out); err != nil {
			b.Fatal(err)
		}
		src, dst := v4.SrcIP, v4.DstIP
		if first == gplayers.LayerTypeIPv6 {
			src, dst = v6.SrcIP, v6.DstIP
		}
		s, _ := netip.AddrFromSlice(src)
		d, _ := netip.AddrFromSlice(dst)
		local = netip.AddrPortFrom(s, uint16(tcp.SrcPort)|uint16(dns.SrcPort))
		remote = netip.AddrPortFrom(d, uint16(tcp.DstPort)|uint16(dns.DstPort))
	}
	if !local.IsValid() || !remote.IsValid() {
		b.Fatal("no addresses")
	}
}

func ExampleDecode() {
	syn := []byte(strings.Join([]string{
		"\x45\x00\x00\x28\x1c\x46\x40\x00\x40\x06\x00\x00\xc0\x00\x02\x0a\xc6\x33\x64\x07",
		"\xc3\x50\x01\xbb\x00\x00\x00\x07\x00\x00\x00\x00\x50\x02\xfa\xf0\x00\x00\x00\x00",
	}, ""))
	var i packet.Info
	if err := packet.Decode(syn, packet.Outbound, &i); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(i.Tuple, i.TCPFlags == packet.TCPSyn)
	fmt.Println(packet.Decode(syn[:30], packet.Inbound, &i))
	// Output:
	// tcp 192.0.2.10:50000 198.51.100.7:443 true
	// packet: truncated header
}
