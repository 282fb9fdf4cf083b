package rules

import (
	"strconv"
	"strings"
)

const portsHint = `write ports and ranges from 1 to 65535, such as "80,443,8000-8100"`

// parsePorts reads "80,443,8000-8100".
func parsePorts(s string) (spans, *problem) {
	if p := checkText(s); p != nil {
		return nil, p
	}
	var out []span
	for part := range strings.SplitSeq(s, ",") {
		if part == "" {
			return nil, &problem{s, "empty entry", portsHint}
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, p := parsePort(from)
		if p != nil {
			return nil, p
		}
		b, p := parsePort(to)
		if p != nil {
			return nil, p
		}
		if b < a {
			return nil, &problem{part, "range is reversed", "write " + strconv.Quote(to+"-"+from)}
		}
		out = append(out, span{portPoint(a), portPoint(b)})
	}
	return newSpans(out), nil
}

func parsePort(s string) (uint16, *problem) {
	if s == "" {
		return 0, &problem{s, "port missing", portsHint}
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, &problem{s, "not a port number", portsHint}
		}
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, &problem{s, "port out of range", portsHint}
	}
	if n == 0 {
		return 0, &problem{s, "port 0 is never used", portsHint}
	}
	return uint16(n), nil
}
