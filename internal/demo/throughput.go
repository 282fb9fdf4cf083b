package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
)

// speed is what iperf3 measured.
type speed struct {
	bytes, seconds, bits float64 // bits per second
}

// parseIperf reads the output of iperf3 --json.
func parseIperf(r result) (speed, error) {
	var report struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				Seconds       float64 `json:"seconds"`
				Bytes         float64 `json:"bytes"`
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(r.output), &report); err != nil {
		return speed{}, fmt.Errorf("iperf3: %w: %s", err, r.output)
	}
	got := report.End.Received
	if report.Error != "" || r.exit != 0 {
		return speed{}, fmt.Errorf("iperf3: exit %d: %s", r.exit, report.Error)
	}
	return speed{got.Bytes, got.Seconds, got.BitsPerSecond}, nil
}

// throughput has iperf3 send as much as it can.
func (p *play) throughput(how string) speed {
	p.check()
	done := p.out.working("iperf3 measures: " + how)
	defer done()
	r := runProgram(p.ctx, p.net.client,
		[]string{"iperf3", "--client", "web.demo", "--port", strconv.Itoa(iperfPort), "--time", "1", "--json"})
	p.check()
	v, err := parseIperf(r)
	if err != nil {
		p.s.Fatalf("%v", err)
	}
	return v
}

// way is a way to carry packets, and what it came to.
type way struct {
	name    string
	prepare func()
	best    speed
	packets uint64 // that refd saw, of the best
}

// measure compares the throughput of one TCP connection with and without refd. Each way has two turns and the better one
// counts: what else the machine does meanwhile is not our matter.
func (p *play) measure() {
	const turns = 2
	p.out.title("Throughput: iperf3, one TCP connection, the better of two")
	ways := []*way{
		{name: "no firewall", prepare: func() {}},
		{name: "refd, permanent verdicts", prepare: func() { p.restart("permanent_verdicts: true") }},
		{name: "refd, asked about every packet", prepare: func() { p.restart("permanent_verdicts: false") }},
	}
	for range turns {
		for _, w := range ways {
			p.refd.stop()
			w.prepare()
			p.turn(w)
		}
	}
	for _, w := range ways {
		p.speedRow(w, ways[0].best)
	}
}

func (p *play) restart(setting string) {
	p.refd.configure(curlMayBrowse, setting)
	p.refd.start(p.ctx)
}

// turn measures one way once.
func (p *play) turn(w *way) {
	began := time.Now()
	v := p.throughput(w.name)
	if v.bits < w.best.bits {
		return
	}
	w.best = v
	if p.refd.proc != nil {
		w.packets = p.packets(began)
	}
}

func (p *play) speedRow(w *way, bare speed) {
	const giga, percent = 1e9, 100
	seen := ""
	if w.packets > 0 {
		seen = fmt.Sprintf("refd saw %d packets", w.packets)
	}
	p.out.row([]column{1, 30, 13, 6, 0}, cell{}, cell{w.name, plain}, cell{fmt.Sprintf("%.1f Gbit/s", w.best.bits/giga), bold},
		cell{fmt.Sprintf("%.0f %%", percent*w.best.bits/bare.bits), plain}, cell{seen, dim})
}

// packets says how many packets of iperf3's connections refd saw.
func (p *play) packets(since time.Time) uint64 {
	page, err := p.refd.client.Connections(p.ctx, connstore.Query{Port: iperfPort, Since: since})
	if err != nil {
		p.s.Fatalf("refd conns: %v", err)
	}
	n := uint64(0)
	for i := range page.Connections {
		n += page.Connections[i].Packets
	}
	return n
}
