package names_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/names"
)

func newTable(t testing.TB, cfg names.Config) *names.Table {
	t.Helper()
	table, err := names.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func look(domain, addr string, cnames ...string) names.Lookup {
	return names.Lookup{Domain: domain, Addr: ip(addr), CNAMEs: cnames, TTL: time.Minute}
}

var (
	nobody = names.Asker{}
	alice  = names.Asker{PID: 10, Start: 1}
	bob    = names.Asker{PID: 11, Start: 1}
)

// domain returns the name found, "" if none.
func domain(t *names.Table, addr string, who names.Asker) string {
	e, _ := t.Find(ip(addr), who)
	return e.Domain
}

func TestBadConfig(t *testing.T) {
	for _, cfg := range []names.Config{{Floor: -1}, {Floor: time.Hour, Ceiling: time.Minute}, {MaxAddrs: 63}, {MaxNames: -1}} {
		if _, err := names.New(cfg); !errors.Is(err, names.ErrConfig) {
			t.Errorf("%+v: got %v; want ErrConfig", cfg, err)
		}
	}
}

func TestWhoseName(t *testing.T) {
	table := newTable(t, names.Config{})
	const addr = "192.0.2.1"
	table.Add(names.Packet, alice, look("alice.test", addr))
	table.Add(names.Systemd, nobody, look("old.test", addr))
	table.Add(names.Systemd, nobody, look("any.test", addr, "cdn.test"))
	table.Add(names.Packet, bob, look("bob.test", addr))
	for who, want := range map[names.Asker]string{
		alice: "alice.test", bob: "bob.test", nobody: "any.test", {PID: 12}: "any.test",
		{PID: alice.PID, Start: 2}: "any.test", // another process with the PID of one that is gone
	} {
		if got := domain(table, addr, who); got != want {
			t.Errorf("%+v: got %q; want %q", who, got, want)
		}
	}
	table.Add(names.Packet, alice, look("again.test", addr))
	if got := domain(table, addr, alice); got != "again.test" {
		t.Errorf("got %q; want the latest", got)
	}
	var all []string
	for _, e := range table.All(ip(addr)) {
		all = append(all, fmt.Sprint(e.Domain, " ", e.Source, " ", e.Asker.PID, " ", e.CNAMEs))
	}
	want := []string{"again.test packet 10 []", "bob.test packet 11 []", "any.test systemd 0 [cdn.test]", "old.test systemd 0 []", "alice.test packet 10 []"}
	if !slices.Equal(all, want) {
		t.Errorf("got  %q\nwant %q", all, want)
	}
	if got := domain(table, "192.0.2.2", alice); got != "" {
		t.Errorf("another address: got %q", got)
	}
}

// What only others looked up says nothing.
func TestNotOthersNames(t *testing.T) {
	table := newTable(t, names.Config{})
	table.Add(names.Packet, alice, look("alice.test", "192.0.2.1"))
	for _, who := range []names.Asker{bob, nobody} {
		if got := domain(table, "192.0.2.1", who); got != "" {
			t.Errorf("%+v: got %q; want none", who, got)
		}
	}
}

func TestSameNameAgain(t *testing.T) {
	table := newTable(t, names.Config{})
	table.Add(names.Systemd, nobody, look("x.test", "192.0.2.1"), look("y.test", "192.0.2.1"))
	table.Add(names.Packet, nobody, look("X.test.", "::ffff:192.0.2.1", "Alias.test."))
	all := table.All(ip("192.0.2.1"))
	if len(all) != 2 || all[0].Domain != "x.test" || all[0].Source != names.Packet || all[0].CNAMEs[0] != "alias.test" {
		t.Errorf("got %+v; want x.test, the newest, and y.test", all)
	}
}

func TestNeverNamed(t *testing.T) {
	table := newTable(t, names.Config{})
	for _, addr := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "0.0.0.17", "::", "224.0.0.251", "ff02::fb", "255.255.255.255"} {
		table.Add(names.Systemd, nobody, look("x.test", addr))
		if got := domain(table, addr, nobody); got != "" {
			t.Errorf("%s: got %q; want no name", addr, got)
		}
	}
	table.Add(names.Systemd, nobody, names.Lookup{Domain: "x.test"}, look("", "192.0.2.1"), look(".", "192.0.2.1"))
	if n := table.Len(); n != 0 {
		t.Errorf("got %d addresses; want none", n)
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, names.Config{Floor: time.Minute, Ceiling: time.Hour})
		for name, ttl := range map[string]time.Duration{"192.0.2.1": time.Second, "192.0.2.2": 2 * time.Minute, "192.0.2.3": 48 * time.Hour} {
			table.Add(names.Systemd, nobody, names.Lookup{Domain: "x.test", Addr: ip(name), TTL: ttl})
		}
		for _, step := range []struct {
			after time.Duration
			addr  string
			want  string
		}{
			{59 * time.Second, "192.0.2.1", "x.test"}, {time.Minute, "192.0.2.1", ""},
			{119 * time.Second, "192.0.2.2", "x.test"}, {2 * time.Minute, "192.0.2.2", ""},
			{59 * time.Minute, "192.0.2.3", "x.test"}, {time.Hour, "192.0.2.3", ""},
		} {
			start := time.Now()
			time.Sleep(step.after - time.Duration(start.Sub(epoch)))
			if got := domain(table, step.addr, nobody); got != step.want {
				t.Errorf("%s after %v: got %q; want %q", step.addr, step.after, got, step.want)
			}
		}
		if got := table.All(ip("192.0.2.3")); len(got) != 0 {
			t.Errorf("All: got %v; want nothing that expired", got)
		}
		if got := table.Addrs("x.test"); got != nil {
			t.Errorf("Addrs: got %v; want nothing that expired", got)
		}
	})
}

// epoch is when the clock of a synctest bubble starts.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestNamesOfOneAddressAreBounded(t *testing.T) {
	table := newTable(t, names.Config{MaxNames: 3})
	for i := range 9 {
		table.Add(names.Systemd, nobody, look(fmt.Sprintf("n%d.test", i), "192.0.2.1"))
	}
	all := table.All(ip("192.0.2.1"))
	if len(all) != 3 || all[0].Domain != "n8.test" || all[2].Domain != "n6.test" {
		t.Errorf("got %v; want the latest three", all)
	}
}

// Addresses are bounded, and those that are asked about stay.
func TestLeastRecentlyUsedGoes(t *testing.T) {
	table := newTable(t, names.Config{MaxAddrs: 256})
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	hot := []int{1, 2, 3}
	for i := range 4096 {
		table.Add(names.Systemd, nobody, names.Lookup{Domain: fmt.Sprintf("n%d.test", i), Addr: addr(i)})
		for _, h := range hot {
			if _, ok := table.Find(addr(h), nobody); !ok && i >= h {
				t.Fatalf("after %d addresses: %v is gone, which is in use", i, addr(h))
			}
		}
	}
	if n := table.Len(); n > 256 {
		t.Errorf("got %d addresses; want 256 at most", n)
	}
	if _, ok := table.Find(addr(4095), nobody); !ok {
		t.Error("the newest address has no name")
	}
	if _, ok := table.Find(addr(100), nobody); ok {
		t.Error("an old address that nobody asked about is there still")
	}
}

func TestAddrs(t *testing.T) {
	table := newTable(t, names.Config{})
	table.Add(names.Systemd, nobody, look("x.test", "192.0.2.9"), look("x.test", "2001:db8::1"), look("y.test", "192.0.2.1"))
	table.Add(names.Packet, alice, look("x.test", "192.0.2.1"))
	want := []netip.Addr{ip("192.0.2.1"), ip("192.0.2.9"), ip("2001:db8::1")}
	if got := table.Addrs("X.test."); !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, names.Config{})
		const addr = "192.0.2.1"
		wait := func(ctx context.Context, who names.Asker, limit time.Duration) (string, time.Duration) {
			start := time.Now()
			e, _ := table.Wait(ctx, ip(addr), who, limit)
			return e.Domain, time.Since(start)
		}
		if d, took := wait(t.Context(), alice, 50*time.Millisecond); d != "" || took != 50*time.Millisecond {
			t.Errorf("nothing comes: got %q after %v", d, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Millisecond)
		defer cancel()
		if d, took := wait(ctx, alice, time.Hour); d != "" || took != 3*time.Millisecond {
			t.Errorf("the context ends: got %q after %v", d, took)
		}
		go func() {
			time.Sleep(10 * time.Millisecond)
			table.Add(names.Packet, bob, look("bob.test", addr)) // not for whom we wait
			time.Sleep(10 * time.Millisecond)
			table.Add(names.Systemd, nobody, look("x.test", addr))
		}()
		if d, took := wait(t.Context(), alice, time.Hour); d != "x.test" || took != 20*time.Millisecond {
			t.Errorf("it comes: got %q after %v", d, took)
		}
		if d, took := wait(t.Context(), alice, time.Hour); d != "x.test" || took != 0 {
			t.Errorf("it is there: got %q after %v", d, took)
		}
		if d, _ := table.Wait(t.Context(), ip("127.0.0.1"), alice, time.Hour); d.Domain != "" {
			t.Errorf("loopback: got %q", d.Domain)
		}
	})
}

// Many at once add, wait and find, and each gets a name that was added for its address.
func TestTogether(t *testing.T) {
	testutil.NoLeaks(t)
	table := newTable(t, names.Config{MaxAddrs: 128, MaxNames: 4})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 2000 {
				n := rand.IntN(500)
				addr := netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})
				want := fmt.Sprintf("n%d.test", n)
				switch rand.IntN(4) {
				case 0:
					table.Add(names.Packet, alice, names.Lookup{Domain: want, Addr: addr})
				case 1:
					ctx, cancel := context.WithCancel(t.Context())
					cancel()
					table.Wait(ctx, addr, alice, time.Hour)
				default:
					if e, ok := table.Find(addr, alice); ok && e.Domain != want {
						t.Errorf("%v: got %q; want %q", addr, e.Domain, want)
					}
				}
			}
		})
	}
	all.Wait()
}

func TestFindAllocatesNothing(t *testing.T) {
	table := newTable(t, names.Config{})
	table.Add(names.Systemd, nobody, look("x.test", "192.0.2.1", "y.test"))
	if n := testing.AllocsPerRun(100, func() { table.Find(ip("192.0.2.1"), alice) }); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}

func BenchmarkFind(b *testing.B) {
	table := newTable(b, names.Config{})
	const n = 50_000
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range n {
		table.Add(names.Systemd, nobody, names.Lookup{Domain: fmt.Sprintf("n%d.test", i), Addr: addr(i)})
	}
	for _, bb := range []struct {
		name string
		add  int
	}{{"hit", 0}, {"miss", n}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					table.Find(addr(i%n+bb.add), alice)
				}
			})
		})
	}
}

func BenchmarkAdd(b *testing.B) {
	table := newTable(b, names.Config{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		table.Add(names.Systemd, nobody, names.Lookup{Domain: "x.test", Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
	}
}

func BenchmarkResolve(b *testing.B) {
	answer := chain(3)
	b.ReportAllocs()
	for b.Loop() {
		names.Resolve(answer)
	}
}
