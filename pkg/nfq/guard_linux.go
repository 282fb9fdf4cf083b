package nfq

import (
	"errors"
	"maps"

	"golang.org/x/sys/unix"
)

// guardPriority is behind the routing and whatever else is done to packets there, and before source NAT (100): a connection must
// not get the address of an interface that it must not leave by.
const guardPriority = 50

// guardChains drops packets that have the mark of a split route and leave by another interface than the route's. Rules and tables
// for routing are not enough: a rule that somebody adds without a priority, as wg-quick does, comes before all others, until it
// is noticed.
func guardChains(m Marks, routes map[uint8]string) []nftChain {
	mark := nftMeta(nftMetaMark)
	leaves := func(name string) nftRule {
		return ruleOf(nftMeta(nftMetaOIFName), nftCompare(nftEqual, interfaceName(name)))
	}
	accept, drop := nftVerdict(nftAccept, ""), nftVerdict(nftDrop, "")
	rules := []nftRule{append(nftMarkIs(mark, maskedMark{0, ^uint32(0)}), accept)}
	for n := range uint8(MaxRoute + 1) {
		if name, ok := routes[n]; ok {
			one := append(nftMarkIs(mark, maskedMark{m.SplitTun + uint32(n), ^uint32(0)}), leaves(name)...)
			rules = append(rules, append(one, accept))
		}
	}
	// what goes to this host itself is not ours to judge here
	rules = append(rules, append(leaves("lo"), accept))
	for _, set := range m.splitTun() {
		rules = append(rules, append(nftMarkIs(mark, set), drop))
	}
	return []nftChain{{name: "postrouting", hook: unix.NF_INET_POST_ROUTING, priority: guardPriority, rules: rules}}
}

// guardLocked puts the guard up if split connections are routed, and takes one of an earlier process down if not. A kernel without
// nf_tables gets a warning.
func (h *host) guardLocked() error {
	guard, err := openTable(h.cfg.guardTable())
	if err != nil {
		return err
	}
	if !h.cfg.Redirects.RouteSplitTun {
		err := guard.remove()
		if isNoNFT(err) {
			err = nil
		}
		return errors.Join(err, guard.close())
	}
	err = guard.set(guardChains(h.cfg.Marks, h.routes))
	switch {
	case errors.Is(err, ErrInUse):
		return errors.Join(err, guard.close())
	case err != nil:
		h.log.Warn("no guard of split routes: while other software changes the routing rules, packets may take its way for some milliseconds",
			"error", err)
		return guard.close()
	}
	h.guard = guard
	return nil
}

// allowRoutes says by which interfaces split routes leave, from now on and when the rules are loaded.
func (h *host) allowRoutes(routes map[uint8]string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes = maps.Clone(routes)
	if h.guard == nil {
		return nil
	}
	return h.guard.set(guardChains(h.cfg.Marks, h.routes))
}

// guardTable is the name of the nftables table that keeps split connections from leaving by other interfaces than theirs.
func (c *HostConfig) guardTable() string { return lower(c.ChainPrefix) + "-split" }
