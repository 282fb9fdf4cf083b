package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/weirfw/weir/pkg/connstore"
)

// ErrNotRunning is wrapped when no refd answers on the socket.
var ErrNotRunning = errors.New("refd is not running")

// Client talks to a refd.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client for the socket, on Windows the named pipe, at path.
func NewClient(path string) *Client {
	connect := func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) }
	return &Client{socket: path, http: http.Client{Transport: &http.Transport{DialContext: connect}, Timeout: 2 * time.Minute}}
}

// Close closes idle connections; the client can be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call makes one request. Errors wrap ErrNotRunning, ErrRefused or
// fs.ErrPermission where that is the cause.
func (c *Client) call(ctx context.Context, method, route string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("write request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://refd/api/v1/"+route, body)
	if err != nil {
		return fmt.Errorf("request %s: %w", route, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (nobody answers on %s): start it with `refd run`", ErrNotRunning, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open %s: %w: %s", c.socket, fs.ErrPermission, getPermission)
	case err != nil:
		return fmt.Errorf("ask refd: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	if res.StatusCode != http.StatusOK {
		return problem(res)
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("read refd's answer: %w", err)
	}
	return nil
}

func problem(res *http.Response) error {
	var p Problem
	if err := json.NewDecoder(io.LimitReader(res.Body, maxRequest)).Decode(&p); err != nil {
		return fmt.Errorf("refd answered %s", res.Status)
	}
	switch res.StatusCode {
	case http.StatusForbidden:
		return fmt.Errorf("%w: %s", fs.ErrPermission, p.Error)
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		return &refusedError{p.Error}
	}
	return fmt.Errorf("refd: %s", p.Error)
}

// refusedError carries the server's words and is ErrRefused.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }
func (e *refusedError) Unwrap() error { return ErrRefused }

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "status", nil, &s)
}

// Connections asks for connections.
func (c *Client) Connections(ctx context.Context, q connstore.Query) (p connstore.Page, err error) {
	return p, c.call(ctx, http.MethodPost, "connections/query", q, &p)
}

// Explain asks what would happen to a connection.
func (c *Client) Explain(ctx context.Context, r ExplainRequest) (e Explanation, err error) {
	return e, c.call(ctx, http.MethodPost, "explain", r, &e)
}

// Rules asks for the rules and their counters.
func (c *Client) Rules(ctx context.Context) (r []Rule, err error) {
	return r, c.call(ctx, http.MethodGet, "rules", nil, &r)
}

// Interfaces asks for the host's interfaces.
func (c *Client) Interfaces(ctx context.Context) (i []Interface, err error) {
	return i, c.call(ctx, http.MethodGet, "interfaces", nil, &i)
}

// Reload makes refd read its configuration again.
func (c *Client) Reload(ctx context.Context) (r ReloadResult, err error) {
	return r, c.call(ctx, http.MethodPost, "reload", nil, &r)
}

// Pause stops interception for a time.
func (c *Client) Pause(ctx context.Context, d time.Duration) error {
	return c.call(ctx, http.MethodPost, "pause", PauseRequest{d.Seconds()}, &none{})
}

// Split switches the split tunnel on or off.
func (c *Client) Split(ctx context.Context, on bool) (r ReloadResult, err error) {
	return r, c.call(ctx, http.MethodPost, "split", SplitRequest{On: on}, &r)
}

// Do asks for one of resume, confirm, shutdown, restart.
func (c *Client) Do(ctx context.Context, what string) error {
	return c.call(ctx, http.MethodPost, what, nil, &none{})
}

// Link asks for a login link of the web page, with the role; that of the caller if it is NoRole.
func (c *Client) Link(ctx context.Context, r Role) (l Link, err error) {
	return l, c.call(ctx, http.MethodPost, "session/link", LinkRequest{Role: r}, &l)
}
