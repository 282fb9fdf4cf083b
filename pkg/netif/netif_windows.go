package netif

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

const (
	// maxReads is how often a reading is repeated because something changed while it was made.
	maxReads = 4
	// firstTable is the size that Microsoft recommends for the first try, and maxTable what no machine needs.
	firstTable = 15 << 10
	maxTable   = 16 << 20
	// pollWithout is how often the state is read where Windows does not tell of changes.
	pollWithout = 2 * time.Second
)

// Read returns the present state of the interfaces. It needs no privileges.
//
// On systems other than Linux and Windows the error wraps errors.ErrUnsupported.
func Read(ctx context.Context) (*Snapshot, error) {
	// Adapters and routes are several answers, between which a change may fall.
	for tries := 1; ; tries++ {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("netif: read interfaces: %w", err)
		}
		s, err := readOnce()
		if err == nil || tries == maxReads || !errors.Is(err, ErrBadSnapshot) {
			return s, err
		}
	}
}

func readOnce() (*Snapshot, error) {
	var a assembly
	table, err := adapters(windows.GAA_FLAG_INCLUDE_GATEWAYS | windows.GAA_FLAG_SKIP_DNS_SERVER)
	if err != nil {
		return nil, err
	}
	for at := table; at != nil; at = at.Next {
		a.addAdapter(at, linkOf(at))
	}
	for _, family := range []Family{IPv4, IPv6} {
		if err := a.addTable(family); err != nil {
			return nil, err
		}
	}
	return a.snapshot()
}

// adapters returns the first of the adapters. The list is in Go's memory, and lives as long as anything in it is referred to.
func adapters(flags uint32) (*windows.IpAdapterAddresses, error) {
	flags |= windows.GAA_FLAG_SKIP_ANYCAST | windows.GAA_FLAG_SKIP_MULTICAST
	for size := uint32(firstTable); ; {
		buf := make([]uint64, size/8+1) // aligned for what is in it
		first := (*windows.IpAdapterAddresses)(unsafe.Pointer(&buf[0]))
		err := windows.GetAdaptersAddresses(windows.AF_UNSPEC, flags, 0, first, &size)
		switch {
		case err == nil:
			return first, nil
		case errors.Is(err, windows.ERROR_NO_DATA):
			return nil, nil
		case !errors.Is(err, windows.ERROR_BUFFER_OVERFLOW) || size > maxTable:
			return nil, fmt.Errorf("netif: list adapters: %w", err)
		}
	}
}

// linkOf asks for what the list of adapters does not tell. An adapter that has gone since then has no answer: the rest counts.
func linkOf(a *windows.IpAdapterAddresses) *windows.MibIfRow2 {
	row := &windows.MibIfRow2{InterfaceLuid: a.Luid, InterfaceIndex: a.IfIndex}
	if windows.GetIfEntry2Ex(windows.MibIfEntryNormal, row) != nil {
		return nil
	}
	return row
}

// addTable adds the routes of a family.
func (a *assembly) addTable(family Family) error {
	number := uint16(windows.AF_INET)
	if family == IPv6 {
		number = windows.AF_INET6
	}
	var table *windows.MibIpForwardTable2
	err := windows.GetIpForwardTable2(number, &table)
	// A machine without routes, or without IPv6.
	if errors.Is(err, windows.ERROR_NOT_FOUND) || errors.Is(err, windows.ERROR_NOT_SUPPORTED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("netif: list %v routes: %w", family, err)
	}
	defer windows.FreeMibTable(unsafe.Pointer(table))
	rows := table.Rows()
	for i := range rows {
		a.addRoute(&rows[i], family)
	}
	return nil
}

// windowsMonitor reads anew and hears of changes.
type windowsMonitor struct {
	changed chan struct{} // one place: each change means the same
	closed  chan struct{}
	handles []windows.Handle
	poll    time.Duration // 0 where Windows tells of changes
	end     sync.Once
}

// notified is called by Windows on a thread of its own; the context is a monitor that has not been closed. A callback can never
// be given back, and a process has 2,000: there is one for all monitors.
//
//nolint:gochecknoglobals // see above
var notified = sync.OnceValue(func() uintptr {
	return windows.NewCallback(func(m *windowsMonitor, _, _ uintptr) uintptr {
		select {
		case m.changed <- struct{}{}:
		default:
		}
		return 0
	})
})

func openMonitor() (monitor, error) {
	m := &windowsMonitor{changed: make(chan struct{}, 1), closed: make(chan struct{})}
	for _, register := range []func(uint16, uintptr, unsafe.Pointer, bool, *windows.Handle) error{
		windows.NotifyIpInterfaceChange, windows.NotifyUnicastIpAddressChange, windows.NotifyRouteChange2,
	} {
		var h windows.Handle
		if register(windows.AF_UNSPEC, notified(), unsafe.Pointer(m), false, &h) != nil {
			m.poll = pollWithout
			continue
		}
		m.handles = append(m.handles, h)
	}
	return m, nil
}

func (m *windowsMonitor) read(ctx context.Context) (*Snapshot, error) { return Read(ctx) }

// receive returns when something changed, or may have.
func (m *windowsMonitor) receive() error {
	var tick <-chan time.Time
	if m.poll > 0 {
		timer := time.NewTimer(m.poll)
		defer timer.Stop()
		tick = timer.C
	}
	select {
	case <-m.changed:
	case <-tick:
	case <-m.closed:
		return errors.New("netif: monitor closed")
	}
	return nil
}

// close ends the notifications: when it returns, no callback runs any more.
func (m *windowsMonitor) close() error {
	var err error
	m.end.Do(func() {
		for _, h := range m.handles {
			if e := windows.CancelMibChangeNotify2(h); e != nil {
				err = errors.Join(err, fmt.Errorf("netif: end notifications: %w", e))
			}
		}
		close(m.closed)
	})
	return err
}
