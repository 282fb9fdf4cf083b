package verdict_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/weirfw/weir/pkg/verdict"
)

// The numbers are what drivers, APIs and stored history use.
func TestNumbers(t *testing.T) {
	want := []struct {
		v          verdict.Verdict
		name, verb string
	}{
		0: {verdict.Undecided, "Undecided", "undecided"},
		1: {verdict.Undeterminable, "Undeterminable", "undeterminable"},
		2: {verdict.Accept, "Accept", "accepted"},
		3: {verdict.Block, "Block", "blocked"},
		4: {verdict.Drop, "Drop", "dropped"},
		5: {verdict.RerouteToNameserver, "RerouteToNameserver", "redirected to nameserver"},
		6: {verdict.RerouteToTunnel, "RerouteToTunnel", "tunneled"},
		7: {verdict.Failed, "Failed", "failed"},
		8: {verdict.RerouteToSplitTun, "RerouteToSplitTun", "split tunneled"},
	}
	if verdict.NumVerdicts != len(want) || len(verdict.All()) != len(want) {
		t.Fatalf("NumVerdicts is %d, All %v; want %d", verdict.NumVerdicts, verdict.All(), len(want))
	}
	for n, w := range want {
		if int(w.v) != n || verdict.All()[n] != w.v {
			t.Errorf("%s is %d, All()[%d] is %v; want %d", w.name, w.v, n, verdict.All()[n], n)
		}
		if w.v.String() != w.name || w.v.Verb() != w.verb {
			t.Errorf("got %q, %q; want %q, %q", w.v.String(), w.v.Verb(), w.name, w.verb)
		}
		if !w.v.Valid() {
			t.Errorf("%v is not valid", w.v)
		}
	}
}

func TestInvalid(t *testing.T) {
	for _, v := range []verdict.Verdict{9, 11, 255} {
		if v.Valid() || v.Allows() || v.Refuses() || v.Redirects() {
			t.Errorf("%v: got valid %t, allows %t, refuses %t, redirects %t; want none", v, v.Valid(), v.Allows(), v.Refuses(), v.Redirects())
		}
		if got, want := v.String(), fmt.Sprintf("Verdict(%d)", uint8(v)); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
		if got, want := v.Verb(), fmt.Sprintf("decided as Verdict(%d)", uint8(v)); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
		if b, err := v.MarshalText(); !errors.Is(err, verdict.ErrUnknown) {
			t.Errorf("text of %v: got %q, %v; want %v", v, b, err, verdict.ErrUnknown)
		}
		if b, err := json.Marshal(v); !errors.Is(err, verdict.ErrUnknown) {
			t.Errorf("JSON of %v: got %s, %v; want %v", v, b, err, verdict.ErrUnknown)
		}
	}
}

func TestClasses(t *testing.T) {
	for _, tt := range []struct {
		v                           verdict.Verdict
		allows, refuses, redirected bool
	}{
		{v: verdict.Undecided},
		{v: verdict.Undeterminable},
		{v: verdict.Accept, allows: true},
		{v: verdict.Block, refuses: true},
		{v: verdict.Drop, refuses: true},
		{v: verdict.RerouteToNameserver, allows: true, redirected: true},
		{v: verdict.RerouteToTunnel, allows: true, redirected: true},
		{v: verdict.Failed, refuses: true},
		{v: verdict.RerouteToSplitTun, allows: true, redirected: true},
	} {
		if tt.v.Allows() != tt.allows || tt.v.Refuses() != tt.refuses || tt.v.Redirects() != tt.redirected {
			t.Errorf("%v: got allows %t, refuses %t, redirects %t; want %t, %t, %t", tt.v,
				tt.v.Allows(), tt.v.Refuses(), tt.v.Redirects(), tt.allows, tt.refuses, tt.redirected)
		}
	}
}

func TestTextAndJSON(t *testing.T) {
	for _, v := range verdict.All() {
		text, err := v.MarshalText()
		if err != nil || string(text) != v.String() {
			t.Errorf("text of %v: got %q, %v", v, text, err)
		}
		b, err := json.Marshal(map[string]verdict.Verdict{"v": v})
		if want := `{"v":"` + v.String() + `"}`; err != nil || string(b) != want {
			t.Errorf("got %s, %v; want %s", b, err, want)
		}
		for _, in := range []string{
			string(text), fmt.Sprint(uint8(v)),
		} {
			got := verdict.Verdict(255)
			if err := got.UnmarshalText([]byte(in)); err != nil || got != v {
				t.Errorf("text %q: got %v, %v; want %v", in, got, err, v)
			}
			if got, err := verdict.Parse(in); err != nil || got != v {
				t.Errorf("Parse(%q): got %v, %v; want %v", in, got, err, v)
			}
		}
		for _, in := range []string{
			`"` + v.String() + `"`, fmt.Sprintf(`"%d"`, uint8(v)), fmt.Sprint(uint8(v)), fmt.Sprintf(" %d\n", uint8(v)),
		} {
			got := verdict.Verdict(255)
			if err := json.Unmarshal([]byte(in), &got); err != nil || got != v {
				t.Errorf("JSON %s: got %v, %v; want %v", in, got, err, v)
			}
		}
	}
}

func TestMapKeys(t *testing.T) {
	in := map[verdict.Verdict]int{verdict.Accept: 1, verdict.RerouteToSplitTun: 2}
	b, err := json.Marshal(in)
	if want := `{"Accept":1,"RerouteToSplitTun":2}`; err != nil || string(b) != want {
		t.Fatalf("got %s, %v; want %s", b, err, want)
	}
	var out map[verdict.Verdict]int
	if err := json.Unmarshal(b, &out); err != nil || len(out) != 2 || out[verdict.RerouteToSplitTun] != 2 {
		t.Errorf("got %v, %v; want %v", out, err, in)
	}
}

func TestParseErrors(t *testing.T) {
	for _, in := range []string{"", " ", "accept", "Accept ", "9", "11", "-1", "+2", "256", "258", "0x2", "2.0", "1e0", "Verdict(2)", "null"} {
		if v, err := verdict.Parse(in); !errors.Is(err, verdict.ErrUnknown) || v != verdict.Undecided {
			t.Errorf("Parse(%q): got %v, %v; want Undecided, %v", in, v, err, verdict.ErrUnknown)
		}
		v := verdict.Block
		if err := v.UnmarshalText([]byte(in)); !errors.Is(err, verdict.ErrUnknown) || v != verdict.Block {
			t.Errorf("text %q: got %v, %v; want an error and Block as before", in, v, err)
		}
	}
	for _, in := range []string{`""`, `"accept"`, `"\q"`, `9`, `-1`, `2.0`, `true`, `[2]`, `{}`, `null`, `"`} {
		v := verdict.Block
		if err := v.UnmarshalJSON([]byte(in)); !errors.Is(err, verdict.ErrUnknown) || v != verdict.Block {
			t.Errorf("JSON %s: got %v, %v; want an error and Block as before", in, v, err)
		}
	}
}

func FuzzUnmarshalJSON(f *testing.F) {
	for _, in := range []string{`"Accept"`, `8`, `"8"`, `9`, `"Acc\u0065pt"`, `"`, `null`} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v verdict.Verdict
		if err := v.UnmarshalJSON(b); err != nil {
			if !errors.Is(err, verdict.ErrUnknown) || v != verdict.Undecided {
				t.Fatalf("%q: got %v, %v; want Undecided, %v", b, v, err, verdict.ErrUnknown)
			}
			return
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		var w verdict.Verdict
		if err := json.Unmarshal(again, &w); err != nil || w != v {
			t.Fatalf("%q: got %v, %v; want %v", again, w, err, v)
		}
	})
}

// pairs are all verdicts and two that do not exist.
func pairs() []verdict.Verdict { return append(verdict.All(), 9, 255) }

func TestStrictest(t *testing.T) {
	// from what lets most through to what lets least through: no number's order
	order := []verdict.Verdict{
		verdict.Undecided, verdict.Undeterminable, verdict.Accept, verdict.RerouteToNameserver,
		verdict.RerouteToSplitTun, verdict.RerouteToTunnel, verdict.Failed, verdict.Block, verdict.Drop,
	}
	if len(order) != verdict.NumVerdicts {
		t.Fatalf("%d verdicts in the table; want %d", len(order), verdict.NumVerdicts)
	}
	for i, a := range order {
		for j, b := range order {
			if got, want := verdict.Strictest(a, b), order[max(i, j)]; got != want {
				t.Errorf("Strictest(%v, %v) = %v; want %v", a, b, got, want)
			}
		}
	}
}

func TestStrictestProperties(t *testing.T) {
	numeric := true
	for _, a := range pairs() {
		if got := verdict.Strictest(a, a); a.Valid() && got != a || !a.Valid() && got != verdict.Failed {
			t.Errorf("Strictest(%v, %[1]v) = %v", a, got)
		}
		for _, b := range pairs() {
			ab := verdict.Strictest(a, b)
			if ba := verdict.Strictest(b, a); ab != ba {
				t.Errorf("Strictest(%v, %v) = %v; the other way %v", a, b, ab, ba)
			}
			if !ab.Valid() {
				t.Errorf("Strictest(%v, %v) = %v, which does not exist", a, b, ab)
			}
			if (a.Refuses() || b.Refuses() || !a.Valid() || !b.Valid()) && !ab.Refuses() {
				t.Errorf("Strictest(%v, %v) = %v; want one that refuses", a, b, ab)
			}
			numeric = numeric && ab == max(a, b)
			for _, c := range pairs() {
				if l, r := verdict.Strictest(ab, c), verdict.Strictest(a, verdict.Strictest(b, c)); l != r {
					t.Errorf("(%v, %v), %v = %v; %[1]v, (%[2]v, %[3]v) = %[5]v", a, b, c, l, r)
				}
			}
		}
	}
	if numeric {
		t.Error("Strictest compares numbers")
	}
	if got := verdict.Strictest(verdict.RerouteToSplitTun, verdict.Block); got != verdict.Block {
		t.Errorf("got %v; want Block, though its number is the smaller one", got)
	}
}
