package rules

import (
	"strconv"
	"strings"
)

// A domain key is "example.org" for that name, ".example.org" for every name
// below it.

// parseDomain returns the keys of a domain entry.
func parseDomain(s string) ([]string, *problem) {
	const hint = `write "example.org" for the name, "*.example.org" for the names below it, ".example.org" for both`
	if p := checkText(s); p != nil {
		return nil, p
	}
	name := strings.TrimSuffix(strings.ToLower(s), ".")
	below, apex := false, true
	switch {
	case strings.HasPrefix(name, "*."):
		name, below, apex = name[2:], true, false
	case strings.HasPrefix(name, "."):
		name, below = name[1:], true
	case name == "*":
		return nil, &problem{s, "matches every name", "leave remote out to match everything"}
	}
	if strings.Contains(name, "*") {
		return nil, &problem{s, "the star stands only at the beginning", hint}
	}
	if msg := checkName(name); msg != "" {
		return nil, &problem{s, msg, hint}
	}
	var keys []string
	if apex {
		keys = append(keys, name)
	}
	if below {
		keys = append(keys, "."+name)
	}
	return keys, nil
}

// checkName says what is wrong with a domain name in lower case (RFC 1035
// section 2.3.4 for the lengths; "_" is used by services, RFC 2782).
func checkName(name string) string {
	if name == "" || len(name) > 253 {
		return "a name has 1 to 253 characters"
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if msg := checkLabel(label); msg != "" {
			return msg
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" {
		return "neither an address nor a domain"
	}
	return ""
}

func checkLabel(label string) string {
	if label == "" || len(label) > 63 {
		return "each part of a name has 1 to 63 characters"
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return "a part of a name does not begin or end with a hyphen"
	}
	for i := range len(label) {
		switch c := label[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c >= 0x80:
			return "write international names in their ASCII form (xn--...)"
		default:
			return "a domain has no character " + strconv.QuoteRune(rune(c))
		}
	}
	return ""
}

// ExactName returns how a rule writes a name in Remote so that it means that name and nothing else: a name without a dot would be a
// scope, and stars and dots at its beginning stand for others. ok is false for what no rule can name.
func ExactName(name string) (entry string, ok bool) {
	name = canonicalName(name)
	if checkName(name) != "" {
		return "", false
	}
	return name + ".", true
}

// canonicalName returns a name of a connection the way keys are written. It
// allocates only if there is something to change.
func canonicalName(s string) string {
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// domainSet is the keys of one rule. Few are compared one by one; a map costs
// more than that.
type domainSet struct {
	few  []string
	many map[string]struct{}
	keys []string
}

const fewDomains = 8

func newDomainSet(keys []string) domainSet {
	if len(keys) <= fewDomains {
		return domainSet{few: keys, keys: keys}
	}
	many := make(map[string]struct{}, len(keys))
	for _, k := range keys {
		many[k] = struct{}{}
	}
	return domainSet{many: many, keys: keys}
}

func (d *domainSet) empty() bool { return len(d.keys) == 0 }

// has reports whether a key stands for the canonical name.
func (d *domainSet) has(name string) bool {
	if name == "" {
		return false
	}
	for _, k := range d.few {
		if k == name || k[0] == '.' && strings.HasSuffix(name, k) && len(name) > len(k) {
			return true
		}
	}
	if d.many == nil {
		return false
	}
	if _, ok := d.many[name]; ok {
		return true
	}
	for i := 1; i < len(name); i++ {
		if name[i] == '.' {
			if _, ok := d.many[name[i:]]; ok {
				return true
			}
		}
	}
	return false
}
