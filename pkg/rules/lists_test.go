package rules_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/filterlist"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
	"github.com/weirfw/weir/pkg/verdict"
)

// worldLists are what rules of the random world refer to.
func worldLists() map[string][]string {
	return map[string][]string{
		"names": {".a.example.org", "example.com"},
		"addrs": {"10.1.0.0/30", "192.0.2.3-192.0.2.5", "2001:db8::3"},
		"both":  {"*.example.org", "10.0.0.2"},
		"none":  nil,
	}
}

func withLists(t testing.TB, lists map[string][]string) rules.Option {
	t.Helper()
	all := map[string]*filterlist.List{}
	for name, lines := range lists {
		l, err := filterlist.Parse(strings.NewReader(strings.Join(lines, "\n")))
		if err != nil || l.Mistakes().Lines > 0 {
			t.Fatal(err, l.Mistakes())
		}
		all[name] = l
	}
	return rules.WithLists(all)
}

func withWorldLists(t testing.TB) rules.Option {
	t.Helper()
	return withLists(t, worldLists())
}

func TestRulesReferToLists(t *testing.T) {
	t.Parallel()
	cfg := rules.Config{
		Global: []rules.Rule{{ID: "ads", Action: rules.Block, Remote: []string{"list:both"}}},
		Split:  rules.Split{Use: new(true), Include: []rules.SplitRule{{Remote: []string{"list:addrs"}}}},
	}
	set := compile(t, cfg, withWorldLists(t))
	to := func(remote, domain string, cnames ...string) *conn.Snapshot {
		s := exampleConnection(remote)
		s.Domain, s.CNAMEs = domain, cnames
		return s
	}
	wantRule(t, set.Decide(to("10.0.0.2:443", "fine.test")), "ads")
	wantRule(t, set.Decide(to("192.0.2.1:443", "WWW.Example.org.")), "ads")
	wantRule(t, set.Decide(to("192.0.2.1:443", "fine.test", "www.example.org")), "ads")
	wantRule(t, set.Decide(to("192.0.2.1:443", "example.org")), "")
	if o := set.Decide(to("192.0.2.1:443", "")); o.Rule != nil || !o.NeedsDomain {
		t.Errorf("got %+v; want it to wait for the name", o)
	}
	if !set.Split(to("192.0.2.4:443", "")).Use || set.Split(to("192.0.2.6:443", "")).Use {
		t.Error("entries of the split tunnel do not go by the list")
	}
	steps := set.Explain(to("192.0.2.1:443", "www.example.org"))
	if why := steps[len(steps)-1].Why; !strings.Contains(why, "list:both") {
		t.Errorf("got %q; want the list named", why)
	}
	query := &conn.Snapshot{Domain: "www.example.org", Direction: packet.Outbound}
	if o, refused := set.RefusedName(query, false); !refused || o.Decision.Verdict != verdict.Block {
		t.Errorf("got %+v, %v; want the lookup refused", o, refused)
	}
	cfg.Global = append([]rules.Rule{{ID: "ok", Action: rules.Allow, Remote: []string{"list:addrs"}}}, cfg.Global...)
	if _, refused := compile(t, cfg, withWorldLists(t)).RefusedName(query, true); refused {
		t.Error("refused a lookup of what may lead to an address that is allowed")
	}
}

func TestListsThatAreNotThere(t *testing.T) {
	t.Parallel()
	cfg := rules.Config{Global: []rules.Rule{{ID: "r", Action: rules.Block, Remote: []string{"list:ads"}}}}
	for _, opts := range [][]rules.Option{nil, {withWorldLists(t)}} {
		_, err := rules.Compile(cfg, opts...)
		list := rules.Errors(err)
		if len(list) != 1 || list[0].Path != "global[0].remote[0]" || list[0].Msg != "no such list" {
			t.Errorf("got %v; want that there is no such list", err)
		}
	}
	many := map[string][]string{}
	var r rules.Rule
	r.ID, r.Action = "r", rules.Block
	for n := range 65 {
		name := fmt.Sprint("l", n)
		many[name] = []string{fmt.Sprintf("192.0.2.%d", n)}
		r.Remote = append(r.Remote, "list:"+name)
	}
	if _, err := rules.Compile(rules.Config{Global: []rules.Rule{r}}, withLists(t, many)); len(rules.Errors(err)) != 1 {
		t.Errorf("got %v; want that 65 are too many", err)
	}
	r.Remote = r.Remote[:64]
	set := compile(t, rules.Config{Global: []rules.Rule{r}}, withLists(t, many))
	wantRule(t, set.Decide(exampleConnection("192.0.2.63:1")), "r")
	wantRule(t, set.Decide(exampleConnection("192.0.2.64:1")), "")
}
