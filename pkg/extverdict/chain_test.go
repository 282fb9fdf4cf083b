package extverdict_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/extverdict"
	"github.com/weirfw/weir/pkg/verdict"
)

func link(name string, r extverdict.Result) extverdict.Link {
	return extverdict.Link{Name: name, Handle: answering(r)}
}

// chained puts a chain into a slot and asks it once.
func chained(ctx context.Context, t *testing.T, links ...extverdict.Link) (extverdict.Result, error) {
	t.Helper()
	h, err := extverdict.Chain(links...)
	if err != nil {
		t.Fatal(err)
	}
	var s extverdict.Slot
	if err := s.Set("chain", h); err != nil {
		t.Fatal(err)
	}
	c, _ := s.Load()
	return c.Do(ctx, &conn.Snapshot{})
}

func TestChain(t *testing.T) {
	none := link("none", extverdict.Result{Reason: "not said", SkipTunnel: true})
	accept := link("accept", extverdict.Result{Verdict: verdict.Accept, Reason: "yes", SkipTunnel: true})
	block := link("block", extverdict.Result{Verdict: verdict.Block, Reason: "no"})
	drop := link("drop", extverdict.Result{Verdict: verdict.Drop})
	failed := link("failed", extverdict.Result{Verdict: verdict.Failed})
	panics := extverdict.Link{Name: "panics", Handle: func(context.Context, *conn.Snapshot) extverdict.Result { panic("ouch") }}
	accepted := extverdict.Result{Verdict: verdict.Accept, Reason: "yes", SkipTunnel: true, By: "accept"}
	blocked := extverdict.Result{Verdict: verdict.Block, Reason: "no", By: "block"}
	broken := extverdict.Result{Verdict: verdict.Failed, Reason: "handler panics panicked", By: "panics"}
	inner, err := extverdict.Chain(none, block)
	if err != nil {
		t.Fatal(err)
	}
	innerBroken, err := extverdict.Chain(none, panics)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		links []extverdict.Link
		want  extverdict.Result
		fault string // part of the error; empty if there is none
	}{
		{name: "one", links: []extverdict.Link{accept}, want: accepted},
		{name: "first wins", links: []extverdict.Link{block, accept}, want: blocked},
		{name: "none then one", links: []extverdict.Link{none, accept, block}, want: accepted},
		{name: "nobody", links: []extverdict.Link{none, none}},
		{name: "not allowed", links: []extverdict.Link{drop, block}, want: blocked, fault: `"drop" answered Drop`},
		{name: "only not allowed", links: []extverdict.Link{drop, failed}, fault: `"failed" answered Failed`},
		{name: "panic", links: []extverdict.Link{none, panics, accept}, want: broken, fault: `"panics" panicked`},
		{name: "not reached", links: []extverdict.Link{accept, panics}, want: accepted},
		{name: "chain in a chain", links: []extverdict.Link{none, {Name: "inner", Handle: inner}}, want: blocked},
		{name: "panic in a chain in a chain", links: []extverdict.Link{{Name: "inner", Handle: innerBroken}, accept}, want: broken, fault: `"panics" panicked`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := chained(t.Context(), t, test.links...)
			if r != test.want || (err != nil) != (test.fault != "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("got %+v, %v; want %+v, %q", r, err, test.want, test.fault)
			}
			if p := (*extverdict.PanicError)(nil); test.want == broken && (!errors.As(err, &p) || p.Handler != "panics" || p.Value != "ouch") {
				t.Errorf("got %v; want the panic", err)
			}
			if strings.Contains(test.fault, "answered") && !errors.Is(err, extverdict.ErrNotAllowed) {
				t.Errorf("got %v; want ErrNotAllowed", err)
			}
		})
	}
}

func TestChainOutOfTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	slow := extverdict.Link{Name: "slow", Handle: func(context.Context, *conn.Snapshot) extverdict.Result {
		cancel()
		return extverdict.Result{}
	}}
	accept := link("accept", extverdict.Result{Verdict: verdict.Accept})
	if r, err := chained(ctx, t, slow, accept); r != (extverdict.Result{}) || err != nil {
		t.Errorf("got %+v, %v; want nothing: the time was over", r, err)
	}
}

func TestChainMistakes(t *testing.T) {
	if _, err := extverdict.Chain(); !errors.Is(err, extverdict.ErrEmptyChain) {
		t.Errorf("got %v; want ErrEmptyChain", err)
	}
	if _, err := extverdict.Chain(extverdict.Link{Name: "nothing"}); !errors.Is(err, extverdict.ErrNoHandler) || !strings.Contains(err.Error(), `"nothing"`) {
		t.Errorf("got %v; want ErrNoHandler with the name", err)
	}
}

func TestChainAllocs(t *testing.T) {
	h, err := extverdict.Chain(link("none", extverdict.Result{}), link("accept", extverdict.Result{Verdict: verdict.Accept}))
	if err != nil {
		t.Fatal(err)
	}
	state, ctx := &conn.Snapshot{}, t.Context()
	if n := testing.AllocsPerRun(1000, func() { h(ctx, state) }); n != 0 {
		t.Errorf("got %v allocations; want 0", n)
	}
}
