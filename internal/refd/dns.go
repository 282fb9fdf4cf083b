package refd

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/appid"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/verdict"
)

// enabled returns our nameserver, or says that there is none.
func (n *nameserverParts) enabled() (*nameserver.Server, error) {
	if !n.server.Enabled() {
		return nil, fmt.Errorf("%w: refd has no nameserver: write servers to dns.nameserver.upstreams, and `refd reload`", api.ErrRefused)
	}
	return n.server, nil
}

// DNSCache implements api.Backend.
func (b backend) DNSCache(_ context.Context, r api.DNSRequest) ([]api.DNSEntry, error) {
	server, err := b.d.nameserver.enabled()
	if err != nil {
		return nil, err
	}
	domain := dnsmon.CanonicalName(r.Domain)
	list := []api.DNSEntry{}
	for _, e := range server.Cache() {
		if domain == "" || e.Name == domain || strings.HasSuffix(e.Name, "."+domain) {
			list = append(list, entryOf(&e))
		}
	}
	return list, nil
}

func entryOf(e *nameserver.CacheEntry) api.DNSEntry {
	entry := api.DNSEntry{Name: e.Name, Type: e.Type.String(), RCode: dnsmon.RCodeName(e.Answer.RCode), CNAMEs: e.Answer.CNAMEs, Left: e.Left}
	for _, a := range e.Answer.Addrs {
		entry.Addresses = append(entry.Addresses, a.String())
	}
	return entry
}

// DNSFlush implements api.Backend.
func (b backend) DNSFlush(_ context.Context, r api.DNSRequest) (api.DNSFlushed, error) {
	server, err := b.d.nameserver.enabled()
	if err != nil {
		return api.DNSFlushed{}, err
	}
	if r.Domain == "" {
		return api.DNSFlushed{Answers: server.Flush()}, nil
	}
	n, err := server.FlushDomain(r.Domain)
	if err != nil {
		return api.DNSFlushed{}, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return api.DNSFlushed{Answers: n}, nil
}

// DNSQuery implements api.Backend: it asks as a program with that path would, but whatever is decided about it.
func (b backend) DNSQuery(ctx context.Context, r api.DNSQueryRequest) (api.DNSAnswer, error) {
	n := &b.d.nameserver
	server, err := n.enabled()
	if err != nil {
		return api.DNSAnswer{}, err
	}
	kind, err := nameserver.ParseType(cmp.Or(r.Type, "A"))
	if err != nil {
		return api.DNSAnswer{}, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	name := dnsmon.CanonicalName(r.Name)
	reply, err := server.Lookup(ctx, r.Name, kind)
	if err != nil {
		return api.DNSAnswer{}, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	a := reply.Answer
	answer := api.DNSAnswer{
		Name: name, Type: kind.String(), RCode: dnsmon.RCodeName(a.RCode), CNAMEs: a.CNAMEs, Targets: a.Targets, TTL: reply.TTL,
		Source: reply.Source.String(), Upstream: a.Upstream,
	}
	for _, addr := range a.Addrs {
		answer.Addresses = append(answer.Addresses, addr.String())
	}
	answer.Decision = n.queries.preview(nameserver.Query{Name: name, Type: kind}, r.Path, a)
	return answer, nil
}

// preview says what would be decided about a query of a program, without counting anything.
func (d *queries) preview(q nameserver.Query, path string, a *nameserver.Answer) verdict.Decision {
	who := &asker{}
	if path != "" {
		who.process = d.processAt(path)
	}
	for _, answer := range []*nameserver.Answer{nil, a} {
		s := snapshotOf(&q, who, answer)
		if o := d.guard.DecideName(s.Process, s.Domain, s.CNAMEs); o.Decided {
			return o.Decision
		}
		if o, refused := d.rules.Load().RefusedName(s, answer != nil); refused {
			return o.Decision
		}
	}
	return notRefused(nil)
}

// processAt returns a process of the program at a path: one that has connections if possible, whose unit and user are known then.
func (d *queries) processAt(path string) *conn.Process {
	if d.known != nil {
		if p := d.known(path); p != nil {
			return p
		}
	}
	p := &conn.Process{PID: -1, Path: path}
	p.App = new(appid.Identifier).Of(p, nil)
	return p
}

// processOf returns the process that has the newest live connection of those that run an executable; nil if there is none.
func (d *Daemon) processOf(path string) *conn.Process {
	var newest *conn.Snapshot
	d.store.Range(func(c *conn.Conn) bool {
		s := c.State()
		if s.Live() && s.Process != nil && s.Process.Executable() == path && (newest == nil || s.Started.After(newest.Started)) {
			newest = s
		}
		return true
	})
	if newest == nil {
		return nil
	}
	return newest.Process
}
