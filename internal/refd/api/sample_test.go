package api_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/netscope"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/verdict"
)

// sample is a Backend that has one of everything, and notes what was changed.
type sample struct {
	mu      sync.Mutex // guards changes
	changes []string
	// flood is sent as fast as the reader takes it.
	flood bool
}

var _ api.Backend = (*sample)(nil)

func (s *sample) note(what string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, fmt.Sprintf(what, args...))
}

func snapshot() conn.Snapshot {
	on := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	return conn.Snapshot{
		ID: 7, Direction: packet.Outbound, Scope: netscope.Global, Interface: 2, Domain: "example.org", CNAMEs: []string{"www.example.org"},
		Tuple: packet.Tuple{
			Protocol: packet.TCP, Local: netip.MustParseAddrPort("192.0.2.1:4711"), Remote: netip.MustParseAddrPort("198.51.100.1:443"),
		},
		Process:  &conn.Process{PID: 42, UID: 1000, Path: "/usr/bin/curl", Args: []string{"curl"}, Parent: &conn.Process{PID: 1, Path: "/sbin/init"}},
		Decision: verdict.Decision{Verdict: verdict.RerouteToSplitTun, Reason: verdict.Reason{Code: "rule-allow", Text: "rule web", Rule: "web", By: "rules"}},
		Enforced: true, SplitTun: &conn.SplitTunContext{Interface: "eth0", Source: netip.MustParseAddr("192.0.2.1"), Engine: "kroute"},
		Tunnel: &conn.TunnelContext{Provider: "none"}, Started: on, Ended: on.Add(time.Minute), LastSeen: on, Packets: 3, ReceivedBytes: 100, SentBytes: 50,
	}
}

func (s *sample) Status(context.Context) (api.Status, error) {
	return api.Status{
		Version: "v1", PID: 7, Mode: "observe", Worst: module.Hint, Modules: []api.Module{{Name: "api", Phase: "running"}},
		States:      []api.State{{Module: "api", ID: "x", Title: "X", Message: "x", Severity: module.Hint}},
		SplitTunnel: &splittunnel.Status{On: true, Engine: "kroute", Selections: []splittunnel.Selection{{Family: "IPv4"}}},
		Names:       &api.Names{Addresses: 3}, Nameserver: &api.Nameserver{Enabled: true}, Source: map[string]int{"packets": 3},
	}, nil
}

func (s *sample) Connections(_ context.Context, q connstore.Query) (connstore.Page, error) {
	p := connstore.Page{Sums: connstore.Sums{Total: 1, ByVerdict: map[verdict.Verdict]int{verdict.RerouteToSplitTun: 1}}}
	if one := snapshot(); q.Matches(&one) {
		p.Connections = []conn.Snapshot{one}
	}
	return p, nil
}

func (s *sample) History(ctx context.Context, q connstore.Query) (connstore.Page, error) {
	return s.Connections(ctx, q)
}

func (s *sample) Connection(_ context.Context, id conn.ID) (conn.Snapshot, error) {
	if one := snapshot(); one.ID == id {
		return one, nil
	}
	return conn.Snapshot{}, fmt.Errorf("connection %d: %w", id, api.ErrNotFound)
}

func (s *sample) LookUp(context.Context, []conn.ID) ([]conn.Snapshot, error) {
	return []conn.Snapshot{snapshot()}, nil
}

func (s *sample) Traffic(context.Context) ([]api.TrafficPoint, error) {
	return []api.TrafficPoint{{Time: time.Now(), Seconds: 2, ReceivedBytes: 1, Decisions: map[verdict.Verdict]uint64{verdict.Accept: 1}}}, nil
}

func (s *sample) Watch(ctx context.Context, _ api.WatchRequest, send func(api.Event) error) error {
	one := snapshot()
	batch := api.Batch{Rows: []api.Row{api.RowOf(&one)}}
	if err := send(api.Event{Name: "connections", Data: batch}); err != nil {
		return err
	}
	for s.flood && ctx.Err() == nil {
		if err := send(api.Event{Name: "connections", Data: batch}); err != nil {
			s.note("cut")
			return err
		}
	}
	<-ctx.Done()
	return send(api.Event{Name: "shutdown", Data: struct{}{}})
}

func (s *sample) Explain(_ context.Context, r api.ExplainRequest) (api.Explanation, error) {
	if r.Remote == "" {
		return api.Explanation{}, fmt.Errorf("%w: no remote", api.ErrRefused)
	}
	return api.Explanation{Connection: snapshot(), Steps: []api.Step{{Layer: "global", Rule: "web", Matched: true, Text: "matches"}}}, nil
}

func (s *sample) Rules(context.Context) ([]api.Rule, error) {
	return []api.Rule{{ID: "web", Layer: "global", Action: "allow", Hits: 3}}, nil
}

func (s *sample) Interfaces(context.Context) ([]api.Interface, error) {
	return []api.Interface{{Index: 2, Name: "eth0", Kind: "ethernet", Up: true, Addresses: []string{"192.0.2.1/24"}, Best: []string{"IPv4"}}}, nil
}

func (s *sample) DNSCache(context.Context, api.DNSRequest) ([]api.DNSEntry, error) {
	return []api.DNSEntry{{Name: "example.org", Type: "A", RCode: "NOERROR", Left: time.Minute}}, nil
}

func (s *sample) Report(context.Context) (api.Report, error) {
	return api.Report{Version: "v1", Settings: map[string]any{"mode": "enforce"}, ByVerdict: map[string]int{"Accept": 1}}, nil
}

func (s *sample) Settings(context.Context) (api.Settings, error) {
	def := config.Default()
	return api.Settings{Path: "/etc/weir/refd.yaml", Writable: true, Settings: def.Settings()}, nil
}

func (s *sample) ChangeSettings(_ context.Context, r api.ChangeRequest) (api.ChangeResult, error) {
	if r.Set["mode"] == "nonsense" {
		return api.ChangeResult{}, &api.ProblemsError{Problems: []api.KeyProblem{{Key: "mode", Text: "unknown value", Hint: "use one of", Line: 3}}}
	}
	s.note("settings %v", r.Set)
	return api.ChangeResult{ReloadResult: api.ReloadResult{Rules: 3}}, nil
}

func (s *sample) Policy(context.Context) (api.Policy, error) {
	return api.Policy{Global: []rules.Rule{{ID: "web", Action: rules.Block, Protocols: []packet.Protocol{packet.TCP}}}, Default: rules.Defaults{Out: rules.Ask}}, nil
}

func (s *sample) ChangePolicy(context.Context, api.PolicyRequest) (api.ChangeResult, error) {
	s.note("policy")
	return api.ChangeResult{}, nil
}

func (s *sample) Apps(context.Context) ([]api.App, error) {
	return []api.App{{ID: "curl", Name: "curl", Profile: &rules.AppProfile{ID: "curl", Match: []rules.AppMatch{{Path: "/usr/bin/curl"}}}}, {Name: "dig"}}, nil
}

func (s *sample) FindApp(_ context.Context, r api.FindAppRequest) (api.FoundApp, error) {
	return api.FoundApp{Profile: rules.AppProfile{ID: r.Process.Name(), Match: []rules.AppMatch{{Path: r.Process.Path}}}}, nil
}

func (s *sample) PutApp(_ context.Context, r api.AppRequest) (api.ChangeResult, error) {
	s.note("app %s %s", r.ID, r.Profile.Default.Out)
	return api.ChangeResult{Notes: []api.KeyProblem{{Key: "apps", Text: "note"}}}, nil
}

func (s *sample) DeleteApp(_ context.Context, id string) (api.ChangeResult, error) {
	s.note("no app %s", id)
	return api.ChangeResult{}, nil
}

func (s *sample) Notifications(context.Context) ([]api.Notification, error) {
	return []api.Notification{{Module: "api", ID: "x", Severity: module.Warning, Title: "X", Actions: []api.NotificationAction{{ID: "do", Title: "Do"}}}}, nil
}

func (s *sample) Dismiss(_ context.Context, r api.NoticeRequest) error {
	s.note("dismiss %s", r.ID)
	return nil
}

func (s *sample) Act(_ context.Context, r api.NoticeRequest) error {
	s.note("act %s", r.Action)
	return nil
}

func (s *sample) Prompts(context.Context) ([]prompt.Prompt, error) {
	one := snapshot()
	return []prompt.Prompt{{
		ID: 3, App: "/usr/bin/curl", Process: one.Process, Waiting: 1, Rule: "web", Asked: one.Started, Until: one.Ended,
		Targets: []prompt.Target{{Domain: "example.org", Remote: one.Tuple.Remote, Protocol: packet.TCP}},
	}}, nil
}

func (s *sample) Answer(_ context.Context, r api.AnswerRequest) error {
	s.note("answer %d %v %v", r.ID, r.Answer.Action, r.Answer.For)
	return nil
}

func (s *sample) Forget(context.Context) (api.Forgotten, error) {
	s.note("forget")
	return api.Forgotten{Answers: 1}, nil
}

func (s *sample) Reload(context.Context) (api.ReloadResult, error) {
	s.note("reload")
	return api.ReloadResult{Rules: 1, NeedRestart: []string{"mode"}}, nil
}

func (s *sample) Pause(_ context.Context, d time.Duration) error {
	s.note("pause %v", d)
	return nil
}

func (s *sample) Resume(context.Context) error {
	s.note("resume")
	return nil
}

func (s *sample) Split(_ context.Context, r api.SplitRequest) (api.ReloadResult, error) {
	s.note("split %t", r.On)
	return api.ReloadResult{}, nil
}

func (s *sample) Confirm(context.Context) error {
	s.note("confirm")
	return nil
}

func (s *sample) DNSQuery(_ context.Context, r api.DNSQueryRequest) (api.DNSAnswer, error) {
	s.note("query %s", r.Name)
	return api.DNSAnswer{Name: r.Name, Type: r.Type, RCode: "NOERROR", Source: "cache"}, nil
}

func (s *sample) SelfCheck(context.Context) ([]api.CheckResult, error) {
	s.note("selfcheck")
	return []api.CheckResult{{ID: "interception", Result: api.CheckPassed}}, nil
}

func (s *sample) DNSFlush(context.Context, api.DNSRequest) (api.DNSFlushed, error) {
	s.note("flush")
	return api.DNSFlushed{Answers: 3}, nil
}

func (s *sample) Sleep(_ context.Context, r api.SleepRequest) error {
	s.note("sleep %t", r.On)
	return nil
}

func (s *sample) Exit(_ context.Context, how string) error {
	s.note("exit %s", how)
	return nil
}
