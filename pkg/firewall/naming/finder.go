package naming

import (
	"context"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/names"
	"github.com/weirfw/weir/pkg/packet"
)

// Finder finds the names of outbound connections in a table. It is a firewall.NameFinder.
type Finder struct {
	// Table is required.
	Table *names.Table
}

var _ firewall.NameFinder = (*Finder)(nil)

// FindName implements firewall.NameFinder. Who connects to this host was not looked up by it.
func (f *Finder) FindName(ctx context.Context, s *conn.Snapshot, wait time.Duration) (firewall.Name, bool) {
	if s.Direction != packet.Outbound {
		return firewall.Name{}, false
	}
	e, ok := f.Table.Wait(ctx, s.Tuple.Remote.Addr(), AskerOf(s.Process), wait)
	n := firewall.Name{Domain: e.Domain, CNAMEs: e.CNAMEs}
	if e.Asker == (names.Asker{}) {
		n.LookedUp = e.Seen
	}
	return n, ok
}

// AskerOf returns a process as a names.Table knows it; nobody in particular if it is not known.
func AskerOf(p *conn.Process) names.Asker {
	if p == nil || p.PID <= 0 {
		return names.Asker{}
	}
	return names.Asker{PID: p.PID, Start: p.StartTicks}
}
