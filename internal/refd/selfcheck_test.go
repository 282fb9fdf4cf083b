package refd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/nameserver"
)

var errTest = errors.New("it does not work")

// checkRig is a self-check of one check.
type checkRig struct {
	*selfCheck
	began time.Time

	guard  sync.Mutex // guards what follows
	err    error
	online bool
	at     []time.Duration // when it was checked
}

func (r *checkRig) set(err error, online bool) {
	r.guard.Lock()
	defer r.guard.Unlock()
	r.err, r.online = err, online
}

func (r *checkRig) checked() []time.Duration {
	r.guard.Lock()
	defer r.guard.Unlock()
	return slices.Clone(r.at)
}

func newCheckRig() *checkRig {
	r := &checkRig{online: true, began: time.Now()}
	r.selfCheck = &selfCheck{
		due: func() bool {
			r.guard.Lock()
			defer r.guard.Unlock()
			return r.online
		}, changed: make(chan struct{}, 1), failed: map[string]int{}, states: module.NewStates("self-check"),
		log: slog.New(slog.DiscardHandler),
		checks: []check{{"it", "It is broken", "Mend it.", func(context.Context) error {
			r.guard.Lock()
			defer r.guard.Unlock()
			r.at = append(r.at, time.Since(r.began))
			return r.err
		}}},
	}
	return r
}

func TestWhenTheSelfCheckRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := newCheckRig()
		done := make(chan error)
		go func() { done <- r.run(ctx, func() {}) }()
		want := []time.Duration{checkOnStart}
		until := func(d time.Duration, more ...time.Duration) {
			t.Helper()
			time.Sleep(d - time.Since(r.began))
			synctest.Wait()
			if want = append(want, more...); !slices.Equal(r.checked(), want) {
				t.Fatalf("checked at %v; want %v", r.checked(), want)
			}
		}
		const five = checkEvery
		until(2*five, checkOnStart+five)
		r.networkChanged()
		until(2*five+10*time.Second, 2*five+checkOnStart) // it was near
		r.networkChanged()
		r.networkChanged()
		until(2*five+5*time.Second+checkAfterChange+5*time.Second, 2*five+10*time.Second+checkAfterChange)
		last := want[len(want)-1]
		r.set(errTest, true)
		until(last+five+2*checkAgain, last+five, last+five+checkAgain, last+five+2*checkAgain)
		r.set(nil, true)
		last = want[len(want)-1]
		until(last+checkAgain, last+checkAgain)
		last = want[len(want)-1]
		r.set(nil, false)
		r.networkChanged()
		until(last + 3*five)
		r.set(nil, true)
		r.networkChanged()
		until(last+3*five+checkAfterChange, last+3*five+checkAfterChange)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A failure is told when it is no accident, and withdrawn on success.
func TestStatesOfTheSelfCheck(t *testing.T) {
	r := newCheckRig()
	check := func(err error, want api.CheckOutcome, states int) api.CheckResult {
		t.Helper()
		r.set(err, true)
		got := r.now(t.Context())
		if len(got) != 1 || got[0].Result != want || len(r.states.All()) != states {
			t.Fatalf("%v: got %+v and %d states; want %v and %d", err, got, len(r.states.All()), want, states)
		}
		return got[0]
	}
	check(nil, api.CheckPassed, 0)
	if res := check(errTest, api.CheckFailed, 0); res.Remedy != "Mend it." || res.Message != errTest.Error() {
		t.Errorf("got %+v", res)
	}
	check(nil, api.CheckPassed, 0)
	check(errTest, api.CheckFailed, 0)
	check(errTest, api.CheckFailed, 1)
	check(errTest, api.CheckFailed, 1)
	if s := r.states.All()[0]; s.ID != "it" || s.Severity != module.Warning || !strings.HasSuffix(s.Message, "it does not work. Mend it.") {
		t.Errorf("got %+v; want what is wrong and what to do", s)
	}
	check(fmt.Errorf("%w: it is off", errNothingToCheck), api.CheckSkipped, 0)
	check(errTest, api.CheckFailed, 0)
	check(errTest, api.CheckFailed, 1)
	check(nil, api.CheckPassed, 0)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got := r.now(ended); len(got) != 0 || len(r.states.All()) != 0 {
		t.Errorf("got %+v of a check that was broken off", got)
	}
}

func TestNamesOfTheSelfCheck(t *testing.T) {
	var c checkParts
	name := checkName()
	if name == checkName() || !strings.HasSuffix(name, "."+checkDomain) {
		t.Fatalf("got %q; want another one each time", name)
	}
	seen, forget := c.asked.expect(name)
	if addrs, ok := c.ownName(nameserver.Query{Name: name}); !ok || len(addrs) != 1 || addrs[0] != checkAddr(name) {
		t.Errorf("got %v, %v; want its address", addrs, ok)
	}
	c.ownName(nameserver.Query{Name: name}) // twice does no harm
	<-seen
	forget()
	if addrs, ok := c.ownName(nameserver.Query{Name: name}); !ok || len(addrs) != 0 {
		t.Errorf("got %v, %v; want that no address is known", addrs, ok)
	}
	if _, ok := c.ownName(nameserver.Query{Name: "www.example.test"}); ok {
		t.Error("answers what is not its own")
	}
	heard, forget := c.heard.expect(name)
	defer forget()
	c.heardName(&dnsmon.Answer{Asked: []string{"other.test", strings.ToUpper(name) + "."}})
	<-heard
}
