package rules_test

import (
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

func exampleConfig() rules.Config {
	return rules.Config{
		Apps: []rules.AppProfile{{
			ID:    "curl",
			Match: []rules.AppMatch{{Path: "/usr/bin/curl"}},
			Rules: []rules.Rule{
				{ID: "curl-no-lan", Remote: []string{"lan"}, Action: rules.Block},
				{ID: "curl-web", Protocols: []packet.Protocol{packet.TCP}, RemotePorts: "80,443", Action: rules.Allow},
			},
			Default: rules.Defaults{Out: rules.Ask},
		}},
		Global: []rules.Rule{
			{ID: "no-ads", Remote: []string{".ads.example"}, Action: rules.Block, Comment: "no advertisements"},
		},
	}
}

func exampleConnection(remote string) *conn.Snapshot {
	return &conn.Snapshot{
		Direction: packet.Outbound,
		Tuple: packet.Tuple{
			Protocol: packet.TCP,
			Local:    netip.MustParseAddrPort("192.168.1.2:50000"),
			Remote:   netip.MustParseAddrPort(remote),
		},
		Process: &conn.Process{PID: 100, Path: "/usr/bin/curl", Args: []string{"curl", "example.org"}},
		Domain:  "example.org",
	}
}

func Example() {
	set, err := rules.Compile(exampleConfig())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, remote := range []string{"192.0.2.1:443", "192.168.1.1:443", "192.0.2.1:22"} {
		o := set.Decide(exampleConnection(remote))
		fmt.Println(remote, o.Action, o.Decision.Verdict, o.Decision.Reason.Code)
	}
	in := exampleConnection("192.0.2.1:443")
	in.Direction, in.Process = packet.Inbound, nil
	fmt.Println("inbound", set.Decide(in).Decision.Verdict)
	fmt.Println("hits", set.Hits()["curl-web"])
	// Output:
	// 192.0.2.1:443 allow Accept rule-allow
	// 192.168.1.1:443 block Block rule-block
	// 192.0.2.1:22 ask Undecided app-default
	// inbound Drop
	// hits 1
}

func ExampleSet_Explain() {
	set, err := rules.Compile(exampleConfig())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, step := range set.Explain(exampleConnection("192.0.2.1:22")) {
		fmt.Println(step)
	}
	// Output:
	// app curl rule curl-no-lan (block): no match: remote is 192.0.2.1 (global) example.org, not in lan
	// app curl rule curl-web (allow): no match: remote port is 22, not in 80,443
	// global rule no-ads (block): no match: remote is 192.0.2.1 (global) example.org, not in .ads.example
	// default curl (ask): decided: no rule matches; profile curl has the default ask for out
}

func ExampleErrors() {
	_, err := rules.Compile(rules.Config{Global: []rules.Rule{{
		ID: "home", Remote: []string{"lan", "10.0.0.1/8"}, RemotePorts: "0", Action: rules.Allow,
	}}})
	for _, e := range rules.Errors(err) {
		fmt.Println(e)
	}
	// Output:
	// global[0].remote_ports: "0": port 0 is never used; write ports and ranges from 1 to 65535, such as "80,443,8000-8100"
	// global[0].remote[1]: "10.0.0.1/8": host bits set; write "10.0.0.0/8" for the network or "10.0.0.1" for the host
}

func ExampleLive() {
	var live rules.Live
	first, err := rules.Compile(exampleConfig())
	if err != nil {
		fmt.Println(err)
		return
	}
	live.Swap(first)
	live.Decide(exampleConnection("192.0.2.1:443"))

	cfg := exampleConfig()
	cfg.Global = nil
	next, err := rules.Compile(cfg, rules.WithPrevious(live.Load()))
	if err != nil {
		fmt.Println(err)
		return
	}
	live.Swap(next)
	fmt.Println(live.Load().Hits())
	// Output:
	// map[curl-no-lan:0 curl-web:1]
}

func ExampleSet_Split() {
	cfg := exampleConfig()
	cfg.Split.Exclude = []rules.SplitRule{{Comment: "the printer", Remote: []string{"192.168.1.9"}}}
	cfg.Apps[0].Split = rules.Split{
		Use:       new(true),
		Interface: new("eth0"),
		Include:   []rules.SplitRule{{Protocols: []packet.Protocol{packet.TCP}, RemotePorts: "80,443"}},
	}
	set, err := rules.Compile(cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, remote := range []string{"192.0.2.1:443", "192.168.1.9:443", "192.0.2.1:22"} {
		o := set.Split(exampleConnection(remote))
		fmt.Printf("%s %v %q: %s\n", remote, o.Use, o.Interface, o.Why)
	}
	// Output:
	// 192.0.2.1:443 true "eth0": split.include[0] of profile curl matches
	// 192.168.1.9:443 false "": split.exclude[0] matches: the printer
	// 192.0.2.1:22 false "": no entry of split.include of profile curl matches
}
