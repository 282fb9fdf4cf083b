package refd

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/weirfw/weir/internal/refd/api"
	"github.com/weirfw/weir/pkg/dnsmon"
	"github.com/weirfw/weir/pkg/nameserver"
)

// errNoNameserver is the answer to questions about a nameserver that is not there.
func errNoNameserver() error {
	return fmt.Errorf("%w: refd has no nameserver: write servers to dns.nameserver.upstreams, and start refd again", api.ErrRefused)
}

// DNSCache implements api.Backend.
func (b backend) DNSCache(_ context.Context, r api.DNSRequest) ([]api.DNSEntry, error) {
	server := b.d.nameserver.server
	if server == nil {
		return nil, errNoNameserver()
	}
	domain := dnsmon.CanonicalName(r.Domain)
	list := []api.DNSEntry{}
	for _, e := range server.Cache() {
		if domain == "" || e.Name == domain || strings.HasSuffix(e.Name, "."+domain) {
			list = append(list, entryOf(&e))
		}
	}
	return list, nil
}

func entryOf(e *nameserver.CacheEntry) api.DNSEntry {
	entry := api.DNSEntry{Name: e.Name, Type: e.Type.String(), RCode: rcode(e.Answer.RCode), CNAMEs: e.Answer.CNAMEs, Left: e.Left}
	for _, a := range e.Answer.Addrs {
		entry.Addresses = append(entry.Addresses, a.String())
	}
	return entry
}

// rcode names the response codes that a cache keeps (RFC 1035 section 4.1.1).
func rcode(n int) string {
	switch n {
	case 0:
		return "NOERROR"
	case 2:
		return "SERVFAIL"
	case 3:
		return "NXDOMAIN"
	}
	return "RCODE " + strconv.Itoa(n)
}

// DNSFlush implements api.Backend.
func (b backend) DNSFlush(_ context.Context, r api.DNSRequest) (api.DNSFlushed, error) {
	server := b.d.nameserver.server
	if server == nil {
		return api.DNSFlushed{}, errNoNameserver()
	}
	if r.Domain == "" {
		return api.DNSFlushed{Answers: server.Flush()}, nil
	}
	n, err := server.FlushDomain(r.Domain)
	if err != nil {
		return api.DNSFlushed{}, fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return api.DNSFlushed{Answers: n}, nil
}
