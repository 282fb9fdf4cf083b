package refd

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/refd/config"
	"github.com/weirfw/weir/internal/refd/prompt"
	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/nameserver"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/rules"
)

func answered(domain, remote string) *conn.Snapshot {
	s := &conn.Snapshot{Domain: domain, Process: &conn.Process{PID: 7, Path: "/bin/app"}}
	s.Tuple = packet.Tuple{Protocol: packet.TCP, Remote: netip.AddrPortFrom(netip.MustParseAddr(remote), 443)}
	return s
}

// A rule of an answer is about the one name, which somebody else chose, or the one address; whatever it looks like.
func TestRulesOfAnswers(t *testing.T) {
	ruleFor := func(s *conn.Snapshot) (rules.Rule, error) {
		target := prompt.Target{Domain: s.Domain, Remote: s.Tuple.Remote}.Name()
		return ruleOf(s, prompt.Answer{Action: rules.Allow, For: prompt.Always, Target: target}, func(string) bool { return false })
	}
	for _, name := range []string{"global", "lan", "host", "example.org", "_dns.example.org", "Example.Org."} {
		r, err := ruleFor(answered(name, "192.0.2.1"))
		require.NoError(t, err, name)
		set, err := rules.Compile(rules.Config{Global: []rules.Rule{r}, Default: rules.Defaults{Out: rules.Block}})
		require.NoError(t, err, name)
		for domain, want := range map[string]bool{name: true, "": false, "other.example": false, "www." + name: false} {
			got := set.Evaluate(answered(domain, "192.0.2.1")).Rule
			assert.Equal(t, want, got != nil && got.ID == r.ID, "a rule for %s, a connection to %q", name, domain)
		}
	}
	for _, name := range []string{"*", "*.com", ".com", "10.0.0.0/8", "192.0.2.1", "list:mine", "a b.example", "a..b", ""} {
		_, err := ruleFor(answered(name+" ", "192.0.2.1"))
		assert.ErrorIs(t, err, prompt.ErrAnswer, name)
		if name != "" {
			_, err = ruleFor(answered(name, "192.0.2.1"))
			assert.ErrorIs(t, err, prompt.ErrAnswer, name)
		}
	}
	for remote, want := range map[string]string{"192.0.2.1": "192.0.2.1", "fe80::1%7": "fe80::1", "::ffff:192.0.2.1": "192.0.2.1"} {
		r, err := ruleFor(answered("", remote))
		require.NoError(t, err)
		assert.Equal(t, []string{want}, r.Remote)
	}
}

// Answering does not put into force what somebody is writing into the file.
func TestAnswersWaitForAReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refd.yaml")
	require.NoError(t, os.WriteFile(path, []byte("mode: observe\n"), 0o600))
	cfg, err := config.Read(path)
	require.NoError(t, err)
	d := &Daemon{opt: Options{ConfigPath: path, Config: cfg, Interfaces: &rules.Interfaces{}}, cfg: cfg}
	d.rules.Swap(cfg.Rules)
	const unfinished = "mode: observe\ndefault: {out: allow}\n"
	require.NoError(t, os.WriteFile(path, []byte(unfinished), 0o600))
	err = d.writeAnswer(t.Context(), answered("", "192.0.2.1"), prompt.Answer{Action: rules.Block, For: prompt.Always})
	require.ErrorIs(t, err, api.ErrRefused)
	assert.ErrorContains(t, err, "reload")
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, unfinished, string(now))
}

// Looking without the role to answer does not make connections wait for an answer.
func TestViewersAreNotAsked(t *testing.T) {
	cfg, err := config.Parse("", []byte("default: {out: ask}\n"))
	require.NoError(t, err)
	d := &Daemon{opt: Options{Config: cfg}, cfg: cfg, log: slog.New(slog.DiscardHandler)}
	d.nameserver.server, err = nameserver.New(nameserver.Config{})
	require.NoError(t, err)
	d.rules.Swap(cfg.Rules)
	d.buildPrompts()
	for range 2 {
		_, err = d.prompts.Ask(t.Context(), answered("", "192.0.2.1"))
		require.ErrorIs(t, err, firewall.ErrNobody)
		open, err := backend{d}.Prompts(t.Context()) // of nobody in particular
		require.NoError(t, err)
		assert.Len(t, open, 1)
	}
	d.prompts.Reset()
}
