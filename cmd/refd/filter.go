package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// filterFlags select connections.
type filterFlags struct {
	Text      string   `help:"Only with this in app, domain, rule or remote address."`
	App       string   `help:"Only apps whose path contains this."`
	PID       int      `name:"pid" help:"Only this process."`
	Domain    string   `help:"Only domains that contain this."`
	Verdict   []string `help:"Only these verdicts, such as Accept, Block, or split-tunneled."`
	Remote    string   `help:"Only remote addresses in this network, such as 10.0.0.0/8."`
	Port      uint16   `help:"Only connections with this port."`
	Protocol  []string `help:"Only these protocols, such as tcp."`
	Direction string   `enum:"in,out," default:"" help:"Only in or out."`
	Rule      string   `help:"Only what this rule decided."`
	Without   []string `help:"Not what was decided for one of these reasons, such as own-service: what is between this host and refd itself."`
	Since     string   `help:"Only what started since then: a time, or how long ago, such as 2h."`
	Until     string   `help:"Only what started before."`
	By        string   `enum:"app,domain,address,port,verdict,protocol,direction,rule,interface," default:"" help:"Count connections that have this in common: app, domain, address, port, verdict, protocol, direction, rule or interface."`
	Every     string   `help:"Count connections by time, in steps such as 1h."`
	Order     string   `enum:"newest,oldest,most-bytes,last-seen,most-connections," default:"" help:"newest, oldest, most-bytes, last-seen or, with --by, most-connections."`
	Offset    int      `help:"Leave out so many first."`
}

// query is what the flags say.
func (f *filterFlags) query() (q connstore.Query, err error) {
	q = connstore.Query{Text: f.Text, App: f.App, PID: f.PID, Domain: f.Domain, Port: f.Port, Rule: f.Rule, Offset: f.Offset}
	for _, name := range f.Verdict {
		v, err := parseVerdict(name)
		if err != nil {
			return q, fmt.Errorf("--verdict: %w", err)
		}
		q.Verdicts = append(q.Verdicts, v)
	}
	for _, code := range f.Without {
		q.Without = append(q.Without, verdict.Code(code))
	}
	for _, name := range f.Protocol {
		var p packet.Protocol
		if err := p.UnmarshalText([]byte(strings.ToLower(name))); err != nil {
			return q, fmt.Errorf("--protocol: %w", err)
		}
		q.Protocols = append(q.Protocols, p)
	}
	if q.Remote, err = parseNetwork(f.Remote); err != nil {
		return q, err
	}
	switch f.Direction {
	case "in":
		q.Direction = connstore.OnlyInbound
	case "out":
		q.Direction = connstore.OnlyOutbound
	}
	if err := f.moments(&q, time.Now()); err != nil {
		return q, err
	}
	return q, f.shape(&q)
}

// shape is about what the answer looks like.
func (f *filterFlags) shape(q *connstore.Query) error {
	order := f.Order
	if f.By != "" {
		if err := q.GroupBy.UnmarshalText([]byte(f.By)); err != nil {
			return fmt.Errorf("--by: %w", err)
		}
		order = cmp.Or(order, connstore.MostConnectionsFirst.String())
	}
	if order != "" {
		if err := q.Order.UnmarshalText([]byte(order)); err != nil {
			return fmt.Errorf("--order: %w", err)
		}
	}
	if f.Every != "" {
		every, err := time.ParseDuration(f.Every)
		if err != nil {
			return fmt.Errorf("--every %q: write a duration such as 1h", f.Every)
		}
		q.Every = every
	}
	if err := q.Validate(); err != nil {
		return fmt.Errorf("what is asked for: %w", err)
	}
	return nil
}

func (f *filterFlags) moments(q *connstore.Query, now time.Time) (err error) {
	if q.Since, err = parseMoment(f.Since, now); err != nil {
		return fmt.Errorf("--since %w", err)
	}
	if q.Until, err = parseMoment(f.Until, now); err != nil {
		return fmt.Errorf("--until %w", err)
	}
	return nil
}

// parseMoment takes a time in a common form, or how long before now it was. Empty is no time.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: write a time such as %q, or how long ago, such as 2h", text, now.Format("2006-01-02 15:04"))
}

// parseNetwork takes a network or one address. Empty is none.
func parseNetwork(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--remote %q: write an address or a network such as 10.0.0.0/8", text)
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

func groupRows(groups []connstore.Group) [][]string {
	rows := [][]string{{"CONNECTIONS", "ALLOWED", "REFUSED", "RECEIVED", "SENT", "LAST", "WHAT"}}
	for i := range groups {
		g := &groups[i]
		rows = append(rows, []string{
			fmt.Sprint(g.Total), fmt.Sprint(g.Allowed()), fmt.Sprint(g.Refused()), bytesText(g.ReceivedBytes), bytesText(g.SentBytes),
			g.Last.Local().Format(time.DateTime), cmp.Or(g.Key, "?"),
		})
	}
	return rows
}

func seriesRows(points []connstore.Point) [][]string {
	rows := [][]string{{"FROM", "CONNECTIONS", "ALLOWED", "REFUSED", "RECEIVED", "SENT"}}
	for i := range points {
		p := &points[i]
		rows = append(rows, []string{
			p.Start.Local().Format(time.DateTime), fmt.Sprint(p.Total), fmt.Sprint(p.Allowed()), fmt.Sprint(p.Refused()),
			bytesText(p.ReceivedBytes), bytesText(p.SentBytes),
		})
	}
	return rows
}

// bytesText writes a number of bytes with a unit of 1024.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1024, 0
	for v >= 1024 && unit < len(units)-1 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[unit])
}
