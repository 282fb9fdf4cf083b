package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

func TestFilterFlags(t *testing.T) {
	f := filterFlags{
		Text: "x", App: "a", PID: 7, Domain: "d", Verdict: []string{"split-tunneled", "Split Tunneled", "DROP", "3"}, Remote: "10.0.0.1", Port: 5,
		Protocol: []string{"TCP"}, Direction: "in", Rule: "r", Since: "2h", Until: "2026-01-02", By: "app", Every: "1h", Offset: 3,
	}
	q, err := f.query()
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now().Add(-2*time.Hour), q.Since, time.Minute)
	assert.Equal(t, time.Date(2026, 1, 2, 0, 0, 0, 0, time.Local), q.Until)
	q.Since, q.Until = time.Time{}, time.Time{}
	assert.Equal(t, connstore.Query{
		Text: "x", App: "a", PID: 7, Domain: "d", Port: 5, Rule: "r", Offset: 3, Remote: netip.MustParsePrefix("10.0.0.1/32"),
		Verdicts:  []verdict.Verdict{verdict.RerouteToSplitTun, verdict.RerouteToSplitTun, verdict.Drop, verdict.Block},
		Protocols: []packet.Protocol{packet.TCP}, Direction: connstore.OnlyInbound,
		GroupBy: connstore.ByApp, Order: connstore.MostConnectionsFirst, Every: time.Hour,
	}, q)
	for _, bad := range []filterFlags{
		{Verdict: []string{"no"}}, {Protocol: []string{"no"}}, {Remote: "no"}, {Since: "no"}, {Until: "-2h"}, {Every: "no"}, {Every: "1ms"}, {Order: "most-connections"}, {Offset: -1},
	} {
		if _, err := bad.query(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 20: "5.0 MiB", 1 << 63: "8.0 EiB"} {
		assert.Equal(t, want, bytesText(n))
	}
}
