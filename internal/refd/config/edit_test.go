package config_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/rules"
)

const edited = `# head comment
mode: enforce # trailing

# about dns
dns:
  # wait is
  wait: 50ms # fifty
  nameserver:
    upstreams: ["udp://192.0.2.1"] # list

  packets: true

split_tunnel: {engine: proxy}

# the apps
apps:
  # curl is good
  - id: curl
    match: [{path: /usr/bin/curl}] # m
    # rules of curl
    rules:
      - {id: web, remote_ports: "443", action: allow} # web
      # rest
      - {id: rest, action: block, comment: "only: the web"}

  - id: wget # x
    match:
      - path: /usr/bin/wget
# the end
`

// edit changes a file and wants the result to be a good configuration.
func edit(t *testing.T, text string, changes ...config.Change) (string, *config.Loaded) {
	t.Helper()
	b, err := config.Edit([]byte(text), changes...)
	require.NoError(t, err)
	l, err := config.Parse("f", b, rules.WithInterfaces(&rules.Interfaces{}))
	require.NoError(t, err, "%s", b)
	return string(b), l
}

// changed lists lines that only one of two texts has.
func changed(before, after string) (out []string) {
	has := func(text, line string) bool {
		for l := range strings.Lines(text) {
			if strings.TrimSpace(l) == strings.TrimSpace(line) {
				return true
			}
		}
		return false
	}
	for l := range strings.Lines(before) {
		if !has(after, l) {
			out = append(out, "- "+strings.TrimSpace(l))
		}
	}
	for l := range strings.Lines(after) {
		if !has(before, l) {
			out = append(out, "+ "+strings.TrimSpace(l))
		}
	}
	return out
}

func TestEditSettings(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change config.Change
		want   []string
	}{
		{"a value", config.Change{Key: "mode", Value: "observe"}, []string{"- mode: enforce # trailing", "+ mode: observe # trailing"}},
		{"the same value", config.Change{Key: "dns.wait", Value: "50ms"}, nil},
		{"a nested value", config.Change{Key: "dns.wait", Value: "80ms"}, []string{"- wait: 50ms # fifty", "+ wait: 80ms # fifty"}},
		{"a new key", config.Change{Key: "dns.cnames", Value: false}, []string{"+ cnames: false"}},
		{"a new section", config.Change{Key: "ivpn.notice", Value: false}, []string{"+ ivpn:", "+ notice: false"}},
		{"a new section in a section", config.Change{Key: "dns.nameserver.bypass_prevention", Value: nil}, nil},
		{"out", config.Change{Key: "dns.packets"}, []string{"- packets: true"}},
		{"out of where it is not", config.Change{Key: "dns.monitor"}, nil},
		{"a list", config.Change{Key: "dns.nameserver.upstreams", Value: []string{"udp://192.0.2.2", "udp://192.0.2.3"}},
			[]string{`- upstreams: ["udp://192.0.2.1"] # list`, "+ upstreams: [udp://192.0.2.2, udp://192.0.2.3] # list"}},
		{"a text that YAML would take for something else", config.Change{Key: "netfilter.chain_prefix", Value: "NO"}, []string{"+ netfilter:", `+ chain_prefix: "NO"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			after, _ := edit(t, edited, tt.change)
			assert.Equal(t, tt.want, changed(edited, after), "%s", after)
		})
	}
}

func TestEditApps(t *testing.T) {
	l, err := config.Parse("f", []byte(edited))
	require.NoError(t, err)
	apps := func() []rules.AppProfile { return append([]rules.AppProfile{}, l.Apps...) }

	on, iface := true, "wlan0"
	list := apps()
	list[0].Split = rules.Split{Use: &on, Interface: &iface}
	after, got := edit(t, edited, config.Change{Key: "apps", Value: list})
	assert.Equal(t, []string{"+ split: {use: true, interface: wlan0}"}, changed(edited, after))
	assert.Equal(t, list, got.Apps)

	back, _ := edit(t, after, config.Change{Key: "apps", Value: apps()})
	assert.Empty(t, changed(edited, back))

	list = apps()
	list[0].Rules = append([]rules.Rule{{ID: "new", Remote: []string{"192.0.2.0/24", "example.org"}, Action: rules.Block}}, list[0].Rules[0])
	after, got = edit(t, edited, config.Change{Key: "apps", Value: list})
	assert.Equal(t, list, got.Apps)
	assert.Equal(t, []string{
		"- # rest", `- - {id: rest, action: block, comment: "only: the web"}`,
		"+ - id: new", "+ remote: [192.0.2.0/24, example.org]", "+ action: block",
	}, changed(edited, after), "%s", after)

	list = append(apps()[1:], rules.AppProfile{ID: "new", Match: []rules.AppMatch{{Path: "/usr/bin/new"}}, Default: rules.Defaults{Out: rules.Block}})
	after, got = edit(t, edited, config.Change{Key: "apps", Value: list})
	assert.Equal(t, list, got.Apps)
	assert.Contains(t, after, "- id: wget # x\n")

	list = apps()
	list[1].Default.Out, list[1].Comment = rules.Ask, `says "x: y" # really`
	after, got = edit(t, edited, config.Change{Key: "apps", Value: list})
	assert.Equal(t, list, got.Apps, "%s", after)
}

// The forms that files have in practice, from nothing to all in one line.
func TestEditForms(t *testing.T) {
	app := rules.AppProfile{ID: "a", Match: []rules.AppMatch{{Path: "/a"}}, Rules: []rules.Rule{{ID: "r", Action: rules.Block}}}
	for name, text := range map[string]string{
		"empty":            "",
		"a comment":        "# nothing yet\n",
		"no end of line":   "mode: enforce",
		"one line":         "{mode: enforce, dns: {wait: 60ms}}\n",
		"an empty section": "dns:\nmode: enforce\n",
		"a document mark":  "---\nmode: enforce\n",
		"an empty list":    "apps: []\nmode: enforce\n",
		"deep":             "dns:\n    nameserver:\n        upstreams:\n            - udp://192.0.2.1\n",
		"tight list":       "apps:\n- id: b\n  match:\n  - path: /b\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := config.Parse("f", []byte(text))
			require.NoError(t, err)
			list := append(append([]rules.AppProfile{}, l.Apps...), app)
			after, got := edit(t, text, config.Change{Key: "apps", Value: list}, config.Change{Key: "dns.wait", Value: "70ms"}, config.Change{Key: "log.level", Value: "DEBUG"})
			assert.Equal(t, list, got.Apps, "%s", after)
			assert.Equal(t, "70ms", got.DNS.Wait.String())
			if strings.Contains(text, "#") {
				assert.Contains(t, after, "# nothing yet\n")
			}
		})
	}
}

func TestEditRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a list":        "- a\n",
		"no YAML":       "a: [\n",
		"two documents": "mode: enforce\n---\nmode: observe\n",
		"no section":    "dns: 3\n",
	} {
		_, err := config.Edit([]byte(text), config.Change{Key: "dns.wait", Value: "60ms"})
		assert.ErrorIs(t, err, config.ErrNotEditable, "%s", name)
	}
}

// Whatever a file says: a change is made as asked, or refused.
func FuzzEdit(f *testing.F) {
	f.Add([]byte(edited), "dns.wait", "70ms")
	f.Add([]byte("{a: {b: 1}}"), "a.b", "c: d")
	f.Add([]byte("a: &x {b: 1}\nc: *x\n"), "c.b", "#")
	f.Fuzz(func(t *testing.T, text []byte, key, value string) {
		out, err := config.Edit(text, config.Change{Key: key, Value: value})
		if err != nil {
			return
		}
		again, err := config.Edit(out, config.Change{Key: key, Value: value})
		if err != nil || string(again) != string(out) {
			t.Logf("not stable: %q, then %q, %v", out, again, err)
		}
	})
}

// Comments stay with their rules, also where the first rule of a list changes.
func TestCommentsStayWithTheirRules(t *testing.T) {
	const first, second = "  # about a\n  - {id: a, action: block}\n", "  # about b\n  - {id: b, action: block}\n"
	for name, tt := range map[string]struct {
		source, want string
		ids          []string
	}{
		"one in front":        {"global:\n" + first + second, "global:\n  - {id: c, action: block}\n" + first + second, []string{"c", "a", "b"}},
		"one in front of one": {"global:\n" + first, "global:\n  - {id: c, action: block}\n" + first, []string{"c", "a"}},
		"first removed":       {"global:\n" + first + second, "global:\n" + second, []string{"b"}},
		"turned round":        {"global:\n" + first + second, "global:\n" + second + first, []string{"b", "a"}},
		"only the second":     {"global:\n  - {id: a, action: block}\n" + second, "global:\n" + second + "  - {id: a, action: block}\n", []string{"b", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			var list []map[string]any
			for _, id := range tt.ids {
				list = append(list, map[string]any{"id": id, "action": "block"})
			}
			got, err := config.Edit([]byte(tt.source), config.Change{Key: "global", Value: list})
			if err != nil {
				t.Fatal(err)
			}
			flat := strings.NewReplacer("action: block, id: a", "id: a, action: block", "action: block, id: b", "id: b, action: block", "action: block, id: c", "id: c, action: block")
			if got := flat.Replace(string(got)); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
