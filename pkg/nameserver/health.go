package nameserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/module"
)

const (
	// failLimit is how many failures in a row make a server one that fails.
	failLimit = 2
	// retryFirst and retryMax are how long a failing server is left alone: twice as long each time.
	retryFirst = time.Second
	retryMax   = time.Minute
)

// exchanger asks one server one question.
type exchanger interface {
	exchange(ctx context.Context, o *outgoing) (*dns.Msg, error)
	close()
}

// server is an upstream server with what is known of its health.
type server struct {
	Upstream
	exchanger
	states *module.States

	mu      sync.Mutex // guards what follows
	fails   int        // in a row
	wait    time.Duration
	retryAt time.Time
	lastErr error
	asked   uint64
	good    uint64
	latency time.Duration // of good answers, the newest counting most
	retired bool          // no longer configured: it has no state to show
}

// rcodeError is an answer that is of no use.
type rcodeError struct{ rcode int }

func (e *rcodeError) Error() string { return "it answers " + dnsmon.RCodeName(e.rcode) }

// errSilent is the failure of a server that others were faster than by far, or that has not answered at all.
var errSilent = errors.New("no answer in time")

// try asks and judges the answer.
func (s *server) try(ctx context.Context, o *outgoing) (m *dns.Msg, err error) {
	defer survive(&err)
	m, err = s.exchange(ctx, o)
	if err != nil {
		return nil, err //nolint:wrapcheck // one of our exchangers; who asks adds the server
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeYXDomain:
		return m, nil
	}
	return nil, &rcodeError{m.Rcode}
}

// failing reports whether the server fails, and whether it is time to try it once more; that is claimed by asking.
func (s *server) failing(now time.Time) (failing, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails < failLimit {
		return false, false
	}
	if now.Before(s.retryAt) {
		return true, false
	}
	s.retryAt = now.Add(s.wait)
	return true, true
}

// ok notes a good answer.
func (s *server) ok(took time.Duration) {
	s.mu.Lock()
	recovered := s.fails >= failLimit
	s.fails, s.wait, s.lastErr = 0, 0, nil
	s.asked++
	s.good++
	if s.latency == 0 {
		s.latency = took
	}
	s.latency += (took - s.latency) / 8
	s.mu.Unlock()
	if recovered && s.states != nil {
		s.states.Remove(s.stateID())
	}
}

// fail notes a failure to answer o. An answer that may be about the question, which any program can ask, is none of the server's: its
// domain's servers may be what fails, and there are types that a server need not know.
func (s *server) fail(o *outgoing, err error) {
	var rcode *rcodeError
	mild := errors.As(err, &rcode) && (rcode.rcode != dns.RcodeRefused || o.qtype != dns.TypeA && o.qtype != dns.TypeAAAA)
	s.mu.Lock()
	s.asked++
	if mild {
		s.mu.Unlock()
		return
	}
	s.fails++
	s.lastErr = err
	bad := s.fails >= failLimit && !s.retired
	if s.fails >= failLimit {
		s.wait = min(max(2*s.wait, retryFirst), retryMax)
		s.retryAt = time.Now().Add(s.wait)
	}
	s.mu.Unlock()
	if !bad || s.states == nil {
		return
	}
	s.states.Update(s.state(err))
	s.mu.Lock()
	over := s.retired || s.fails < failLimit
	s.mu.Unlock()
	if over { // in the meantime, and whoever removed the state was too early
		s.states.Remove(s.stateID())
	}
}

// retire takes the server out of what is shown.
func (s *server) retire() {
	s.mu.Lock()
	s.retired = true
	s.mu.Unlock()
	if s.states != nil {
		s.states.Remove(s.stateID())
	}
	s.close()
}

func (s *server) stateID() string { return "upstream/" + s.Upstream.String() }

func (s *server) state(err error) module.State {
	return module.State{
		ID: s.stateID(), Name: "DNS server fails", Severity: module.Warning,
		Message: fmt.Sprintf("%v: %v. %s", s.Upstream, err, s.remedy(err)),
		Data:    map[string]string{"upstream": s.Upstream.String(), "error": err.Error()},
	}
}

// remedy says what to do about a failure.
func (s *server) remedy(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		verify  *tls.CertificateVerificationError
		handsh  *tlsError
		http    *httpError
		rcode   *rcodeError
	)
	switch {
	case errors.As(err, &name):
		return `Its certificate is for another name: write the right one behind "#", or do not use this server.`
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "Check this host's clock; if that is right, the server's certificate has expired."
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &verify):
		return "Its certificate is signed by nobody this host trusts: somebody may be in between. Use another network or server."
	case errors.As(err, &handsh):
		return "Check that this address and port are those of its DNS over TLS."
	case errors.As(err, &http):
		return "Check the path of its URL; if that is right, the server is out of order."
	case errors.As(err, &rcode):
		return "It may not be meant for this host: use another server."
	case errors.Is(err, errForger), errors.Is(err, errForeign):
		return "Somebody may be forging answers: use DNS over TLS or HTTPS."
	case errors.Is(err, errRefused):
		return "Nothing listens there: check address and port."
	case errors.Is(err, errNetUnreachable), errors.Is(err, errHostUnreachable):
		return "There is no way to it: check this host's network, or use a server that the network reaches."
	}
	return "Check the network, or use another server."
}

// UpstreamStatus is how a server does.
type UpstreamStatus struct {
	Upstream Upstream `json:"upstream"`
	// Failing says that others are asked before it, if there are any; Err is its last failure, nil after a good answer.
	Failing bool  `json:"failing"`
	Err     error `json:"-"`
	// Asked counts what was asked and came to an end, Good the useful answers.
	Asked uint64 `json:"asked"`
	Good  uint64 `json:"good"`
	// Latency is about how long answers take.
	Latency time.Duration `json:"latency_ns"`
}

func (s *server) status() UpstreamStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return UpstreamStatus{
		Upstream: s.Upstream, Failing: s.fails >= failLimit, Err: s.lastErr, Asked: s.asked, Good: s.good, Latency: s.latency,
	}
}

// isTimeout reports whether an error is the end of somebody's patience.
func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
