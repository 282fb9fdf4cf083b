package refd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirfw/weir/internal/refd/config"
)

// Traces are what refds have, or have left, on this host: of whatever configuration, as far as it can be told from other software's.
type Traces struct {
	// Prefixes begin the names of chains in the packet filter, one for each refd.
	Prefixes []string `json:"prefixes,omitempty"`
	// Tables are the routing tables that rules of a split tunnel lead to.
	Tables []uint32 `json:"tables,omitempty"`
	// Files are those that remember what was there before, of one configuration.
	Files []string `json:"files,omitempty"`
	// Services are those of drivers, on Windows.
	Services []string `json:"services,omitempty"`
}

// Of returns the traces that a cleanup with this configuration removes, and those that it leaves.
func (t Traces) Of(cfg *config.File) (own, others Traces) {
	own.Files, own.Services = t.Files, t.Services
	for _, p := range t.Prefixes {
		to := &others
		if p == cfg.Netfilter.ChainPrefix {
			to = &own
		}
		to.Prefixes = append(to.Prefixes, p)
	}
	first := cfg.SplitTunnel.Table
	for _, n := range t.Tables {
		to := &others
		if n >= first && n < first+uint32(cfg.SplitTunnel.Interfaces) {
			to = &own
		}
		to.Tables = append(to.Tables, n)
	}
	return own, others
}

// String names the traces, or is empty.
func (t Traces) String() string {
	var parts []string
	if len(t.Prefixes) > 0 {
		parts = append(parts, "packet filter chains "+strings.Join(t.Prefixes, "-*, ")+"-*")
	}
	if len(t.Tables) > 0 {
		parts = append(parts, "routing rules to "+strings.Trim(fmt.Sprint(t.Tables), "[]"))
	}
	if len(t.Files) > 0 {
		parts = append(parts, strings.Join(t.Files, ", "))
	}
	if len(t.Services) > 0 {
		parts = append(parts, "the service of the driver "+strings.Join(t.Services, ", "))
	}
	return strings.Join(parts, "; ")
}

// chainPrefixes adds the prefixes of refds to those that are known, by what iptables-save printed. A prefix that is asked for counts
// with any of its chains, others with those that every refd has.
func chainPrefixes(known []string, saved, asked string) []string {
	chains := make(map[string][]string) // suffixes by prefix
	for line := range strings.Lines(saved) {
		name, isChain := strings.CutPrefix(line, ":")
		name, _, _ = strings.Cut(name, " ")
		if i := strings.LastIndexByte(name, '-'); isChain && i > 0 {
			chains[name[:i]] = append(chains[name[:i]], name[i+1:])
		}
	}
	for prefix, has := range chains {
		all := slices.Contains(has, "OUT") && slices.Contains(has, "IN") && slices.Contains(has, "V") && slices.Contains(has, "B")
		if (all || prefix == asked) && !slices.Contains(known, prefix) {
			known = append(known, prefix)
		}
	}
	slices.Sort(known)
	return known
}
