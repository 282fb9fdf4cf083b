package extverdict_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// A handler of one's own: it refuses plain HTTP and has no opinion on the rest.
func ExampleSlot_Set() {
	var slot extverdict.Slot // firewall.Config.External takes its address
	err := slot.Set("no-plain-http", func(_ context.Context, s *conn.Snapshot) extverdict.Result {
		if s.Tuple.Remote.Port() == 80 {
			return extverdict.Result{Verdict: verdict.Block, Reason: "use HTTPS"}
		}
		return extverdict.Result{}
	})
	fmt.Println(err)

	call, _ := slot.Load()
	for _, remote := range []string{"198.51.100.7:80", "198.51.100.7:443"} {
		s := &conn.Snapshot{Tuple: packet.Tuple{Remote: netip.MustParseAddrPort(remote), Protocol: packet.TCP}}
		r, err := call.Do(context.Background(), s)
		fmt.Println(remote, r.Verdict, r.Reason, err)
	}
	// Output:
	// <nil>
	// 198.51.100.7:80 Block use HTTPS <nil>
	// 198.51.100.7:443 Undecided  <nil>
}

// Two handlers in one slot: the first that decides is believed.
func ExampleChain() {
	noHTTP := func(_ context.Context, s *conn.Snapshot) extverdict.Result {
		if s.Tuple.Remote.Port() == 80 {
			return extverdict.Result{Verdict: verdict.Block, Reason: "use HTTPS"}
		}
		return extverdict.Result{}
	}
	friends := func(_ context.Context, s *conn.Snapshot) extverdict.Result {
		if s.Tuple.Remote.Addr() == netip.MustParseAddr("198.51.100.7") {
			return extverdict.Result{Verdict: verdict.Accept, Reason: "a friend"}
		}
		return extverdict.Result{}
	}
	handler, err := extverdict.Chain(extverdict.Link{Name: "no-http", Handle: noHTTP}, extverdict.Link{Name: "friends", Handle: friends})
	fmt.Println(err)

	for _, remote := range []string{"198.51.100.7:80", "198.51.100.7:443", "192.0.2.1:443"} {
		r := handler(context.Background(), &conn.Snapshot{Tuple: packet.Tuple{Remote: netip.MustParseAddrPort(remote)}})
		fmt.Println(remote, r.Verdict, r.By)
	}
	// Output:
	// <nil>
	// 198.51.100.7:80 Block no-http
	// 198.51.100.7:443 Accept friends
	// 192.0.2.1:443 Undecided
}
