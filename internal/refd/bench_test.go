package refd

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/firewall/naming"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// counted is a packet that counts verdicts.
type counted struct {
	packet.Once
	info packet.Info
	n    *int
}

func (p *counted) Info() *packet.Info        { return &p.info }
func (p *counted) Payload() ([]byte, error)  { return nil, packet.ErrNoPayload }
func (p *counted) FastTrackedByDriver() bool { return false }
func (p *counted) InfoOnly() bool            { return false }
func (p *counted) ExpectsInfo() bool         { return false }

// Issue implements packet.Issuer.
func (p *counted) Issue(uint64, verdict.Action, uint8) error {
	*p.n++
	return nil
}

// onlyCurl is a firewall.QuickFinder that knows one process.
type onlyCurl struct{}

func (onlyCurl) Find(context.Context, *packet.Info, packet.Direction) (*conn.Process, error) {
	return curl, nil
}
func (onlyCurl) FindQuick(*packet.Info, packet.Direction) (*conn.Process, bool) { return curl, true }

// BenchmarkFirstPacket is from Handle to the verdict with 1,000 rules that name no domain: without anything about DNS, and with all of
// it on, for connections that have no name and for those that have one.
func BenchmarkFirstPacket(b *testing.B) {
	for _, bb := range []struct {
		name      string
		dns, hits bool
	}{{"without DNS", false, false}, {"all of DNS, nameless", true, false}, {"all of DNS, named", true, true}} {
		b.Run(bb.name, func(b *testing.B) {
			var cfg rules.Config
			for n := range 1000 {
				cfg.Global = append(cfg.Global, rules.Rule{ID: fmt.Sprint(n), Action: rules.Block, Remote: []string{fmt.Sprintf("198.51.%d.%d", n/250, n%250)}})
			}
			set, err := rules.Compile(cfg)
			if err != nil {
				b.Fatal(err)
			}
			var live rules.Live
			live.Swap(set)
			fc := firewall.Config{
				Store:     connstore.NewLive(connstore.Config{MaxLive: 1 << 14, MaxEnded: 1}),
				Processes: onlyCurl{}, OwnPID: -1, Deciders: []firewall.Decider{&firewall.RuleDecider{Rules: &live}},
			}
			if bb.dns {
				allOfDNS(b, &fc, &live, bb.hits)
			}
			f, err := firewall.New(fc)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ready, done := make(chan struct{}), make(chan error, 1)
			go func() { done <- f.Run(ctx, func() { close(ready) }) }()
			<-ready
			verdicts, at := 0, time.Now()
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				p := &counted{n: &verdicts, info: packet.Info{
					Tuple: packet.Tuple{
						Protocol: packet.TCP, Local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(1024+n%60_000)),
						Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(n >> 8), byte(n)}), 443),
					},
					TCPFlags: packet.TCPSyn, Version: 4, Length: 60, Seen: at,
				}}
				p.Init(p, 1)
				at = at.Add(time.Millisecond) // as much time between them as judging on the spot wants
				f.Handle(p)
			}
			b.StopTimer()
			cancel()
			if err := <-done; err != nil || verdicts != b.N {
				b.Fatalf("got %d verdicts, %v; want %d", verdicts, err, b.N)
			}
		})
	}
}

// allOfDNS switches on what refd has about DNS; hits says whether the addresses of the benchmark have names.
func allOfDNS(b *testing.B, fc *firewall.Config, live *rules.Live, hits bool) { //nolint:revive // says which names
	b.Helper()
	table, err := names.New(names.Config{})
	if err != nil {
		b.Fatal(err)
	}
	first := byte(198)
	if hits {
		first = 203
	}
	for n := range 50_000 {
		addr := netip.AddrFrom4([4]byte{first, 0, byte(n >> 8), byte(n)})
		table.Add(names.Systemd, names.Asker{}, names.Lookup{Domain: fmt.Sprintf("n%d.test", n), Addr: addr})
	}
	fc.Names = &patientFinder{naming.Finder{Table: table}, func() bool { return true }}
	o, err := naming.NewObserver(naming.Config{Table: table})
	if err != nil {
		b.Fatal(err)
	}
	fc.Observer = o
	known, err := dnsguard.KnownEndpoints()
	if err != nil {
		b.Fatal(err)
	}
	g, err := dnsguard.New(dnsguard.Config{
		Disabled: func() bool { return true }, Endpoints: known, Prevents: func(p *conn.Process) bool { return live.Load().PreventsDNSBypass(p, true) },
	})
	if err != nil {
		b.Fatal(err)
	}
	online, err := newConnectivity(nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	fc.Inspector = g
	(&nameserverParts{}).configure(fc, nil, notVPN)
	fc.Deciders = append([]firewall.Decider{online, g}, fc.Deciders...)
}
