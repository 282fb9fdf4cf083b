package firewall_test

import (
	"context"
	"fmt"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/intercept/intercepttest"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// noTelnet is a policy.
type noTelnet struct{}

func (noTelnet) Decide(_ context.Context, s *conn.Snapshot) firewall.Outcome {
	if s.Tuple.Remote.Port() != 23 {
		return firewall.Outcome{}
	}
	return firewall.Outcome{Decided: true, Decision: verdict.Decision{
		Verdict: verdict.Block, Reason: verdict.Reason{Code: "telnet", Text: "telnet is not encrypted"},
	}}
}

// A firewall between a source of packets, here a fake one, and a policy.
func Example() {
	source := intercepttest.New(intercepttest.Config{})
	store := connstore.NewLive(connstore.Config{})
	f, err := firewall.New(firewall.Config{Store: store, Source: source, Deciders: []firewall.Decider{noTelnet{}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	ready := make(chan struct{}, 2)
	go func() { ended <- f.Run(ctx, func() { ready <- struct{}{} }) }()
	go func() { ended <- source.Run(ctx, f, func() { ready <- struct{}{} }) }()
	<-ready
	<-ready

	for _, remote := range []string{"198.51.100.7:443", "198.51.100.7:23"} {
		first := out(packet.TCP, 50000, remote)
		fate, err := source.Send(intercepttest.Packet{Info: first}).Wait(ctx)
		s := store.Get(first.Tuple).State()
		fmt.Println(remote, fate.Action, s.Decision.Reason.Text, err)
	}
	stop()
	fmt.Println(<-ended, <-ended)
	// Output:
	// 198.51.100.7:443 PermanentAccept default for outbound connections <nil>
	// 198.51.100.7:23 PermanentBlock telnet is not encrypted <nil>
	// <nil> <nil>
}
