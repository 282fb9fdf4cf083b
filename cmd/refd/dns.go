package main

import (
	"strings"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
)

type dnsCmd struct {
	Cache dnsCacheCmd `cmd:"" help:"List the answers that refd's nameserver keeps."`
	Flush dnsFlushCmd `cmd:"" help:"Forget them."`
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
}

// Run empties the cache.
func (c *dnsFlushCmd) Run(a *app) error {
	r, err := a.client().DNSFlush(a.ctx, c.Domain)
	if err != nil {
		return err
	}
	return a.say("forgot %s\n", count(r.Answers, "answer"))
}
