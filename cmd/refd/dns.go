package main

import (
	"slices"
	"strings"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
)

type dnsCmd struct {
	Query dnsQueryCmd `cmd:"" help:"Ask refd's nameserver for a name, and say what it would do with such a query of a program."`
	Cache dnsCacheCmd `cmd:"" help:"List the answers that refd's nameserver keeps."`
	Flush dnsFlushCmd `cmd:"" help:"Forget them."`
}

type dnsQueryCmd struct {
	Name string `arg:"" help:"The domain name."`
	Type string `arg:"" optional:"" default:"A" help:"Type of the records, such as AAAA, HTTPS or TYPE65."`
	App  string `help:"Path of the program whose rules count. Without it, those for all count."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Run asks.
func (c *dnsQueryCmd) Run(a *app) error {
	r, err := a.client().DNSQuery(a.ctx, api.DNSQueryRequest{Name: c.Name, Type: c.Type, Path: c.App})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, r)
	}
	from := r.Source
	if r.Upstream != "" {
		from += " (" + r.Upstream + ")"
	}
	rows := [][]string{
		{"name", printable(r.Name)},
		{"type", r.Type},
		{"answer", printable(answerText(api.DNSEntry{RCode: r.RCode, CNAMEs: append(slices.Clone(r.CNAMEs), r.Targets...), Addresses: r.Addresses}))},
		{"from", printable(from)},
		{"keep", r.TTL.Round(time.Second).String()},
		{"a program", "would be " + r.Decision.Verdict.Verb() + ": " + printable(why(r.Decision.Reason))},
	}
	return table(a.stdout, rows)
}

type dnsCacheCmd struct {
	Domain string `arg:"" optional:"" help:"Only this name and those below it."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Run lists the cache.
func (c *dnsCacheCmd) Run(a *app) error {
	list, err := a.client().DNSCache(a.ctx, c.Domain)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, list)
	}
	rows := [][]string{{"NAME", "TYPE", "LEFT", "ANSWER"}}
	for _, e := range list {
		rows = append(rows, []string{printable(e.Name), e.Type, e.Left.Round(time.Second).String(), printable(answerText(e))})
	}
	return table(a.stdout, rows)
}

// answerText is what a name leads to, aliases first.
func answerText(e api.DNSEntry) string {
	if len(e.CNAMEs)+len(e.Addresses) == 0 {
		return e.RCode
	}
	return strings.Join(append(append([]string{}, e.CNAMEs...), e.Addresses...), " ")
}

type dnsFlushCmd struct {
	Domain string `arg:"" optional:"" help:"Only this name and those below it."`
	JSON   bool   `name:"json" help:"Print JSON."`
}

// Run empties the cache.
func (c *dnsFlushCmd) Run(a *app) error {
	r, err := a.client().DNSFlush(a.ctx, c.Domain)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, r)
	}
	return a.say("forgot %s\n", count(r.Answers, "answer"))
}
