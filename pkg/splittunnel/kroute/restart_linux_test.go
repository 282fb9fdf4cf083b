package kroute_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
	"github.com/weirfw/weir/pkg/netif"
	"github.com/weirfw/weir/pkg/splittunnel"
	"github.com/weirfw/weir/pkg/splittunnel/kroute"
)

// state is the part of the client that the engine changes, byte by byte.
func (r *rig) state() string {
	r.t.Helper()
	return r.Client.Run(r.t, "sh", "-ec", "ip -d rule; ip -6 -d rule; ip -d route show table all; ip -6 -d route show table all; cat /proc/sys/net/ipv4/conf/*/src_valid_mark")
}

// same fails the test if the client's state is not what it was.
func (r *rig) same(what, before string) {
	r.t.Helper()
	if diff := testnet.Diff(before, r.state()); diff != "" {
		r.t.Errorf("%s: rules, routes or sysctls are not as before:\n%s", what, diff)
	}
}

func (r *rig) cleanup(cfg kroute.Config) error {
	return r.Client.Do(func() error { return kroute.Cleanup(r.t.Context(), cfg) })
}

// TestIntegrationCleanup: after a stop, and after Cleanup, once or twice, everything is as before, 50 times; and in the end the whole
// network of the host is.
func TestIntegrationCleanup(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	whole, before, paths, cfg := r.Client.Snapshot(t), r.state(), r.paths("eth0", "vpn0"), r.config()
	if err := r.cleanup(cfg); err != nil {
		t.Errorf("clean up with nothing to do: %v", err)
	}
	for cycle := range 50 {
		cfg.KeepOnExit = cycle%2 == 1
		e := r.run(cfg, paths...)
		if err := e.Use(t.Context(), paths[cycle%2:]); err != nil {
			t.Fatal(err)
		}
		if err := r.cleanup(cfg); !errors.Is(err, kroute.ErrInUse) {
			t.Fatalf("clean up while it runs: got %v; want ErrInUse", err)
		}
		if err := e.stop(); err != nil {
			t.Fatal(err)
		}
		if cfg.KeepOnExit {
			if testnet.Diff(before, r.state()) == "" {
				t.Fatal("KeepOnExit kept nothing")
			}
			if err := r.tcp(ends()[0].split, 100*time.Millisecond); err == nil {
				t.Fatal("marked packets pass after KeepOnExit")
			}
			for range 2 {
				if err := r.cleanup(cfg); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.same("cycle", before)
	}
	if diff := testnet.Diff(whole, r.Client.Snapshot(t)); diff != "" {
		t.Errorf("the host is not as before:\n%s", diff)
	}
	if _, err := os.Stat(cfg.StateFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file is still there: %v", err)
	}
}

// TestIntegrationKilled: an engine that is killed leaves the host as it is, the next one takes over, without a packet on vpn0 and with
// connections that go on; and Cleanup after a crash, with and without a state file, undoes all.
func TestIntegrationKilled(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	before := r.state()
	program := r.lab.Program(t, "./testdata/engine")
	stateFile := filepath.Join(r.lab.Dir(), "s", "state.json")
	start := func(args ...string) *testnet.Process {
		p := r.Client.Start(t, program, args...)
		p.WaitOutput(t, "ready", limit)
		return p
	}
	p := start("-state", stateFile)
	stop := r.storm()
	defer stop()
	c, err := r.Client.Dial(t.Context(), "tcp", ends()[0].split+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // nothing was written that could be lost
	for range 10 {
		p.Kill()
		r.works(t, "again") // without an engine the routes are still there
		p = start("-state", stateFile)
		r.works(t, "again")
	}
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("still there")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 32)); n == 0 {
		t.Errorf("the old connection is dead: %v", err)
	}
	stop()
	r.noLeak()
	for _, f := range []struct {
		path string
		mode os.FileMode
	}{{stateFile, 0o600}, {filepath.Dir(stateFile), 0o700 | os.ModeDir}} {
		if i, err := os.Stat(f.path); err != nil || i.Mode() != f.mode {
			t.Errorf("%s: got %v, %v; want mode %v", f.path, i, err, f.mode)
		}
	}
	p.Kill()
	for _, tt := range []struct {
		name, damage string
		args         []string
		cfg          kroute.Config
	}{
		{"with state", "true", []string{"-state", stateFile}, kroute.Config{StateFile: stateFile}},
		{"without state", "true", nil, kroute.Config{}},
		{
			"without tables", "ip route flush table 1719; ip -6 route flush table 1719", []string{"-state", stateFile},
			kroute.Config{StateFile: stateFile},
		},
		{"without rules", "ip rule del priority 719; ip -6 rule del priority 720", nil, kroute.Config{}},
		{"with other numbers", "true", []string{"-state", stateFile}, kroute.Config{StateFile: stateFile, Mark: 2000, Table: 3000, Protocol: 99}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start(tt.args...).Kill()
			r.commands(tt.damage)
			for range 2 {
				if err := r.cleanup(tt.cfg); err != nil {
					t.Fatal(err)
				}
			}
			r.same(tt.name, before)
		})
	}
	p = start("-keep")
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := r.Client.Run(t, "ip", "route", "show", "table", "1719"); !strings.HasPrefix(got, "unreachable default") || strings.Count(got, "\n") != 1 {
		t.Errorf("got table\n%swant an unreachable default and nothing else", got)
	}
	if err := p.Signal(syscall.SIGTERM); err == nil {
		t.Error("the program still runs")
	}
}

// TestIntegrationTakeOver: numbers survive a restart, by the state file or, without one, by the tables.
func TestIntegrationTakeOver(t *testing.T) {
	testutil.NoLeaks(t)
	for _, by := range []string{"state file", "tables"} {
		t.Run("by "+by, func(t *testing.T) {
			r := newRig(t)
			cfg := r.config()
			// vpn0 comes first: eth0 gets number 1.
			e := r.run(cfg, r.paths("vpn0")...)
			for _, paths := range [][]splittunnel.Path{r.paths("vpn0", "eth0"), r.paths("eth0")} {
				if err := e.Use(t.Context(), paths); err != nil {
					t.Fatal(err)
				}
			}
			// Of what a crash leaves, one of the two.
			tables := r.made()
			state, err := os.ReadFile(cfg.StateFile)
			if err != nil {
				t.Fatal(err)
			}
			if err := e.stop(); err != nil {
				t.Fatal(err)
			}
			if by == "tables" {
				r.commands(tables...)
			} else if err := os.WriteFile(cfg.StateFile, state, 0o600); err != nil {
				t.Fatal(err)
			}
			e = r.run(cfg, r.paths("eth0")...)
			got := e.figures().Routes
			if len(got) != 2 || got[1].Interface != "eth0" || !got[1].IPv4 || !got[1].IPv6 {
				t.Fatalf("got figures %+v; want eth0 ready with number 1", got)
			}
			if got[0].IPv4 || got[0].IPv6 {
				t.Errorf("got figures %+v; want number 0 closed", got)
			}
			if err := r.tcp(ends()[0].split, 100*time.Millisecond); err == nil {
				t.Error("packets with the mark of number 0 pass; want them refused")
			}
			r.noLeak()
		})
	}
}

// made are the commands that make what the engine has made for numbers 0 and 1.
func (r *rig) made() (lines []string) {
	r.t.Helper()
	for _, flag := range []string{"-4", "-6"} {
		for line := range strings.Lines(r.Client.Run(r.t, "ip", flag, "rule", "show")) {
			priority, rule, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			if strings.HasSuffix(rule, "proto 207") {
				lines = append(lines, "ip "+flag+" rule add "+rule+" priority "+priority)
			}
		}
		for _, table := range []string{"1719", "1720"} {
			for line := range strings.Lines(r.Client.Run(r.t, "ip", flag, "route", "show", "table", table)) {
				route := strings.NewReplacer("pref medium", "", "default dev lo", "default").Replace(strings.TrimSpace(line))
				lines = append(lines, "ip "+flag+" route add "+route+" table "+table)
			}
		}
	}
	return lines
}

// TestIntegrationRenumbered: an engine with other numbers than the one that was killed removes what that one left.
func TestIntegrationRenumbered(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	before := r.state()
	program := r.lab.Program(t, "./testdata/engine")
	for _, change := range []func(*kroute.Config){
		func(c *kroute.Config) { c.Mark = 2000 },
		func(c *kroute.Config) { c.Table = 2000 },
		func(c *kroute.Config) { c.Priority = 2000 },
		func(c *kroute.Config) { c.Protocol = 99 },
		func(c *kroute.Config) { c.MaxRoutes = 2 },
	} {
		cfg := r.config()
		p := r.Client.Start(t, program, "-state", cfg.StateFile)
		p.WaitOutput(t, "ready", limit)
		p.Kill()
		change(&cfg)
		e := r.run(cfg, r.paths("eth0")...)
		if !e.usable("eth0") {
			t.Errorf("%+v: eth0 is not usable", cfg)
		}
		if got := strings.Count(r.Client.Run(t, "sh", "-c", "ip rule; ip -6 rule"), "unreachable"); got != 2 {
			t.Errorf("%+v: got %d guards; want 2", cfg, got)
		}
		if err := e.stop(); err != nil {
			t.Fatal(err)
		}
		r.same("renumbered", before)
	}
}

// TestIntegrationTwoEngines: engines with different numbers do not see each other, and the last one restores the sysctl.
func TestIntegrationTwoEngines(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	before := r.state()
	first := r.config()
	first.StateFile = ""
	second := kroute.Config{Mark: 2719, Table: 2719, Priority: 819, Logger: first.Logger}
	a, b := r.run(first, r.paths("eth0")...), r.run(second, r.paths("eth0")...)
	r.works(t, "with two")
	again, err := kroute.New(first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.start(again); !errors.Is(err, kroute.ErrInUse) {
		t.Errorf("a second engine with the same numbers: got %v; want ErrInUse", err)
	}
	if err := b.Use(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	if got := r.Client.Sysctl(t, "net.ipv4.conf.all.src_valid_mark"); got != "1" {
		t.Errorf("src_valid_mark is %s while the second engine runs; want 1", got)
	}
	if err := b.Use(t.Context(), r.paths("eth0")); err != nil {
		t.Fatal(err)
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	r.same("two engines", before)
}

// TestIntegrationTableInUse: a table that somebody else has is refused at the start, and nothing is changed.
func TestIntegrationTableInUse(t *testing.T) {
	testutil.NoLeaks(t)
	for _, flag := range []string{"-4", "-6"} {
		r := newRig(t)
		r.commands("ip " + flag + " route add unreachable default table 1722")
		before := r.state()
		e, err := kroute.New(r.config())
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.start(e)
		if !errors.Is(err, kroute.ErrTableInUse) || !strings.Contains(err.Error(), "1722") || !strings.Contains(err.Error(), "Config.Table") {
			t.Errorf("got %v; want ErrTableInUse with table and remedy", err)
		}
		r.same("refused", before)
		if _, err := e.Take(tuple(ends()[0].split), r.paths("eth0")[0]); !errors.Is(err, splittunnel.ErrNotReady) {
			t.Errorf("Take without Run: got %v; want ErrNotReady", err)
		}
	}
}

// TestIntegrationNumbersRunOut: there are as many interfaces as numbers, and the others are told so.
func TestIntegrationNumbersRunOut(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t)
	cfg := r.config()
	cfg.MaxRoutes = 1
	e := r.run(cfg, r.paths("eth0")...)
	err := e.Use(t.Context(), r.paths("eth0", "vpn0"))
	if !errors.Is(err, splittunnel.ErrNotReady) || !strings.Contains(err.Error(), "MaxRoutes") {
		t.Errorf("got %v; want ErrNotReady with the remedy", err)
	}
	if !e.usable("eth0") || e.usable("vpn0") {
		t.Error("want eth0 usable, and vpn0 not")
	}
	if err := e.Use(t.Context(), r.paths("vpn0")); err != nil {
		t.Errorf("the number is free: %v", err)
	}
	if e.usable("eth0") || !e.usable("vpn0") {
		t.Error("want vpn0 usable, and eth0 not")
	}
	for _, p := range []splittunnel.Path{{Family: netif.IPv4}, {Family: 5, Choice: r.paths("eth0")[0].Choice}} {
		if err := e.Use(t.Context(), []splittunnel.Path{p}); !errors.Is(err, kroute.ErrConfig) {
			t.Errorf("got %v; want ErrConfig", err)
		}
	}
	twice := r.paths("eth0")[:1]
	if err := e.Use(t.Context(), append(twice, twice...)); !errors.Is(err, kroute.ErrConfig) {
		t.Errorf("got %v; want ErrConfig", err)
	}
}
