package refd

import (
	"net/netip"
	"os"
	"strings"
)

// resolversIn returns the nameservers that each of these files names (resolv.conf(5)).
func resolversIn(paths ...string) (sources [][]netip.Addr) {
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // not every system has each
		}
		var list []netip.Addr
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "nameserver" {
				continue
			}
			if a, err := netip.ParseAddr(f[1]); err == nil {
				list = append(list, a)
			}
		}
		sources = append(sources, list)
	}
	return sources
}
