package e2e_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirfw/weir/internal/testnet"
	"github.com/weirfw/weir/internal/testutil"
)

// cutLimit is how long after a change a refused program may still think that it is connected.
const cutLimit = 2 * time.Second

// allowAll and blockCurl are two policies; a copy of curl is another app.
const allowAll = "default: {in: allow, out: allow}\n"

const blockCurl = allowAll + `
apps:
  - id: curl
    match: [{path: /usr/bin/curl}]
    rules:
      - {id: curl-block, action: block}
`

// copyOfCurl is another app that does the same.
func (r *rig) copyOfCurl(t *testing.T) string {
	t.Helper()
	path := filepath.Join(r.dir, "other-app")
	r.client.Run(t, "cp", "/usr/bin/curl", path)
	return path
}

// waitCut waits for the programs to notice that their connections are cut.
func waitCut(t *testing.T, r *rig, ds []*download) {
	t.Helper()
	for _, d := range ds {
		took := r.eventually(t, cutLimit, d.name+" is cut", func() bool {
			select {
			case <-d.Done():
				return true
			default:
				return false
			}
		})
		t.Logf("%s is cut after %v", d.name, took)
		if d.Wait() == nil {
			t.Errorf("%s ended well; want an error", d.name)
		}
	}
}

// reload makes refd read its configuration, by signal or by command.
func (r *rig) reload(t *testing.T, how string) {
	t.Helper()
	if how == "command" {
		if out := r.cli(t, "reload"); !strings.HasPrefix(out, "reloaded: ") {
			t.Errorf("refd reload printed %q", out)
		}
		return
	}
	before := strings.Count(r.refd.Output(), "configuration reloaded")
	r.hangUp(t)
	r.eventually(t, startLimit, "refd reloads", func() bool {
		return strings.Count(r.refd.Output(), "configuration reloaded") > before
	})
}

// A change of rules is applied to live connections: what is refused now is cut at once, and nothing else notices.
func TestIntegrationReload(t *testing.T) {
	testutil.NoLeaks(t)
	eachVariant(t, func(t *testing.T, r *rig) {
		serveBoth(t, r)
		other := r.copyOfCurl(t)
		for _, permanent := range []string{"true", "false"} {
			for _, how := range []string{"signal", "command"} {
				t.Run(fmt.Sprintf("permanent %s by %s", permanent, how), func(t *testing.T) {
					r.start(t, settings{verdicts: permanent, rules: allowAll})
					testReload(t, r, how, permanent, other)
				})
			}
		}
	})
}

func testReload(t *testing.T, r *rig, how, permanent, other string) {
	t.Helper()
	var cut, stay []*download
	for _, from := range []string{testnet.ServerV4, testnet.ServerV6} {
		cut = append(cut, r.download(t, r.client, "/usr/bin/curl", from))
		stay = append(stay, r.download(t, r.client, other, from))
	}
	waitGrow(t, r, append(cut, stay...))

	r.configure(t, settings{verdicts: permanent, rules: "global: [{id: bad, actoin: block}]\n"})
	out, err := r.client.Try(r.binary, "--config", r.configPath(), "reload")
	if err == nil || !strings.Contains(out, "actoin") || !strings.Contains(out, "refd.yaml:") {
		t.Errorf("refd reload of a bad file: %v: %s; want an error with its place", err, out)
	}
	waitGrow(t, r, append(cut, stay...))

	r.configure(t, settings{verdicts: permanent, rules: blockCurl})
	r.reload(t, how)
	waitCut(t, r, cut)
	waitGrow(t, r, stay)
	for _, d := range cut {
		if s := r.conn(t, d.from, webPort, "--app", "curl"); s.Decision.Reason.Rule != "curl-block" {
			t.Errorf("%s: got decision %+v; want one by rule curl-block", d.name, s.Decision)
		}
		// A new attempt of the app is refused as well.
		r.wantCurl(t, "/usr/bin/curl", d.from, refused)
		r.wantCurl(t, other, d.from, answered)
	}

	r.configure(t, settings{verdicts: permanent, rules: allowAll})
	r.reload(t, how)
	for _, d := range cut {
		r.wantCurl(t, "/usr/bin/curl", d.from, answered)
	}
	waitGrow(t, r, stay)
	for _, d := range stay {
		d.Kill()
	}
}

// With on_change: leave a refused connection goes silent and nobody is told.
func TestIntegrationReloadLeave(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	serveBoth(t, r)
	r.start(t, settings{rules: allowAll + "on_change: leave\n"})
	running := []*download{r.download(t, r.client, "/usr/bin/curl", testnet.ServerV4)}
	waitGrow(t, r, running)
	r.configure(t, settings{rules: strings.Replace(blockCurl, "action: block", "action: drop", 1) + "on_change: leave\n"})
	r.reload(t, "signal")
	waitStall(t, r, running)
	r.configure(t, settings{rules: allowAll + "on_change: leave\n"})
	r.reload(t, "signal")
	waitGrow(t, r, running)
}

// A file that is gone or bad changes nothing, by signal too.
func TestIntegrationReloadBad(t *testing.T) {
	testutil.NoLeaks(t)
	r := newRig(t, testutil.VariantNFT)
	serveBoth(t, r)
	r.start(t, settings{rules: blockCurl})
	for _, content := range []string{"", "default: {in: maybe}\n", "\x00", "mode: [\n"} {
		before := strings.Count(r.refd.Output(), "level=ERROR msg=reload")
		if content == "" {
			if err := os.Remove(r.configPath()); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(r.configPath(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r.hangUp(t)
		r.eventually(t, startLimit, "refd says that the reload failed", func() bool {
			return strings.Count(r.refd.Output(), "level=ERROR msg=reload") > before
		})
	}
	r.configure(t, settings{rules: blockCurl})
	r.wantCurl(t, "/usr/bin/curl", netip.MustParseAddr(testnet.ServerV4), refused)
}
