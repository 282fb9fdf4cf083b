package procinfo_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/procinfo"
)

func Example() {
	finder, err := procinfo.New(procinfo.Config{})
	if errors.Is(err, errors.ErrUnsupported) {
		fmt.Println("no socket") // not Linux: nothing to show
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer finder.Close() //nolint:errcheck // an example
	info := packet.Info{Tuple: packet.Tuple{
		Local:    netip.MustParseAddrPort("192.0.2.1:1"),
		Remote:   netip.MustParseAddrPort("192.0.2.2:2"),
		Protocol: packet.TCP,
	}}
	process, err := finder.Find(context.Background(), &info, packet.Outbound)
	var unknown *procinfo.UnknownError
	switch {
	case errors.As(err, &unknown):
		fmt.Println(unknown.Reason)
	case err != nil:
		fmt.Println(err)
	default:
		fmt.Println(process.Path, process.Args)
	}
	// Output: no socket
}
