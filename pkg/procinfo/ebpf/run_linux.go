//go:build amd64 || arm64 || 386

package ebpf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/intercept"
)

// Kinds of events (attr.bpf.c).
const (
	eventExec  = 1
	eventExit  = 2
	eventMoved = 3
	eventEnd   = 4

	// endAborted is in the place of a process where a socket ended without a close.
	endAborted = 1
)

const (
	// eventPause is between two looks at the events. Waking us for each would cost programs more than noting it.
	eventPause = 200 * time.Millisecond
	// usagePause is between two looks at what was transferred.
	usagePause = time.Second
	// usageBatch is how many connections are read at once.
	usageBatch = 1024
)

// Run tells what happens until ctx is done; then it returns nil. What happened before Run is told too, as far as the kernel had room.
func (t *Tracker) Run(ctx context.Context, ready func(), to Reports) error {
	r, err := ringbuf.NewReader(t.maps[attrMapEvents])
	if err != nil {
		return fmt.Errorf("ebpf: read events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = r.Close() // wakes the loop
	})
	defer stop()
	defer r.Close() //nolint:errcheck // only read from
	if ready != nil {
		ready()
	}
	var rec ringbuf.Record
	drain := usageReader{m: t.maps[attrMapUsage]}
	counted := time.Now()
	for {
		r.SetDeadline(time.Now().Add(eventPause))
		for {
			err = r.ReadInto(&rec)
			if err != nil {
				break
			}
			t.counters.events.Add(1)
			t.event(rec.RawSample, &to)
		}
		switch {
		case ctx.Err() != nil || errors.Is(err, ringbuf.ErrClosed):
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("ebpf: read events: %w", err)
		}
		if now := time.Now(); to.Traffic != nil && t.status.Has(FeatureUsage) && now.Sub(counted) >= usagePause {
			counted = now
			if err := drain.report(to.Traffic); err != nil {
				return err
			}
		}
	}
}

// event passes one on.
func (t *Tracker) event(b []byte, to *Reports) {
	e, ok := parseEvent(b)
	switch {
	case !ok:
	case (e.Kind == eventExec || e.Kind == eventExit) && to.Changed != nil && e.Pid != 0:
		to.Changed(int(e.Pid), ticks(e.Start))
	case e.Kind == eventMoved && to.Moved != nil:
		to.Moved(tupleOf(&e.Tuple))
	case e.Kind == eventEnd && to.Traffic != nil:
		t.end(&e, to.Traffic)
	}
}

// end tells the end of a connection, and before it what was transferred since the last look: afterwards nobody would know whose it is.
func (t *Tracker) end(e *attrEvent, to intercept.Traffic) {
	c := tupleOf(&e.Tuple)
	var b attrBytes
	if t.status.Has(FeatureUsage) && t.maps[attrMapUsage].LookupAndDelete(&e.Tuple, &b) == nil {
		to.ReportUsage([]intercept.Usage{{Tuple: c, ReceivedBytes: b.Received, SentBytes: b.Sent}})
	}
	to.ReportEnd(intercept.End{Tuple: c, At: wall(e.Ts), Certain: true, Aborted: e.Pid == endAborted})
}

// wall converts a time of the kernel's monotonic clock.
func wall(ts uint64) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Now()
	}
	return time.Now().Add(-time.Duration(now.Nano() - int64(ts)))
}

// eventSize is struct event's.
const eventSize = 64

// parseEvent reads a struct event.
func parseEvent(b []byte) (e attrEvent, ok bool) {
	if len(b) < eventSize {
		return e, false
	}
	e.Kind, e.Pid, e.Start = native(b), native(b[4:]), binary.NativeEndian.Uint64(b[8:])
	e.Ts = binary.NativeEndian.Uint64(b[16:])
	k := &e.Tuple
	b = b[24:]
	for i := range k.Saddr {
		k.Saddr[i], k.Daddr[i] = native(b[4*i:]), native(b[16+4*i:])
	}
	k.Sport, k.Dport = binary.NativeEndian.Uint16(b[32:]), binary.NativeEndian.Uint16(b[34:])
	k.Proto, k.Family, k.Foreign = b[36], b[37], b[38]
	return e, true
}

// usageReader takes what was counted out of the kernel's map, so that the next look finds what was transferred since and nothing of
// connections that are idle. A packet that is counted in the very moment may be lost.
type usageReader struct {
	m      *ebpf.Map
	keys   [usageBatch]attrTuple
	values [usageBatch]attrBytes
	out    []intercept.Usage
}

func (r *usageReader) report(to intercept.Traffic) error {
	var cursor ebpf.MapBatchCursor
	for {
		n, err := r.m.BatchLookupAndDelete(&cursor, r.keys[:], r.values[:], nil)
		r.out = r.out[:0]
		for i := range n {
			r.out = append(r.out, intercept.Usage{
				Tuple: tupleOf(&r.keys[i]), ReceivedBytes: r.values[i].Received, SentBytes: r.values[i].Sent,
			})
		}
		to.ReportUsage(r.out) // also that there is nothing
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("ebpf: read transferred bytes: %w", err)
		}
	}
}
