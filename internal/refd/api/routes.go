package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/weirfw/weir/pkg/conn"
	"github.com/weirfw/weir/pkg/connstore"
)

// Backend is what the API talks to.
type Backend interface {
	Overview
	DNS
	Report(ctx context.Context) (Report, error)
	Connections
	Memory
	Editor
	Notices
	Prompts
	Control
}

// Overview is the part of a Backend that tells about refd and the host.
type Overview interface {
	Status(ctx context.Context) (Status, error)
	Explain(ctx context.Context, r ExplainRequest) (Explanation, error)
	Rules(ctx context.Context) ([]Rule, error)
	Interfaces(ctx context.Context) ([]Interface, error)
}

// Connections is the part of a Backend that tells about connections.
type Connections interface {
	Connections(ctx context.Context, q connstore.Query) (connstore.Page, error)
	// Connection returns one. Its error wraps ErrNotFound if there is none.
	Connection(ctx context.Context, id conn.ID) (conn.Snapshot, error)
	// LookUp returns those that live, in no order.
	LookUp(ctx context.Context, ids []conn.ID) ([]conn.Snapshot, error)
	// Traffic returns what went on lately.
	Traffic(ctx context.Context) ([]TrafficPoint, error)
	// Watch sends events until ctx is done, an end of refd is asked for, or send fails; an Event without a name keeps the stream alive.
	// The last one tells of the end.
	Watch(ctx context.Context, r WatchRequest, send func(Event) error) error
}

// Editor is the part of a Backend that reads and writes the configuration. Errors about what is to be written are *ProblemsError.
type Editor interface {
	Settings(ctx context.Context) (Settings, error)
	ChangeSettings(ctx context.Context, r ChangeRequest) (ChangeResult, error)
	Policy(ctx context.Context) (Policy, error)
	ChangePolicy(ctx context.Context, r PolicyRequest) (ChangeResult, error)
	Apps(ctx context.Context) ([]App, error)
	FindApp(ctx context.Context, r FindAppRequest) (FoundApp, error)
	PutApp(ctx context.Context, r AppRequest) (ChangeResult, error)
	DeleteApp(ctx context.Context, id string) (ChangeResult, error)
}

// Notices is the part of a Backend that tells people about states.
type Notices interface {
	Notifications(ctx context.Context) ([]Notification, error)
	Dismiss(ctx context.Context, r NoticeRequest) error
	Act(ctx context.Context, r NoticeRequest) error
}

// Control is the part of a Backend that changes what runs.
type Control interface {
	Reload(ctx context.Context) (ReloadResult, error)
	Pause(ctx context.Context, d time.Duration) error
	Resume(ctx context.Context) error
	// Split switches the split tunnel, and says how many connections changed.
	Split(ctx context.Context, r SplitRequest) (ReloadResult, error)
	Confirm(ctx context.Context) error
	Sleep(ctx context.Context, r SleepRequest) error
	Exit(ctx context.Context, how string) error
}

// ErrRefused is wrapped by errors that the caller can mend: a bad request, or one that makes no sense now.
var ErrRefused = errors.New("refused")

// newAccess builds the whole server.
func newAccess(cfg *Config, k *keys, group groupAccess) *access {
	a := &access{
		next: http.NewServeMux(), table: map[string]*route{}, log: cfg.Logger, keys: k, group: group, unlimited: cfg.unlimited,
		anybody: newBucket(50, 200), files: newBucket(200, 1000), logins: newBucket(50, 200), crowd: newBucket(50, 200), peers: map[uint32]*bucket{},
	}
	if cfg.Listen.IsValid() {
		a.hosts = hostsOf(cfg.Listen)
	}
	all := append(routes(cfg.Backend), sessionRoutes(a, cfg)...)
	if cfg.Metrics != nil {
		all = append(all, &route{
			method: http.MethodGet, path: "/metrics", role: ReadOnly, kind: "text/plain", in: reflect.TypeFor[none](), out: reflect.TypeFor[none](),
			summary: "Figures for Prometheus.", serve: cfg.Metrics.ServeHTTP,
		})
	}
	var document []byte
	all = append(all, &route{
		method: http.MethodGet, path: "/api/v1/openapi.json", role: ReadOnly, in: reflect.TypeFor[none](), out: reflect.TypeFor[map[string]any](),
		summary: "This document.", serve: func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, document) },
	})
	document = openAPI(all)
	for _, rt := range all {
		a.table[rt.pattern()] = rt
		a.next.HandleFunc(rt.pattern(), rt.serve)
	}
	a.next.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusNotFound, Problem{Error: fmt.Sprintf("no %s %s here", r.Method, r.URL.Path)})
	})
	if cfg.Page != nil {
		a.next.Handle("GET /{$}", cfg.Page)
		a.next.Handle("GET /ui/", http.StripPrefix("/ui", cfg.Page))
	}
	return a
}

func routes(b Backend) []*route {
	ask := newAsker(b.Connections, b.History)
	return slices.Concat(viewRoutes(b), connectionRoutes(b, ask), historyRoutes(ask), editRoutes(b), noticeRoutes(b), promptRoutes(b), controlRoutes(b))
}

func viewRoutes(b Backend) []*route {
	const get, post = http.MethodGet, http.MethodPost
	return []*route{
		on(get, "/api/v1/status", ReadOnly, "How refd is: modules, states, figures, split tunnel, DNS and interop.",
			func(ctx context.Context, _ none) (Status, error) { return b.Status(ctx) }),
		on(post, "/api/v1/explain", ReadOnly, "What would happen to a connection, and which rule says so.", b.Explain),
		on(get, "/api/v1/rules", ReadOnly, "The rules in force with how often they decided.",
			func(ctx context.Context, _ none) ([]Rule, error) { return b.Rules(ctx) }),
		on(get, "/api/v1/interfaces", ReadOnly, "The interfaces of this host.",
			func(ctx context.Context, _ none) ([]Interface, error) { return b.Interfaces(ctx) }),
		on(post, "/api/v1/dns/cache", ReadOnly, "What the nameserver remembers.", b.DNSCache),
		on(post, "/api/v1/dns/query", ReadWrite, "Ask the nameserver, and what it would do with that query of a program.", b.DNSQuery),
		on(post, "/api/v1/selfcheck", ReadWrite, "Check whether packets and names are seen.",
			func(ctx context.Context, _ none) ([]CheckResult, error) { return b.SelfCheck(ctx) }),
		on(get, "/api/v1/debug", ReadOnly, "A report for those who help, without names, addresses and paths of people.",
			func(ctx context.Context, _ none) (Report, error) { return b.Report(ctx) }),
	}
}

func connectionRoutes(b Backend, ask *asker) []*route {
	return []*route{
		on(http.MethodGet, "/api/v1/connections", ReadOnly, "List connections, a page at a time.",
			func(ctx context.Context, r ListRequest) (Rows, error) { return list(ctx, ask.live, r) }),
		on(http.MethodPost, "/api/v1/connections/query", ReadOnly, "Query connections with everything that is known of them, in groups, or over time.",
			ask.live),
		on(http.MethodPost, "/api/v1/connections/lookup", ReadOnly, "Rows of live connections as they are now.",
			func(ctx context.Context, r LookUpRequest) ([]Row, error) { return lookUp(ctx, b, r) }),
		on(http.MethodGet, "/api/v1/connections/{id}", ReadOnly, "Everything that is known of a connection.",
			func(ctx context.Context, r OneRequest) (conn.Snapshot, error) {
				return b.Connection(ctx, conn.ID(r.ID))
			}),
		on(http.MethodGet, "/api/v1/traffic", ReadOnly, "What went on in the last minutes.",
			func(ctx context.Context, _ none) ([]TrafficPoint, error) { return b.Traffic(ctx) }),
		streamRoute(b),
	}
}

// list answers a ListRequest by whoever answers queries.
func list(ctx context.Context, ask func(context.Context, connstore.Query) (connstore.Page, error), r ListRequest) (Rows, error) {
	q, err := r.query()
	if err != nil {
		return Rows{}, err
	}
	page, err := ask(ctx, q)
	if err != nil {
		return Rows{}, err //nolint:wrapcheck // the backend is ours, and says what it did
	}
	out := Rows{Sums: page.Sums, Rows: []Row{}}
	for i := range page.Connections {
		out.Rows = append(out.Rows, RowOf(&page.Connections[i]))
	}
	return out, nil
}

func lookUp(ctx context.Context, b Backend, r LookUpRequest) ([]Row, error) {
	const most = 500
	if len(r.IDs) > most {
		return nil, fmt.Errorf("%w: ask for %d connections at most", ErrRefused, most)
	}
	found, err := b.LookUp(ctx, r.IDs)
	if err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	rows := []Row{}
	for i := range found {
		rows = append(rows, RowOf(&found[i]))
	}
	return rows, nil
}

func editRoutes(b Backend) []*route {
	return []*route{
		on(http.MethodGet, "/api/v1/settings", ReadOnly, "The settings with their values, defaults and choices.",
			func(ctx context.Context, _ none) (Settings, error) { return b.Settings(ctx) }),
		on(http.MethodPost, "/api/v1/settings", ReadWrite, "Change settings, or check a change. It is written to the file, whose comments stay.", b.ChangeSettings),
		on(http.MethodGet, "/api/v1/policy", ReadOnly, "Global rules, default action and split tunnel, as the file has them.",
			func(ctx context.Context, _ none) (Policy, error) { return b.Policy(ctx) }),
		on(http.MethodPut, "/api/v1/policy", ReadWrite, "Replace those of them that are given.", b.ChangePolicy),
		on(http.MethodGet, "/api/v1/apps", ReadOnly, "Apps with a profile or with connections.",
			func(ctx context.Context, _ none) ([]App, error) { return b.Apps(ctx) }),
		on(http.MethodPost, "/api/v1/apps/find", ReadOnly, "The profile of a program, or a new one for it, which is not saved.", b.FindApp),
		on(http.MethodPut, "/api/v1/apps/{id}", ReadWrite, "Write the profile of an app, or check it.", b.PutApp),
		on(http.MethodDelete, "/api/v1/apps/{id}", ReadWrite, "Remove the profile of an app.",
			func(ctx context.Context, r AppID) (ChangeResult, error) { return b.DeleteApp(ctx, r.ID) }),
	}
}

func noticeRoutes(b Backend) []*route {
	return []*route{
		on(http.MethodGet, "/api/v1/notifications", ReadOnly, "What people should know now, the worst first.",
			func(ctx context.Context, _ none) ([]Notification, error) { return b.Notifications(ctx) }),
		on(http.MethodPost, "/api/v1/notifications/dismiss", ReadWrite, "Hide a notification until its state is raised again.",
			func(ctx context.Context, r NoticeRequest) (none, error) { return none{}, b.Dismiss(ctx, r) }),
		on(http.MethodPost, "/api/v1/notifications/act", ReadWrite, "Do one of the actions of a notification.",
			func(ctx context.Context, r NoticeRequest) (none, error) { return none{}, b.Act(ctx, r) }),
	}
}

func controlRoutes(b Backend) []*route {
	const post = http.MethodPost
	all := []*route{
		on(post, "/api/v1/reload", ReadWrite, "Read the configuration file again; a bad one changes nothing.",
			func(ctx context.Context, _ none) (ReloadResult, error) { return b.Reload(ctx) }),
		on(post, "/api/v1/pause", ReadWrite, "Stop intercepting for a time: everything passes.",
			func(ctx context.Context, r PauseRequest) (none, error) {
				return none{}, b.Pause(ctx, time.Duration(r.Seconds*float64(time.Second)))
			}),
		on(post, "/api/v1/resume", ReadWrite, "End a pause.", func(ctx context.Context, _ none) (none, error) { return none{}, b.Resume(ctx) }),
		on(post, "/api/v1/split", ReadWrite, "Switch the split tunnel until the next start.", b.Split),
		on(post, "/api/v1/dns/flush", ReadWrite, "Empty the nameserver's cache.", b.DNSFlush),
		on(post, "/api/v1/sleep", ReadWrite, "Switch sleep mode: less periodic work, the same firewall.",
			func(ctx context.Context, r SleepRequest) (none, error) { return none{}, b.Sleep(ctx, r) }),
		on(post, "/api/v1/confirm", ReadWrite, "Confirm a run that would be rolled back.",
			func(ctx context.Context, _ none) (none, error) { return none{}, b.Confirm(ctx) }),
	}
	for how, summary := range map[string]string{"shutdown": "End refd.", "restart": "End refd so that its service manager starts it again."} {
		all = append(all, on(post, "/api/v1/"+how, ReadWrite, summary, func(ctx context.Context, _ none) (none, error) { return none{}, b.Exit(ctx, how) }))
	}
	return all
}

// sessionRoutes are about logging in and out.
func sessionRoutes(a *access, cfg *Config) []*route {
	k := a.keys
	login := on[LoginRequest, LoginResult](http.MethodPost, "/api/v1/session", NoRole, "Log in by the code of a link.", nil)
	login.serve = func(w http.ResponseWriter, r *http.Request) {
		var in LoginRequest
		if status, err := login.read(r, &in); err != nil {
			answer(w, status, Problem{Error: "bad request: " + err.Error()})
			return
		}
		cookie, key, role, err := k.login(in.Code)
		if err != nil && !a.within(a.logins) {
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusTooManyRequests, Problem{Error: "too many codes that are not good"})
			return
		}
		if err != nil {
			answer(w, http.StatusUnauthorized, Problem{Error: err.Error()})
			return
		}
		http.SetCookie(w, cookieOf(cookie))
		answer(w, http.StatusOK, LoginResult{role, key})
	}
	logout := on[none, none](http.MethodDelete, "/api/v1/session", ReadOnly, "Log out.", nil)
	logout.serve = func(w http.ResponseWriter, r *http.Request) {
		if who := callerOf(r.Context()); who.via == "session" {
			k.logout(who.session)
			http.SetCookie(w, cookieOf(""))
		}
		answer(w, http.StatusOK, none{})
	}
	return []*route{
		login, logout,
		on(http.MethodGet, "/api/v1/session", ReadOnly, "Who the caller is.", func(ctx context.Context, _ none) (Session, error) {
			who := callerOf(ctx)
			return Session{who.role, who.via}, nil
		}),
		on(http.MethodPost, "/api/v1/session/link", ReadOnly, "Make a login link for the web page, for one use.",
			func(ctx context.Context, r LinkRequest) (Link, error) { return newLink(ctx, k, cfg, r) }),
	}
}

func newLink(ctx context.Context, k *keys, cfg *Config, r LinkRequest) (Link, error) {
	if !cfg.Listen.IsValid() || cfg.Page == nil {
		return Link{}, fmt.Errorf("%w: the web page is off: set api.listen", ErrRefused)
	}
	own := callerOf(ctx).role
	role := r.Role
	if role == NoRole {
		role = own
	}
	if !own.may(role) {
		return Link{}, fmt.Errorf("%w: your role is %s", ErrRefused, own)
	}
	text, until := k.newCode(role)
	// browsers do not send what is behind the #, so it is in no log
	return Link{URL: "http://" + cfg.Listen.String() + "/#login=" + text, Until: until}, nil
}
