package refd

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirfw/weir/pkg/firewall/dnsguard"
	"github.com/weirfw/weir/pkg/module"
)

// How people are told that an app's own DNS is blocked.
const (
	// noticePause is how long an app has to try in vain until people are told again.
	noticePause = 10 * time.Minute
	// noticeLife is how long after the last attempt a notice goes.
	noticeLife = time.Hour
	// maxNotices bounds the apps that are told of.
	maxNotices = 32
)

// bypassNotices tell people of apps whose own DNS is blocked. A browser tries every second, so once is enough.
type bypassNotices struct {
	states *module.States
	news   chan dnsguard.Bypass
	// apps are told of; only run uses it.
	apps map[string]*bypassNotice
}

type bypassNotice struct{ told, tried time.Time }

func newBypassNotices() *bypassNotices {
	return &bypassNotices{news: make(chan dnsguard.Bypass, 64), apps: map[string]*bypassNotice{}}
}

// note is called on the packet path. More than there is room for is more of the same.
func (n *bypassNotices) note(b dnsguard.Bypass) {
	select {
	case n.news <- b:
	default:
	}
}

func (n *bypassNotices) run(ctx context.Context, ready func()) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	defer n.forget(func(*bypassNotice) bool { return true })
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-n.news:
			n.tell(b, time.Now())
		case now := <-tick.C:
			n.forget(func(a *bypassNotice) bool { return now.Sub(a.tried) > noticeLife })
		}
	}
}

func (n *bypassNotices) tell(b dnsguard.Bypass, now time.Time) {
	app := "a program that is not known"
	if b.Process != nil {
		app = cmp.Or(b.Process.Script, b.Process.Executable(), app)
	}
	a := n.apps[app]
	switch {
	case a == nil && len(n.apps) == maxNotices:
		return
	case a == nil:
		a = &bypassNotice{}
		n.apps[app] = a
	}
	a.tried = now
	if !a.told.IsZero() && now.Sub(a.told) < noticePause {
		return
	}
	a.told = now
	n.states.Add(module.State{
		ID: noticeID(app), Name: "DNS of an app's own is blocked", Severity: module.Hint, Data: b,
		Message: fmt.Sprintf("%s tried %s%s, and was refused: it goes round the DNS of this host, which rules and lists look at. "+
			"Let it use that, or write prevent_dns_bypass: false into its profile.", app, b.Kind, serverOf(b)),
	})
}

// serverOf says whom a program wanted to ask.
func serverOf(b dnsguard.Bypass) string {
	switch {
	case b.Domain != "":
		return " by " + b.Domain
	case b.Remote != netip.AddrPort{}:
		return " by " + b.Remote.String()
	}
	return ""
}

func noticeID(app string) string { return "bypass/" + app }

func (n *bypassNotices) forget(over func(*bypassNotice) bool) {
	for app, a := range n.apps {
		if over(a) {
			delete(n.apps, app)
			n.states.Remove(noticeID(app))
		}
	}
}
