package refd

import (
	"context"
	_ "embed" // portals.txt
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/filterlist"
	"github.com/weirfw/weir/pkg/firewall"
	"github.com/weirfw/weir/pkg/module"
	"github.com/weirfw/weir/pkg/packet"
	"github.com/weirfw/weir/pkg/verdict"
)

// codePortal accepts what is needed to get online.
const codePortal verdict.Code = "not-online"

const statePortal = "portal"

// When it is found out whether the host is online.
const (
	// probeAfterChange is after a network change: others follow.
	probeAfterChange = time.Second
	// probeAgain is while it is not online.
	probeAgain   = 10 * time.Second
	probeTimeout = 5 * time.Second
	maxProbeBody = 1 << 10
)

//go:embed portals.txt
var portals string //nolint:gochecknoglobals // a file that nobody writes

// connectivity knows whether the host is online, and what passes while it is not.
type connectivity struct {
	probes []string
	// names pass.
	names   []string
	list    *filterlist.List
	client  *http.Client
	states  *module.States
	changed chan struct{}
	// hasRoute reports whether there is a way to other networks, lookUp finds the addresses of a portal.
	hasRoute func() bool
	lookUp   func(ctx context.Context, host string) ([]netip.Addr, error)
	// told is called by run when it is found out that the host is online, or not.
	told func(*offline)
	// offline is nil while the host is online, or nobody finds out.
	offline atomic.Pointer[offline]
}

// offline is what is known of a host that is not online.
type offline struct {
	// portal is where its network wants a login; empty if nobody answers. host is its name, addrs are its addresses.
	// port is the portal's own.
	portal string
	host   string
	port   uint16
	addrs  []netip.Addr
}

// newConnectivity needs more than that before it runs.
func newConnectivity(probes, more []string) (*connectivity, error) {
	list, err := filterlist.Parse(strings.NewReader(portals), strings.NewReader(strings.Join(more, "\n")))
	if err != nil {
		return nil, fmt.Errorf("connectivity: %w", err)
	}
	c := &connectivity{probes: probes, list: list, changed: make(chan struct{}, 1), told: func(*offline) {}}
	for line := range strings.Lines(portals) {
		if name := strings.TrimSpace(line); name != "" && name[0] != '#' {
			c.names = append(c.names, name)
		}
	}
	c.names = append(c.names, more...)
	c.client = &http.Client{
		Timeout:       probeTimeout,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// networkChanged has it found out anew.
func (c *connectivity) networkChanged() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

func (c *connectivity) run(ctx context.Context, ready func()) error {
	defer c.become(nil)
	timer := time.NewTimer(0)
	defer timer.Stop()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.changed:
			timer.Reset(probeAfterChange)
			continue
		case <-timer.C:
		}
		if len(c.probes) == 0 {
			continue
		}
		c.become(c.probe(ctx))
		if c.offline.Load() != nil {
			timer.Reset(probeAgain)
		}
	}
}

// probe finds out whether the host is online; nil if so, or if there is nothing to find out.
func (c *connectivity) probe(ctx context.Context) *offline {
	if !c.hasRoute() {
		return nil
	}
	var found *offline
	for _, p := range c.probes {
		portal, err := c.get(ctx, p)
		switch {
		case err != nil:
			continue // the next one may answer
		case portal == "":
			return nil
		}
		found = &offline{portal: portal}
		if u, err := url.Parse(portal); err == nil {
			found.host, found.port = u.Hostname(), portOf(u)
			found.addrs = c.addrsOf(ctx, found.host)
		}
		break
	}
	if found == nil {
		found = &offline{}
	}
	if ctx.Err() != nil {
		return c.offline.Load()
	}
	return found
}

// portOf returns the port that is written in an address, 0 if there is none.
func portOf(u *url.URL) uint16 {
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

func (c *connectivity) addrsOf(ctx context.Context, host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}
	}
	addrs, err := c.lookUp(ctx, host)
	if err != nil {
		return nil // its name passes all the same
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs
}

// get asks for a page that its server answers without a word, or with little. It returns the address of a portal that answers in its
// place.
func (c *connectivity) get(ctx context.Context, page string) (portal string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, http.NoBody)
	if err != nil {
		return "", fmt.Errorf("probe: %w", err)
	}
	res, err := c.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("probe: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(io.LimitReader(res.Body, maxProbeBody))
	if err != nil {
		return "", fmt.Errorf("probe: %w", err)
	}
	text := strings.ToLower(strings.TrimSpace(string(body)))
	switch {
	case res.StatusCode == http.StatusNoContent, res.StatusCode == http.StatusOK && isAnswer(text):
		return "", nil
	case res.StatusCode >= 500 && res.StatusCode != http.StatusNetworkAuthenticationRequired:
		return "", errors.New("probe: " + res.Status)
	}
	if at, err := res.Location(); err == nil && (at.Scheme == "http" || at.Scheme == "https") {
		return at.String(), nil
	}
	return page, nil // it answers in place of the server (RFC 6585 section 6)
}

// isAnswer reports whether a page is one of those that servers for probes have: a word or two, and not a page to look at.
func isAnswer(text string) bool {
	return len(text) < 100 && !strings.Contains(text, "<") || strings.Contains(text, "<title>success</title>")
}

// become takes note of a change.
func (c *connectivity) become(now *offline) {
	old := c.offline.Swap(now)
	if old == now || old != nil && now != nil && old.portal == now.portal && slices.Equal(old.addrs, now.addrs) {
		return
	}
	if now == nil || now.portal == "" {
		c.states.Remove(statePortal)
	} else {
		c.states.Add(module.State{
			ID: statePortal, Name: "The network wants a login", Severity: module.Hint, Data: map[string]string{"portal": now.portal},
			Message: "The network wants a login before it lets this host online: open " + now.portal + " in a browser.",
		})
	}
	c.told(now)
}

// passesName reports whether a name may be looked up, whatever else is said about it.
func (c *connectivity) passesName(name string) bool {
	o := c.offline.Load()
	return o != nil && (c.list.HasName(name) || o.host != "" && strings.EqualFold(name, o.host))
}

// isWeb reports whether a connection may be one of a browser's to the portal, or a probe: nothing else is needed to log in.
func (o *offline) isWeb(s *conn.Snapshot) bool {
	const plain, secure = 80, 443
	port := s.Tuple.Remote.Port()
	return s.Tuple.Protocol == packet.TCP && (port == plain || port == secure || port == o.port)
}

// Decide implements firewall.Decider: what is needed to get online passes while the host is not.
func (c *connectivity) Decide(_ context.Context, s *conn.Snapshot) firewall.Outcome {
	o := c.offline.Load()
	if o == nil || s.Direction != packet.Outbound || !o.isWeb(s) || !c.passesName(s.Domain) && !slices.Contains(o.addrs, s.Tuple.Remote.Addr()) {
		return firewall.Outcome{}
	}
	return firewall.Outcome{Decided: true, Decision: accepted(codePortal, "needed to get online, which this host is not")}
}
