package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weirfw/weir/internal/refd"
	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// table prints rows in columns.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, cell := range r {
			cells[i] = printable(cell)
		}
		if _, err := fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t")); err != nil {
			return fmt.Errorf("print table: %w", err)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	return nil
}

// printable replaces what would act on a terminal.
func printable(s string) string { return prompt.Printable(s) }

type statusCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run shows the status.
func (c *statusCmd) Run(a *app) error {
	s, err := a.client().Status(a.ctx)
	if errors.Is(err, api.ErrNotRunning) {
		fmt.Fprintln(a.stderr, "refd:", err)
		return statusError(3)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(a.stdout, s)
	} else {
		err = printStatus(a.stdout, s)
	}
	if err != nil {
		return err
	}
	if code := module.ExitCode([]module.State{{Severity: s.Worst}}); code != 0 {
		return statusError(code)
	}
	return nil
}

func printStatus(w io.Writer, s api.Status) error {
	cfg := s.Config
	if cfg == "" {
		cfg = "(built-in defaults)"
	}
	worst := s.Worst.String()
	for _, st := range s.States {
		if st.Severity == s.Worst {
			worst += ": " + st.Message
			break
		}
	}
	rows := [][]string{
		{"state", worst},
		{"mode", s.Mode},
		{"version", s.Version},
		{"running since", s.Started.Local().Format(time.DateTime) + fmt.Sprintf(" (pid %d)", s.PID)},
		{"configuration", cfg + ", " + count(s.Rules, "rule")},
		{"connections", fmt.Sprintf("%d live; decided: %s", s.Live, verdictCounts(s.Firewall.Verdicts))},
	}
	if s.Attribution != nil {
		rows = append(rows, []string{"attribution", attributionSummary(s.Attribution)})
	}
	if s.Names != nil {
		rows = append(rows, []string{"names", namesSummary(s.Names)})
	}
	if s.Nameserver != nil {
		rows = append(rows, []string{"nameserver", nameserverSummary(s.Nameserver)})
	}
	if s.SplitTunnel != nil && len(s.SplitTunnel.Selections) > 0 {
		rows = append(rows, []string{"split tunnel", splitSummary(s)})
	}
	if s.IVPN != nil && s.IVPN.Phase != ivpn.PhaseAbsent {
		rows = append(rows, []string{"IVPN", vpnSummary(s.IVPN)})
	}
	if !s.PausedUntil.IsZero() {
		rows = append(rows, []string{"paused until", s.PausedUntil.Local().Format(time.TimeOnly)})
	}
	if !s.ConfirmUntil.IsZero() {
		rows = append(rows, []string{"rolls back at", s.ConfirmUntil.Local().Format(time.TimeOnly) + " unless you run `refd confirm`"})
	}
	for _, m := range s.Modules {
		rows = append(rows, []string{"module " + m.Name, m.Phase})
	}
	for _, st := range s.States {
		rows = append(rows, []string{st.Severity.String(), st.Module + ": " + st.Message})
	}
	return table(w, rows)
}

// attributionSummary says how it is found out whose connections are, and how often each way did, in one line.
func attributionSummary(a *api.Attribution) string {
	text := "by " + a.Method + "; " + count(int(a.Lookups), "lookup")
	if a.Lookups == 0 {
		return text
	}
	known := uint64(0)
	share := func(name string, n uint64) {
		if n > 0 {
			text += fmt.Sprintf(", %s %.1f %%", name, 100*float64(n)/float64(a.Lookups))
		}
	}
	for m := procinfo.MethodFirst; m <= procinfo.MethodEBPF; m++ {
		share(m.String(), a.Found[m])
		known += a.Found[m]
	}
	if a.Lookups > known {
		share("unknown", a.Lookups-known)
	}
	return text
}

func namesSummary(n *api.Names) string {
	text := "for " + count(n.Addresses, "remote host")
	if n.Resolver != nil && n.Resolver.Connected {
		text += "; " + resolverName + " tells what it answers"
	}
	return text
}

// nameserverSummary says how our own nameserver is, in one line.
func nameserverSummary(n *api.Nameserver) string {
	switch {
	case !n.Enabled:
		return "disabled: programs ask the system's own"
	case len(n.Addresses) == 0:
		return "does not listen"
	}
	addrs := make([]string, len(n.Addresses))
	for i, a := range n.Addresses {
		addrs[i] = a.String()
	}
	queries := strconv.FormatUint(n.Stats.Queries, 10) + " queries"
	if n.Stats.Queries == 1 {
		queries = "1 query"
	}
	return fmt.Sprintf("at %s; %s, %d blocked, %d failed", strings.Join(addrs, " and "), queries, n.Stats.Blocked, n.Stats.Failed)
}

// vpnSummary says how IVPN is, in one line.
func vpnSummary(s *ivpn.State) string {
	text := s.Phase.String()
	if s.Version != "" {
		text += " to version " + s.Version
	}
	switch {
	case s.VPN != nil && s.VPN.Paused:
		text += "; VPN paused, " + s.VPN.Type.String()
	case s.VPN != nil:
		text += "; VPN connected, " + s.VPN.Type.String()
	case s.Phase == ivpn.PhaseConnected:
		text += "; no VPN connection"
	}
	if s.Endpoint.Address.IsValid() {
		text += ", endpoint " + s.Endpoint.String()
	}
	if s.DNS.IsValid() {
		text += "; its DNS is " + s.DNS.String()
	}
	return text
}

func verdictCounts(n [verdict.NumVerdicts]uint64) string {
	var parts []string
	for v, count := range n {
		if count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count, verdict.Verdict(v).Verb()))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func why(r verdict.Reason) string {
	if r.Rule != "" {
		return fmt.Sprintf("rule %s: %s", r.Rule, r.Text)
	}
	return r.Text
}

type explainCmd struct {
	App       string `arg:"" help:"Path of the executable; - for an unknown one."`
	Remote    string `arg:"" help:"Address or domain, or one with a port: 192.0.2.1:443, example.org:443."`
	Protocol  string `short:"p" default:"tcp" help:"tcp, udp, icmp, icmpv6, ... or a number."`
	Inbound   bool   `short:"i" help:"A connection to this host instead of from it."`
	Domain    string `help:"The name that was looked up."`
	Script    string `help:"The script that an interpreter runs."`
	UID       uint32 `name:"uid" help:"The user's id."`
	Args      string `help:"The command line."`
	LocalPort uint16 `help:"The port on this host."`
	Interface string `help:"The interface it goes or comes by."`
	Offline   bool   `help:"Use the configuration file, not the running refd."`
	JSON      bool   `name:"json" help:"Print JSON."`
}

// Run explains.
func (c *explainCmd) Run(a *app) error {
	r := api.ExplainRequest{
		Path: c.App, Script: c.Script, UID: c.UID, Args: strings.Fields(c.Args), Remote: c.Remote, LocalPort: c.LocalPort,
		Domain: c.Domain, Interface: c.Interface,
	}
	if c.App == "-" {
		r.Path = ""
	}
	if c.Inbound {
		r.Direction = packet.Inbound
	}
	if err := r.Protocol.UnmarshalText([]byte(c.Protocol)); err != nil {
		return fmt.Errorf("--protocol: %w", err)
	}
	e, err := c.ask(a, r)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, e)
	}
	return printExplanation(a.stdout, e)
}

// ask asks the running refd, or the configuration where there is none or the user may not ask it.
func (c *explainCmd) ask(a *app, r api.ExplainRequest) (api.Explanation, error) {
	if !c.Offline {
		e, err := a.client().Explain(a.ctx, r)
		switch {
		case errors.Is(err, api.ErrNotRunning):
			fmt.Fprintln(a.stderr, "refd is not running: by the configuration file")
		case errors.Is(err, fs.ErrPermission):
			fmt.Fprintln(a.stderr, "only root may ask the running refd (sudo): by the configuration file")
		default:
			return e, err
		}
	}
	names := &rules.Interfaces{}
	cfg, err := a.load(rules.WithInterfaces(names))
	if err != nil {
		return api.Explanation{}, err
	}
	cnames, err := refd.ResolveRemote(a.ctx, &r)
	if err != nil {
		return api.Explanation{}, err
	}
	s, err := refd.Hypothetical(r)
	if err != nil {
		return api.Explanation{}, err
	}
	s.CNAMEs = cnames
	if r.Interface != "" {
		if s.Interface, err = interfaceIndex(a.ctx, r.Interface, names); err != nil {
			return api.Explanation{}, err
		}
	}
	e := refd.Explain(cfg.Rules, s)
	e.Enforced = cfg.Mode != config.Observe || e.Decision.Verdict.Allows()
	if cfg.Rules.SplitOn() {
		o := cfg.Rules.Split(s)
		e.Steps = append(e.Steps, api.Step{Layer: "split", Matched: o.Use, Text: o.Why})
		if o.Use && e.Decision.Verdict.Allows() {
			fmt.Fprintln(a.stderr, "the split tunnel takes it, or fails it where the interface cannot be used: a running refd knows that")
		}
	}
	return e, nil
}

// interfaceIndex looks an interface up, and tells the rules of all there are.
func interfaceIndex(ctx context.Context, name string, names *rules.Interfaces) (uint32, error) {
	s, err := netif.Read(ctx)
	if err != nil {
		return 0, fmt.Errorf("--interface: %w", err)
	}
	all := make(map[uint32]string)
	for i := range s.All() {
		all[uint32(i.Index)] = i.Name
	}
	names.Store(all)
	i, ok := s.ByName(name)
	if !ok {
		return 0, fmt.Errorf("--interface: there is no %q: see `refd interfaces`", name)
	}
	return uint32(i.Index), nil
}

func printExplanation(w io.Writer, e api.Explanation) error {
	verb := "be " + e.Decision.Verdict.Verb()
	switch {
	case e.Asks:
		verb = "be put to the user"
	case e.Decision.Verdict == verdict.Failed:
		verb = "fail"
	case !e.Enforced:
		verb += " if the mode were enforce; now it is only observed"
	}
	remote := ""
	if d := e.Connection.Domain; d != "" {
		remote = fmt.Sprintf("remote   %s at %s\n", printable(d), e.Connection.Tuple.Remote)
	}
	if _, err := fmt.Fprintf(w, "would %s\nbecause  %s\ncode     %s\n%s\n", verb, printable(why(e.Decision.Reason)), e.Decision.Reason.Code, remote); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	rows := [][]string{{"LAYER", "RULE", "", "WHY"}}
	for _, s := range e.Steps {
		mark := ""
		if s.Matched {
			mark = "<="
		}
		rows = append(rows, []string{s.Layer, s.Rule, mark, s.Text})
	}
	return table(w, rows)
}

type rulesCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run lists the rules.
func (c *rulesCmd) Run(a *app) error {
	list, err := a.client().Rules(a.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, list)
	}
	rows := [][]string{{"RULE", "LAYER", "ACTION", "HITS", "COMMENT"}}
	for _, r := range list {
		rows = append(rows, []string{r.ID, r.Layer, r.Action, fmt.Sprint(r.Hits), r.Comment})
	}
	return table(a.stdout, rows)
}

type interfacesCmd struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run lists interfaces; it needs no running refd.
func (c *interfacesCmd) Run(a *app) error {
	s, err := netif.Read(a.ctx)
	if err != nil {
		return fmt.Errorf("interfaces: %w", err)
	}
	list := refd.Interfaces(s)
	if c.JSON {
		return printJSON(a.stdout, list)
	}
	rows := [][]string{{"NAME", "KIND", "UP", "MAC", "ADDRESSES", "GATEWAYS", "DEFAULT FOR"}}
	for _, i := range list {
		up := "no"
		if i.Up {
			up = "yes"
		}
		gw := slices.DeleteFunc([]string{i.Default4, i.Default6}, func(s string) bool { return s == "" })
		rows = append(rows, []string{i.Name, i.Kind, up, i.MAC, strings.Join(i.Addresses, " "), strings.Join(gw, " "), strings.Join(i.Best, " ")})
	}
	return table(a.stdout, rows)
}
