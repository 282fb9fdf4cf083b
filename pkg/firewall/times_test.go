package firewall_test

import (
	"testing"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestTimes(t *testing.T) {
	bubble(t, "one connection", func(t *testing.T) {
		r := start(t, func(c *firewall.Config) {
			c.Deciders = []firewall.Decider{decider(func(*conn.Snapshot) firewall.Outcome {
				time.Sleep(3 * time.Millisecond) // of the bubble's clock
				return says(verdict.Accept)
			})}
		})
		i := out(packet.TCP, 4711, faraway)
		r.want(i, verdict.ActionPermanentAccept)
		times := r.Times()
		for name, h := range map[string]firewall.Histogram{"first packet": times.FirstPacket, "decision": times.Decision} {
			at, total := 0, uint64(0)
			for i, n := range h.Counts {
				if total += n; n > 0 {
					at = i
				}
			}
			if total != 1 || h.Sum != 3*time.Millisecond || h.Bounds[at] != 5*time.Millisecond || len(h.Counts) != len(h.Bounds)+1 {
				t.Errorf("%s: got %+v; want one of 3ms, up to 5ms", name, h)
			}
		}
		if s := r.Stats(); s.ReceivedBytes != 0 {
			t.Errorf("got %d bytes", s.ReceivedBytes)
		}
		r.ReportUsage([]intercept.Usage{{Tuple: i.Tuple, ReceivedBytes: 7, SentBytes: 5}, {Tuple: packet.Tuple{}, SentBytes: 9}})
		if s := r.Stats(); s.ReceivedBytes != 7 || s.SentBytes != 5 {
			t.Errorf("got %d, %d bytes; want those of known connections", s.ReceivedBytes, s.SentBytes)
		}
	})
}
