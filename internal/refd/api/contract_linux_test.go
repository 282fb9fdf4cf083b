package api_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// call is a request, with what it is answered and what the backend notes then.
type call struct {
	method, path, body string
	want               int
	noted              string
}

// calls has at least one call for each operation of the document.
//
//nolint:gochecknoglobals // a table that nobody writes
var calls = []call{
	{"GET", "/api/v1/status", "", 200, ""},
	{"POST", "/api/v1/explain", `{"path": "/usr/bin/curl", "uid": 0, "remote": "192.0.2.1:443", "protocol": "tcp", "direction": "out"}`, 200, ""},
	{"POST", "/api/v1/explain", `{}`, 422, ""},
	{"POST", "/api/v1/explain", `{"path": 3}`, 400, ""},
	{"GET", "/api/v1/rules", "", 200, ""},
	{"GET", "/api/v1/interfaces", "", 200, ""},
	{"POST", "/api/v1/dns/cache", `{"domain": "example.org"}`, 200, ""},
	{"POST", "/api/v1/dns/flush", `{}`, 200, "flush"},
	{"POST", "/api/v1/dns/query", `{"name": "example.org", "type": "AAAA"}`, 200, "query example.org"},
	{"POST", "/api/v1/selfcheck", "", 200, "selfcheck"},
	{"GET", "/api/v1/debug", "", 200, ""},
	{"GET", "/api/v1/connections?verdict=RerouteToSplitTun&verdict=Accept&app=curl&limit=5&order=most-bytes&remote=198.51.100.0/24&since=2020-01-02T03:04:05Z&without=own-service&without=self", "", 200, ""},
	{"GET", "/api/v1/connections?limit=100000", "", 422, ""},
	{"GET", "/api/v1/connections?verdict=maybe", "", 400, ""},
	{"GET", "/api/v1/connections?file=/etc/passwd", "", 400, ""},
	{"POST", "/api/v1/connections/query", `{"groupBy": "app", "limit": 3}`, 200, ""},
	{"POST", "/api/v1/connections/query", `{"offset": -1}`, 422, ""},
	{"POST", "/api/v1/connections/lookup", `{"ids": [7]}`, 200, ""},
	{"GET", "/api/v1/connections/7", "", 200, ""},
	{"GET", "/api/v1/connections/8", "", 404, ""},
	{"GET", "/api/v1/connections/x", "", 400, ""},
	{"GET", "/api/v1/history?domain=example.org", "", 200, ""},
	{"POST", "/api/v1/history/query", `{"groupBy": "domain"}`, 200, ""},
	{"GET", "/api/v1/traffic", "", 200, ""},
	{"GET", "/api/v1/events?only=traffic", "", 200, ""},
	{"GET", "/api/v1/settings", "", 200, ""},
	{"POST", "/api/v1/settings", `{"set": {"mode": "enforce", "dns.wait": null}}`, 200, "settings map[dns.wait:<nil> mode:enforce]"},
	{"POST", "/api/v1/settings", `{"set": {"mode": "nonsense"}, "check": true}`, 422, ""},
	{"GET", "/api/v1/policy", "", 200, ""},
	{"PUT", "/api/v1/policy", `{"global": [{"id": "a", "action": "block", "remote": ["192.0.2.1"]}]}`, 200, "policy"},
	{"GET", "/api/v1/apps", "", 200, ""},
	{"POST", "/api/v1/apps/find", `{"process": {"pid": 1, "uid": 0, "path": "/usr/bin/dig"}}`, 200, ""},
	{"PUT", "/api/v1/apps/curl", `{"profile": {"id": "curl", "match": [{"path": "/usr/bin/curl"}], "default": {"out": "block"}}}`, 200, "app curl block"},
	{"DELETE", "/api/v1/apps/a%2Fb", "", 200, "no app a/b"},
	{"GET", "/api/v1/notifications", "", 200, ""},
	{"POST", "/api/v1/notifications/dismiss", `{"module": "api", "id": "x"}`, 200, "dismiss x"},
	{"POST", "/api/v1/notifications/act", `{"module": "api", "id": "x", "action": "do"}`, 200, "act do"},
	{"POST", "/api/v1/reload", "", 200, "reload"},
	{"POST", "/api/v1/pause", `{"seconds": 60}`, 200, "pause 1m0s"},
	{"POST", "/api/v1/resume", "", 200, "resume"},
	{"POST", "/api/v1/split", `{"on": true}`, 200, "split true"},
	{"GET", "/api/v1/prompts", "", 200, ""},
	{"POST", "/api/v1/prompts/answer", `{"id": 3, "answer": {"action": "allow", "for": "session"}}`, 200, "answer 3 allow session"},
	{"POST", "/api/v1/prompts/answer", `{"id": 3, "answer": {"action": "perhaps", "for": "session"}}`, 400, ""},
	{"POST", "/api/v1/prompts/forget", "", 200, "forget"},
	{"POST", "/api/v1/sleep", `{"on": true}`, 200, "sleep true"},
	{"POST", "/api/v1/confirm", "", 200, "confirm"},
	{"POST", "/api/v1/shutdown", "", 200, "exit shutdown"},
	{"POST", "/api/v1/restart", "", 200, "exit restart"},
	{"POST", "/api/v1/session", `{"code": "x"}`, 401, ""},
	{"DELETE", "/api/v1/session", "", 200, ""},
	{"GET", "/api/v1/session", "", 200, ""},
	{"POST", "/api/v1/session/link", `{}`, 200, ""},
	{"GET", "/api/v1/openapi.json", "", 200, ""},
	{"GET", "/metrics", "", 200, ""},
}

// The document is valid, the handlers do what it says, and each of its operations was called.
func TestContract(t *testing.T) {
	w := serveWeb(t)
	_, text := w.ask(once(), "GET", "/api/v1/openapi.json", "", w.as(w.read))
	doc, err := openapi3.NewLoader().LoadFromData([]byte(text))
	require.NoError(t, err)
	require.NoError(t, doc.Validate(t.Context()))
	require.Equal(t, "3.1.0", doc.OpenAPI)
	router, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	openapi3filter.RegisterBodyDecoder("text/plain", openapi3filter.PlainBodyDecoder)

	called := map[string]bool{}
	for _, c := range calls {
		called[strings.ToLower(c.method)+" "+w.check(router, c)] = true
	}
	operations := 0
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			operations++
			assert.True(t, called[strings.ToLower(method)+" "+path], "%s %s was not called", method, path)
		}
	}
	assert.Greater(t, operations, 35)
	for name := range doc.Components.Schemas {
		for _, word := range []string{"Path", "Command"} {
			assert.False(t, strings.HasSuffix(name, word+"Request"), "%s: no endpoint takes a path or a command", name)
		}
	}
}

// check makes a call and holds it against the document. It returns the path of its operation.
func (w *web) check(router routers.Router, c call) string {
	w.t.Helper()
	before := len(w.backend.noted())
	req, err := http.NewRequestWithContext(w.t.Context(), c.method, "http://"+w.addr+c.path, strings.NewReader(c.body))
	require.NoError(w.t, err)
	req.Header.Set("Content-Type", "application/json")
	route, params, err := router.FindRoute(req)
	require.NoError(w.t, err, "%s %s", c.method, c.path)
	in := &openapi3filter.RequestValidationInput{
		Request: req, PathParams: params, Route: route, Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	if c.want == 200 {
		assert.NoError(w.t, openapi3filter.ValidateRequest(w.t.Context(), in), "%s %s", c.method, c.path)
	}
	if strings.HasPrefix(c.path, "/api/v1/events") {
		w.checkStream()
		return route.Path
	}
	res, body := w.ask(once(), c.method, c.path, c.body, w.as(w.write))
	assert.Equal(w.t, c.want, res.StatusCode, "%s %s: %s", c.method, c.path, body)
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: res.StatusCode, Header: res.Header}
	out.SetBodyBytes([]byte(body))
	if !strings.HasPrefix(c.path, "/metrics") {
		assert.NoError(w.t, openapi3filter.ValidateResponse(w.t.Context(), out), "%s %s: %s", c.method, c.path, body)
	}
	noted := w.backend.noted()[before:]
	if c.noted == "" {
		assert.Empty(w.t, noted, "%s %s", c.method, c.path)
	} else {
		assert.Equal(w.t, []string{c.noted}, noted, "%s %s", c.method, c.path)
	}
	return route.Path
}

// checkStream reads the first event of a stream.
func (w *web) checkStream() {
	w.t.Helper()
	c := w.stream(w.t)
	defer c.Close() //nolint:errcheck // only read
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !strings.Contains(got.String(), "\n\n: ") && !strings.Contains(got.String(), `"rows":[{"id":7,`) {
		n, err := c.Read(buf)
		require.NoError(w.t, err, "%s", got.String())
		got.Write(buf[:n])
	}
	assert.Contains(w.t, got.String(), "Content-Type: text/event-stream")
}
