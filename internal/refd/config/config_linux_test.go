package config_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/rules"
)

func TestBadFiles(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"unknown key":         {"modee: observe\n", `f.yaml:1:1: unknown field "modee" (did you mean "mode"?)`},
		"unknown nested key":  {"log: {levle: info}\n", `f.yaml:1:7: unknown field "levle" (did you mean "level"?)`},
		"nothing like it":     {"zzzzzzzz: 1\n", `f.yaml:1:1: unknown field "zzzzzzzz" (see docs/configuration.md for the keys)`},
		"repeated key":        {"mode: observe\nmode: enforce\n", `f.yaml:2:1: mapping key "mode" already defined at [1:1]`},
		"unknown mode":        {"# c\nmode: enforced\n", `f.yaml:2:7: mode: "enforced": unknown value (use one of ["observe" "enforce"])`},
		"wrong type":          {"mode: observe\nlog: 7\n", `f.yaml:2:6: `},
		"bad duration":        {"mode: observe\nask: {timeout: abc}\n", `f.yaml:2:16: ask.timeout: "abc": not a duration (write a number and its unit, such as 5s, 250ms or 1m30s)`},
		"short duration":      {"ask:\n  timeout: 1ms\n", `f.yaml:2:12: ask.timeout: "1ms": too short (use at least 1s)`},
		"number out of range": {"netfilter:\n  queue_length: 3\n", `f.yaml:2:17: netfilter.queue_length: "3": out of range (use 64 to 1048576)`},
		"relative path":       {"api: {socket: x.sock}\n", `f.yaml:1:15: api.socket: "x.sock": not an absolute path (begin it with "/")`},
		"bad CIDR": {
			"global:\n  - id: a\n    action: block\n    remote: [10.0.0.1/8]\n",
			`f.yaml:4:14: global[0].remote[0]: "10.0.0.1/8": host bits set`,
		},
		"unknown action": {"global:\n  - {id: a, action: alow}\n", `f.yaml:2:21: global[0].action: "alow": rules: unknown action "alow"`},
		"duplicate id": {
			"global:\n  - {id: a, action: block}\n  - {id: a, action: block}\n",
			`f.yaml:3:10: global[1].id: "a"`,
		},
		"keys of another section": {"split_tunnel: {use: true}\n", `f.yaml:1:16: unknown field "use" (the keys here are enabled, engine, interfaces, listen4, listen6, priority, table)`},
		"key of another section":  {"split: {engine: proxy}\n", `f.yaml:1:9: unknown field "engine" (the keys here are exclude, include, interface, use)`},
		"key of a rule":           {"apps:\n  - id: a\n    match: [{path: /x}]\n    split: {use: true, interfce: eth0}\n", `f.yaml:4:24: unknown field "interfce" (did you mean "interface"?)`},
		"duration without unit":   {"ask: {timeout: 5}\n", `f.yaml:1:16: ask.timeout: "5": a duration without its unit (write 5s for seconds, or 5ms or 5m)`},
		"old boolean":             {"permanent_verdicts: yes\n", `f.yaml:1:21: permanent_verdicts: "yes": neither true nor false (write true)`},
		"no boolean":              {"split: {use: maybe}\n", `f.yaml:1:14: split.use: "maybe": neither true nor false (write true or false)`},
		"queue too high":          {"netfilter: {queues: {out4: 70000}}\n", `f.yaml:1:28: netfilter.queues.out4: "70000": out of range (use 0 to 65535)`},
		"queue negative":          {"netfilter: {queues: {out4: -1}}\n", `f.yaml:1:28: netfilter.queues.out4: "-1": out of range (use 0 to 65535)`},
		"queue no number":         {"netfilter: {queues: {out4: abc}}\n", `f.yaml:1:28: netfilter.queues.out4: "abc": not a whole number (use 0 to 65535)`},
		"section for a word":      {"mode: {a: 1}\n", `mode: a section: not a text`},
		"list for a word":         {"mode: [a]\n", `f.yaml:1:7: mode: a list: not a text`},
		"word for a section":      {"log: 7\n", `f.yaml:1:6: log: "7": not a section (the keys in it are format, level)`},
		"word for a list":         {"split: {exclude: [{remote: lan}]}\n", `f.yaml:1:28: split.exclude[0].remote: "lan": not a list (write [lan])`},
		"section for a list":      {"apps: {a: 1}\n", `apps: a section: not a list (begin each of its entries with "- ")`},
		"log level":               {"log: {level: inf}\n", `f.yaml:1:14: log.level: "inf": slog: level string "inf": unknown name`},
		"no port":                 {"mode: observe\nsplit_tunnel: {listen4: 127.0.0.1}\n", `f.yaml:2:25: split_tunnel.listen4: "127.0.0.1": not an ip:port`},
		"second document":         {"mode: observe\n---\nmode: enforce\n", `f.yaml:2:1: another YAML document begins here and would not be read (take out the line ---)`},
		"empty first document":    {"---\n---\nmode: enforce\n", `f.yaml:2:1: another YAML document`},
		"behind the end":          {"mode: observe\n...\nmode: enforce\n", `f.yaml:2:1: another YAML document begins here and would not be read (take out the line ...)`},
		"marks used twice":        {"netfilter: {marks: {accept: 1701}}\n", `f.yaml:1:20: netfilter.marks: 1701 is used twice`},
		"queues used twice":       {"netfilter: {queues: {out4: 17140}}\n", `f.yaml:1:21: netfilter.queues: queue 17140 is used twice`},
		"chain prefix":            {"mode: observe\nnetfilter: {chain_prefix: a b}\n", `f.yaml:2:27: netfilter.chain_prefix: chain prefix "a b": use a letter`},
		"ivpn role":               {"ivpn: {role: boss}\n", `f.yaml:1:14: ivpn.role: "boss": unknown value (use one of ["neutral" "firewall"])`},
		"ivpn ping":               {"ivpn: {ping: '192.0.2.1:817'}\n", `ivpn.ping: "192.0.2.1:817": not a loopback address of IPv4`},
		"ivpn folder":             {"ivpn: {folder: etc}\n", `ivpn.folder: "etc": not an absolute path`},
		"priority":                {"split_tunnel: {priority: 32765}\n", `f.yaml:1:26: split_tunnel.priority: "32765": out of range (use 1 to 32764)`},
		"listen twice":            {"split_tunnel: {engine: proxy, listen4: '127.0.0.1:0'}\n", `split_tunnel.listen4: "127.0.0.1:0": not a loopback address`},
		"interface selector":      {"split: {use: true, interface: a b}\n", `f.yaml:1:31: split.interface: "a b": bad interface selector; a name has no white space`},
		"long socket":             {"api: {socket: /" + strings.Repeat("s", 107) + "}\n", `f.yaml:1:15: api.socket: "/sss`},
		"not YAML":                {"mode: [1\n", `f.yaml:1:7: `},
		"wrong tag":               {"mode: enforce\nglobal:\n ! 000\n", `f.yaml:3:2: not understood`},
		"not a list":              {"global: 5\n", `f.yaml:1:9: `},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Parse("f.yaml", []byte(tt.text))
			require.ErrorIs(t, err, config.ErrInvalid)
			all := config.Errors(err)
			require.NotEmpty(t, all)
			assert.Contains(t, all[0].Error(), tt.want)
		})
	}
}

func TestAllProblemsAreNamed(t *testing.T) {
	_, err := config.Parse("f.yaml", []byte("ask: {timeout: 5}\nmodee: x\nnetfilter: {queues: {in4: x, in5: 1}}\n"))
	assert.Len(t, config.Errors(err), 4, "of types")
	_, err = config.Parse("f.yaml", []byte("mode: x\non_exit: y\nglobal:\n  - {id: '', action: block}\n  - {id: a, action: block, remote_ports: '0'}\n"))
	assert.Len(t, config.Errors(err), 4)
}

func TestEmptyFilesAreTheDefault(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "null\n", "# a comment\n---\n# another\n"} {
		l, err := config.Parse("f.yaml", []byte(text))
		require.NoError(t, err, "%q", text)
		assert.Equal(t, config.Default(), l.File, "%q", text)
	}
}

func TestOneDocument(t *testing.T) {
	for _, text := range []string{
		"mode: enforce\n", "---\nmode: enforce\n", "# a comment\n---\nmode: enforce\n", "%YAML 1.2\n---\nmode: enforce\n",
		"mode: enforce\n...\n", "mode: enforce\n---\n# nothing more\n", "mode: enforce\nlog: {level: info} # --- no header\n",
	} {
		l, err := config.Parse("f.yaml", []byte(text))
		if assert.NoError(t, err, "%q", text) {
			assert.Equal(t, config.Enforce, l.Mode, "%q", text)
		}
	}
}

func TestPartOfASectionKeepsTheOtherDefaults(t *testing.T) {
	l, err := config.Parse("f.yaml", []byte("netfilter: {marks: {accept: 1703}}\n"))
	require.NoError(t, err)
	want := config.Default()
	want.Netfilter.Marks.Accept = 1703
	assert.Equal(t, want, l.File)
}

func TestReadMissingFile(t *testing.T) {
	_, err := config.Read(filepath.Join(t.TempDir(), "none.yaml"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestSocketOfABadFile(t *testing.T) {
	const fallback = "/run/weir/refd.sock"
	for name, c := range map[string]struct{ content, want string }{
		"good":        {"mode: observe\napi: {socket: /tmp/a.sock}\n", "/tmp/a.sock"},
		"bad rules":   {"api: {socket: /tmp/a.sock}\nglobal: [{id: x, actoin: block}]\n", "/tmp/a.sock"},
		"bad section": {"api: {socket: /tmp/a.sock, colour: red}\n", "/tmp/a.sock"},
		"no YAML":     {"mode: [\n", fallback},
		"another":     {"mode: observe\n", fallback},
		"wrong type":  {"api: 7\n", fallback},
		"empty":       {"", fallback},
	} {
		path := filepath.Join(t.TempDir(), "refd.yaml")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := config.Socket(path); got != c.want {
			t.Errorf("%s: got %q; want %q", name, got, c.want)
		}
	}
	if got := config.Socket("/nonexistent/refd.yaml"); got != fallback {
		t.Errorf("no file: got %q; want %q", got, fallback)
	}
}

func TestNotes(t *testing.T) {
	const app = "apps:\n  - id: a\n    match: [{path: /x}]\n    split: "
	for text, want := range map[string]string{
		"split: {interface: wlan0}\n":                                     `f.yaml:1:8: split: does nothing: no app uses the split tunnel (`,
		"split: {use: false, interface: wlan0}\n":                         "",
		"split: {exclude: [{remote: [lan]}]}\n" + app + "{use: true}":     "",
		app + "{interface: wlan0}\n":                                      `f.yaml:4:12: apps[0].split: does nothing: the app does not`,
		"dns: {nameserver: {upstreams: [127.0.0.53]}}\n":                  `f.yaml:1:32: dns.nameserver.upstreams[0]: 127.0.0.53 is on this host: what it asks`,
		"dns: {nameserver: {upstreams: [127.0.0.53], seamless: false}}\n": "",
		"dns: {nameserver: {upstreams: [9.9.9.9], routes: [{domains: [corp.test], upstreams: [9.9.9.9, '127.0.0.1:5353']}]}}\n": `f.yaml:1:95: dns.nameserver.routes[0].upstreams[1]: 127.0.0.1:5353 is on this host`,
		app + "{interface: wlan0}\nsplit: {use: true}\n":                                                                        "",
		app + "{use: true, interface: wlan0}\nsplit: {use: true}\nsplit_tunnel: {interfaces: 1}\n":                              `f.yaml:6:28: split_tunnel.interfaces: apps name 2 interfaces, and there is room for 1`,
	} {
		l, err := config.Parse("f.yaml", []byte(text))
		if !assert.NoError(t, err, text) {
			continue
		}
		if want == "" {
			assert.Empty(t, l.Notes, text)
		} else if assert.Len(t, l.Notes, 1, text) {
			assert.Contains(t, l.Notes[0].Error(), want)
		}
	}
	own, err := net.InterfaceAddrs()
	assert.NoError(t, err)
	for _, a := range own {
		addr := netip.MustParsePrefix(a.String()).Addr()
		if addr.IsLinkLocalUnicast() {
			continue // needs a zone
		}
		l, err := config.Parse("f.yaml", fmt.Appendf(nil, "dns: {nameserver: {upstreams: ['%s']}}\n", netip.AddrPortFrom(addr, 5353)))
		if assert.NoError(t, err, addr) && assert.Len(t, l.Notes, 1, addr) {
			assert.Contains(t, l.Notes[0].Error(), "is on this host")
		}
	}
	_, err = config.Parse("f.yaml", []byte("split_tunnel: {table: 254}\n"))
	assert.Len(t, config.Errors(err), 1, "what is told by one check is not told by the other")
}

func TestSalvage(t *testing.T) {
	const rest = "split_tunnel: {table: 3000}\nglobal: [{id: x, action: block}]\n"
	changed := func(change func(*config.File)) config.File {
		f := config.Default()
		change(&f)
		return f
	}
	table := func(f *config.File) { f.SplitTunnel.Table = 3000 }
	for name, c := range map[string]struct {
		content string
		want    config.File
	}{
		"good": {"mode: enforce\n" + rest, changed(func(f *config.File) { table(f); f.Mode = config.Enforce })},
		"bad rules": {
			"netfilter: {chain_prefix: MINE, marks: {accept: 1703}}\nglobal: [{actoin: y}, 7]\napps: no\nsplit: 3\nsplit_tunnel: {table: 3000}\n",
			changed(func(f *config.File) { table(f); f.Netfilter.ChainPrefix, f.Netfilter.Marks.Accept = "MINE", 1703 }),
		},
		"bad value beside": {
			"netfilter: {chain_prefix: MINE, queues: {out4: 99999, in4: 5}, colour: red}\nask: {timeout: 5}\n" + rest,
			changed(func(f *config.File) { table(f); f.Netfilter.ChainPrefix, f.Netfilter.Queues.In4 = "MINE", 5 }),
		},
		"marks of no use":  {"netfilter: {chain_prefix: MINE, marks: {accept: 1701}}\n", changed(func(f *config.File) { f.Netfilter.ChainPrefix = "MINE" })},
		"prefix of no use": {"netfilter: {chain_prefix: 'a b', state_dir: /run/mine}\n", changed(func(f *config.File) { f.Netfilter.StateDir = "/run/mine" })},
		"broken elsewhere": {
			"mode: [\nnetfilter:\n  chain_prefix: MINE\n  # a comment\n\n  state_dir: /run/mine\nglobal:\n  - {id: x\n" + rest,
			changed(func(f *config.File) { table(f); f.Netfilter.ChainPrefix, f.Netfilter.StateDir = "MINE", "/run/mine" }),
		},
		"broken inside": {"netfilter: {chain_prefix: MINE\n" + rest, changed(table)},
		"two documents": {"split_tunnel: {table: 3000}\n---\nnetfilter: {chain_prefix: MINE}\n", changed(table)},
		"wrong tags":    {"netfilter: {chain_prefix: MINE, variant: ! [x]}\nlog: ! 000\n", changed(func(f *config.File) { f.Netfilter.ChainPrefix = "MINE" })},
		"not a section": {"7\n", config.Default()},
		"empty":         {"", config.Default()},
	} {
		path := filepath.Join(t.TempDir(), "refd.yaml")
		require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
		assert.Equal(t, c.want, config.Salvage(path), name)
	}
	assert.Equal(t, config.Default(), config.Salvage(t.TempDir()), "a folder")
	assert.Equal(t, config.Default(), config.Salvage("/nonexistent/refd.yaml"), "no file")
}

func TestNeedRestart(t *testing.T) {
	a, b := config.Default(), config.Default()
	assert.Empty(t, a.NeedRestart(&b))
	b.Mode, b.API.Socket = config.Enforce, "/other"
	b.Log.Level = -4
	b.Global = []rules.Rule{{ID: "x", Action: rules.Block}}
	assert.Equal(t, []string{"mode", "api"}, a.NeedRestart(&b))

	b = config.Default()
	b.IVPN.Notice = false
	assert.Empty(t, a.NeedRestart(&b), "it is only shown")
	b.IVPN.Folder = "/nowhere"
	assert.Equal(t, []string{"ivpn"}, a.NeedRestart(&b))
}

// The file that the documentation shows must be a good one, and show the
// defaults where it shows a default.
func TestDocumentedFile(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/configuration.md")
	require.NoError(t, err)
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(doc)
	require.NotNil(t, m, "no example in docs/configuration.md")
	l, err := config.Parse("configuration.md", m[1])
	require.NoError(t, err)
	want := config.Default()
	want.Config = l.Config
	assert.Equal(t, want, l.File)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("mode: enforce\nglobal:\n  - {id: a, action: block, remote: [10.0.0.0/8]}\n"))
	f.Add([]byte("apps:\n  - id: x\n    match: [{path: /a}]\n    rules: [{id: r, action: ask}]\n"))
	f.Add([]byte("mode: {a: [1, {b: c}]}\nlog: 7\n"))
	f.Add([]byte("&a [*a]"))
	f.Add([]byte("--- # a\n...\n%X\n---\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		config.SalvageText(b)
		l, err := config.Parse("f.yaml", b)
		switch {
		case err == nil && l.Rules == nil:
			t.Error("good file without rules")
		case err != nil && !errors.Is(err, config.ErrInvalid):
			t.Errorf("error does not wrap ErrInvalid: %v", err)
		case err != nil:
			if len(config.Errors(err)) == 0 {
				t.Errorf("no problem is named: %v", err)
			}
			for _, e := range config.Errors(err) {
				if e.Line < 1 || e.Column < 1 || !strings.HasPrefix(e.Error(), "f.yaml:") {
					t.Errorf("error without a place: %v", e)
				}
			}
		}
	})
}

func TestDNS(t *testing.T) {
	for text, want := range map[string]string{
		"dns: {wait: 2s}\n":                `f.yaml:1:13: dns.wait: "2s": out of range (use 1ms to 1s)`,
		"dns: {wait: 0s}\n":                `f.yaml:1:13: dns.wait: "0s": out of range (use 1ms to 1s)`,
		"dns: {resolved_socket: x.sock}\n": `f.yaml:1:24: dns.resolved_socket: "x.sock": not an absolute path (begin it with "/")`,
		"dns: {monitr: true}\n":            `f.yaml:1:7: unknown field "monitr" (did you mean "monitor"?)`,
	} {
		_, err := config.Parse("f.yaml", []byte(text))
		assert.ErrorContains(t, err, want)
	}
	a, b := config.Default(), config.Default()
	b.DNS.CNAMEs = false
	assert.Empty(t, a.NeedRestart(&b), "the rules are compiled anew")
	b.DNS.Monitor = false
	assert.Equal(t, []string{"dns"}, a.NeedRestart(&b))
}

func TestNameserver(t *testing.T) {
	const section = "dns: {nameserver: "
	for text, want := range map[string]string{
		"{upstreams: [9.9.9.9, nonsense]}":                          `f.yaml:1:41: dns.nameserver.upstreams[1]: "nonsense": "nonsense" is no address (write an address for plain DNS, "tls://`,
		"{upstreams: ['ftp://9.9.9.9']}":                            `f.yaml:1:32: dns.nameserver.upstreams[0]: "ftp://9.9.9.9": nothing is known of "ftp" (write an`,
		"{upstreams: ['127.0.0.17:53']}":                            `f.yaml:1:19: dns.nameserver: upstream udp://127.0.0.17: that is this nameserver itself (`,
		"{upstreams: [9.9.9.9, 9.9.9.9]}":                           `dns.nameserver: upstream udp://9.9.9.9: given twice`,
		"{upstreams: 9.9.9.9}":                                      `dns.nameserver.upstreams: "9.9.9.9": not a list (write [9.9.9.9])`,
		"{blocked: refused}":                                        `f.yaml:1:29: dns.nameserver.blocked: "refused": unknown value (use one of ["nxdomain" "sinkhole"])`,
		"{stale: -1s}":                                              `f.yaml:1:27: dns.nameserver.stale: "-1s": too short (use at least 0s)`,
		"{listen: []}":                                              `dns.nameserver.listen: no address to listen on (take the line out, or`,
		"{listen: ['127.0.0.17:0']}":                                `f.yaml:1:29: dns.nameserver.listen[0]: "127.0.0.17:0": not an address with a port`,
		"{listen: ['0.0.0.0:53']}":                                  `dns.nameserver: listen address 0.0.0.0:53: it must be an exact address`,
		"{routes: [{domains: [corp.test], upstreams: [10.0.0.1]}]}": `f.yaml:1:28: dns.nameserver.routes: nobody is asked for all other names (write upstreams`,
		"{upstreams: [9.9.9.9], routes: [{domains: [a.b], upstreams: [x]}]}": `dns.nameserver.routes[0].upstreams[0]: "x": "x" is no address`,
		"{upstreams: [9.9.9.9], routes: [{domains: [a.b]}]}":                 `dns.nameserver: a route needs domains and upstreams`,
		"{upstream: [9.9.9.9]}": `unknown field "upstream" (did you mean "upstreams"?)`,
	} {
		_, err := config.Parse("f.yaml", []byte(section+text+"}\n"))
		assert.ErrorContains(t, err, want)
	}
	l, err := config.Parse("f.yaml", []byte(section+`{upstreams: [9.9.9.9, "tls://1.1.1.1#one.test"], listen: ["127.0.0.18:53"], blocked: sinkhole, stale: 1h,
  routes: [{domains: [corp.test], upstreams: [10.0.0.1]}]}}`))
	require.NoError(t, err)
	n := &l.DNS.Nameserver
	assert.True(t, n.Enabled() && n.Seamless && n.Canary && len(n.Listen) == 1)
	s := n.Settings()
	assert.Equal(t, "tls://1.1.1.1#one.test", s.Upstreams[1].String())
	assert.Equal(t, []any{nameserver.BlockedSinkhole, time.Hour, true, "corp.test"}, []any{s.Blocked, s.StaleFor, s.RefuseCanary, s.Routes[0].Domains[0]})

	assert.Equal(t, []bool{true, false}, []bool{n.Target(true) == n.Listen[0], n.Target(false).IsValid()})
	a, b := config.Default(), config.Default()
	b.DNS.Nameserver.Listen = b.DNS.Nameserver.Listen[:1]
	assert.Empty(t, a.NeedRestart(&b), "nobody listens")
	b.DNS.Nameserver.Upstreams = []string{"9.9.9.9"}
	assert.Equal(t, []string{"dns.nameserver.listen"}, a.NeedRestart(&b))

	path := filepath.Join(t.TempDir(), "refd.yaml")
	require.NoError(t, os.WriteFile(path, []byte("mode: enforce\n"+section+"{upstreams: [nonsense]}}\n"), 0o600))
	want := config.Default()
	want.Mode = config.Enforce
	assert.Equal(t, want, config.Salvage(path), "a bad server spoils nothing else")
}

// A domain that everybody can have a name below is hardly what was meant.
func TestPublicSuffixes(t *testing.T) {
	l, err := config.Parse("f.yaml", []byte(`global:
  - {id: a, action: block, remote: [.co.uk, example.co.uk, .example.co.uk, "*.test", co.uk, 192.0.2.1, lan]}
apps:
  - {id: x, match: [{path: /x}], rules: [{id: b, action: block, remote: ["*.github.io"]}]}
`))
	require.NoError(t, err)
	var notes []string
	for _, n := range l.Notes {
		notes = append(notes, n.Error())
	}
	assert.Equal(t, []string{
		`f.yaml:2:37: global[0].remote[0]: ".co.uk": names below it belong to different owners (name a site, such as example.co.uk)`,
		`f.yaml:4:74: apps[0].rules[0].remote[0]: "*.github.io": names below it belong to different owners (name a site, such as example.github.io)`,
	}, notes)
}
