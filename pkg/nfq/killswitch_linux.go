package nfq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// killSwitch lets the replies of our redirects through the kill switches of wg-quick, which drop what arrives for the tunnel's
// address by any other interface: such a reply comes over loopback, from the address that was asked. There is one exception for
// each address and chain, in the tables that wg-quick makes with nft, and in the raw tables of both variants of iptables,
// whichever of them we use ourselves. It has to go with the kill switch and with us.
type killSwitch struct {
	comment string
	log     *slog.Logger
	list    []family            // of this kernel; what is not wanted is removed
	tools   map[Variant][]tools // what is installed

	// tunnels and nameserver are where redirects lead to, by family.
	tunnels, nameserver [numFamilies]bool

	mu     sync.Mutex // guards what follows, and makes changes take turns
	on     bool
	unused [numFamilies]bool // families over which nothing is sent to the nameserver
}

func newKillSwitch(cfg HostConfig) *killSwitch {
	k := &killSwitch{
		comment: exceptionComment(cfg.ChainPrefix), log: cfg.Logger, list: hostFamilies(BothFamilies), tools: map[Variant][]tools{},
	}
	for _, f := range hostFamilies(cfg.Families) {
		k.tunnels[f] = cfg.Redirects.Tunnel.to(f).IsValid() || cfg.Redirects.SplitTun.to(f).IsValid()
		k.nameserver[f] = cfg.Redirects.Nameserver.to(f).IsValid()
	}
	for _, v := range []Variant{VariantNFT, VariantLegacy} {
		for _, f := range k.list {
			if t, ok := findTools(v, f); ok {
				k.tools[v] = append(k.tools[v], t)
			}
		}
	}
	return k
}

// up makes the exceptions, and removes what an earlier process left.
func (k *killSwitch) up(ctx context.Context) error { return k.turn(ctx, true) }

// down removes the exceptions. A watch that still runs makes none again.
func (k *killSwitch) down(ctx context.Context) error { return k.turn(ctx, false) }

func (k *killSwitch) turn(ctx context.Context, on bool) error {
	k.mu.Lock()
	k.on = on
	k.mu.Unlock()
	return errors.Join(k.syncNFT(ctx), k.syncLegacy(ctx))
}

// useNameserver says over which families something is sent to the nameserver.
func (k *killSwitch) useNameserver(ctx context.Context, over func(family) bool) error {
	k.mu.Lock()
	was := k.unused
	for f := range k.unused {
		k.unused[f] = !over(family(f))
	}
	same := was == k.unused || !k.on
	k.mu.Unlock()
	if same {
		return nil
	}
	return errors.Join(k.syncNFT(ctx), k.syncLegacy(ctx))
}

// wantsLocked reports whether there have to be exceptions in one family.
func (k *killSwitch) wantsLocked(f family) bool {
	return k.on && (k.tunnels[f] || k.nameserver[f] && !k.unused[f])
}

// watch follows wg-quick, which may come and go, until ctx is done. Without redirects it has nothing to do.
func (k *killSwitch) watch(ctx context.Context) error {
	if !slices.Contains(k.tunnels[:], true) && !slices.Contains(k.nameserver[:], true) {
		return nil
	}
	nft, err := openNFTEvents(concernsKillSwitch)
	if err != nil {
		return err
	}
	legacy, err := openLegacyEvents()
	if err != nil {
		// Not a reason to end: few hosts have such rules.
		k.log.Warn("kill switches of legacy iptables are only looked for once a second", "error", err)
		legacy = events{poll: legacyPoll, read: func(chan<- struct{}) {}, stop: func() error { return nil }}
	}
	var wg sync.WaitGroup
	var nftErr, legacyErr error
	wg.Go(func() { nftErr = k.follow(ctx, nft, k.syncNFT) })
	wg.Go(func() { legacyErr = k.follow(ctx, legacy, k.syncLegacy) })
	wg.Wait()
	return errors.Join(nftErr, legacyErr)
}

// follow calls sync whenever something may have changed. What fails is tried again.
func (k *killSwitch) follow(ctx context.Context, src events, sync func(context.Context) error) error {
	pulse := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		src.read(pulse)
		close(ended)
	}()
	tick := time.NewTicker(src.poll)
	defer tick.Stop()
	notify(pulse) // what changed before there was somebody to listen
	pause := rest
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-pulse:
		case <-tick.C:
		}
		if ctx.Err() != nil {
			break
		}
		switch err := sync(ctx); {
		case err == nil:
			pause = rest
		case ctx.Err() == nil:
			if pause == rest {
				k.log.Warn("redirected connections may not work beside a VPN: cannot make an exception to its kill switch yet", "error", err)
			}
			pause = min(2*pause, src.poll)
			notify(pulse)
		}
		sleep(ctx, pause)
	}
	err := src.stop()
	<-ended
	return err
}

// syncNFT puts everything in nf_tables right: the tables of wg-quick, which takes no program, and then those of iptables.
func (k *killSwitch) syncNFT(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, err := dialNFT()
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range k.list {
		errs = append(errs, k.tablesLocked(n, f))
	}
	errs = append(errs, k.rawLocked(ctx, k.tools[VariantNFT], func(f family) (bool, error) {
		chains, err := n.baseChains(nfprotoOf(f))
		if isNoNFT(err) {
			return false, nil
		}
		return slices.ContainsFunc(chains, func(c baseChain) bool { return c.Table == "raw" && c.Chain == rawChain && c.use > 0 }), err
	}))
	return errors.Join(append(errs, n.close())...)
}

func nfprotoOf(f family) uint8 {
	if f == family6 {
		return nfproto6
	}
	return nfproto4
}

// tablesLocked puts the tables of wg-quick right, all those of one family at once.
func (k *killSwitch) tablesLocked(n *nftConn, f family) error {
	var err error
	for range loadTries {
		// Others may change something between the look and the change: then the kernel refuses.
		if err = k.tryTablesLocked(n, f); !errors.Is(err, unix.ERESTART) && !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s exceptions in nftables: %w", f, err)
	}
	return nil
}

func (k *killSwitch) tryTablesLocked(n *nftConn, f family) error {
	proto := nfprotoOf(f)
	generation, err := n.generation()
	if isNoNFT(err) {
		return nil
	}
	if err != nil {
		return err
	}
	tables, err := n.tables(proto)
	if err != nil {
		return err
	}
	var msgs []netlink.Message
	for _, t := range tables {
		if !strings.HasPrefix(t.Name, wgTablePrefix) {
			continue
		}
		rules, err := n.preRules(proto, t.Name, wgChain)
		if err != nil {
			return err
		}
		msgs = append(msgs, exceptionMessages(proto, t.Name, rules, k.comment, k.wantsLocked(f))...)
	}
	if len(msgs) == 0 {
		return nil
	}
	k.log.Info("exceptions to VPN kill switches changed", "family", f.String(), "in", "nftables", "changes", len(msgs))
	return n.batchAt(generation, msgs...)
}

// syncLegacy puts the raw tables of legacy iptables right.
func (k *killSwitch) syncLegacy(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rawLocked(ctx, k.tools[VariantLegacy], legacyRaw)
}

// legacyRaw reports whether legacy iptables has a raw table.
func legacyRaw(f family) (bool, error) {
	names, err := legacyTables(f)
	return slices.Contains(names, "raw"), err
}

// rawLocked puts the raw tables of one variant right, of those families in which used reports that there is something in it.
func (k *killSwitch) rawLocked(ctx context.Context, list []tools, used func(family) (bool, error)) error {
	var errs []error
	var inUse []tools
	for _, t := range list {
		there, err := used(t.family)
		errs = append(errs, err)
		if there {
			inUse = append(inUse, t)
		}
	}
	errs = append(errs, each(len(inUse), func(i int) error { return k.raw(ctx, inUse[i], k.wantsLocked(inUse[i].family)) }))
	return errors.Join(errs...)
}

// raw puts one raw table right. It tries again when others changed rules between its look and its change.
func (k *killSwitch) raw(ctx context.Context, t tools, wanted bool) error {
	var errs []error
	for range loadTries {
		text, err := runTool(ctx, "", t.save, "-t", "raw")
		if err != nil {
			return fmt.Errorf("read %s raw table: %w", t.family, err)
		}
		script := exceptionScript(parseSave(text), k.comment, wanted)
		if script != "" {
			k.log.Info("exceptions to VPN kill switches changed", "family", t.family.String(), "in", t.variant.String()+" iptables")
		}
		if err := t.apply(ctx, script); err != nil {
			errs = append(errs, err)
			continue
		}
		return nil
	}
	return errors.Join(errs...)
}

// exceptionComment marks what is ours, of the configuration with this chain prefix.
func exceptionComment(prefix string) string { return prefix + "-redirect-replies" }
