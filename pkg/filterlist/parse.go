package filterlist

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Bounds of Parse.
const (
	// MaxEntries is how many entries a List can have.
	MaxEntries = 10_000_000
	maxLine    = 4096
	// maxMistakes is how many are kept for people.
	maxMistakes = 10
)

// ErrTooLarge is wrapped by the error of Parse about more than a List can have.
var ErrTooLarge = errors.New("filterlist: too large")

// Parse reads lists, one after the other, into one. Errors are those of reading, or wrap ErrTooLarge.
func Parse(from ...io.Reader) (*List, error) {
	l := &List{}
	for _, r := range from {
		if err := l.read(bufio.NewReaderSize(r, maxLine)); err != nil {
			return nil, err
		}
	}
	l.finish()
	return l, nil
}

func (l *List) read(r *bufio.Reader) error {
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		long, begin := errors.Is(err, bufio.ErrBufferFull), ""
		if long {
			begin = string(line[:64]) // before the buffer has the next part
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = r.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read filter list: %w", err)
		}
		if long {
			l.mistake(n, begin+"...", "the line is too long")
		} else if err := l.line(n, string(line)); err != nil {
			return err
		}
		if err != nil {
			return nil
		}
	}
}

// line reads one line.
func (l *List) line(n int, text string) error {
	entry, comment, _ := strings.Cut(text, "#")
	if selector := strings.TrimLeft(comment, "@?$"); strings.TrimSpace(entry) != "" && strings.HasPrefix(selector, "#") {
		l.mistake(n, text, "a rule about parts of pages, which nobody sees here")
		return nil
	}
	fields := strings.Fields(entry)
	if len(fields) == 0 || fields[0][0] == '!' {
		return nil
	}
	if len(fields) > 1 {
		if fields = hostNames(fields); fields == nil {
			l.mistake(n, text, "more than one entry on a line")
			return nil
		}
		for _, name := range fields {
			if err := l.note(n, text, l.name(name, exact)); err != nil {
				return err
			}
		}
		return nil
	}
	return l.note(n, text, l.entry(fields[0]))
}

var (
	errRoom   = fmt.Errorf("%w: more than %d bytes of names", ErrTooLarge, maxText)
	errName   = errors.New("not a domain name")
	errAddr   = errors.New("not an address")
	errNet    = errors.New("not a network")
	errRange  = errors.New("not a range of addresses")
	errZone   = errors.New("an address with a zone")
	errASCII  = errors.New("write international names in their ASCII form (xn--...)")
	errNumber = errors.New("neither an address nor a domain name")
)

// note counts an entry, or the mistake that it is.
func (l *List) note(n int, text string, err error) error {
	switch {
	case errors.Is(err, ErrTooLarge):
		return err
	case err != nil:
		l.mistake(n, text, err.Error())
		return nil
	case l.count == MaxEntries:
		return fmt.Errorf("%w: more than %d entries", ErrTooLarge, MaxEntries)
	}
	l.count++
	return nil
}

func (l *List) mistake(n int, text, why string) {
	l.bad.Lines++
	if len(l.bad.First) < maxMistakes {
		l.bad.First = append(l.bad.First, Mistake{Line: n, Text: strings.TrimSpace(text), Why: why})
	}
}

// hostNames returns the names of a line of a hosts file, nil if it is none.
func hostNames(fields []string) []string {
	a, err := netip.ParseAddr(fields[0])
	if err != nil || !a.IsUnspecified() && !a.IsLoopback() {
		return nil
	}
	return fields[1:]
}

// entry reads an entry that stands alone.
func (l *List) entry(s string) error {
	switch {
	case strings.Contains(s, "/"):
		return l.network(s)
	case strings.HasPrefix(s, "||") && strings.HasSuffix(s, "^"):
		return l.name(s[2:len(s)-1], exact|below)
	case strings.HasPrefix(s, "*."):
		return l.name(s[2:], below)
	case strings.HasPrefix(s, "."):
		return l.name(s[1:], exact|below)
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return l.addresses(a, a)
	}
	if from, to, ok := strings.Cut(s, "-"); ok {
		a, err := netip.ParseAddr(from)
		if b, err2 := netip.ParseAddr(to); err == nil || err2 == nil {
			if err != nil || err2 != nil {
				return errRange
			}
			return l.addresses(a, b)
		}
	}
	if strings.Contains(s, ":") {
		return errAddr
	}
	return l.name(s, exact)
}

func (l *List) network(s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return errNet
	}
	p = p.Masked() // lists have host bits set
	l.addRange(p.Addr(), lastOf(p))
	return nil
}

func (l *List) addresses(a, b netip.Addr) error {
	a, b = a.Unmap(), b.Unmap()
	switch {
	case a.Zone() != "" || b.Zone() != "":
		return errZone
	case a.BitLen() != b.BitLen() || b.Less(a):
		return errRange
	}
	l.addRange(a, b)
	return nil
}

// name adds a domain name (RFC 1035 section 2.3.4 for the lengths; "_" is used by services, RFC 2782).
func (l *List) name(s string, kind byte) error {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if s == "" || len(s) > 253 {
		return errName
	}
	label, digits := 0, true // of the last label
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return errName
			}
			label, digits = 0, true
			continue
		case c >= '0' && c <= '9':
		case c >= 'a' && c <= 'z', c == '-', c == '_':
			digits = false
		case c >= 0x80:
			return errASCII
		default:
			return errName
		}
		if label++; label > 63 {
			return errName
		}
	}
	switch {
	case label == 0:
		return errName
	case digits:
		return errNumber
	case !l.names.put(s, kind):
		return errRoom
	}
	return nil
}
