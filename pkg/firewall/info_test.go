package firewall_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// byDriver finds processes only where the backend told their number.
func byDriver(i *packet.Info, _ packet.Direction) (*conn.Process, error) {
	if i.PID == 0 {
		return nil, errors.New("not told")
	}
	return &conn.Process{PID: i.PID}, nil
}

// blockUnknown allows what has a known process.
func blockUnknown(c *firewall.Config) {
	c.Processes = finder(byDriver)
	c.Deciders = []firewall.Decider{decider(func(s *conn.Snapshot) firewall.Outcome {
		if s.Process == nil {
			return says(verdict.Block)
		}
		return says(verdict.Accept)
	})}
}

func told(i packet.Info, pid int) intercepttest.Packet {
	i.PID, i.TCPFlags = pid, 0
	return intercepttest.Packet{Info: i, Kind: intercepttest.InfoOnly}
}

// A packet that announces an info waits for it, and its connection is judged by what that tells.
func TestPacketsWaitForTheirInfo(t *testing.T) {
	bubble(t, "it comes", func(t *testing.T) {
		r := start(t, blockUnknown)
		i := out(packet.TCP, 1, faraway)
		first := r.src.Send(intercepttest.Packet{Info: i, Kind: intercepttest.ExpectsInfo})
		second := r.send(i)
		synctest.Wait()
		if r.store.Get(i.Tuple) != nil {
			t.Error("judged before the info came")
		}
		r.src.Send(told(i, 7))
		for n, res := range []*intercepttest.Result{first, second} {
			if got := r.result(res); got.Action != verdict.ActionPermanentAccept || got.By != intercepttest.ByHandler {
				t.Errorf("packet %d: got %v; want PermanentAccept by handler", n, got)
			}
		}
		if p := r.state(i.Tuple).Process; p == nil || p.PID != 7 {
			t.Errorf("got process %v; want 7", p)
		}
	})
	bubble(t, "it came before", func(t *testing.T) {
		r := start(t, blockUnknown)
		i := out(packet.UDP, 1, faraway)
		r.src.Send(told(i, 7))
		synctest.Wait()
		if got := r.result(r.src.Send(intercepttest.Packet{Info: i, Kind: intercepttest.ExpectsInfo})); got.Action != verdict.ActionPermanentAccept {
			t.Errorf("got %v; want PermanentAccept", got)
		}
	})
	bubble(t, "it does not come", func(t *testing.T) {
		r := start(t, blockUnknown)
		began := time.Now()
		got := r.result(r.src.Send(intercepttest.Packet{Info: out(packet.TCP, 1, faraway), Kind: intercepttest.ExpectsInfo}))
		if took := time.Since(began); got.Action.Verdict() != verdict.Block || took < 100*time.Millisecond || took > time.Second {
			t.Errorf("got %v after %v; want Block within a second, after a wait", got, took)
		}
		if n := r.Stats().InfoMissed; n != 1 {
			t.Errorf("got %d infos missed; want 1", n)
		}
	})
	bubble(t, "nobody wants it", func(t *testing.T) {
		r := start(t, nil)
		i := out(packet.TCP, 1, faraway)
		began := time.Now()
		r.result(r.src.Send(intercepttest.Packet{Info: i, Kind: intercepttest.ExpectsInfo}))
		if took := time.Since(began); took != 0 {
			t.Errorf("waited %v; want no wait without a process finder", took)
		}
	})
}

// What a driver tells about a socket has no flags: its connection is not older than the firewall, and may be redirected.
func TestInfoWithoutFlagsIsNew(t *testing.T) {
	bubble(t, "TCP", func(t *testing.T) {
		r := start(t, func(c *firewall.Config) { c.ToNameserver = func(*conn.Snapshot) bool { return true } })
		r.want(flags(out(packet.TCP, 1, faraway), 0), verdict.ActionRerouteToNameserver)
	})
}
