package metrics_test

import (
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/weirfw/weir/internal/refd/metrics"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/verdict"
)

func figures() metrics.Figures {
	f := metrics.Figures{
		Version: "v1", Started: time.Unix(1_700_000_000, 0), Live: 7, Source: metrics.Source{Packets: 100, Drops: map[string]uint64{"kernel-queue": 3}},
		Attribution: map[string]uint64{"ebpf": 5}, Unattributed: map[string]uint64{"gone": 1}, Split: &metrics.Split{Took: 4, Sessions: 2}, States: []string{"warning"},
		Times: firewall.Times{
			FirstPacket: firewall.Histogram{Bounds: []time.Duration{time.Millisecond, time.Second}, Counts: []uint64{2, 1, 1}, Sum: 3 * time.Second},
			Decision:    firewall.Histogram{Bounds: []time.Duration{time.Millisecond}, Counts: []uint64{2, 0}},
		},
	}
	f.Firewall.Verdicts[verdict.RerouteToSplitTun] = 9
	f.Firewall.Verdicts[verdict.Block] = 2
	f.Firewall.ReceivedBytes = 1234
	return f
}

func scrape(t *testing.T) string {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler(figures).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	assert.Equal(t, 200, w.Code)
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	text := scrape(t)
	for _, line := range []string{
		`weir_verdicts_total{kind="accepted",verdict="RerouteToSplitTun"} 9`,
		`weir_verdicts_total{kind="refused",verdict="Block"} 2`,
		`weir_verdicts_total{kind="undecided",verdict="Undecided"} 0`,
		`weir_first_packet_latency_seconds_bucket{le="0.001"} 2`,
		`weir_first_packet_latency_seconds_bucket{le="1"} 3`,
		`weir_first_packet_latency_seconds_bucket{le="+Inf"} 4`,
		`weir_first_packet_latency_seconds_sum 3`,
		`weir_queue_drops_total{where="kernel-queue"} 3`,
		`weir_processes_found_total{method="ebpf"} 5`,
		`weir_received_bytes_total 1234`,
		`weir_split_tunnel_sessions 2`,
		`weir_connections_live 7`,
		`weir_states{severity="warning"} 1`,
	} {
		assert.Contains(t, text, line+"\n")
	}
}

// What Prometheus' own checker says about names, help and types.
func TestPromtool(t *testing.T) {
	testutil.RequireTool(t, "promtool")
	cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t))
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err, "%s", out)
	assert.Empty(t, string(out))
}
