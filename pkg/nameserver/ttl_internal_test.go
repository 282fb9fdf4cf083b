package nameserver

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestTTL: how long answers are kept.
func TestTTL(t *testing.T) {
	for _, c := range []struct {
		name    string
		rcode   int
		records []string
		want    time.Duration
	}{
		{"the least of a chain", 0, []string{"a.test. 300 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1"}, time.Minute},
		{"a day at most", 0, []string{"a.test. 604800 IN A 192.0.2.1"}, 24 * time.Hour},
		{"not at all", 0, []string{"a.test. 0 IN A 192.0.2.1"}, 0},
		{"NXDOMAIN", dns.RcodeNameError, []string{"test. 600 IN SOA a. b. 1 1 1 1 30"}, 30 * time.Second},
		{"NXDOMAIN, SOA expires first", dns.RcodeNameError, []string{"test. 20 IN SOA a. b. 1 1 1 1 300"}, 20 * time.Second},
		{"NXDOMAIN for an hour at most", dns.RcodeNameError, []string{"test. 86400 IN SOA a. b. 1 1 1 1 86400"}, time.Hour},
		{"NXDOMAIN behind a CNAME", dns.RcodeNameError, []string{"a.test. 10 IN CNAME b.test.", "test. 600 IN SOA a. b. 1 1 1 1 30"}, 10 * time.Second},
		{"NXDOMAIN without SOA", dns.RcodeNameError, nil, 0},
		{"NODATA", 0, []string{"test. 600 IN SOA a. b. 1 1 1 1 30"}, 30 * time.Second},
		{"NODATA without SOA", 0, nil, 0},
		{"NODATA behind a CNAME", 0, []string{"a.test. 300 IN CNAME b.test.", "test. 600 IN SOA a. b. 1 1 1 1 30"}, 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := &scripted{answer: func(o *outgoing) (*dns.Msg, error) { return message(o, c.rcode, c.records...), nil }}
				s := scriptedServer(t, Settings{}, x)
				r, _ := lookup(t, s, "a.test", dns.TypeA)
				if r.TTL != c.want {
					t.Errorf("got TTL %v; want %v", r.TTL, c.want)
				}
				if c.want > 0 {
					time.Sleep(c.want - time.Second)
					if r, _ := lookup(t, s, "a.test", dns.TypeA); r.TTL != time.Second || x.asked != 1 || r.Source != FromCache {
						t.Errorf("a second before: got %+v, asked %d times", r, x.asked)
					}
					time.Sleep(time.Second)
				}
				if lookup(t, s, "a.test", dns.TypeA); x.asked != 2 {
					t.Errorf("after that: got asked %d times; want 2", x.asked)
				}
			})
		})
	}
}

// TestTTLsCountDown looks at the packed reply.
func TestTTLsCountDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &scripted{answer: func(o *outgoing) (*dns.Msg, error) {
			return message(o, 0, "a.test. 300 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1"), nil
		}}
		s := scriptedServer(t, Settings{}, x)
		lookup(t, s, "a.test", dns.TypeA)
		time.Sleep(20 * time.Second)
		m := packetReply(t, s, query("A.test.", dns.TypeA))
		if m.Answer[0].Header().Ttl != 280 || m.Answer[1].Header().Ttl != 40 || m.Question[0].Name != "A.test." {
			t.Errorf("got %v; want TTLs of 280 and 40", m)
		}
	})
}

// TestStale: expired answers are given when no server answers, or not in time (RFC 8767).
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails, delay := false, time.Duration(0)
		x := &scripted{}
		x.answer = func(o *outgoing) (*dns.Msg, error) {
			time.Sleep(delay)
			if fails {
				return nil, errSilent
			}
			return message(o, 0, fmt.Sprintf("a.test. 60 IN A 192.0.2.%d", x.asked)), nil
		}
		s := scriptedServer(t, Settings{StaleFor: time.Hour, FailoverAfter: time.Minute, Timeout: 4 * time.Second}, x)
		step := func(what, want string, src Source) {
			t.Helper()
			r, got := lookup(t, s, "a.test", dns.TypeA)
			if got != want || r.Source != src {
				t.Errorf("%s: got %s from %v; want %s from %v", what, got, r.Source, want, src)
			}
		}
		step("new", "192.0.2.1", FromUpstream)
		time.Sleep(61 * time.Second)
		fails = true
		step("failing", "192.0.2.1", FromStale)
		asked := x.asked
		time.Sleep(29 * time.Second)
		step("not asked again at once", "192.0.2.1", FromStale)
		if x.asked != asked {
			t.Errorf("asked %d times more within 30 s; want none", x.asked-asked)
		}
		m := packetReply(t, s, query("a.test.", dns.TypeA).SetEdns0(1232, false))
		opt := m.IsEdns0()
		if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != 30 || len(opt.Option) != 1 || opt.Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeStaleAnswer {
			t.Errorf("got %v; want a TTL of 30 and the extended error", m)
		}
		time.Sleep(2 * time.Second)
		fails, delay = false, 3*time.Second
		began := time.Now()
		step("slow", "192.0.2.1", FromStale)
		if d := time.Since(began); d != staleWait {
			t.Errorf("waited %v; want %v", d, staleWait)
		}
		time.Sleep(2 * time.Second)
		if _, got := lookup(t, s, "a.test", dns.TypeA); got == "192.0.2.1" {
			t.Errorf("got the old answer; want the one that came late")
		}
		fails, delay = true, 0
		time.Sleep(61*time.Second + time.Hour)
		if _, got := lookup(t, s, "a.test", dns.TypeA); got != "failed" {
			t.Errorf("after an hour: got %s; want a failure", got)
		}
	})
}

// TestFailuresAreKept for a second (RFC 9520).
func TestFailuresAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &scripted{answer: func(*outgoing) (*dns.Msg, error) { return nil, errSilent }}
		s := scriptedServer(t, Settings{}, x)
		lookup(t, s, "a.test", dns.TypeA)
		asked := x.asked
		time.Sleep(900 * time.Millisecond)
		if lookup(t, s, "a.test", dns.TypeA); x.asked != asked {
			t.Error("asked again within a second")
		}
		time.Sleep(200 * time.Millisecond)
		if lookup(t, s, "a.test", dns.TypeA); x.asked == asked {
			t.Error("not asked again after a second")
		}
	})
}
