package kext_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"github.com/weirfw/weir/internal/kexttest"
	"github.com/weirfw/weir/internal/kextwire/stream"
	"github.com/weirfw/weir/internal/winerig"
	"github.com/weirfw/weir/pkg/intercept"
	"github.com/weirfw/weir/pkg/kext"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

const patience = time.Minute

// runRig runs a source over the fake driver that is loaded.
func runRig(t *testing.T, cfg kext.Config, h intercept.Handler) (s *kext.Source, stop func() error, ended <-chan error) {
	t.Helper()
	s, err := kext.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop, ended = kexttest.Start(t, s, h)
	return s, stop, ended
}

// names are the verdicts as the fake driver's table calls them.
var names = [verdict.NumActions]string{
	verdict.ActionAccept: "accept", verdict.ActionPermanentAccept: "permanent accept",
	verdict.ActionPermanentAcceptFinal: "permanent accept final", verdict.ActionBlock: "block",
	verdict.ActionPermanentBlock: "permanent block", verdict.ActionDrop: "drop", verdict.ActionPermanentDrop: "permanent drop",
	verdict.ActionRerouteToNameserver: "reroute to nameserver", verdict.ActionRerouteToTunnel: "reroute to tunnel",
	verdict.ActionRerouteToSplitTun: "reroute to split tunnel",
}

// byPort decides by the local port, and compares payloads.
type byPort struct {
	t     *testing.T
	bytes map[uint16][]byte
}

func (*byPort) Lookup(*packet.Info) (verdict.Action, uint8, bool) { return 0, 0, false }

func (h *byPort) Handle(p packet.Packet) {
	port := p.Info().Local.Port()
	if b, err := p.Payload(); err != nil || !bytes.Equal(b, h.bytes[port]) {
		h.t.Errorf("port %d: got % x, %v; want % x", port, b, err, h.bytes[port])
	}
	if err := packet.Apply(p, verdict.Action((port-1)%verdict.NumActions), 0); err != nil {
		h.t.Error(err)
	}
}

func (*byPort) ReportUsage([]intercept.Usage) {}
func (*byPort) ReportEnd(intercept.End)       {}

// questions asks about a UDP packet for each action, for IPv4 and then for IPv6.
func questions(t *testing.T, d *winerig.Driver, h *byPort) (all []winerig.Question) {
	t.Helper()
	for n := uint16(1); n <= 2*verdict.NumActions; n++ {
		local, remote := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
		if n > verdict.NumActions {
			local, remote = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
		}
		p := kexttest.UDP(netip.AddrPortFrom(local, n), netip.AddrPortFrom(remote, 53), packet.Outbound)
		h.bytes[n] = p.Bytes
		all = append(all, winerig.Question{ID: uint64(n), Tuple: p.Info.Tuple, Packet: p.Bytes})
		if err := d.Expect(uint64(n), names[(n-1)%verdict.NumActions]); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// All verdicts, for IPv4 and IPv6, through the driver's real device; the driver compares with its own table.
func TestRigVerdicts(t *testing.T) {
	for _, p := range []winerig.Personality{winerig.V1, winerig.V2} {
		t.Run(string(p), func(t *testing.T) {
			d := winerig.Load(t, p)
			if err := d.Behave(winerig.Behaviour{Version: p.Version(), MaxRead: 29, TimeoutMS: 50}); err != nil {
				t.Fatal(err)
			}
			h := &byPort{t: t, bytes: map[uint16][]byte{}}
			all := questions(t, d, h)
			s, stop, _ := runRig(t, kext.Config{SplitTunnel: kext.SplitTrusted}, h)
			for _, q := range all {
				if err := d.Ask(p, q); err != nil {
					t.Fatal(err)
				}
			}
			want := uint64(len(all))
			d.Await(t, "verdicts", func(r winerig.Report) bool { return r.Right+r.Wrong+r.Illegal+r.Unexpected >= want })
			for n, q := range all {
				if a := verdict.Action(n % verdict.NumActions); a.Permanent() {
					if err := s.Update(q.Tuple, a, 0); err != nil {
						t.Error(err)
					}
				}
			}
			if err := errors.Join(s.Forget(all[0].Tuple), s.ForgetAll()); err != nil {
				t.Error(err)
			}
			awaitHousekeeping(t, d, p) // whether it is legal is for the driver to say
			if err := stop(); err != nil {
				t.Error(err)
			}
			r := d.Await(t, "the handle's end", func(r winerig.Report) bool { return r.Closed == r.Opened })
			if r.Right != want || r.Wrong+r.Illegal+r.Unexpected+r.Waiting != 0 || r.Shutdowns != 1 || r.Opened != 1 || r.Closed != 1 {
				t.Errorf("got %+v; want %d right, one shutdown, one handle", r, want)
			}
		})
	}
}

// awaitHousekeeping waits for what the client asks for once a second: bandwidth (v2) or statistics (v1).
func awaitHousekeeping(t *testing.T, d *winerig.Driver, p winerig.Personality) {
	t.Helper()
	wanted := map[winerig.Personality]uint32{winerig.V1: 0x807, winerig.V2: 6}[p]
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		all, err := d.Take()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.What == wanted {
				return
			}
		}
	}
	t.Fatalf("no %#x came within %v", wanted, patience)
}

// accepting accepts in Lookup.
type accepting struct{}

func (accepting) Lookup(*packet.Info) (verdict.Action, uint8, bool) {
	return verdict.ActionAccept, 0, true
}
func (accepting) Handle(p packet.Packet) { _ = p.Accept() }

func TestRigOldDriver(t *testing.T) {
	winerig.Load(t, winerig.V20)
	s, err := kext.New(kext.Config{SplitTunnel: kext.SplitNeeded})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), accepting{}, nil); !errors.Is(err, kext.ErrNoSplitTunnel) {
		t.Errorf("got %v; want ErrNoSplitTunnel", err)
	}
}

// fromEnvironment is a number that docs/benchmarks.md sets for its figures.
func fromEnvironment(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRigRoundTrips: none of many questions, each asked when an earlier one was answered, is lost. docs/benchmarks.md has the rate of
// 100,000, WEIR_RIG_WINDOW of which are on their way at a time.
func TestRigRoundTrips(t *testing.T) {
	count, window := fromEnvironment(t, "WEIR_RIG_COUNT", 5_000), uint32(fromEnvironment(t, "WEIR_RIG_WINDOW", 64))
	d := winerig.Load(t, winerig.V2)
	s, stop, _ := runRig(t, kext.Config{}, accepting{})
	p := kexttest.UDP(netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("10.0.0.2:6"), packet.Outbound)
	info := stream.AppendConnection(nil, stream.KindConnection4, &stream.Connection{Tuple: p.Info.Tuple, Layer: 3, Payload: p.Bytes})
	began := time.Now()
	if err := d.Generate(count, window, info); err != nil {
		t.Fatal(err)
	}
	r := d.Await(t, "verdicts", func(r winerig.Report) bool { return r.Verdicts >= count })
	took := time.Since(began)
	if got := s.Stats(); r.Verdicts != count || r.Illegal != 0 || got.Verdicts != count || got.Packets != count {
		t.Errorf("got %+v here and %+v there; want %d of everything", got, r, count)
	}
	t.Logf("%d round trips, %d at a time, in %v: %.0f a second", count, window, took.Round(time.Millisecond), float64(count)/took.Seconds())
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A device that disappears, or fails one read, ends Run with an error.
func TestRigBroken(t *testing.T) {
	for _, p := range []winerig.Personality{winerig.V1, winerig.V2} {
		t.Run(string(p), func(t *testing.T) {
			d := winerig.Load(t, p)
			for name, b := range map[string]winerig.Behaviour{"failed read": {FailReads: 1}, "gone": {Gone: 1}} {
				if err := d.Reset(); err != nil {
					t.Fatal(err)
				}
				b.Version, b.TimeoutMS = p.Version(), 50
				_, _, ended := runRig(t, kext.Config{}, accepting{})
				if err := d.Behave(b); err != nil {
					t.Fatal(err)
				}
				if p == winerig.V2 && b.FailReads > 0 {
					// ends the read that waits; the next one fails
					if err := d.Push([]byte{99, 0, 0, 0, 0}); err != nil {
						t.Fatal(err)
					}
				}
				select {
				case err := <-ended:
					if err == nil || errors.Is(err, windows.ERROR_OPERATION_ABORTED) {
						t.Errorf("%s: got %v; want the device's error", name, err)
					}
				case <-time.After(patience):
					t.Fatalf("%s: Run did not end", name)
				}
			}
		})
	}
}
