package nameserver_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// judge decides by name, and by the names and addresses of answers.
type judge struct {
	mu       sync.Mutex // guards all below
	verdicts map[string]verdict.Verdict
	asked    []string
	queries  []nameserver.Query
	panics   bool
	hangs    bool
}

func (j *judge) Decide(ctx context.Context, q nameserver.Query, a *nameserver.Answer) verdict.Decision {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.panics {
		panic("a mistake")
	}
	if j.hangs {
		<-ctx.Done()
		return verdict.Decision{Verdict: verdict.Accept}
	}
	names := []string{q.Name}
	if a != nil {
		names = slices.Clone(a.CNAMEs)
		for _, addr := range a.Addrs {
			names = append(names, addr.String())
		}
	}
	j.queries = append(j.queries, q)
	j.asked = append(j.asked, strings.Join(names, ","))
	for _, n := range names {
		if v, ok := j.verdicts[n]; ok {
			return verdict.Decision{Verdict: v, Reason: verdict.Reason{Code: "test", Text: `no "` + n + `" here`, Rule: "rule 7", By: "judge"}}
		}
	}
	if a != nil {
		return verdict.Decision{}
	}
	return verdict.Decision{Verdict: verdict.Accept}
}

// fail has it make mistakes.
func (j *judge) fail(panics, hangs bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.panics, j.hangs = panics, hangs
}

func (j *judge) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	asked := j.asked
	j.asked = nil
	return asked
}

// quickJudge can tell at once.
type quickJudge struct{ *judge }

func (j quickJudge) DecideQuick(q nameserver.Query, a *nameserver.Answer) (verdict.Decision, bool) {
	return j.Decide(context.Background(), q, a), true
}

// book keeps what was recorded.
type book struct {
	mu      sync.Mutex // guards records and answers
	records []nameserver.Record
	answers []nameserver.Reply
}

func (b *book) Record(r nameserver.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, r)
}

func (b *book) answered(_ nameserver.Query, r nameserver.Reply) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers = append(b.answers, r)
}

func (b *book) take() (records []nameserver.Record, answers []nameserver.Reply) {
	b.mu.Lock()
	defer b.mu.Unlock()
	records, answers = b.records, b.answers
	b.records, b.answers = nil, nil
	return records, answers
}

// TestVerdicts: what the client sees of each verdict, and what is recorded when.
func TestVerdicts(t *testing.T) {
	noLeaks(t)
	asking, release := make(chan struct{}, 1), make(chan struct{})
	f := plain(t, func(q *dns.Msg, _ bool) *dns.Msg {
		asking <- struct{}{}
		<-release
		return yes(t, q)
	})
	j, b := &judge{verdicts: map[string]verdict.Verdict{}}, &book{}
	r := run(t, nameserver.Config{Decider: j, Recorder: b, OnAnswer: b.answered, Settings: nameserver.Settings{
		Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, FailoverAfter: limit, Timeout: limit,
	}})
	for _, v := range verdict.All() {
		t.Run(v.String(), func(t *testing.T) {
			name := strings.ToLower(v.String()) + ".test"
			j.mu.Lock()
			j.verdicts[name] = v
			j.mu.Unlock()
			got := make(chan *dns.Msg, 1)
			go func() {
				c := &dns.Client{Timeout: limit}
				if v == verdict.Drop {
					c.Timeout = 300 * time.Millisecond
				}
				m, _, _ := c.Exchange(query(name, dns.TypeA), r.addr)
				got <- m
			}()
			if v.Allows() {
				<-asking
				records, answers := b.take()
				switch {
				case v == verdict.Accept && len(records) != 0:
					t.Errorf("before the answer: got %+v; want nothing", records)
				case v != verdict.Accept && (len(records) != 1 || records[0].Decision.Verdict != v || !records[0].Answered.IsZero()):
					t.Errorf("before the answer: got %+v; want one with %v", records, v)
				}
				if len(answers) != 0 {
					t.Errorf("before the answer: got %+v learnt", answers)
				}
				release <- struct{}{}
			}
			m := <-got
			records, answers := b.take()
			if len(records) != 1 || records[0].Decision.Verdict != v || records[0].Query.Name != name {
				t.Fatalf("got records %+v; want one with %v", records, v)
			}
			rec := records[0]
			switch {
			case v == verdict.Drop:
				if m != nil || !rec.Answered.IsZero() {
					t.Errorf("got %v, %+v; want silence", m, rec)
				}
			case m == nil:
				t.Error("got no answer")
			case v == verdict.Block:
				if m.Rcode != dns.RcodeNameError || rec.Reply.Source != nameserver.FromSelf {
					t.Errorf("got %v; want NXDOMAIN", m)
				}
			case v.Allows():
				if first(m) != "192.0.2.1" || len(answers) != 1 || rec.Reply.Answer.Addrs[0].String() != "192.0.2.1" || rec.Answered.IsZero() {
					t.Errorf("got %v, %+v", m, rec)
				}
			default:
				if m.Rcode != dns.RcodeServerFailure {
					t.Errorf("got %v; want SERVFAIL", m)
				}
			}
		})
	}
}

func TestBlocked(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t)))
	j := &judge{verdicts: map[string]verdict.Verdict{"ads.test": verdict.Block}}
	for _, how := range []nameserver.BlockedAnswer{nameserver.BlockedNXDOMAIN, nameserver.BlockedSinkhole} {
		r := run(t, nameserver.Config{Decider: j, Settings: nameserver.Settings{
			Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, Blocked: how, BlockTTL: 7 * time.Second,
		}})
		for qtype, want := range map[uint16][]string{
			dns.TypeA: {"NXDOMAIN", "0.0.0.17"}, dns.TypeAAAA: {"NXDOMAIN", "::17"}, dns.TypeHTTPS: {"NXDOMAIN", "NOERROR"},
		} {
			m := r.ask("Ads.test", qtype)
			if got := first(m); got != want[how] {
				t.Errorf("got %s; want %s", got, want[how])
			}
			var txt *dns.TXT
			for _, x := range m.Extra {
				if x, ok := x.(*dns.TXT); ok {
					txt = x
				}
			}
			if txt == nil || txt.Hdr.Name != nameserver.ReasonName || txt.Hdr.Ttl != 0 ||
				!slices.Equal(txt.Txt, []string{`blocked: no \"ads.test\" here`, "code=test", "rule=rule 7", "by=judge"}) {
				t.Errorf("got %v; want the reason", txt)
			}
			if edeText(m) != `no "ads.test" here` {
				t.Errorf("got extended error %q", edeText(m))
			}
			for _, x := range append(m.Answer, m.Ns...) {
				if x.Header().Ttl != 7 {
					t.Errorf("got %v; want a TTL of 7", x)
				}
			}
			if len(m.Answer)+len(m.Ns) == 0 {
				t.Error("got neither an answer nor how long there is none")
			}
		}
	}
	if n := f.queries.Load(); n != 0 {
		t.Errorf("got %d queries for blocked names; want none", n)
	}
}

// TestChain blocks a name in the middle of a chain, and an address: also from the cache, and when the decider can tell at once.
func TestChain(t *testing.T) {
	noLeaks(t)
	z := newZone(t, "a.test. 300 IN CNAME b.test.", "b.test. 300 IN CNAME tracker.test.", "tracker.test. 300 IN CNAME d.test.",
		"d.test. 300 IN A 192.0.2.1", "evil.test. 300 IN A 192.0.2.66", "ok.test. 300 IN CNAME d.test.")
	f := plain(t, zoneReply(z))
	j := &judge{}
	for name, d := range map[string]nameserver.Decider{"slow": j, "quick": quickJudge{j}} {
		t.Run(name, func(t *testing.T) {
			b := &book{}
			j.mu.Lock()
			j.verdicts = map[string]verdict.Verdict{"tracker.test": verdict.Block, "192.0.2.66": verdict.Block}
			j.mu.Unlock()
			r := run(t, nameserver.Config{Decider: d, Recorder: b, OnAnswer: b.answered,
				Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}}})
			j.take()
			for range 2 {
				r.want("a.test", dns.TypeA, "NXDOMAIN")
				r.want("evil.test", dns.TypeA, "NXDOMAIN")
			}
			records, answers := b.take()
			if len(records) != 4 || len(answers) != 0 {
				t.Errorf("got %d records and %d answers learnt; want 4 and 0", len(records), len(answers))
			}
			for _, rec := range records {
				if rec.Decision.Verdict != verdict.Block {
					t.Errorf("got %+v; want block", rec)
				}
			}
			if asked := j.take(); !slices.Contains(asked, "b.test,tracker.test,d.test,192.0.2.1") {
				t.Errorf("got asked %q; want the chain", asked)
			}
			for range 2 {
				r.want("ok.test", dns.TypeA, "192.0.2.1")
			}
			if records, answers := b.take(); len(records) != 2 || len(answers) != 2 || answers[1].Source != nameserver.FromCache {
				t.Errorf("got %+v, %+v; want two, the second from the cache", records, answers)
			}
		})
	}
}

func TestQueryTellsTheClient(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t)))
	j := &judge{}
	r := run(t, nameserver.Config{Decider: j, Settings: nameserver.Settings{Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}}})
	for _, network := range []string{"udp", "tcp"} {
		conn, err := dns.Dial(network, r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.WriteMsg(query(`We\032rd\255.test`, dns.TypeTXT)); err != nil {
			t.Fatal(err)
		}
		if m, err := conn.ReadMsg(); err != nil || m.Rcode != dns.RcodeNameError {
			t.Fatalf("got %v, %v", m, err)
		}
		j.mu.Lock()
		q := j.queries[len(j.queries)-1]
		j.mu.Unlock()
		want := netip.MustParseAddrPort(conn.LocalAddr().String())
		proto := map[string]packet.Protocol{"udp": packet.UDP, "tcp": packet.TCP}[network]
		if q.Client != want || q.Server.String() != r.addr || q.Protocol != proto || q.Name != `we\ rd\255.test` || q.Type.String() != "TXT" || q.ID == 0 {
			t.Errorf("got %+v; want client %v", q, want)
		}
	}
}

func TestDeciderFails(t *testing.T) {
	noLeaks(t)
	f := plain(t, zoneReply(newZone(t, "a.test. 300 IN A 192.0.2.1")))
	j, b := &judge{}, &book{}
	for name, d := range map[string]nameserver.Decider{"slow": j, "quick": quickJudge{j}} {
		t.Run(name, func(t *testing.T) {
			j.fail(false, false)
			r := run(t, nameserver.Config{Decider: d, Recorder: b, Settings: nameserver.Settings{
				Upstreams: []nameserver.Upstream{f.upstream(t, "ADDR")}, Timeout: 300 * time.Millisecond, FailoverAfter: limit,
			}})
			eventually(t, "cached", func() bool { return first(r.ask("a.test", dns.TypeA)) == "192.0.2.1" })
			b.take()
			j.fail(true, false)
			r.want("a.test", dns.TypeA, "SERVFAIL")
			if name == "slow" {
				j.fail(false, true)
				r.want("a.test", dns.TypeA, "SERVFAIL")
			}
			records, _ := b.take()
			for _, rec := range records {
				if rec.Decision.Verdict != verdict.Failed || rec.Decision.Reason.Code != nameserver.CodeDeciderFailed {
					t.Errorf("got %+v; want failed", rec)
				}
			}
		})
	}
}
