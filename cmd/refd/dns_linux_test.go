package main

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/verdict"
)

func (f *fake) DNSQuery(_ context.Context, r api.DNSQueryRequest) (api.DNSAnswer, error) {
	f.asked = append(f.asked, "query "+r.Name+" "+r.Type+" "+r.Path)
	return api.DNSAnswer{
		Name: r.Name, Type: r.Type, RCode: "NOERROR", CNAMEs: []string{"b.test"}, Addresses: []string{"2001:db8::1"}, TTL: time.Minute,
		Source: "upstream", Upstream: "tls://9.9.9.9",
		Decision: verdict.Decision{Verdict: verdict.Block, Reason: verdict.Reason{Rule: "no-b", Text: "not b"}},
	}, nil
}

func (f *fake) SelfCheck(context.Context) ([]api.CheckResult, error) {
	list := []api.CheckResult{{ID: "interception", Result: api.CheckPassed, Took: time.Millisecond}}
	if len(f.asked) > 0 {
		list = append(list, api.CheckResult{ID: "monitor", Result: api.CheckFailed, Message: "not heard", Remedy: "Mend it."})
	}
	return list, nil
}

func TestDNSQuery(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "dns", "query", "a.test", "AAAA", "--app", "/usr/bin/dig")
	require.NoError(t, err)
	assert.Equal(t, []string{"query a.test AAAA /usr/bin/dig"}, f.asked)
	for _, want := range []string{"b.test 2001:db8::1", "upstream (tls://9.9.9.9)", "1m0s", "would be blocked: rule no-b: not b"} {
		assert.Contains(t, out, want)
	}
	out, _, err = runCLI(t, socket, "dns", "query", "a.test", "--json")
	require.NoError(t, err)
	assert.Contains(t, out, `"upstream": "tls://9.9.9.9"`)
	assert.Equal(t, "query a.test A ", f.asked[1])
}

func TestSelfcheck(t *testing.T) {
	f := &fake{}
	socket := serve(t, f)
	out, _, err := runCLI(t, socket, "selfcheck")
	require.NoError(t, err)
	assert.Regexp(t, `interception +passed +1ms`, out)
	f.asked = []string{"something"}
	out, _, err = runCLI(t, socket, "selfcheck")
	require.ErrorIs(t, err, statusError(1))
	assert.Contains(t, out, "not heard. Mend it.")
	out, _, err = runCLI(t, socket, "selfcheck", "--json")
	require.ErrorIs(t, err, statusError(1))
	assert.Contains(t, out, `"result": "failed"`)
}

func TestQueries(t *testing.T) {
	query := func(q conn.Query) conn.Snapshot {
		return conn.Snapshot{Domain: "a.test", Enforced: true, Query: &q, Decision: verdict.Decision{Verdict: verdict.Accept}}
	}
	f := &fake{page: connstore.Page{Sums: connstore.Sums{Total: 4}, Connections: []conn.Snapshot{
		query(conn.Query{Type: "AAAA", RCode: "NOERROR", Source: "cache", Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}),
		query(conn.Query{Type: "A", RCode: "NXDOMAIN", Source: "upstream"}), query(conn.Query{Type: "MX", Error: "no answer"}), query(conn.Query{Type: "TXT"}),
	}}}
	out, _, err := runCLI(t, serve(t, f), "conns", "--queries")
	require.NoError(t, err)
	assert.Equal(t, connstore.OnlyQueries, f.query.Kind)
	for _, want := range []string{"a.test AAAA", "; cache: 2001:db8::1", "; upstream: NXDOMAIN", "; no answer", "a.test TXT"} {
		assert.Contains(t, out, want)
	}
}
