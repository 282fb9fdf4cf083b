// Package metrics shows the figures of refd to Prometheus.
package metrics

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/verdict"
)

// Figures are what is measured at one time.
type Figures struct {
	Version  string
	Started  time.Time
	Firewall firewall.Stats
	Times    firewall.Times
	// Live is how many connections live.
	Live int
	// Source has the figures of the packet backend.
	Source Source
	// Attribution counts processes by the method that found them, Unattributed connections by why theirs was not found.
	Attribution  map[string]uint64
	Unattributed map[string]uint64
	// Split is nil without a split tunnel.
	Split *Split
	// States are the severities of what people should know now.
	States []string
}

// Source has what packet backends have in common.
type Source struct {
	Packets, Verdicts uint64
	// Drops are packets lost on the way, by where.
	Drops map[string]uint64
}

// Split has the figures of the split tunnel.
type Split struct {
	Took, Refused uint64
	// Sessions is how many split connections live.
	Sessions int
}

// Handler serves what read returns.
func Handler(read func() Figures) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(read), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// collector turns Figures into metrics.
type collector struct {
	read func() Figures
	desc map[string]*prometheus.Desc
}

// described are the metrics: help, and the names of labels.
//
//nolint:gochecknoglobals // a table that nobody writes
var described = map[string][]string{
	"build_info":                   {"What runs.", "version"},
	"start_time_seconds":           {"When refd started, in seconds of the Unix epoch."},
	"verdicts_total":               {"Decisions about connections, re-evaluations included; kind says what became of them: accepted (reroutes included), refused or undecided.", "verdict", "kind"},
	"connections_live":             {"Connections that live."},
	"connections_waiting":          {"Connections that wait for a handler, a name or a person."},
	"first_packet_latency_seconds": {"Time from when user space got the first packet of a connection to its verdict."},
	"decision_seconds":             {"The part of it that deciding took."},
	"received_bytes_total":         {"Bytes that connections received, as far as the kernel has told of them."},
	"sent_bytes_total":             {"Bytes that connections sent, as far as the kernel has told of them."},
	"packets_total":                {"Packets that user space got."},
	"packet_verdicts_total":        {"Verdicts that were issued for them."},
	"queue_drops_total":            {"Packets that were dropped because something was full, by what was.", "where"},
	"processes_found_total":        {"Processes of connections that were found, by method.", "method"},
	"processes_unknown_total":      {"Connections whose process was not found, by reason.", "reason"},
	"handler_late_total":           {"Connections decided without the external handler, because it was too slow."},
	"apply_errors_total":           {"Packets whose verdict could not be issued any more."},
	"split_tunnel_sessions":        {"Split connections that live."},
	"split_tunnel_decisions_total": {"Decisions for the split tunnel, by how they ended.", "result"},
	"states":                       {"What people should know now, by severity.", "severity"},
}

func newCollector(read func() Figures) *collector {
	c := &collector{read: read, desc: map[string]*prometheus.Desc{}}
	for name, d := range described {
		c.desc[name] = prometheus.NewDesc("weir_"+name, d[0], d[1:], nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.desc {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	f := c.read()
	counter := func(name string, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.desc[name], prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.desc[name], prometheus.GaugeValue, v, labels...)
	}
	gauge("build_info", 1, f.Version)
	gauge("start_time_seconds", float64(f.Started.UnixMilli())/1000)
	for v, n := range f.Firewall.Verdicts {
		counter("verdicts_total", n, verdict.Verdict(v).String(), kindOf(verdict.Verdict(v)))
	}
	gauge("connections_live", float64(f.Live))
	gauge("connections_waiting", float64(f.Firewall.Waiting))
	c.histogram(ch, "first_packet_latency_seconds", &f.Times.FirstPacket)
	c.histogram(ch, "decision_seconds", &f.Times.Decision)
	counter("received_bytes_total", f.Firewall.ReceivedBytes)
	counter("sent_bytes_total", f.Firewall.SentBytes)
	counter("packets_total", f.Source.Packets)
	counter("packet_verdicts_total", f.Source.Verdicts)
	counter("queue_drops_total", f.Firewall.QueueFull, "connection")
	counter("queue_drops_total", f.Firewall.Overload, "firewall")
	for where, n := range f.Source.Drops {
		counter("queue_drops_total", n, where)
	}
	for method, n := range f.Attribution {
		counter("processes_found_total", n, method)
	}
	for reason, n := range f.Unattributed {
		counter("processes_unknown_total", n, reason)
	}
	counter("handler_late_total", f.Firewall.HandlerLate)
	counter("apply_errors_total", f.Firewall.ApplyErrors)
	if f.Split != nil {
		gauge("split_tunnel_sessions", float64(f.Split.Sessions))
		counter("split_tunnel_decisions_total", f.Split.Took, "split")
		counter("split_tunnel_decisions_total", f.Split.Refused, "failed")
	}
	for _, severity := range []string{"hint", "warning", "error"} {
		gauge("states", float64(strings.Count(strings.Join(f.States, " "), severity)), severity)
	}
}

// histogram shows a histogram as it was counted.
func (c *collector) histogram(ch chan<- prometheus.Metric, name string, h *firewall.Histogram) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	sum := uint64(0)
	for i, n := range h.Counts {
		sum += n
		if i < len(h.Bounds) {
			buckets[h.Bounds[i].Seconds()] = sum
		}
	}
	ch <- prometheus.MustNewConstHistogram(c.desc[name], sum, h.Sum.Seconds(), buckets)
}

// kindOf says what a verdict means for a connection: what is rerouted gets somewhere, and is accepted.
func kindOf(v verdict.Verdict) string {
	switch {
	case v.Allows():
		return "accepted"
	case v.Refuses():
		return "refused"
	}
	return "undecided"
}
