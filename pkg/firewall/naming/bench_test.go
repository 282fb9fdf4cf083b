package naming

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// one is a ProcessFinder that knows one process.
type one struct{ p *conn.Process }

func (o one) Find(context.Context, *packet.Info, packet.Direction) (*conn.Process, error) {
	return o.p, nil
}
func (o one) FindQuick(*packet.Info, packet.Direction) (*conn.Process, bool) { return o.p, true }

// taken counts verdicts.
type taken struct{ n int }

func (t *taken) Issue(uint64, verdict.Action, uint8) error {
	t.n++
	return nil
}

// BenchmarkFirstPacket is from Handle to the verdict, on the reader's thread, with 1,000 rules that name no domain: without names,
// with all of their sources on and 50,000 addresses known, for connections that have a name and for those that have none.
func BenchmarkFirstPacket(b *testing.B) {
	for _, bb := range []struct {
		name         string
		naming, hits bool
	}{{"without names", false, false}, {"named", true, true}, {"nameless", true, false}} {
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
				Store: connstore.NewLive(connstore.Config{MaxLive: 1 << 14, MaxEnded: 1}), Processes: one{&conn.Process{PID: 7, Path: "/usr/bin/curl"}},
				Deciders: []firewall.Decider{&firewall.RuleDecider{Rules: &live}}, OwnPID: -1,
			}
			if bb.naming {
				fc.Names, fc.Observer = sources(b, bb.hits)
			}
			f, err := firewall.New(fc)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ready, done := make(chan struct{}), make(chan error, 1)
			go func() { done <- f.Run(ctx, func() { close(ready) }) }()
			<-ready
			t, seenAt := &taken{}, time.Now()
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				p := &seen{info: packet.Info{
					Tuple: packet.Tuple{
						Protocol: packet.TCP, Local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(1024+n%60_000)),
						Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(n / 60_000), byte(n >> 8), byte(n)}), 443),
					},
					TCPFlags: packet.TCPSyn, Version: 4, Length: 60, Seen: seenAt,
				}}
				p.Init(t, 1)
				seenAt = seenAt.Add(time.Millisecond) // as much time between them as judging on the spot wants
				f.Handle(p)
			}
			b.StopTimer()
			cancel()
			if err := <-done; err != nil || t.n != b.N {
				b.Fatalf("got %d verdicts, %v; want %d", t.n, err, b.N)
			}
		})
	}
}

// sources are a Finder and an Observer of a full table; hits says whether it has the addresses of the benchmark.
func sources(b *testing.B, hits bool) (*Finder, *Observer) {
	b.Helper()
	table, err := names.New(names.Config{})
	if err != nil {
		b.Fatal(err)
	}
	net := byte(198)
	if hits {
		net = 203
	}
	for n := range 50_000 {
		addr := netip.AddrFrom4([4]byte{net, 0, byte(n >> 8), byte(n)})
		table.Add(names.Systemd, names.Asker{}, names.Lookup{Domain: fmt.Sprintf("n%d.test", n), Addr: addr})
	}
	o, err := NewObserver(Config{Table: table})
	if err != nil {
		b.Fatal(err)
	}
	return &Finder{Table: table}, o
}
