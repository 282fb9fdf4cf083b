package refd

import (
	"context"
	"reflect"
	"runtime"
	"strings"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
)

// Report implements api.Backend. It counts connections and names none.
func (b backend) Report(ctx context.Context) (api.Report, error) {
	status, err := b.Status(ctx)
	if err != nil {
		return api.Report{}, err
	}
	page, err := b.Connections(ctx, connstore.Query{Kind: connstore.OnlyConnections, Limit: 1})
	if err != nil {
		return api.Report{}, err
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	r := api.Report{
		Version: status.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, Time: time.Now(),
		Uptime: time.Since(b.d.started).Seconds(), Memory: mem.Sys, Goroutines: runtime.NumGoroutine(),
		Settings: map[string]any{}, ByVerdict: map[string]int{}, ByReason: map[string]int{}, Allowed: page.Allowed(), Refused: page.Refused(),
	}
	r.Undecided = page.Total - r.Allowed - r.Refused
	for v, n := range page.ByVerdict {
		r.ByVerdict[v.String()] = n
	}
	b.d.store.Range(func(c *conn.Conn) bool {
		r.ByReason[string(c.State().Decision.Reason.Code)]++
		return true
	})
	for _, s := range b.d.running().Settings() {
		if reflect.DeepEqual(s.Value, s.Default) {
			continue
		}
		if s.Kind == "text" || s.Kind == "list" {
			s.Value = "(changed)" // a path, an address or a name
		}
		r.Settings[s.Key] = s.Value
	}
	r.Status = redact(status)
	return r, nil
}

// redact takes out of a status what tells about the person who runs refd.
func redact(s api.Status) api.Status {
	s.Config = "(left out)"
	for i := range s.States {
		s.States[i].Message = "(left out)" // it may name programs and addresses
		if kind, _, named := strings.Cut(s.States[i].ID, "/"); named {
			s.States[i].ID = kind + "/(left out)" // a path, or the name of a list
		}
	}
	if s.SplitTunnel != nil {
		split := *s.SplitTunnel
		split.Selections, split.Figures = nil, nil
		s.SplitTunnel = &split
	}
	if s.Nameserver != nil {
		ns := *s.Nameserver
		ns.Addresses, ns.Upstreams = nil, nil
		s.Nameserver = &ns
	}
	s.IVPN = nil
	return s
}
