package nfq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// nftPoll is how often the rules are looked at although no event came: events can be lost.
	nftPoll = 5 * time.Second
	// legacyPoll is short because the legacy variant has no events, and not everybody takes its lock.
	legacyPoll = time.Second
	// settle lets a change of many steps end before the rules are looked at. The backstop holds meanwhile.
	settle = 2 * time.Millisecond
	// rest bounds what a busy host costs: the rules are not looked at more often.
	rest = 20 * time.Millisecond
	// maxPause bounds how long one waits in a fight with other software that keeps changing things.
	maxPause = 250 * time.Millisecond
	// xtablesLock is touched by every change of the legacy variant.
	xtablesLock = "/run/xtables.lock"
)

// watch keeps our rules as they were loaded and our jumps at the top, follows the kill switches of VPNs, and reports ended
// connections, until ctx is done. Rules of others are not touched. onRepair, if not nil, is called after each repair. Call it
// between up and down.
func (h *host) watch(ctx context.Context, onRepair func()) error {
	src, err := h.openEvents()
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	pulse := make(chan struct{}, 1)
	var readers sync.WaitGroup
	readers.Go(func() { src.read(pulse) })
	reported := h.report(ctx, end, &readers)
	var followed error
	readers.Go(func() {
		if followed = h.kill.watch(ctx); followed != nil {
			end()
		}
	})
	err = h.watchPulse(ctx, pulse, src.poll, onRepair)
	end()
	err = errors.Join(err, src.stop())
	readers.Wait()
	return errors.Join(err, *reported, followed)
}

// report starts the reports, if somebody wants them. If they break, it calls end and leaves the reason where it points.
func (h *host) report(ctx context.Context, end func(), wg *sync.WaitGroup) (broken *error) {
	broken = new(error)
	h.mu.Lock()
	ends := h.ends
	h.mu.Unlock()
	if ends != nil {
		wg.Go(func() {
			*broken = ends.run(ctx)
			end()
		})
	}
	return broken
}

func (h *host) watchPulse(ctx context.Context, pulse <-chan struct{}, poll time.Duration, onRepair func()) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	pause, failed := rest, 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pulse:
			sleep(ctx, settle)
		case <-tick.C:
		}
		wrong, err := h.repair(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if failed++; failed >= maxFailures {
				return fmt.Errorf("repair rules: %w", err)
			}
			h.log.Warn("firewall rules cannot be repaired yet", "error", err)
			pause = min(2*pause, maxPause)
		case len(wrong) > 0:
			failed = 0
			pause = min(2*pause, maxPause)
			h.log.Warn("firewall rules repaired", "what", strings.Join(wrong, "; "))
			if onRepair != nil {
				onRepair()
			}
		default:
			pause, failed = rest, 0
		}
		sleep(ctx, pause)
	}
}

// maxFailures is how many repairs in a row may fail before watching ends with an error; they are up to maxPause apart.
const maxFailures = 40

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// repair brings what is not as it should be in line, and returns what that was.
func (h *host) repair(ctx context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lock == nil {
		return nil, nil
	}
	found := make([][]string, len(h.parts))
	err := each(len(h.parts), func(i int) (err error) {
		p := h.parts[i]
		found[i], err = p.tools.load(ctx, p.rules, p.canon)
		return err
	})
	var wrong []string
	for _, f := range found {
		wrong = append(wrong, f...)
	}
	for _, own := range []struct {
		what  string
		table *ownTable
		set   func() []nftChain
	}{
		{"backstop", h.back, func() []nftChain { return backstopChains(h.cfg, h.families()) }},
		{"guard of split routes", h.guard, func() []nftChain { return guardChains(h.cfg.Marks, h.routes) }},
	} {
		if own.table == nil {
			continue
		}
		there, tableErr := own.table.present()
		if tableErr == nil && !there {
			wrong = append(wrong, own.what+" is gone")
			tableErr = own.table.set(own.set())
		}
		err = errors.Join(err, tableErr)
	}
	return wrong, err
}

// events tells that something may have changed.
type events struct {
	poll time.Duration
	// read sends to pulse, without ever waiting, until stop is called.
	read func(pulse chan<- struct{})
	stop func() error
}

func notify(pulse chan<- struct{}) {
	select {
	case pulse <- struct{}{}:
	default: // one is waiting already
	}
}

func (h *host) openEvents() (events, error) {
	if h.variant == VariantNFT {
		return openNFTEvents(func(m netlink.Message) bool {
			return concerns(m, h.cfg.BackstopTable) || concerns(m, h.cfg.guardTable())
		})
	}
	return openLegacyEvents()
}

// openNFTEvents listens to what the kernel tells about nf_tables: it reports every change of iptables-nft, ufw and nft. Those
// that do not concern us wake nobody.
func openNFTEvents(concerns func(netlink.Message) bool) (events, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return events{}, fmt.Errorf("listen to nf_tables: %w", err)
	}
	read := func(pulse chan<- struct{}) {
		for {
			msgs, err := c.Receive()
			// Lost events are a reason to look, not to give up.
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			if err != nil || slices.ContainsFunc(msgs, concerns) {
				notify(pulse)
			}
		}
	}
	return events{poll: nftPoll, read: read, stop: c.Close}, nil
}

// concerns reports whether an event is about a table that we are in. Others may change their tables all day long.
func concerns(m netlink.Message, backstopTable string) bool {
	name, ok := eventTable(m)
	return ok && (name == "" || name == backstopTable || slices.Contains(iptablesTables, name))
}

// eventTable returns the table that an event is about, empty if it does not say, or false if it is about none.
func eventTable(m netlink.Message) (name string, ok bool) {
	if uint16(m.Header.Type) == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN || len(m.Data) < nfgenmsg {
		return "", false // says that a transaction ended, and not of what
	}
	const table = 1 // in the messages about tables and about all that is in them
	typ, v, _, whole := nextAttr(m.Data[nfgenmsg:])
	if !whole || typ != table {
		return "", true
	}
	return nftText(v), true
}

// openLegacyEvents listens to the lock file that legacy iptables takes for a change.
func openLegacyEvents() (events, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return events{}, fmt.Errorf("open inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	ev := events{poll: legacyPoll, stop: f.Close}
	// Without the file there is the poll.
	_, err = unix.InotifyAddWatch(fd, xtablesLock, unix.IN_CLOSE)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return events{}, errors.Join(fmt.Errorf("watch %s: %w", xtablesLock, err), f.Close())
	}
	ev.read = func(pulse chan<- struct{}) {
		b := make([]byte, 4096)
		for {
			if _, err := f.Read(b); err != nil {
				return
			}
			notify(pulse)
		}
	}
	return ev, nil
}
