package refd

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/pkg/packet"
)

// deleteTCB is MIB_TCP_STATE_DELETE_TCB (tcpmib.h).
const deleteTCB = 12

// tcpRow is MIB_TCPROW (tcpmib.h): addresses and ports in network byte order.
type tcpRow struct {
	state, localAddr, localPort, remoteAddr, remotePort uint32
}

func newTCPRow(t *packet.Tuple) *tcpRow {
	addr := func(a netip.Addr) uint32 {
		b := a.Unmap().As4()
		return binary.NativeEndian.Uint32(b[:])
	}
	port := func(p uint16) uint32 {
		var b [4]byte
		binary.BigEndian.PutUint16(b[:], p)
		return binary.NativeEndian.Uint32(b[:])
	}
	return &tcpRow{deleteTCB, addr(t.Local.Addr()), port(t.Local.Port()), addr(t.Remote.Addr()), port(t.Remote.Port())}
}

// Cut implements intercept.Cutter. Windows can end TCP connections over IPv4 only. All others end because the driver, which was told
// the new verdict, lets none of their packets pass any more.
func (s *kextSource) Cut(t packet.Tuple) error {
	if t.Protocol != packet.TCP || !t.Local.Addr().Unmap().Is4() || !t.Remote.Addr().Unmap().Is4() {
		return nil
	}
	setTCPEntry := windows.NewLazySystemDLL("iphlpapi.dll").NewProc("SetTcpEntry")
	if err := setTCPEntry.Find(); err != nil {
		return fmt.Errorf("cut %v: %w", t, err)
	}
	status, _, _ := setTCPEntry.Call(uintptr(unsafe.Pointer(newTCPRow(&t)))) //nolint:errcheck // the status says it
	const noSuchConnection = 317                                             // ERROR_MR_MID_NOT_FOUND: what SetTcpEntry answers for a connection that is gone
	if status != 0 && status != noSuchConnection {
		return fmt.Errorf("cut %v: SetTcpEntry: %w", t, windows.Errno(status))
	}
	return nil
}
