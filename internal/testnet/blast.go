package testnet

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/internal/testutil"
)

// Bounds of a Blast: tests share two cores, and every load ends by itself.
const (
	maxBlastRate = 500_000
	maxBlastTime = time.Minute
)

// Blast is a stream of UDP packets. Their number is Rate times For, exactly.
type Blast struct {
	From  netip.AddrPort // optional: bind to this address
	To    netip.AddrPort // required
	Ports int            // destination ports to use in turn, from To's port on: each is a connection of its own. Default 1.
	Rate  int            // required: packets per second, at most 500,000
	For   time.Duration  // required: at most a minute
	Size  int            // bytes of payload; default 64
	Mark  int            // SO_MARK; default none
	First func()         // optional: called once, after the first packets have left or were refused
}

// BlastResult tells what became of the packets. Sent and Refused add up to Rate times For, unless ctx ended or the machine
// was too slow by more than For.
type BlastResult struct {
	Sent    uint64 // taken by the kernel
	Refused uint64 // refused with an error, as by a rule that drops in OUTPUT (EPERM)
	Elapsed time.Duration
}

// Blast sends UDP packets from the host and returns when all are sent.
func (h *Host) Blast(ctx context.Context, b Blast) (result BlastResult, err error) {
	err = h.Do(func() (err error) {
		result, err = b.run(ctx)
		return err
	})
	return result, err
}

// run sends from the namespace of the calling thread.
func (b Blast) run(ctx context.Context) (BlastResult, error) {
	if err := b.check(); err != nil {
		return BlastResult{}, err
	}
	b.Ports = max(b.Ports, 1)
	if b.Size == 0 {
		b.Size = 64
	}
	if b.First == nil {
		b.First = func() {}
	}
	return blast(ctx, b)
}

func (b Blast) check() error {
	switch {
	case !b.To.IsValid():
		return fmt.Errorf("testnet: blast to %v: no address", b.To)
	case b.Rate <= 0 || b.Rate > maxBlastRate:
		return fmt.Errorf("testnet: blast of %d packets/s; want 1 to %d", b.Rate, maxBlastRate)
	case b.For <= 0 || b.For > maxBlastTime:
		return fmt.Errorf("testnet: blast for %v; want up to %v", b.For, maxBlastTime)
	case b.Size < 0 || b.Size > 65_507:
		return fmt.Errorf("testnet: blast of %d bytes a packet", b.Size)
	case int(b.To.Port())+max(b.Ports, 1)-1 > 65_535:
		return fmt.Errorf("testnet: blast to %d ports from %d on", b.Ports, b.To.Port())
	}
	return nil
}

// BlastHere is Host.Blast for the network namespace of the process, which RequireOwnNamespace has checked: for tests in Isolate.
func BlastHere(ctx context.Context, t testutil.TB, b Blast) (BlastResult, error) {
	t.Helper()
	RequireOwnNamespace(t)
	return b.run(ctx)
}
