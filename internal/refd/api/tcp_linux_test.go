package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/internal/testutil"
)

// web is a server on TCP and a client of it.
type web struct {
	t        *testing.T
	backend  *sample
	addr     string
	socket   string
	write    string // tokens
	read     string
	stop     func() time.Duration
	tokenDir string
}

// serveWeb runs a server on a unix socket and a loopback address.
func serveWeb(t *testing.T) *web {
	t.Helper()
	return serveWebAs(t, func(cfg api.Config) api.Config { return cfg })
}

func serveWebAs(t *testing.T, change func(api.Config) api.Config) *web {
	t.Helper()
	testutil.NoLeaks(t)
	w := &web{t: t, backend: &sample{}, tokenDir: t.TempDir()}
	dir, err := os.MkdirTemp("", "weir") //nolint:usetesting // a short path (unix(7))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	w.socket = filepath.Join(dir, "refd.sock")
	listen := loopback(t)
	w.addr = listen.String()
	ctx, cancel := context.WithCancel(context.Background())
	listening, done := make(chan struct{}), make(chan error, 1)
	page := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "the page") })
	go func() {
		done <- api.Serve(ctx, change(api.Config{
			Socket: w.socket, Listen: listen, TokenDir: w.tokenDir, Backend: w.backend, Page: page, Metrics: page,
			Trouble: func(err error) {
				assert.NoError(t, err)
				close(listening)
			},
			Logger: slog.New(slog.DiscardHandler),
		}), func() {})
	}()
	stopped := false
	w.stop = func() time.Duration {
		begin := time.Now()
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
		return time.Since(begin)
	}
	t.Cleanup(func() { w.stop() })
	<-listening
	w.write, w.read = w.token("api.token"), w.token("api-read.token")
	return w
}

func (w *web) token(name string) string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.tokenDir, name))
	require.NoError(w.t, err)
	return strings.TrimSpace(string(b))
}

// header changes a request.
type header func(r *http.Request)

func with(name, value string) header {
	return func(r *http.Request) {
		if name == "Host" {
			r.Host = value
			return
		}
		r.Header.Set(name, value)
	}
}

func (w *web) as(token string) header { return with("Authorization", "Bearer "+token) }

// ask makes a request with a JSON body, if there is one, and returns the answer.
func (w *web) ask(c *http.Client, method, path, body string, headers ...header) (*http.Response, string) {
	w.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.addr+path, in)
	require.NoError(w.t, err)
	req.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		h(req)
	}
	res, err := c.Do(req)
	require.NoError(w.t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(w.t, err)
	require.NoError(w.t, res.Body.Close())
	return res, string(b)
}

// once is a client without anything from before.
func once() *http.Client { return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} }

func TestWhoIsRefused(t *testing.T) {
	w := serveWeb(t)
	for _, name := range []string{"api-read.token", "api.token"} {
		assertFile(t, filepath.Join(w.tokenDir, name), 0o600, uint32(os.Getegid())) // there is no group
	}
	other := "http://evil.example"
	for _, tt := range []struct {
		name         string
		method, path string
		body         string
		headers      []header
		want         int
	}{
		{"no token", "GET", "/api/v1/status", "", nil, 401},
		{"no token, to change something", "POST", "/api/v1/shutdown", "", nil, 401},
		{"no token, for the figures", "GET", "/metrics", "", nil, 401},
		{"wrong token", "GET", "/api/v1/status", "", []header{w.as(strings.Repeat("x", 43))}, 401},
		{"empty token", "GET", "/api/v1/status", "", []header{w.as("")}, 401},
		{"another scheme", "GET", "/api/v1/status", "", []header{with("Authorization", "Basic "+w.write)}, 401},
		{"token in the query", "GET", "/api/v1/status?token=" + w.write, "", nil, 401},
		{"a cookie of ours without its key", "GET", "/api/v1/status", "", []header{with("Cookie", "weir="+w.write)}, 401},
		{"foreign Origin", "GET", "/api/v1/status", "", []header{w.as(w.write), with("Origin", other)}, 403},
		{"null Origin", "GET", "/api/v1/status", "", []header{w.as(w.write), with("Origin", "null")}, 403},
		{"Origin of another port", "GET", "/api/v1/status", "", []header{w.as(w.write), with("Origin", "http://127.0.0.1:9999")}, 403},
		{"Origin by TLS", "GET", "/api/v1/status", "", []header{w.as(w.write), with("Origin", "https://"+w.addr)}, 403},
		{"foreign Host", "GET", "/api/v1/status", "", []header{w.as(w.write), with("Host", "evil.example")}, 403},
		{"rebinding: foreign Host with its port", "GET", "/", "", []header{with("Host", "evil.example:8180")}, 403},
		{"rebinding: localhost of another name", "GET", "/api/v1/status", "", []header{w.as(w.write), with("Host", "localhost.evil.example:8180")}, 403},
		{"other site, by what browsers say", "GET", "/api/v1/status", "", []header{w.as(w.write), with("Sec-Fetch-Site", "cross-site")}, 403},
		{"other port, by what browsers say", "GET", "/ui/app.js", "", []header{with("Sec-Fetch-Site", "same-site")}, 403},
		{"a form", "POST", "/api/v1/pause", "seconds=3", []header{w.as(w.write), with("Content-Type", "application/x-www-form-urlencoded")}, 415},
		{"a form with JSON in it", "POST", "/api/v1/pause", `{"seconds": 3}`, []header{w.as(w.write), with("Content-Type", "text/plain")}, 415},
		{"reader who writes", "POST", "/api/v1/pause", `{"seconds": 3}`, []header{w.as(w.read)}, 403},
		{"reader who stops refd", "POST", "/api/v1/shutdown", "", []header{w.as(w.read)}, 403},
		{"reader who removes an app", "DELETE", "/api/v1/apps/curl", "", []header{w.as(w.read)}, 403},
		{"preflight of another page", "OPTIONS", "/api/v1/pause", "", []header{with("Origin", other), with("Access-Control-Request-Method", "POST")}, 403},
		{"reader who makes a link to write", "POST", "/api/v1/session/link", `{"role": "write"}`, []header{w.as(w.read)}, 422},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, body := w.ask(once(), tt.method, tt.path, tt.body, tt.headers...)
			assert.Equal(t, tt.want, res.StatusCode, body)
			assert.Contains(t, body, `"error"`)
			assert.Empty(t, res.Header.Get("Access-Control-Allow-Origin"))
		})
	}
	assert.Empty(t, w.backend.noted(), "something was changed")
	res, _ := w.ask(once(), "GET", "/api/v1/status", "", w.as(w.read), with("Origin", "http://"+w.addr))
	assert.Equal(t, 200, res.StatusCode, "and who may is answered")
}

// A login link works once; what it begins is two halves, of which the cookie is one.
func TestLogin(t *testing.T) {
	w := serveWeb(t)
	c := api.NewClient(w.socket)
	defer c.Close()
	link, err := c.Link(t.Context(), api.ReadOnly)
	require.NoError(t, err)
	code, ok := strings.CutPrefix(link.URL, "http://"+w.addr+"/#login=")
	require.True(t, ok, link.URL)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	browser := once()
	browser.Jar = jar

	login := fmt.Sprintf(`{"code": %q}`, code)
	res, body := w.ask(browser, "POST", "/api/v1/session", login, with("Origin", "http://evil.example"))
	require.Equal(t, 403, res.StatusCode, "another page logs in: %s", body)
	res, body = w.ask(browser, "POST", "/api/v1/session", login)
	require.Equal(t, 200, res.StatusCode, body)
	cookie := res.Header.Get("Set-Cookie")
	assert.Contains(t, cookie, "; HttpOnly")
	assert.Contains(t, cookie, "; SameSite=Strict")
	var in api.LoginResult
	require.NoError(t, json.Unmarshal([]byte(body), &in))
	assert.Equal(t, api.ReadOnly, in.Role)
	assert.NotContains(t, cookie, in.Key)

	res, _ = w.ask(browser, "POST", "/api/v1/session", login)
	assert.Equal(t, 401, res.StatusCode, "the link works twice")
	res, _ = w.ask(browser, "GET", "/api/v1/status", "")
	assert.Equal(t, 401, res.StatusCode, "the cookie alone is enough")
	res, _ = w.ask(once(), "GET", "/api/v1/status", "", with("X-Weir-Key", in.Key))
	assert.Equal(t, 401, res.StatusCode, "the key alone is enough")
	key := with("X-Weir-Key", in.Key)
	res, body = w.ask(browser, "GET", "/api/v1/session", "", key)
	assert.Equal(t, 200, res.StatusCode)
	assert.JSONEq(t, `{"role": "read", "via": "session"}`, body)
	res, _ = w.ask(browser, "POST", "/api/v1/resume", "", key)
	assert.Equal(t, 403, res.StatusCode, "a session to read writes")

	res, _ = w.ask(browser, "DELETE", "/api/v1/session", "", key)
	assert.Equal(t, 200, res.StatusCode)
	res, _ = w.ask(once(), "GET", "/api/v1/status", "", key, with("Cookie", strings.Split(cookie, ";")[0]))
	assert.Equal(t, 401, res.StatusCode, "it goes on after the logout")
}

func TestHeadersOfThePage(t *testing.T) {
	w := serveWeb(t)
	res, body := w.ask(once(), "GET", "/", "", with("Sec-Fetch-Site", "cross-site"), with("Sec-Fetch-Mode", "navigate"))
	assert.Equal(t, 200, res.StatusCode, "a link in a mail is no attack")
	assert.Equal(t, "the page", body)
	csp := res.Header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
		assert.Contains(t, csp, part)
	}
	assert.NotContains(t, csp, "unsafe")
	assert.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
	assert.Equal(t, "no-referrer", res.Header.Get("Referrer-Policy"))
}

// endless is a body that goes on, and counts what was taken of it.
type endless struct {
	left  int64
	taken atomic.Int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), e.left)
	for i := range p[:n] {
		p[i] = ' '
	}
	e.left -= n
	e.taken.Add(n)
	return int(n), nil
}

func TestGiantBody(t *testing.T) {
	w := serveWeb(t)
	for name, token := range map[string]string{"stranger": "x", "writer": w.write} {
		body := &endless{left: 1 << 30}
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+w.addr+"/api/v1/pause", body)
		require.NoError(t, err)
		req.ContentLength = 1 << 30
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := once().Do(req)
		if err == nil {
			assert.Contains(t, []int{401, 413}, res.StatusCode, name)
			require.NoError(t, res.Body.Close())
		} // else it was cut while it wrote
		assert.Less(t, body.taken.Load(), int64(64<<20), "%s: what was taken", name)
	}
	assert.Empty(t, w.backend.noted())
	assertAlive(t, w)
}

func assertAlive(t *testing.T, w *web) {
	t.Helper()
	res, body := w.ask(once(), "GET", "/api/v1/status", "", w.as(w.read))
	assert.Equal(t, 200, res.StatusCode, body)
}

// Whatever comes, the answer is one of those that are meant, and nobody gets in or changes anything without a token.
func TestFuzzedRequests(t *testing.T) {
	w := serveWebAs(t, api.Unlimited)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	junk := func() string {
		b := make([]byte, r.IntN(200))
		for i := range b {
			b[i] = byte(r.IntN(256))
		}
		return string(b)
	}
	client := &http.Client{}
	defer client.CloseIdleConnections()
	const requests = 10_000
	counts := map[int]int{}
	for range requests {
		method := pick("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE")
		path := pick("/", "/ui/", "/api/v1/", "/api/v1/status", "/api/v1/pause", "/api/v1/settings", "/api/v1/apps/x", "/api/v1/connections",
			"/api/v1/connections/7", "/api/v1/../../etc/passwd", "/api/v1/apps/%2e%2e%2f%00", "/metrics", "/api/v1/session", "/api/v1//status")
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.addr, strings.NewReader(junk()))
		require.NoError(t, err)
		req.URL.Opaque = "//" + w.addr + path
		if r.IntN(2) == 0 {
			req.URL.RawQuery = strings.Map(func(c rune) rune {
				if c <= ' ' || c > '~' || c == '#' {
					return '%'
				}
				return c
			}, junk())
		}
		req.Header.Set("Content-Type", pick("application/json", "application/json; charset=x", "text/plain", "multipart/form-data", "\x7f"[:0]))
		if r.IntN(4) == 0 {
			req.Header.Set("Cookie", pick("weir=", "weir=x; weir=y", "a=b"))
		}
		reader := r.IntN(2) == 0
		if reader {
			req.Header.Set("Authorization", "Bearer "+w.read)
		} else if r.IntN(4) == 0 {
			req.Header.Set("Authorization", pick("Bearer ", "Bearer x", "Bearer\tx", "Digest x"))
		}
		res, err := client.Do(req)
		if err != nil {
			continue // the client would not send it, or was cut
		}
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		counts[res.StatusCode]++
		if res.StatusCode >= 500 {
			t.Errorf("%s %s: got %d", method, path, res.StatusCode)
		}
		if res.StatusCode == 200 && !reader && strings.HasPrefix(path, "/api/v1/") {
			t.Errorf("%s %s: a stranger is answered", method, path)
		}
	}
	t.Logf("answers: %v", counts)
	assert.Empty(t, w.backend.noted())
	for _, raw := range []string{"\x00\xff\n\n", "GET / HTTP/9.9\r\n\r\n", "GET /api/v1/status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
		"GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 10_000) + "\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		c, err := net.Dial("tcp", w.addr)
		require.NoError(t, err)
		_, _ = io.WriteString(c, raw) // it may be cut in the middle
		answer, _ := io.ReadAll(c)
		assert.NotContains(t, string(answer), " 200 ", "%.40q", raw)
		require.NoError(t, c.Close())
	}
	assertAlive(t, w)
}

// Requests beyond the limit of a caller are refused, and others are not.
func TestRateLimit(t *testing.T) {
	w := serveWeb(t)
	client := &http.Client{}
	defer client.CloseIdleConnections()
	limited := func(token string, n int) (refused int) {
		for range n {
			res, _ := w.ask(client, "GET", "/api/v1/session", "", w.as(token))
			if res.StatusCode == http.StatusTooManyRequests {
				assert.NotEmpty(t, res.Header.Get("Retry-After"))
				refused++
			}
		}
		return refused
	}
	refused := 0
	for begin := time.Now(); refused == 0 && time.Since(begin) < time.Minute; { // until it is fast enough
		refused = limited(w.read, 1000)
	}
	assert.Positive(t, refused)
	assert.Zero(t, limited(w.write, 1), "another caller is refused")
}

// stream opens a stream of events.
func (w *web) stream(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", w.addr)
	require.NoError(t, err)
	_, err = fmt.Fprintf(c, "GET /api/v1/events HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", w.addr, w.read)
	require.NoError(t, err)
	return c
}

// A reader who does not read is cut off, and nothing is kept for it.
func TestSlowReader(t *testing.T) {
	w := serveWeb(t)
	w.backend.flood = true
	c := w.stream(t)
	defer c.Close() //nolint:errcheck // it was cut
	assert.Eventually(t, func() bool { return len(w.backend.noted()) == 1 }, time.Minute, 50*time.Millisecond, "it goes on writing")
	assertAlive(t, w)
}

// The server stops within five seconds whatever its clients do, and they are told why.
func TestStopWithStreamsAndASlowUpload(t *testing.T) {
	w := serveWeb(t)
	var streams []*bufio.Reader
	for range 100 {
		c := w.stream(t)
		defer c.Close() //nolint:errcheck // only read
		streams = append(streams, bufio.NewReader(c))
	}
	for _, s := range streams {
		readUntil(t, s, "event: connections")
	}
	slow, err := net.Dial("tcp", w.addr)
	require.NoError(t, err)
	defer slow.Close() //nolint:errcheck // it was cut
	_, err = fmt.Fprintf(slow, "POST /api/v1/pause HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n{", w.addr, w.write)
	require.NoError(t, err)
	upload := bufio.NewReader(slow)
	readUntil(t, upload, "100 Continue") // it is being read
	if took := w.stop(); took > 5*time.Second {
		t.Errorf("took %v to stop; want 5s at most", took)
	}
	for _, s := range streams {
		readUntil(t, s, "event: shutdown")
	}
	left, _ := io.ReadAll(upload) // it was cut
	assert.NotContains(t, string(left), " 200 ")
	assert.Empty(t, w.backend.noted())
}

func readUntil(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	for {
		line, err := r.ReadBytes('\n')
		if bytes.Contains(line, []byte(want)) {
			return
		}
		if err != nil {
			t.Fatalf("no %q: %v", want, err)
		}
	}
}

// Members of the group use the socket, in any of their groups, with the group's role; the folder lets them through.
func TestIntegrationGroup(t *testing.T) {
	testutil.RequireRoot(t)
	const daemon = 1                     // the number of a group that every Debian has
	dir, err := os.MkdirTemp("", "weir") //nolint:usetesting // where another user can get
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // as above
	socket := filepath.Join(dir, "s", "refd.sock")
	ctx, cancel := context.WithCancel(t.Context())
	listening, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- api.Serve(ctx, api.Config{
			Socket: socket, Group: "daemon", GroupRole: api.ReadOnly, Backend: &sample{}, Logger: slog.New(slog.DiscardHandler),
			Listen: loopback(t), TokenDir: dir, Trouble: func(err error) {
				assert.NoError(t, err)
				close(listening)
			},
		}, func() {})
	}()
	defer func() {
		cancel()
		assert.NoError(t, <-done)
	}()
	<-listening
	as := func(groups ...uint32) string {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = append(os.Environ(), asNobody+"="+socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: groups}}
		out, _ := cmd.CombinedOutput() // its status says whether it was refused
		return string(out)
	}
	assert.Equal(t, "<nil>\n", as(daemon), "a member")
	many := make([]uint32, 100)
	for i := range many {
		many[i] = uint32(1000 + i)
	}
	assert.Equal(t, "<nil>\n", as(append(many, daemon)...), "a member of many groups")
	assert.Contains(t, as(2), "use sudo", "a member of another group")
	info, err := os.Stat(socket)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o660), info.Mode().Perm())
	info, err = os.Stat(filepath.Dir(socket))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o710), info.Mode().Perm())
	assertFile(t, filepath.Join(dir, "api-read.token"), 0o640, daemon)
	assertFile(t, filepath.Join(dir, "api.token"), 0o600, 0) // the group's role is read
}

// assertFile checks who may read a file.
func assertFile(t *testing.T, path string, mode os.FileMode, gid uint32) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, mode, info.Mode().Perm(), path)
	stat, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	assert.Equal(t, gid, stat.Gid, path)
}

// Of those with a token, the group has the one of its role: with write it has both.
func TestIntegrationTokensOfAGroupThatMayWrite(t *testing.T) {
	testutil.RequireRoot(t)
	w := serveWebAs(t, func(cfg api.Config) api.Config {
		cfg.Group, cfg.GroupRole = "daemon", api.ReadWrite
		return cfg
	})
	for _, name := range []string{"api-read.token", "api.token"} {
		assertFile(t, filepath.Join(w.tokenDir, name), 0o640, 1)
	}
}

func (s *sample) noted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.changes...)
}

// lastAddr numbers the loopback addresses of servers, so that each has its own.
//
//nolint:gochecknoglobals // shared by the tests of this process
var lastAddr struct {
	sync.Mutex
	n byte
}

// loopback returns an address on which nothing else listens.
func loopback(t *testing.T) netip.AddrPort {
	t.Helper()
	lastAddr.Lock()
	defer lastAddr.Unlock()
	lastAddr.n++
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 18, 18, lastAddr.n}), 8180)
}
