package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
	"github.com/weirfw/weir/pkg/procinfo/ebpf"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// openHandler returns who decides, running, and how to end it.
func openHandler(ctx context.Context, o *options, source intercept.Source) (h intercept.Handler, end func() error, err error) {
	none := func() error { return nil }
	action := verdict.ActionAccept
	if o.permanent {
		action = verdict.ActionPermanentAccept
	}
	switch o.handler {
	case "lookup":
		return byLookup(action), none, nil
	case "handle":
		return byHandle(action), none, nil
	case "firewall":
		return openFirewall(ctx, o, source)
	}
	return nil, nil, fmt.Errorf("there is no handler %q", o.handler)
}

// byLookup decides each packet on the spot: the cost of the reader alone.
type byLookup verdict.Action

func (a byLookup) Lookup(*packet.Info) (verdict.Action, uint8, bool) {
	return verdict.Action(a), 0, true
}
func (byLookup) Handle(packet.Packet) {}

// byHandle takes each packet over and decides it on the spot: the cost of handing over.
type byHandle verdict.Action

func (byHandle) Lookup(*packet.Info) (verdict.Action, uint8, bool) { return 0, 0, false }

func (a byHandle) Handle(p packet.Packet) {
	_ = packet.Apply(p, verdict.Action(a), 0) // the source counts what goes wrong
}

// openFirewall is the pipeline of refd: connections, processes, rules.
func openFirewall(ctx context.Context, o *options, source intercept.Source) (intercept.Handler, func() error, error) {
	set, err := rules.Compile(ruleConfig(o.rules))
	if err != nil {
		return nil, nil, fmt.Errorf("rules: %w", err)
	}
	var live rules.Live
	live.Swap(set)
	cfg := firewall.Config{
		Store:     connstore.NewLive(connstore.Config{}),
		Deciders:  []firewall.Decider{&firewall.RuleDecider{Rules: &live}},
		Source:    source,
		Permanent: firewall.NeverPermanent,
	}
	if o.permanent {
		cfg.Permanent = firewall.PermanentWhereSafe
	}
	end, remember := func() error { return nil }, func() error { return nil }
	if o.history > 0 {
		if remember, err = openHistory(ctx, o, cfg.Store); err != nil {
			return nil, nil, err
		}
	}
	if o.processes {
		var pc procinfo.Config
		detach := func() error { return nil }
		if o.ebpf {
			tracker, err := ebpf.New(ebpf.Config{})
			if err != nil {
				return nil, nil, fmt.Errorf("processes: %w", err)
			}
			pc.First, detach = []procinfo.SocketOwner{tracker}, tracker.Close
		}
		finder, err := procinfo.New(pc)
		if err != nil {
			return nil, nil, fmt.Errorf("processes: %w", errors.Join(err, detach()))
		}
		cfg.Processes, end = finder, func() error { return errors.Join(finder.Close(), detach()) }
	}
	f, err := firewall.New(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("firewall: %w", err)
	}
	// It stops after the source, whose Run returns when ctx is done.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- f.Run(own, func() { close(ready) }) }()
	<-ready
	return f, func() error {
		cancel()
		if err := <-ended; err != nil {
			return fmt.Errorf("firewall: %w", err)
		}
		return errors.Join(remember(), end())
	}, nil
}

// ruleConfig returns n rules of all sorts. None matches the traffic of the benchmarks, so each decision passes them all; then
// the default accepts.
func ruleConfig(n int) rules.Config {
	cfg := rules.Config{Default: rules.Defaults{In: rules.Allow, Out: rules.Allow}}
	for i := range n {
		r := rules.Rule{ID: fmt.Sprintf("rule-%d", i), Action: rules.Block}
		switch i % 4 {
		case 0: // somebody else's network
			r.Remote = []string{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(i>>8&15), byte(i), 0}), 24).String()}
		case 1: // a port that is not used
			r.RemotePorts = fmt.Sprint(20000 + i)
			r.Protocols = []packet.Protocol{packet.TCP, packet.UDP}
		case 2: // another program
			r.App = rules.AppMatch{Path: fmt.Sprintf("/opt/app-%d/bin/*", i)}
		case 3: // all of it
			r.App = rules.AppMatch{Path: fmt.Sprintf("/usr/bin/app-%d", i)}
			r.Remote = []string{"10.0.0.0/8"}
			r.RemotePorts = "8000-8100"
		}
		cfg.Global = append(cfg.Global, r)
	}
	return cfg
}
