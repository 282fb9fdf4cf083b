package conn_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/pkg/conn"
)

// Deltas and sums of one connection: what is more counts.
func TestUsageKinds(t *testing.T) {
	c := conn.New(first())
	want := func(received, sent uint64) {
		t.Helper()
		if s := c.Snapshot(); s.ReceivedBytes != received || s.SentBytes != sent {
			t.Errorf("got %d received, %d sent; want %d, %d", s.ReceivedBytes, s.SentBytes, received, sent)
		}
	}
	c.AddUsage(100, 10)
	c.RaiseUsage(90, 20) // the kernel's sum lags behind in one direction
	want(100, 20)
	c.RaiseUsage(300, 30)
	want(300, 30)
	c.CloseUsage(310, 31)
	want(310, 31)
	c.RaiseUsage(5, 5) // a new entry in the kernel for the same connection
	want(315, 36)
	c.CloseUsage(10, 10)
	want(320, 41)
}

// Two that count the same bytes, of which one is ahead now and then the other: nothing counts twice.
func TestUsageOfTwoCounters(t *testing.T) {
	c := conn.New(first())
	var received, sent uint64
	grew := func(moreReceived, moreSent uint64) { received, sent = received+moreReceived, sent+moreSent }
	for i := range uint64(10) {
		grew(c.RaiseUsage(1000*i+700, 100*i+70))
		grew(c.AddUsage(1000, 100))
		grew(c.RaiseUsage(1000*i+900, 100*i+90))
	}
	if s := c.Snapshot(); s.ReceivedBytes != 10_000 || s.SentBytes != 1000 {
		t.Errorf("got %d received, %d sent; want 10000, 1000", s.ReceivedBytes, s.SentBytes)
	}
	if received != 10_000 || sent != 1000 {
		t.Errorf("they grew by %d and %d, as told; want 10000, 1000", received, sent)
	}
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := conn.New(first())
		rate := func(received, sent uint64) {
			t.Helper()
			if s := c.Snapshot(); s.ReceivedRate != received || s.SentRate != sent {
				t.Errorf("got %d and %d bytes a second; want %d and %d", s.ReceivedRate, s.SentRate, received, sent)
			}
		}
		rate(0, 0)
		c.AddUsage(1000, 100)
		rate(0, 0) // who knows how long that took
		time.Sleep(2 * time.Second)
		c.AddUsage(1000, 100)
		rate(500, 50)
		time.Sleep(100 * time.Millisecond) // too short to tell
		c.AddUsage(1, 1)
		rate(500, 50)
		time.Sleep(4 * time.Second)
		rate(0, 0)
		c.AddUsage(700, 70)
		rate(701, 71)
		c.Update(func(s *conn.Snapshot) { s.Ended = time.Now() })
		rate(0, 0)
	})
}
