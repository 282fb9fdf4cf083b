package kext_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/pkg/kext"
	"github.com/weirfw/weir/pkg/packet"
)

// A program on Windows leaves out Open: this one has a driver in memory.
func ExampleSource() {
	driver, open := newDriver([4]byte{2, 1, 1, 0})
	source, err := kext.New(kext.Config{Open: open, SplitTunnel: kext.SplitNeeded})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- source.Run(ctx, rerouting{}, func() { close(ready) }) }()
	<-ready
	sent := driver.Send(kexttest.UDP(netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6"), packet.Outbound))
	fmt.Println(sent.Fate(time.Minute))
	cancel()
	fmt.Println(<-ended)
	// Output:
	// rerouted
	// <nil>
}

func ExampleCheckSplitTunnel() {
	fmt.Println(kext.CheckSplitTunnel(kext.Version{Major: 2, Minor: 1}, kext.SplitNeeded))
	fmt.Println(kext.CheckSplitTunnel(kext.Version{Major: 2, Revision: 11, Build: 5}, kext.SplitNeeded))
	// Output:
	// <nil>
	// kext: the driver does not know the split tunnel: it has version 2.0.11.5, and 2.1.0 or later is needed: update the driver or switch the split tunnel off
}
