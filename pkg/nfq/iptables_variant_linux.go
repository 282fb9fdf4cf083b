package nfq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// chooseVariant returns the programs to use, one for each family, in the order of list.
func chooseVariant(ctx context.Context, cfg HostConfig, list []family) ([]tools, error) {
	have := map[Variant][]tools{}
	for _, v := range []Variant{VariantNFT, VariantLegacy} {
		var all []tools
		for _, f := range list {
			if t, ok := findTools(v, f); ok {
				all = append(all, t)
			}
		}
		if len(all) == len(list) {
			have[v] = all
		}
	}
	if len(have) == 0 || cfg.Variant != VariantAuto && have[cfg.Variant] == nil {
		what := "no programs iptables-save, iptables-restore and their IPv6 twins in " + strings.Join(toolDirs, ", ")
		if cfg.Variant != VariantAuto {
			what = "no programs of the variant " + cfg.Variant.String() + " in " + strings.Join(toolDirs, ", ")
		}
		return nil, &HostError{Kind: ErrNoTool, What: what, Remedy: installRemedy}
	}
	use, err := readVariants(ctx, cfg, have)
	if err != nil {
		return nil, err
	}
	v := cfg.Variant
	if v == VariantAuto {
		v = pickVariant(use, programVariant(family4))
	}
	other := VariantNFT + VariantLegacy - v
	if err := checkMix(cfg, v, other, use[other]); err != nil {
		return nil, err
	}
	return have[v], nil
}

// readVariants returns what each variant holds. One that does not work is taken out of have, unless it was asked for or nothing
// works, and unless the kernel holds tables of it: rules that cannot be read may be ours, or refuse what we allow.
func readVariants(ctx context.Context, cfg HostConfig, have map[Variant][]tools) (map[Variant]usage, error) {
	use := map[Variant]usage{}
	var broken []error
	for _, v := range []Variant{VariantNFT, VariantLegacy} {
		if have[v] == nil {
			continue
		}
		u, err := readUsage(ctx, cfg.ChainPrefix, have[v])
		if err == nil {
			use[v] = u
			continue
		}
		what := "the " + v.String() + " variant of iptables does not work"
		held, heldErr := holdsTables(have[v])
		if held || heldErr != nil {
			what += ", and the kernel may hold rules of it"
		}
		err = &HostError{Kind: ErrNoTool, What: what, Remedy: installRemedy, Err: errors.Join(err, heldErr)}
		if held || heldErr != nil || v == cfg.Variant || ctx.Err() != nil {
			return nil, err
		}
		broken = append(broken, err)
		delete(have, v)
		cfg.Logger.Warn("one variant of iptables does not work and is left out: the kernel holds no tables of it", "variant", v.String(), "error", err)
	}
	if len(have) == 0 {
		return nil, errors.Join(broken...)
	}
	return use, nil
}

// holdsTables asks the kernel, without any program, whether it holds tables of iptables of one of the families: without, there are
// no rules.
func holdsTables(all []tools) (bool, error) {
	for _, t := range all {
		list := legacyTables
		if t.variant == VariantNFT {
			list = nftTables
		}
		names, err := list(t.family)
		if err != nil || slices.ContainsFunc(names, isTableOfIPTables) {
			return true, err
		}
	}
	return false, nil
}

func isTableOfIPTables(name string) bool {
	return name == "raw" || name == "security" || slices.Contains(iptablesTables, name)
}

// legacyTables lists the tables that legacy iptables has. To ask iptables about one that there is not would make it.
func legacyTables(f family) ([]string, error) {
	file := "/proc/self/net/ip_tables_names"
	if f == family6 {
		file = "/proc/self/net/ip6_tables_names"
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the kernel does not have it
	}
	if err != nil {
		return nil, fmt.Errorf("list %s tables: %w", f, err)
	}
	return strings.Fields(string(b)), nil
}

// nftTables lists the tables of nf_tables, whoever made them.
func nftTables(f family) ([]string, error) {
	n, err := dialNFT()
	if isNoNFT(err) {
		return nil, nil // the kernel does not even have nfnetlink
	}
	if err != nil {
		return nil, err
	}
	list, err := n.tables(nfprotoOf(f))
	if isNoNFT(err) {
		err = nil
	}
	names := make([]string, len(list))
	for i, t := range list {
		names[i] = t.Name
	}
	return names, errors.Join(err, n.close())
}

// usage is what one variant holds on the host.
type usage struct {
	ours     bool     // our chains
	rules    int      // others' rules and policies that are not the default
	refusing []string // others' rules in the way of packets that we accept for good
}

func readUsage(ctx context.Context, prefix string, all []tools) (usage, error) {
	var u usage
	for _, t := range all {
		now, err := t.read(ctx)
		if err != nil {
			return u, err
		}
		u.ours = u.ours || now.present(prefix)
		u.add(now, prefix, t.family)
	}
	return u, nil
}

func (u *usage) add(now saved, prefix string, f family) {
	for name, t := range now {
		for _, c := range t.chains {
			policy := t.policies[c]
			if policy != "-" && policy != "ACCEPT" {
				u.rules++
			}
			if !isOurs(prefix, c) {
				u.rules += len(t.rules[c])
			}
		}
		for _, hook := range []string{"OUTPUT", "INPUT"} {
			if t.policies[hook] == "DROP" {
				u.refusing = append(u.refusing, fmt.Sprintf("%s %s: policy of %s is DROP", f, name, hook))
			}
			for _, rule := range t.refusals(hook, prefix, nil) {
				u.refusing = append(u.refusing, fmt.Sprintf("%s %s: %s", f, name, rule))
			}
		}
	}
}

// refusals returns rules that can be reached from a chain and end a packet or hand it to somebody else.
func (t *savedTable) refusals(name, prefix string, seen []string) []string {
	if slices.Contains(seen, name) || isOurs(prefix, name) {
		return nil
	}
	var found []string
	for _, rule := range t.rules[name] {
		for _, target := range []string{"DROP", "REJECT", "NFQUEUE"} {
			if leadsTo(rule, target) {
				found = append(found, "-A "+name+" "+rule)
			}
		}
		for next := range t.rules {
			if leadsTo(rule, next) {
				found = append(found, t.refusals(next, prefix, append(seen, name))...)
			}
		}
	}
	return found
}

// pickVariant chooses where our rules are, then where others' are, then what the program iptables is.
func pickVariant(use map[Variant]usage, program Variant) Variant {
	nft, hasNFT := use[VariantNFT]
	legacy, hasLegacy := use[VariantLegacy]
	switch {
	case !hasLegacy:
		return VariantNFT
	case !hasNFT:
		return VariantLegacy
	case nft.ours != legacy.ours:
		if nft.ours {
			return VariantNFT
		}
		return VariantLegacy
	case (nft.rules > 0) != (legacy.rules > 0):
		if nft.rules > 0 {
			return VariantNFT
		}
		return VariantLegacy
	case program == VariantLegacy:
		return VariantLegacy
	}
	return VariantNFT
}

// checkMix refuses a host on which the other variant refuses packets: ours cannot overrule it. Somebody who chose the variant
// knows, and is warned.
func checkMix(cfg HostConfig, v, other Variant, u usage) error {
	if u.ours {
		return &HostError{
			Kind: ErrMixedVariants, What: "our chains are in the " + other.String() + " variant too",
			Remedy: "run Cleanup (refd cleanup) with that variant first",
		}
	}
	if len(u.refusing) == 0 {
		return nil
	}
	what := fmt.Sprintf("rules of the %v variant refuse packets whatever is decided in the %v variant, such as %q", other, v, u.refusing[0])
	if cfg.Variant != VariantAuto {
		cfg.Logger.Warn("mixed iptables variants", "detail", what, "rules", len(u.refusing))
		return nil
	}
	return &HostError{
		Kind: ErrMixedVariants, What: what,
		Remedy: "move all rules to one variant (update-alternatives --config iptables), or choose the variant in the configuration",
	}
}
