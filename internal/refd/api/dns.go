package api

import (
	"context"
	"net/http"
	"time"

	"github.com/weirfw/weir/pkg/verdict"
)

// DNSRequest names what of the nameserver's cache is meant.
type DNSRequest struct {
	// Domain with all names below it; empty is everything.
	Domain string `json:"domain,omitempty"`
}

// DNSEntry is an answer in the nameserver's cache.
type DNSEntry struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// RCode is the response code, such as NOERROR and NXDOMAIN.
	RCode     string   `json:"rcode"`
	CNAMEs    []string `json:"cnames,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	// Left is how long it lives; less than 0 is kept only for when no server answers.
	Left time.Duration `json:"left"`
}

// DNSFlushed says what was forgotten.
type DNSFlushed struct {
	Answers int `json:"answers"`
}

// DNSQueryRequest asks the nameserver.
type DNSQueryRequest struct {
	Name string `json:"name"`
	// Type of the records, such as "AAAA"; A if it is empty.
	Type string `json:"type,omitempty"`
	// Path of the program whose rules are looked at; empty is an unknown one.
	Path string `json:"path,omitempty"`
}

// DNSAnswer is what the nameserver knows, and what it would do with such a query of a program.
type DNSAnswer struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// RCode is the response code, such as NOERROR and NXDOMAIN.
	RCode     string   `json:"rcode"`
	CNAMEs    []string `json:"cnames,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	// Targets are the names that SVCB, HTTPS, MX and SRV records refer to.
	Targets []string      `json:"targets,omitempty"`
	TTL     time.Duration `json:"ttl"`
	// Source is upstream, cache, stale or self; Upstream is the server, if one answered.
	Source   string           `json:"source"`
	Upstream string           `json:"upstream,omitempty"`
	Decision verdict.Decision `json:"decision"`
}

// CheckOutcome is how a part of the self-check ended.
type CheckOutcome string

// The outcomes.
const (
	CheckPassed  CheckOutcome = "passed"
	CheckFailed  CheckOutcome = "failed"
	CheckSkipped CheckOutcome = "skipped"
)

// CheckResult is a part of the self-check.
type CheckResult struct {
	ID     string       `json:"id"`
	Result CheckOutcome `json:"result"`
	// Message says what is wrong, or why it was skipped; Remedy what to do.
	Message string        `json:"message,omitempty"`
	Remedy  string        `json:"remedy,omitempty"`
	Took    time.Duration `json:"took"`
}

// DNS is the part of a Backend about names.
type DNS interface {
	DNSCache(ctx context.Context, r DNSRequest) ([]DNSEntry, error)
	DNSFlush(ctx context.Context, r DNSRequest) (DNSFlushed, error)
	DNSQuery(ctx context.Context, r DNSQueryRequest) (DNSAnswer, error)
	SelfCheck(ctx context.Context) ([]CheckResult, error)
}

// DNSQuery asks the nameserver.
func (c *Client) DNSQuery(ctx context.Context, r DNSQueryRequest) (a DNSAnswer, err error) {
	return a, c.call(ctx, http.MethodPost, "dns/query", r, &a)
}

// SelfCheck has refd check itself, and waits for the results.
func (c *Client) SelfCheck(ctx context.Context) (list []CheckResult, err error) {
	return list, c.call(ctx, http.MethodPost, "selfcheck", nil, &list)
}

// DNSCache lists the nameserver's cache, by name.
func (c *Client) DNSCache(ctx context.Context, domain string) (list []DNSEntry, err error) {
	return list, c.call(ctx, http.MethodPost, "dns/cache", DNSRequest{domain}, &list)
}

// DNSFlush empties it.
func (c *Client) DNSFlush(ctx context.Context, domain string) (r DNSFlushed, err error) {
	return r, c.call(ctx, http.MethodPost, "dns/flush", DNSRequest{domain}, &r)
}
