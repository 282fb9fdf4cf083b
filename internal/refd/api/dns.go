package api

import (
	"context"
	"net/http"
	"time"
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

// DNSCache lists the nameserver's cache, by name.
func (c *Client) DNSCache(ctx context.Context, domain string) (list []DNSEntry, err error) {
	return list, c.call(ctx, http.MethodPost, "dns/cache", DNSRequest{domain}, &list)
}

// DNSFlush empties it.
func (c *Client) DNSFlush(ctx context.Context, domain string) (r DNSFlushed, err error) {
	return r, c.call(ctx, http.MethodPost, "dns/flush", DNSRequest{domain}, &r)
}
