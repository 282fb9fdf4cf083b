package nameserver

import (
	"errors"
	"strings"

	"github.com/miekg/dns"
)

var errName = errors.New("no domain name")

// canonical returns a name as Query.Name has it. A leading dot, as in ".example.org", is fine: it means the same here.
func canonical(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(s, "."), "."))
	if s == "." {
		return s, nil
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" || strings.HasPrefix(name, "*") {
		return "", errName
	}
	return plainText(dns.Fqdn(name)), nil
}

// plainText makes of a name as package dns writes it one as Query.Name has it.
func plainText(name string) string {
	if name == "." {
		return name
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// nameText decodes a name on the wire, which is whole.
func nameText(wire []byte) (string, error) {
	name, _, err := dns.UnpackDomainName(wire, 0)
	if err != nil {
		return "", errName
	}
	return plainText(name), nil
}

// suffixes yields a name and the domains that it is in, up to the root.
func suffixes(name string, yield func(string) bool) {
	for name != "" && name != "." {
		if !yield(name) {
			return
		}
		_, name = cutLabel(name)
	}
	yield(".")
}

// cutLabel splits at the first dot that ends a label.
func cutLabel(name string) (label, rest string) {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++ // what follows is not special, be it a dot or the first of three digits
		case '.':
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

// domains is a set of domains, each with all names below it, that have a value.
type domains[T any] map[string]T

// find returns the value of the longest domain that the name is in.
func (d domains[T]) find(name string) (v T, ok bool) {
	if len(d) == 0 {
		return v, false
	}
	suffixes(name, func(s string) bool {
		v, ok = d[s]
		return !ok
	})
	return v, ok
}

// within reports whether name is domain or below it.
func within(name, domain string) bool {
	_, ok := domains[struct{}]{domain: {}}.find(name)
	return ok
}
