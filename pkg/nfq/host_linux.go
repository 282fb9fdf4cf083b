package nfq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
)

// host is the packet filter and the connection tracking of the network namespace that the process is in.
type host struct {
	cfg     HostConfig
	log     *slog.Logger
	parts   []part
	variant Variant
	traffic intercept.Traffic // nil if nobody wants reports
	kill    *killSwitch

	lost atomic.Uint64 // reports about ended connections

	// tracker is there between prepare and down. It has no lock above it, so that no verdict waits for rules.
	tracker atomic.Pointer[tracker]

	mu     sync.Mutex       // guards what follows, and makes changes of the rules take turns
	lock   *hostLock        // held between prepare and down
	ends   *trafficReporter // nil without traffic
	closes Closes
	before *hostState       // what was there before us; nil if nobody knows
	back   *ownTable        // the backstop; nil in Observe, and where nf_tables is missing
	routes map[uint8]string // interfaces by split route
	guard  *ownTable        // of the routes; nil without any, and where nf_tables is missing
}

// part is one address family.
type part struct {
	tools tools
	rules ruleset
	// canon is rules as iptables-save of this host prints them; nil until they were loaded where no rehearsal is possible.
	canon saved
}

// openHost finds out how our rules can work here, without changing anything. Errors are *HostError, which wraps
// intercept.ErrNotInterceptable and one of ErrNoRights, ErrNamespace, ErrNoTool, ErrNoKernelSupport and ErrMixedVariants; or they
// wrap ErrBadConfig or ErrBadMarks. traffic, if not nil, is told from prepare to down which connections ended.
func openHost(cfg HostConfig, traffic intercept.Traffic) (*host, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkRights(), checkNamespace()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	list := hostFamilies(cfg.Families)
	chosen, err := chooseVariant(ctx, cfg, list)
	if err != nil {
		return nil, err
	}
	h := &host{
		cfg: cfg, log: cfg.Logger, traffic: traffic, variant: chosen[0].variant, parts: make([]part, len(list)), kill: newKillSwitch(cfg),
	}
	err = each(len(list), func(i int) (err error) {
		h.parts[i] = part{tools: chosen[i], rules: newRuleset(cfg, list[i])}
		h.parts[i].canon, err = rehearse(ctx, chosen[i], h.parts[i].rules)
		return err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// each runs fn for 0 to n-1, all at once, and joins the errors.
func each(n int, fn func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = fn(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// families returns the address families that are filtered.
func (h *host) families() []family {
	list := make([]family, len(h.parts))
	for i, p := range h.parts {
		list[i] = p.tools.family
	}
	return list
}

// prepare takes what only one process can have, and makes connections known. Nothing of the host changes. The error may wrap
// ErrInUse. Without an error, up has to follow.
func (h *host) prepare() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	lock, err := takeLock(h.cfg.ChainPrefix)
	if err != nil {
		return err
	}
	h.lock = lock
	if err := h.trackLocked(); err != nil {
		return errors.Join(err, h.releaseLocked())
	}
	return nil
}

// up loads the rules, or takes over those of an earlier process without a moment in between, and forgets the verdicts of that
// process. If it fails it takes back what it and prepare did; rules that were there before stay. The error may wrap ErrInUse.
func (h *host) up(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	takeover, err := h.loadLocked(ctx)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err = errors.Join(err, h.kill.down(ctx), h.before.stopCounting())
	if !takeover {
		err = errors.Join(err, h.removeLocked(ctx))
	}
	return errors.Join(err, h.releaseLocked())
}

// trackLocked opens connection tracking.
func (h *host) trackLocked() error {
	t, err := openTracker(h.cfg.Marks)
	if err != nil {
		return err
	}
	h.tracker.Store(t)
	if h.traffic != nil {
		// Before the rules, since the kernel does not tell about connections that are older than the first who listens.
		h.ends, err = openReporter(h.traffic, t, &h.lost, h.log)
		if err == nil && h.closes != ClosesByTimeout {
			err = h.ends.followCloses(h.closes)
		}
	}
	return err
}

// loadLocked reports whether rules of ours were there already.
func (h *host) loadLocked(ctx context.Context) (takeover bool, err error) {
	now := make([]saved, len(h.parts))
	err = each(len(h.parts), func(i int) (err error) {
		now[i], err = h.parts[i].tools.read(ctx)
		return err
	})
	if err != nil {
		return true, err // nothing was done, so there is nothing to undo
	}
	takeover = slices.ContainsFunc(now, func(s saved) bool { return s.present(h.cfg.ChainPrefix) })
	crashed, err := unclean(&h.cfg)
	if err != nil {
		return takeover, err
	}
	if h.before, err = noteBefore(h.cfg.StateFile, h.variant, takeover); err != nil {
		return takeover, err
	}
	if h.traffic != nil {
		h.before.startCounting(h.log)
	}
	err = each(len(h.parts), func(i int) error { return h.parts[i].load(ctx) })
	if err != nil {
		return takeover, err
	}
	if err := errors.Join(h.backstopLocked(), h.guardLocked()); err != nil {
		return takeover, err
	}
	if err := h.kill.up(ctx); err != nil && ctx.Err() == nil {
		// Not a reason to leave the host without a firewall. While watching it is tried again.
		h.log.Warn("cannot make exceptions to the kill switches of VPNs", "error", err)
	}
	// Verdicts of a process that is gone: whoever decides now did not decide them.
	if takeover || crashed {
		return takeover, h.tracker.Load().forgetAll()
	}
	return takeover, h.tracker.Load().forgetMarks()
}

// load loads the rules of one family for the first time.
func (p *part) load(ctx context.Context) error {
	if _, err := p.tools.load(ctx, p.rules, nil); err != nil {
		return err
	}
	if p.canon != nil {
		return nil
	}
	now, err := p.tools.read(ctx)
	if err != nil {
		return err
	}
	for _, t := range p.rules.tables {
		if damage := p.rules.damage(t, now, nil); damage != "" {
			return fmt.Errorf("load %s rules: %s", p.tools.family, damage)
		}
	}
	p.canon = now
	return nil
}

// backstopLocked puts the backstop up in Enforce, and takes one of an earlier process down in Observe. A kernel without nf_tables
// gets a warning: the rules work, but a flush opens them until they are repaired.
func (h *host) backstopLocked() error {
	back, err := openTable(h.cfg.BackstopTable)
	if err != nil {
		return err
	}
	if h.cfg.Mode == Observe {
		err := back.remove()
		if isNoNFT(err) {
			err = nil
		}
		return errors.Join(err, back.close())
	}
	err = back.set(backstopChains(h.cfg, h.families()))
	switch {
	case errors.Is(err, ErrInUse):
		return errors.Join(err, back.close())
	case err != nil:
		h.log.Warn("no backstop: while other software flushes the firewall rules, packets pass until they are repaired", "error", err)
		return back.close()
	case !back.owned:
		h.log.Warn("the kernel lacks owned nftables tables (Linux 6.9): a flush of all nftables opens the firewall until it is repaired",
			"table", back.name)
	}
	h.back = back
	return nil
}

// down removes the rules, so that the host is as it was before up, or leaves it closed if so configured. Verdicts are forgotten
// either way.
func (h *host) down(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lock == nil {
		return nil
	}
	// Even if the rules stay: nobody is there any more to whom they redirect.
	err := errors.Join(h.kill.down(ctx), h.before.stopCounting())
	if h.cfg.OnExit == ExitClosed && h.cfg.Mode == Enforce {
		err = errors.Join(err, h.tracker.Load().forgetAll())
	} else {
		err = errors.Join(err, h.removeLocked(ctx))
	}
	return errors.Join(err, h.releaseLocked())
}

// removeLocked undoes what loadLocked did.
func (h *host) removeLocked(ctx context.Context) error {
	err := each(len(h.parts), func(i int) error { return removeRules(ctx, h.parts[i].tools, h.cfg.ChainPrefix) })
	errs := []error{err}
	if h.variant == VariantNFT {
		errs = append(errs, h.before.tidy())
	}
	for _, own := range []*ownTable{h.back, h.guard} {
		if own != nil {
			errs = append(errs, own.remove())
		}
	}
	errs = append(errs, h.tracker.Load().forgetAll())
	if errors.Join(errs...) == nil {
		errs = append(errs, h.before.erase(h.cfg.StateFile))
	}
	return errors.Join(errs...)
}

// releaseLocked lets go of what only one process can have.
func (h *host) releaseLocked() error {
	var errs []error
	if h.ends != nil {
		errs = append(errs, h.ends.close())
		h.ends = nil
	}
	errs = append(errs, h.tracker.Swap(nil).close())
	for _, own := range []**ownTable{&h.back, &h.guard} {
		if *own != nil {
			errs = append(errs, (*own).close())
			*own = nil
		}
	}
	if h.lock != nil {
		errs = append(errs, h.lock.release())
		h.lock = nil
	}
	return errors.Join(errs...)
}

// removeRules takes our chains and jumps out of one family.
func removeRules(ctx context.Context, t tools, prefix string) error {
	var errs []error
	for range loadTries {
		now, err := t.read(ctx)
		if err != nil {
			return err
		}
		if err := t.apply(ctx, removeScript(prefix, now)); err != nil {
			errs = append(errs, err)
			continue
		}
		return nil
	}
	return errors.Join(errs...)
}

// tracking returns the tracker, or ErrClosed before prepare and after down.
func (h *host) tracking() (*tracker, error) {
	if t := h.tracker.Load(); t != nil {
		return t, nil
	}
	return nil, ErrClosed
}

// forget makes the kernel ask again about a connection.
func (h *host) forget(c packet.Tuple) error {
	t, err := h.tracking()
	if err != nil {
		return err
	}
	return t.forget(c)
}

// forgetAll makes the kernel ask again about every connection that has a verdict.
func (h *host) forgetAll() error {
	t, err := h.tracking()
	if err != nil {
		return err
	}
	return t.forgetAll()
}

// update makes the kernel treat a connection by mark.
func (h *host) update(c packet.Tuple, mark uint32) error {
	t, err := h.tracking()
	if err != nil {
		return err
	}
	return t.update(c, mark)
}

// origin says who opened a connection that the kernel knows.
func (h *host) origin(c packet.Tuple) (packet.Direction, bool) {
	t, err := h.tracking()
	if err != nil {
		return packet.Outbound, false
	}
	return t.origin(c)
}

// measure says what the kernel has counted of a connection.
func (h *host) measure(c packet.Tuple) (intercept.Measure, bool, error) {
	t, err := h.tracking()
	if err != nil {
		return intercept.Measure{}, false, err
	}
	return t.measure(c)
}

// followCloses has the ends of TCP connections told when they are closed, or no longer.
func (h *host) followCloses(how Closes) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closes = how
	if h.ends == nil {
		return nil
	}
	return h.ends.followCloses(how)
}

// useNameserver makes or removes exceptions to kill switches, if the rules are loaded. What fails is tried again while watching.
func (h *host) useNameserver(over4, over6 bool) error { //nolint:revive // says for what
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()
	return h.kill.useNameserver(ctx, func(f family) bool { return f == family4 && over4 || f == family6 && over6 })
}

// lostEnds is how often reports about ended connections were lost.
func (h *host) lostEnds() uint64 { return h.lost.Load() }

// setLabel accepts a connection for good and leaves its mark alone. It is called right after the verdict for its packet.
func (h *host) setLabel(c packet.Tuple) error {
	t, err := h.tracking()
	if err != nil {
		return err
	}
	return t.setLabel(c)
}

// remember makes a refusal of a connection's first packet stick.
func (h *host) remember(c packet.Tuple, dir packet.Direction, mark uint32, tcpFlags uint8) error {
	t, err := h.tracking()
	if err != nil {
		return err
	}
	return t.remember(c, dir, mark, tcpFlags)
}
