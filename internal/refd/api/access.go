package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// access decides who may call what. It is the outermost handler.
type access struct {
	next  *http.ServeMux
	table map[string]*route // by pattern
	log   *slog.Logger
	keys  *keys
	// hosts are the values of Host that mean this server, over TCP.
	hosts []string
	group groupAccess
	// unlimited does away with the limits below.
	unlimited bool

	// anybody is for requests that are refused, files for those of the page, logins for codes that are not good, and crowd for users
	// beyond those that peers has. They are apart, so that nobody who floods one keeps people from the others.
	anybody, files, logins, crowd *bucket

	mu    sync.Mutex // guards peers
	peers map[uint32]*bucket
}

// groupAccess lets the members of a group use the socket.
type groupAccess struct {
	// gid is -1 if there is no such group.
	gid  int
	role Role
}

// refusal is a request that is not answered as asked.
type refusal struct {
	status int
	text   string
}

// hostsOf returns what browsers write in Host for an address of this host. Names other than localhost are of somebody who wants to
// be taken for us (DNS rebinding).
func hostsOf(listen netip.AddrPort) []string {
	port := fmt.Sprint(listen.Port())
	hosts := []string{listen.String(), net.JoinHostPort("localhost", port)}
	if port == "80" {
		hosts = append(hosts, listen.Addr().String(), "localhost")
	}
	return hosts
}

// ServeHTTP implements http.Handler.
func (a *access) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w.Header())
	// whoever does not read must not hold a connection for ever; what takes its time to begin, or goes on, renews it
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeLimit)) // a recorder of a test has none
	rt := a.lookUp(r)
	who, refused := a.admit(r, rt)
	if refused == nil && who.limit != nil && !a.within(who.limit) {
		w.Header().Set("Retry-After", "1")
		refused = &refusal{http.StatusTooManyRequests, "too many requests: wait a second"}
	}
	if refused != nil {
		a.log.Debug("API request refused", "method", r.Method, "status", refused.status, "reason", refused.text)
		if refused.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", `Bearer realm="refd"`)
		}
		// what is still to come of the body is not waited for
		w.Header().Set("Connection", "close")
		answer(w, refused.status, Problem{Error: refused.text})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	a.next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
}

func (a *access) within(b *bucket) bool { return a.unlimited || b.take(time.Now()) }

// lookUp returns the route of a request, nil for what is no route of the API.
func (a *access) lookUp(r *http.Request) *route {
	_, pattern := a.next.Handler(r)
	return a.table[pattern]
}

// admit says who makes a request, or why it is refused.
func (a *access) admit(r *http.Request, rt *route) (caller, *refusal) {
	who, refused := a.know(r, rt)
	switch {
	case refused != nil:
		return who, refused
	case rt == nil:
		return who, nil // a file of the page, or nothing
	case !who.role.may(rt.role):
		return who, &refusal{http.StatusForbidden, fmt.Sprintf("this needs the role %s, and you have %s", rt.role, who.role)}
	case rt.hasBody() && !isJSON(r):
		// a form of a foreign page can send other types without asking first
		return who, &refusal{http.StatusUnsupportedMediaType, "send Content-Type: application/json"}
	}
	return who, nil
}

func isJSON(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/json"
}

func (a *access) know(r *http.Request, rt *route) (caller, *refusal) {
	if p := peerOf(r.Context()); !errors.Is(p.err, errNoPeer) {
		return a.knowPeer(p)
	}
	if !slices.Contains(a.hosts, r.Host) {
		return caller{limit: a.anybody}, &refusal{http.StatusForbidden, "this is not the Host of refd"}
	}
	if text := foreign(r); text != "" {
		return caller{limit: a.anybody}, &refusal{http.StatusForbidden, text}
	}
	if rt == nil || rt.role == NoRole {
		who, err := a.keys.identify(r)
		switch {
		case err == nil:
		case rt == nil:
			who = caller{limit: a.files}
		default:
			who = caller{} // logging in counts codes that are not good
		}
		return who, nil
	}
	who, err := a.keys.identify(r)
	if err != nil {
		if !a.within(a.anybody) {
			return who, &refusal{http.StatusTooManyRequests, "too many requests without a login"}
		}
		return who, &refusal{http.StatusUnauthorized, err.Error()}
	}
	return who, nil
}

// foreign says why a request is of another page's making, if it is.
func foreign(r *http.Request) string {
	if origin, given := r.Header["Origin"]; given && (len(origin) != 1 || origin[0] != "http://"+r.Host) {
		return "another page may not talk to refd"
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return ""
	}
	if r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.URL.Path == "/" {
		return "" // a link to the page, which has nothing in it yet
	}
	return "another page may not talk to refd"
}

// knowPeer says who is on the unix socket: root, the user that refd runs as, or a member of the group.
func (a *access) knowPeer(p peer) (caller, *refusal) {
	who := caller{via: "socket", limit: a.limitOf(p.uid)}
	switch {
	case p.err != nil:
		a.log.Warn("API request refused", "err", p.err)
		return who, &refusal{http.StatusForbidden, "refd cannot tell who you are"}
	case p.admitted():
		who.role = ReadWrite
	case a.group.gid >= 0 && slices.Contains(p.groups, uint32(a.group.gid)):
		who.role = a.group.role
	default:
		a.log.Warn("API request refused", "uid", p.uid, "pid", p.pid)
		return who, &refusal{http.StatusForbidden, "only " + permitted + " may talk to refd: " + getPermission}
	}
	return who, nil
}

// limitOf returns the limit of a user.
func (a *access) limitOf(uid uint32) *bucket {
	const maxPeers = 256
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.peers[uid]
	if b == nil {
		if len(a.peers) >= maxPeers {
			return a.crowd
		}
		b = newBucket(1000, 2000)
		a.peers[uid] = b
	}
	return b
}

// secure sets what browsers need to know about every answer.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", strings.Join([]string{
		"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'",
		"manifest-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	}, "; "))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}
