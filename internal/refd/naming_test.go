package refd

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/names"
)

func TestResolveRemote(t *testing.T) {
	table, err := names.New(names.Config{})
	if err != nil {
		t.Fatal(err)
	}
	n := &namingParts{table: table}
	n.heard(dnsmon.Answer{Asked: []string{"alias.test"}, Records: []dnsmon.Record{
		{Name: "alias.test", Target: "node.test"}, {Name: "node.test", Addr: netip.MustParseAddr("2001:db8::1")},
	}}, names.Asker{})
	unknown := func(context.Context, string) (netip.Addr, []string, error) {
		return netip.Addr{}, nil, errUnknownDomain
	}
	for _, tt := range []struct {
		remote, domain         string
		wantRemote, wantDomain string
		wantCNAMEs             []string
	}{
		{"192.0.2.1", "", "192.0.2.1", "", nil},
		{"192.0.2.1:443", "x.test", "192.0.2.1:443", "x.test", nil},
		{"[2001:db8::9]:443", "", "[2001:db8::9]:443", "", nil},
		{"2001:db8::9", "", "2001:db8::9", "", nil},
		{"nonsense", "", "nonsense", "", nil},
		{"Alias.Test.", "", "2001:db8::1", "alias.test", []string{"node.test"}},
		{"alias.test:443", "other.test", "[2001:db8::1]:443", "other.test", []string{"node.test"}},
	} {
		r := api.ExplainRequest{Remote: tt.remote, Domain: tt.domain}
		cnames, err := resolveRemote(t.Context(), &r, n.lookUp, unknown)
		if err != nil || r.Remote != tt.wantRemote || r.Domain != tt.wantDomain || !slices.Equal(cnames, tt.wantCNAMEs) {
			t.Errorf("%s: got %s, %s, %v, %v; want %+v", tt.remote, r.Remote, r.Domain, cnames, err, tt)
		}
	}
	r := api.ExplainRequest{Remote: "unknown.test:1"}
	if _, err := resolveRemote(t.Context(), &r, n.lookUp, unknown); !errors.Is(err, api.ErrRefused) || !errors.Is(err, errUnknownDomain) {
		t.Errorf("got %v; want both errors", err)
	}
	if f := n.figures(); f == nil || f.Addresses != 1 {
		t.Errorf("got %+v; want one address", f)
	}
}
