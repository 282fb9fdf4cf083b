package nfq

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestHostConfig(t *testing.T) {
	marks := func(change func(m *Marks)) HostConfig {
		m := DefaultMarks()
		change(&m)
		return HostConfig{Marks: m}
	}
	for _, test := range []struct {
		name string
		cfg  HostConfig
		want error
	}{
		{"zero", HostConfig{}, nil},
		{"all redirects", HostConfig{Redirects: DefaultRedirects()}, nil},
		{"prefix with a space", HostConfig{ChainPrefix: "A B"}, ErrBadConfig},
		{"prefix too long", HostConfig{ChainPrefix: strings.Repeat("A", 17)}, ErrBadConfig},
		{"prefix like an option", HostConfig{ChainPrefix: "-j"}, ErrBadConfig},
		{"table with a semicolon", HostConfig{BackstopTable: "a;b"}, ErrBadConfig},
		{"queue twice", HostConfig{Queues: Queues{Out4: 1, In4: 1, Out6: 2, In6: 3}}, ErrBadConfig},
		{"no such mode", HostConfig{Mode: 7}, ErrBadConfig},
		{"IPv6 in an IPv4 redirect", HostConfig{Redirects: Redirects{Tunnel: Redirect{To4: netip.MustParseAddrPort("[::1]:1")}}}, ErrBadConfig},
		{"redirect to port 0", HostConfig{Redirects: Redirects{Tunnel: Redirect{To6: netip.MustParseAddrPort("[::1]:0")}}}, ErrBadConfig},
		{"both split tunnel engines", HostConfig{Redirects: Redirects{
			RouteSplitTun: true, SplitTun: Redirect{To4: netip.MustParseAddrPort("127.0.0.1:719")},
		}}, ErrBadConfig},
		{"mark twice", marks(func(m *Marks) { m.Drop = m.Accept }), ErrBadMarks},
		{"mark among the routes", marks(func(m *Marks) { m.Drop = m.SplitTun + 3 }), ErrBadMarks},
		{"mark 0 is everybody's", marks(func(m *Marks) { m.Drop = 1 }), ErrBadMarks},
		{"marks far apart", marks(func(m *Marks) { m.Drop = 0x20000000 }), ErrBadMarks},
		{"marks with our bits", marks(func(m *Marks) { *m = shifted(*m, 1<<30) }), ErrBadMarks},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := test.cfg.withDefaults(); !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("got %v; want %v", err, test.want)
			}
		})
	}
}

// shifted adds n to each mark.
func shifted(m Marks, n uint32) Marks {
	for _, mark := range []*uint32{
		&m.Accept, &m.Block, &m.Drop, &m.AcceptFinal, &m.AcceptAlways, &m.BlockAlways, &m.DropAlways, &m.Tunnel, &m.SplitTun, &m.Nameserver,
	} {
		*mark += n
	}
	return m
}

func TestMarksBlock(t *testing.T) {
	m := DefaultMarks()
	if value, mask := m.block(); value != 0x600 || mask != 0xfffffe00 {
		t.Errorf("got %#x/%#x; want 0x600/0xfffffe00", value, mask)
	}
	for _, mark := range m.all() {
		if !m.ours(mark) {
			t.Errorf("got %d as foreign; want it ours", mark)
		}
	}
	if m.ours(0) || m.ours(0xca6c) {
		t.Error("got a foreign mark as ours")
	}
}

// TestCover compares the sets with asking for each mark.
func TestCover(t *testing.T) {
	for _, r := range [][2]uint32{{1719, 1789}, {0, 0}, {1, 255}, {7, 8}, {0xfffffff0, 0xffffffff}} {
		sets := cover(r[0], r[1])
		for x := uint64(r[0]) - min(uint64(r[0]), 20); x <= min(uint64(r[1])+20, 0xffffffff); x++ {
			n := 0
			for _, s := range sets {
				if uint32(x)&s.mask == s.value {
					n++
				}
			}
			want := 0
			if x >= uint64(r[0]) && x <= uint64(r[1]) {
				want = 1
			}
			if n != want {
				t.Errorf("%v: got %d in %d sets of %v; want %d", r, x, n, sets, want)
			}
		}
	}
}

// applyScript is a slow twin of iptables-restore --noflush. It reports false where that would refuse.
func applyScript(s saved, script string) (saved, bool) {
	var t *savedTable
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		w := strings.SplitN(line, " ", 3)
		switch {
		case line == "COMMIT":
			t = nil
		case strings.HasPrefix(line, "*"):
			name := line[1:]
			if s[name] == nil {
				s[name] = &savedTable{policies: map[string]string{}, rules: map[string][]string{}}
			}
			t = s[name]
			for _, hook := range []string{"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"} {
				if t.policies[hook] == "" {
					t.policies[hook] = "ACCEPT"
					t.chains = append(t.chains, hook)
				}
			}
		case t == nil:
			return s, false
		case strings.HasPrefix(line, ":"):
			name := strings.Fields(line[1:])[0]
			if t.policies[name] == "" {
				t.chains = append(t.chains, name)
			}
			t.policies[name], t.rules[name] = "-", nil
		case t.policies[w[1]] == "":
			return s, false
		case w[0] == "-A":
			t.rules[w[1]] = append(t.rules[w[1]], w[2])
		case w[0] == "-I":
			t.rules[w[1]] = append([]string{strings.TrimPrefix(w[2], "1 ")}, t.rules[w[1]]...)
		case w[0] == "-D":
			i := slices.Index(t.rules[w[1]], w[2])
			if i < 0 {
				return s, false
			}
			t.rules[w[1]] = slices.Delete(slices.Clone(t.rules[w[1]]), i, i+1)
		case w[0] == "-F":
			t.rules[w[1]] = nil
		case w[0] == "-X":
			for _, rules := range t.rules {
				if slices.ContainsFunc(rules, func(rule string) bool { return leadsTo(rule, w[1]) }) {
					return s, false
				}
			}
			delete(t.policies, w[1])
			delete(t.rules, w[1])
			t.chains = slices.DeleteFunc(t.chains, func(c string) bool { return c == w[1] })
		default:
			return s, false
		}
	}
	return s, true
}

// TestScripts damages rules in all kinds of ways and lets the scripts repair and remove them, on the slow twin.
func TestScripts(t *testing.T) {
	cfg, err := HostConfig{Redirects: DefaultRedirects()}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := HostConfig{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []family{family4, family6} {
		rs := newRuleset(cfg, f)
		load := func() saved {
			script, _ := rs.loadScript(saved{}, nil)
			s, ok := applyScript(saved{}, script)
			if !ok {
				t.Fatalf("refused:\n%s", script)
			}
			return s
		}
		canon := load()
		for name, damage := range map[string]func(s saved){
			"none":              func(saved) {},
			"jump gone":         func(s saved) { s["filter"].rules["OUTPUT"] = nil },
			"jump below":        func(s saved) { prepend(s["mangle"], "OUTPUT", "-j ACCEPT") },
			"jump twice":        func(s saved) { prepend(s["mangle"], "INPUT", "-j ACCEPT"); prepend(s["mangle"], "INPUT", "-j WEIR-IN") },
			"chain flushed":     func(s saved) { s["filter"].rules["WEIR-V"] = nil },
			"rule added":        func(s saved) { prepend(s["filter"], "WEIR-V", "-j ACCEPT") },
			"table flushed":     func(s saved) { clear(s["mangle"].rules) },
			"everything gone":   func(s saved) { clear(s) },
			"foreign chain":     func(s saved) { s["filter"].policies["X"] = "-"; s["filter"].chains = append(s["filter"].chains, "X") },
			"foreign goes here": func(s saved) { prepend(s["filter"], "FORWARD", "-g WEIR-V") },
		} {
			now := load()
			damage(now)
			script, wrong := rs.loadScript(now, canon)
			if whole := name == "none" || strings.HasPrefix(name, "foreign"); whole != (len(wrong) == 0) || whole != (script == "") {
				t.Errorf("%v %s: got %q and the script\n%s", f, name, wrong, script)
			}
			now, ok := applyScript(now, script)
			if !ok {
				t.Errorf("%v %s: refused:\n%s", f, name, script)
			}
			for _, table := range rs.tables {
				if d := rs.damage(table, now, canon); d != "" {
					t.Errorf("%v %s: after the repair: %s", f, name, d)
				}
			}
			if now, ok = applyScript(now, removeScript("WEIR", now)); !ok || now.present("WEIR") {
				t.Errorf("%v %s: got %v; want nothing of ours", f, name, slices.Collect(maps.Keys(now)))
			}
		}
		// Another configuration needs fewer tables and chains.
		less := newRuleset(plain, f)
		script, wrong := less.loadScript(load(), nil)
		now, ok := applyScript(load(), script)
		if _, there := now.chainRules("nat", "WEIR-OUT"); !ok || there || len(wrong) == 0 {
			t.Errorf("%v: got ok %v, the nat chain %v, %q; want it gone:\n%s", f, ok, there, wrong, script)
		}
	}
}

func prepend(t *savedTable, chain, rule string) {
	t.rules[chain] = append([]string{rule}, t.rules[chain]...)
	if t.policies[chain] == "" {
		t.policies[chain] = "ACCEPT"
		t.chains = append(t.chains, chain)
	}
}

func FuzzParseSave(f *testing.F) {
	f.Add("*filter\n:INPUT ACCEPT [0:0]\n:WEIR-V - [0:0]\n-A INPUT -j WEIR-V\n-A WEIR-V -m comment --comment \"a \\\" -j X\" -j DROP\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, text string) {
		s := parseSave(text)
		for line := range strings.Lines(removeScript("WEIR", s)) {
			if w := words(strings.TrimSpace(line)); w[0] == "-F" || w[0] == "-X" {
				if !isOurs("WEIR", w[1]) {
					t.Errorf("got %q; want only chains of ours to be emptied", line)
				}
			}
		}
	})
}
