package verdict_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/weirfw/weir/pkg/verdict"
)

func TestDecisionAction(t *testing.T) {
	const (
		drop    = verdict.ActionDrop
		dns     = verdict.ActionRerouteToNameserver
		tunnel  = verdict.ActionRerouteToTunnel
		splitT  = verdict.ActionRerouteToSplitTun
		permDrp = verdict.ActionPermanentDrop
	)
	// packet, permanent, final, and a scope that does not exist
	want := map[verdict.Verdict][4]verdict.Action{
		verdict.Undecided:      {drop, drop, drop, drop},
		verdict.Undeterminable: {drop, drop, drop, drop},
		verdict.Accept: {verdict.ActionAccept, verdict.ActionPermanentAccept, verdict.ActionPermanentAcceptFinal,
			verdict.ActionAccept},
		verdict.Block: {verdict.ActionBlock, verdict.ActionPermanentBlock, verdict.ActionPermanentBlock,
			verdict.ActionBlock},
		verdict.Drop:                {drop, permDrp, permDrp, drop},
		verdict.RerouteToNameserver: {dns, dns, dns, dns},
		verdict.RerouteToTunnel:     {tunnel, tunnel, tunnel, tunnel},
		verdict.Failed:              {drop, drop, drop, drop},
		verdict.RerouteToSplitTun:   {splitT, splitT, splitT, splitT},
		9:                           {drop, drop, drop, drop},
		255:                         {drop, drop, drop, drop},
	}
	for _, v := range pairs() {
		for i, s := range []verdict.Scope{verdict.ScopePacket, verdict.ScopePermanent, verdict.ScopeFinal, 77} {
			d := verdict.Decision{Verdict: v, Scope: s}
			if got := d.Action(); got != want[v][i] {
				t.Errorf("%v, %v: got %v; want %v", v, s, got, want[v][i])
			}
			done := d.Action().Verdict()
			if v.Allows() && done != v || !v.Allows() && done.Allows() {
				t.Errorf("%v, %v: carried out as %v", v, s, done)
			}
		}
	}
}

// Nothing decided is nothing let through.
func TestZeroDecision(t *testing.T) {
	var d verdict.Decision
	if got := d.Action(); got != verdict.ActionDrop {
		t.Errorf("got %v; want %v", got, verdict.ActionDrop)
	}
	var a verdict.Action
	if a != verdict.ActionDrop || a.Verdict() != verdict.Drop || a.Permanent() {
		t.Errorf("zero Action is %v of %v; want a drop of the packet", a, a.Verdict())
	}
}

func TestActions(t *testing.T) {
	want := []struct {
		a         verdict.Action
		name      string
		v         verdict.Verdict
		permanent bool
	}{
		{verdict.ActionDrop, "Drop", verdict.Drop, false},
		{verdict.ActionBlock, "Block", verdict.Block, false},
		{verdict.ActionAccept, "Accept", verdict.Accept, false},
		{verdict.ActionPermanentDrop, "PermanentDrop", verdict.Drop, true},
		{verdict.ActionPermanentBlock, "PermanentBlock", verdict.Block, true},
		{verdict.ActionPermanentAccept, "PermanentAccept", verdict.Accept, true},
		{verdict.ActionPermanentAcceptFinal, "PermanentAcceptFinal", verdict.Accept, true},
		{verdict.ActionRerouteToNameserver, "RerouteToNameserver", verdict.RerouteToNameserver, true},
		{verdict.ActionRerouteToTunnel, "RerouteToTunnel", verdict.RerouteToTunnel, true},
		{verdict.ActionRerouteToSplitTun, "RerouteToSplitTun", verdict.RerouteToSplitTun, true},
		{verdict.NumActions, "Action(10)", verdict.Drop, false},
		{255, "Action(255)", verdict.Drop, false},
	}
	for _, w := range want {
		if w.a.String() != w.name || w.a.Verdict() != w.v || w.a.Permanent() != w.permanent {
			t.Errorf("got %v, %v, permanent %t; want %s, %v, %t", w.a, w.a.Verdict(), w.a.Permanent(), w.name, w.v, w.permanent)
		}
	}
	if len(want) != verdict.NumActions+2 {
		t.Errorf("%d actions in the table; want %d", len(want)-2, verdict.NumActions)
	}
}

func TestScopeText(t *testing.T) {
	for s, name := range map[verdict.Scope]string{
		verdict.ScopePacket: "packet", verdict.ScopePermanent: "permanent", verdict.ScopeFinal: "final",
	} {
		b, err := s.MarshalText()
		if err != nil || string(b) != name || s.String() != name {
			t.Errorf("got %q, %v, %v; want %q", b, err, s, name)
		}
		got := verdict.Scope(9)
		if err := got.UnmarshalText(b); err != nil || got != s {
			t.Errorf("%q: got %v, %v; want %v", b, got, err, s)
		}
	}
	if b, err := verdict.Scope(3).MarshalText(); !errors.Is(err, verdict.ErrUnknownScope) {
		t.Errorf("got %q, %v; want %v", b, err, verdict.ErrUnknownScope)
	}
	if got := verdict.Scope(3).String(); got != "Scope(3)" {
		t.Errorf("got %q; want Scope(3)", got)
	}
	for _, in := range []string{"", "Packet", "0", "forever"} {
		s := verdict.ScopeFinal
		if err := s.UnmarshalText([]byte(in)); !errors.Is(err, verdict.ErrUnknownScope) || s != verdict.ScopeFinal {
			t.Errorf("%q: got %v, %v; want an error and final as before", in, s, err)
		}
	}
}

func TestDecisionJSON(t *testing.T) {
	d := verdict.Decision{
		Verdict: verdict.RerouteToSplitTun, Scope: verdict.ScopePermanent,
		Reason: verdict.Reason{Code: "rule-match", Text: "the browser uses the phone", Rule: "r7", By: "rules"},
	}
	b, err := json.Marshal(d)
	want := `{"verdict":"RerouteToSplitTun","scope":"permanent",` +
		`"reason":{"code":"rule-match","text":"the browser uses the phone","rule":"r7","by":"rules"}}`
	if err != nil || string(b) != want {
		t.Fatalf("got %s, %v; want %s", b, err, want)
	}
	var got verdict.Decision
	if err := json.Unmarshal(b, &got); err != nil || got != d {
		t.Errorf("got %+v, %v; want %+v", got, err, d)
	}
}

func TestOnce(t *testing.T) {
	for a, want := range [verdict.NumActions]verdict.Action{
		verdict.ActionDrop:                 verdict.ActionDrop,
		verdict.ActionBlock:                verdict.ActionBlock,
		verdict.ActionAccept:               verdict.ActionAccept,
		verdict.ActionPermanentDrop:        verdict.ActionDrop,
		verdict.ActionPermanentBlock:       verdict.ActionBlock,
		verdict.ActionPermanentAccept:      verdict.ActionAccept,
		verdict.ActionPermanentAcceptFinal: verdict.ActionAccept,
		verdict.ActionRerouteToNameserver:  verdict.ActionDrop,
		verdict.ActionRerouteToTunnel:      verdict.ActionDrop,
		verdict.ActionRerouteToSplitTun:    verdict.ActionDrop,
	} {
		if got := verdict.Action(a).Once(); got != want || got.Permanent() {
			t.Errorf("%v: got %v; want %v", verdict.Action(a), got, want)
		}
	}
}
