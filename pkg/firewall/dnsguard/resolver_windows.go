package dnsguard

import (
	"slices"
	"strings"

	"github.com/weirfw/weir/pkg/conn"
)

func isSystemResolver(p *conn.Process) bool { return isService(p) }

// isService goes by what the service manager says: the services of a process are not its own word.
func isService(p *conn.Process) bool {
	return slices.ContainsFunc(p.Services, func(s string) bool { return strings.EqualFold(s, "Dnscache") })
}
