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
