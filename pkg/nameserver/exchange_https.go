package nameserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync/atomic"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/packet"
)

// dohType is the media type of messages (RFC 8484 section 6).
const dohType = "application/dns-message"

// httpError is an answer that is no DNS message.
type httpError struct {
	status int
	kind   string
}

func (e *httpError) Error() string {
	if e.status != http.StatusOK {
		return fmt.Sprintf("HTTP status %d", e.status)
	}
	return fmt.Sprintf("HTTP content of type %q", e.kind)
}

// httpsExchanger asks by DNS over HTTPS.
type httpsExchanger struct {
	upstream Upstream
	stats    *counters
	url      string
	client   *http.Client
}

func newHTTPSExchanger(u Upstream, d *dialer, conf *tls.Config, stats *counters) *httpsExchanger {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.dial(ctx, packet.TCP, u.Addr) },
		// Proxy is nil: whoever set one in the environment did not mean us.
		TLSClientConfig:    conf,
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
		IdleConnTimeout:    streamIdle,
		// A connection that died in silence is found out before everybody's patience ends.
		HTTP2: &http.HTTP2Config{SendPingTimeout: streamDead, PingTimeout: streamDead / 2},
	}
	host := netip.AddrPortFrom(u.Addr.Addr().WithZone(""), u.Addr.Port()).String()
	if u.ServerName != "" {
		host = net.JoinHostPort(u.ServerName, fmt.Sprint(u.Addr.Port()))
	}
	address := url.URL{Scheme: "https", Host: host}
	return &httpsExchanger{
		upstream: u, stats: stats, url: address.String() + u.Path,
		client: &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (x *httpsExchanger) close() { x.client.CloseIdleConnections() }

func (x *httpsExchanger) exchange(ctx context.Context, o *outgoing) (*dns.Msg, error) {
	q, err := o.pack(form{edns: true, pad: true})
	if err != nil {
		return nil, err
	}
	q.setID(0) // RFC 8484 section 4.1: equal questions look equal to caches
	b, used, err := x.post(ctx, q.wire)
	var answered *httpError
	if err != nil && used && ctx.Err() == nil && !errors.As(err, &answered) {
		b, _, err = x.post(ctx, q.wire) // the connection was from before, and has ended
	}
	if err != nil {
		return nil, err
	}
	if q.match(b) != matchExact {
		x.stats.wrong.Add(1)
		return nil, errForeign
	}
	return decodeWhole(b)
}

// post sends a message and returns the answer, and whether it went by a connection that was there already.
func (x *httpsExchanger) post(ctx context.Context, wire []byte) (b []byte, used bool, err error) {
	var reused atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused.Store(i.Reused) }})
	req, err := http.NewRequestWithContext(traced, http.MethodPost, x.url, bytes.NewReader(wire))
	if err != nil {
		return nil, false, fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Content-Type", dohType)
	req.Header.Set("Accept", dohType)
	req.Header.Set("User-Agent", "") // nobody needs to know
	resp, err := x.client.Do(req)
	if err != nil {
		return nil, reused.Load(), fmt.Errorf("ask: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	kind, _, perr := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode != http.StatusOK || perr != nil || kind != dohType {
		return nil, reused.Load(), &httpError{resp.StatusCode, resp.Header.Get("Content-Type")}
	}
	b, err = io.ReadAll(io.LimitReader(resp.Body, maxMessage+1))
	if err != nil {
		return nil, reused.Load(), fmt.Errorf("read the answer: %w", err)
	}
	if len(b) > maxMessage {
		return nil, reused.Load(), fmt.Errorf("%w: longer than a message can be", errMalformed)
	}
	return b, reused.Load(), nil
}
