package firewall_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
)

// costlyMeter takes as long as a kernel does, on the processor.
type costlyMeter struct{ *source }

// Measure implements intercept.Meter.
func (costlyMeter) Measure(packet.Tuple) (intercept.Measure, bool, error) {
	for begin := time.Now(); time.Since(begin) < 19*time.Microsecond; {
	}
	return intercept.Measure{SentBytes: 1, Left: 2 * time.Minute}, true, nil
}

// BenchmarkMeterIdle is what a hundred thousand live connections cost on which nothing is transferred, in percent of a processor: at first,
// when all have to be asked about still, and while others tell what is transferred.
func BenchmarkMeterIdle(b *testing.B) {
	src := costlyMeter{newSource(intercepttest.Config{})}
	store := connstore.NewLive(connstore.Config{})
	f, err := firewall.New(firewall.Config{Store: store, Source: src, OwnPID: -1})
	if err != nil {
		b.Fatal(err)
	}
	running(b, f.Run)
	running(b, func(ctx context.Context, ready func()) error { return src.Run(ctx, f, ready) })
	const live = 100_000
	for n := range live {
		src.Send(intercepttest.Packet{Info: out(packet.TCP, uint16(n%50_000+1), fmt.Sprintf("198.51.%d.7:443", 100+n/50_000))})
		if n%1000 == 999 {
			for store.Len() <= n-2000 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	for store.Len() < live {
		time.Sleep(time.Millisecond)
	}
	cpu := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	measure := func(span time.Duration) float64 {
		before, begin := cpu(), time.Now()
		time.Sleep(span)
		return 100 * float64(cpu()-before) / float64(time.Since(begin))
	}
	b.ReportMetric(measure(10*time.Second), "asking-cpu-%")
	// others tell what is transferred
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for ctx.Err() == nil {
			f.ReportUsage([]intercept.Usage{{Kind: intercept.UsageDelta}})
			time.Sleep(time.Second)
		}
	}()
	b.ReportMetric(measure(10*time.Second), "told-cpu-%")
	cancel()
	for b.Loop() {
	}
}
