package kroute

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirfw/weir/pkg/netif"
)

const (
	// poll is for what the kernel does not tell: the sysctl.
	poll = 10 * time.Second
	// Retries of what the kernel refused, and after failed readings: each waits twice as long.
	firstRetry = 50 * time.Millisecond
	maxRetry   = 5 * time.Second
	// maxFailures is after how many failed readings in a row Run gives up: 6 s in all.
	maxFailures = 8
	// eventBuffer holds about a thousand events.
	eventBuffer = 1 << 20
)

// eventGroups are the multicast groups to listen to. IPv4 routes that vanish with their link are not announced, but the link is.
const eventGroups = 1<<(unix.RTNLGRP_LINK-1) |
	1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) |
	1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1)

func supported() error { return nil }

// run is Run.
func (e *Engine) run(ctx context.Context, ready func()) (err error) {
	l, err := takeLock(e.cfg.Table)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.release()) }()
	k, err := openKernel(e.cfg.Protocol)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	ev, err := openEvents(e.cfg.span(), eventBuffer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ev.close()) }()
	r := &runner{e: e, span: e.cfg.span(), k: k, ev: ev, families: kernelFamilies()}
	r.numbers.slots = make([]slot, e.cfg.MaxRoutes)
	if err := r.start(); err != nil {
		return err
	}
	ev.run(ctx, e.cfg.Logger)
	if ready != nil {
		ready()
	}
	if err := r.loop(ctx); err != nil {
		return err // closed: whoever runs it again takes over
	}
	return r.stop()
}

func kernelFamilies() []netif.Family {
	if hasIPv6() {
		return []netif.Family{netif.IPv4, netif.IPv6}
	}
	return []netif.Family{netif.IPv4}
}

// start takes over what is there and makes what is missing. What it did before an error, it undoes.
func (r *runner) start() error {
	old, err := readState(r.e.cfg.StateFile)
	if err != nil {
		return err
	}
	if old != nil && old.Span.Protocol != r.span.Protocol {
		// The tables would seem to be somebody else's.
		if err := r.k.as(old.Span.Protocol).remove(old.Span, span{}, r.families); err != nil {
			return err
		}
	}
	found, err := r.takeOver(old)
	if err != nil {
		return err
	}
	err = r.save()
	if err == nil {
		err = r.reconcile()
	}
	if err != nil && !found {
		return errors.Join(err, r.undo())
	}
	if err == nil && old != nil && old.Span != r.span {
		err = r.k.remove(old.Span, r.span, r.families)
	}
	return err
}

// loop reconciles whenever something may have changed, until ctx is done.
func (r *runner) loop(ctx context.Context) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	due, retry := newStoppedTimer(), newStoppedTimer()
	defer due.Stop()
	defer retry.Stop()
	var last time.Time
	armed, failures, refused := false, 0, 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.ev.failed:
			return err
		case <-r.ev.dirty:
			// The first sign sets the time; later ones must not postpone it.
			if !armed {
				armed = true
				due.Reset(r.gap() - time.Since(last))
			}
			continue
		case <-due.C:
			armed = false
		case <-r.e.kick:
		case <-ticker.C:
		case <-retry.C:
		}
		last = time.Now()
		retry.Stop()
		err := r.reconcile()
		switch {
		case err != nil:
			if failures++; failures >= maxFailures {
				return err
			}
			r.e.cfg.Logger.WarnContext(ctx, "look at rules and routes; trying again", "err", err)
			retry.Reset(firstRetry << (failures - 1))
			continue
		case r.unsettled:
			retry.Reset(min(firstRetry<<min(refused, 16), maxRetry))
			refused++
		default:
			refused = 0
		}
		failures = 0
	}
}

func newStoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop() // since Go 1.23 no old tick can remain
	return t
}

// events turns what the kernel tells into marks on dirty.
type events struct {
	conn   *netlink.Conn
	span   span
	dirty  chan struct{} // one place: something may have changed
	failed chan error    // the receiver ended
	// watched are the indexes of links that matter.
	watched atomic.Pointer[map[int]struct{}]
	ended   chan struct{} // nil before run
}

func openEvents(s span, buffer int) (*events, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: eventGroups})
	if err != nil {
		return nil, fmt.Errorf("kroute: open netlink socket for events: %w", err)
	}
	if err := conn.SetReadBuffer(buffer); err != nil {
		return nil, errors.Join(fmt.Errorf("kroute: set event buffer: %w", err), conn.Close())
	}
	return &events{conn: conn, span: s, dirty: make(chan struct{}, 1), failed: make(chan error, 1)}, nil
}

// watch sets the links that matter.
func (v *events) watch(looks map[int]look) {
	if old := v.watched.Load(); old != nil && sameKeys(*old, looks) {
		return
	}
	m := make(map[int]struct{}, len(looks))
	for i := range looks {
		m[i] = struct{}{}
	}
	v.watched.Store(&m)
}

func sameKeys(a map[int]struct{}, b map[int]look) bool {
	for i := range b {
		if _, ok := a[i]; !ok {
			return false
		}
	}
	return len(a) == len(b)
}

// close ends the receiving, and waits for its end.
func (v *events) close() error {
	err := v.conn.Close()
	if v.ended != nil {
		<-v.ended
	}
	if err != nil {
		return fmt.Errorf("kroute: close netlink socket for events: %w", err)
	}
	return nil
}
