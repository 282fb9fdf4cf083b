package ivpn_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/weirfw/weir/internal/ivpntest"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/ivpn"
	"github.com/weirfw/weir/pkg/packet"
)

// double starts something that answers like IVPN's daemon, with a VPN endpoint.
func double() (folder string, stop func()) {
	folder, err := os.MkdirTemp("", "ivpn")
	if err != nil {
		panic(err)
	}
	d, err := ivpntest.Start(ivpntest.Config{Folder: folder, Version: "3.16.0"})
	if err != nil {
		panic(err)
	}
	d.Starting("192.0.2.1", 2049, 17)
	return folder, func() {
		_ = d.Stop()
		_ = os.RemoveAll(folder)
	}
}

// A client alone tells what the daemon says.
func ExampleClient() {
	folder, stop := double() // ClientConfig.Folder is empty for the real one
	defer stop()

	ctx, cancel := context.WithCancel(context.Background())
	client, err := ivpn.NewClient(ivpn.ClientConfig{Folder: folder, On: func(e ivpn.Event) {
		switch e := e.(type) {
		case ivpn.Connected:
			fmt.Println("IVPN", e.Version)
		case ivpn.ConnectionStarting:
			fmt.Println("VPN endpoint:", e.Endpoint)
			cancel() // seen enough
		}
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(client.Run(ctx, func() {}))
	// Output:
	// IVPN 3.16.0
	// VPN endpoint: udp 192.0.2.1:2049
	// <nil>
}

// A firewall gets the handler of an Interop in its slot.
func ExampleInterop() {
	folder, stop := double()
	defer stop()

	var slot extverdict.Slot // firewall.Config.External takes its address
	known := make(chan struct{}, 1)
	interop, err := ivpn.New(ivpn.Config{
		Client:   ivpn.ClientConfig{Folder: folder},
		Register: slot.Set,
		OnChange: func(context.Context) { // Firewall.Reevaluate(ctx, interop.Concerns)
			select {
			case known <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- interop.Run(ctx, func() {}) }()
	for !interop.State().Endpoint.Address.IsValid() {
		<-known
	}

	call, _ := slot.Load()
	for _, remote := range []string{"192.0.2.1:2049", "192.0.2.1:443"} {
		r, err := call.Do(ctx, &conn.Snapshot{Tuple: packet.Tuple{
			Local: netip.MustParseAddrPort("10.0.0.2:40000"), Remote: netip.MustParseAddrPort(remote), Protocol: packet.UDP,
		}})
		fmt.Println(remote, r.Verdict, r.Reason, err)
	}
	cancel()
	fmt.Println(<-ended)
	// Output:
	// 192.0.2.1:2049 Accept the VPN connection of IVPN <nil>
	// 192.0.2.1:443 Undecided  <nil>
	// <nil>
}
